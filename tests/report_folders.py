"""Made-up folders for the tests of the reports: a training run's and an evaluation's."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from adaptthink.dial.curve import Point
from adaptthink.dial.guarantee import Choice, Kind
from adaptthink.dial.stored import VERSION, Dial
from adaptthink.evaluation.mode_choice import ModeChoice
from adaptthink.evaluation.scores import Change
from adaptthink.evaluation.statistics import Bin, Calibration, Difference, Interval
from adaptthink.evaluation.store import Setting
from adaptthink.storage.records import to_json

TRAINED = Path("evaluations", "adaptthink")
ACCURACY = {  # by level, easy to hard
    "original_think": (0.98, 0.97, 0.95, 0.92, 0.885),
    "original_no_think": (0.96, 0.81, 0.62, 0.24, 0.11),
    "adaptthink": (0.985, 0.97, 0.96, 0.93, 0.895),
    "adaptthink_think": (0.985, 0.975, 0.96, 0.935, 0.9),
}
TOKENS = {
    "original_think": (22.0, 34.5, 47.0, 84.2, 121.6),
    "original_no_think": (5.0, 5.1, 5.1, 5.2, 5.3),
    "adaptthink": (5.5, 13.8, 37.6, 80.0, 121.6),
    "adaptthink_think": (21.0, 33.0, 46.0, 83.0, 120.0),
}
NO_THINK = {"original_no_think": (1.0,) * 5, "adaptthink": (0.99, 0.7, 0.24, 0.05, 0.0)}
KINDS = (("no_think", "correct"), ("think", "correct"), ("no_think", "wrong"), ("think", "truncated"))
HOSTILE = '<script>alert("x")</script> & `tick` | pipe'


def score(accuracy: float, tokens: float, no_think: float, n: int) -> dict[str, Any]:
    shares = {"accuracy": accuracy, "no_think_share": no_think, "truncated_share": 0.005}
    around = {
        "accuracy_interval": [accuracy - 0.03, min(1.0, accuracy + 0.02)],
        "tokens_interval": [0.9 * tokens, 1.2 * tokens],
        "no_think_interval": [max(0.0, no_think - 0.05), min(1.0, no_think + 0.04)],
    }
    counts = {"n": n, "verdicts": {"correct": round(accuracy * n)}}
    return shares | around | counts | {"mean_tokens": tokens, "tokens_per_correct": tokens / accuracy}


def difference(estimate: float, low: float, high: float) -> Difference:
    return Difference(Interval(estimate, low, high, 0.95, 1000), 1.0 if low < 0 < high else 0.0, 0.01)


# Against "original_think". Accuracies of "adaptthink" differ by .5, 0, 1, 1, 1 points: mean .7; lengths change by -75,
# -60, -20, -4.99, 0 percent. Accuracies of "original_no_think" differ by -2, -16, -33, -68, -77.5 points: mean -39.3.
CHANGES = {
    "original_no_think": Change(difference(-0.393, -0.41, -0.37), difference(-0.89, -0.9, -0.88)),
    "adaptthink": Change(difference(0.007, -0.0125, 0.035), difference(-0.31998, -0.61, -0.275)),
    "adaptthink_think": Change(difference(0.01, -0.01, 0.03), None),
}


def summary() -> dict[str, Any]:
    """`adaptthink_no_think` is missing on purpose."""
    modes = {}
    for mode, accuracies in ACCURACY.items():
        rows = list(zip(accuracies, TOKENS[mode], NO_THINK.get(mode, (0.0,) * 5), strict=True))
        means = [sum(values) / 5 for values in zip(*rows, strict=True)]
        modes[mode] = {
            "levels": {str(level): score(*row, 200) for level, row in enumerate(rows, start=1)},
            "overall": score(means[0], means[1], means[2], 1000),
        }
    return {
        "seed": 7, "delta": 0.05, "method": "adaptthink", "model": "tiny", "modes": modes,
        "changes": to_json(CHANGES), "delta_accuracy_points": 0.7, "delta_length_percent": -31.998,
        "seconds": {"presample": 48.24, "train": 1325.0, "evaluate": 7512.0}, "peak_memory_mb": 1834.2,
    }  # fmt: skip


def metrics(num_steps: int) -> list[dict[str, Any]]:
    noise = random.Random(0)
    steps = []
    for step in range(1, num_steps + 1):
        done = step / num_steps
        think = step % 9 != 4
        record = {
            "step": step, "loss": -0.02 * done + noise.gauss(0, 0.004), "grad_norm": 0.4 + noise.random() / 4,
            "reward_think": 0.94 + noise.gauss(0, 0.02) if think else None,
            "reward_no_think": 0.5 + 0.1 * done + noise.gauss(0, 0.04),
            "mean_tokens_think": 62 - 3 * done + noise.gauss(0, 1.5) if think else None,
            "mean_tokens_no_think": 5.2 + noise.gauss(0, 0.1),
            "truncated_share_think": 0.01 * noise.random() if think else None, "truncated_share_no_think": 0.0,
            "clip_share_think": 0.002 * noise.random(), "clip_share_no_think": 0.02 * done * noise.random(),
            "verdict_share_unparsed": 0.03 * (1 - done), "verdict_share_unclosed": 0.01 * (1 - done),
            "verdict_share_timeout": 0.0, "verdict_share_error": 0.0,
            "learning_rate": 1e-4, "response_tokens": 70000, "rollout_seconds": 2.0, "update_seconds": 3.0,
        }  # fmt: skip
        if step % 5 == 0:
            reach = {str(level): 1 / (1 + math.exp(8 * (0.18 * level - done))) for level in range(1, 6)}
            mean = sum(reach.values()) / 5
            record |= {"probe_no_think_by_level": reach, "probe_no_think_share": mean, "probe_mode_mass": 0.999}
            record |= {"probe_no_think_logprob": math.log(mean) - 6 * (1 - done)}
        steps.append(record)
    return steps


def samples() -> list[dict[str, Any]]:
    """Everything that an evaluation's files say, one record a response."""
    records = []
    for level in range(1, 6):
        for chosen, verdict in KINDS:
            thinking = "" if chosen == "no_think" else "Alright\n47+8=55\n55-3=52\n" * level
            records.append({
                "requested": "auto", "index": 0, "problem_id": f"chain-{level}-{verdict}-{chosen}", "level": level,
                "prompt": "47+8-3=?", "gold": "52", "mode": chosen, "thinking": thinking or None,
                "answer": None if verdict == "truncated" else "\n\\boxed{52}", "tokens": 6 + len(thinking) // 2,
                "verdict": verdict, "no_think_probability": None if verdict == "wrong" else 0.9123,
            })  # fmt: skip
    records[0]["prompt"] = HOSTILE
    records[1] |= {"thinking": f"Alright ``` {HOSTILE}", "answer": "52"}
    forced = {**records[0], "requested": "think", "index": 1, "thinking": "asked to think"}
    return [forced, *records]


def write_samples(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write an evaluation folder's four files; a record without a P(no_think) leaves no decision."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = ("problem_id", "requested", "index")
    problems = {row["problem_id"]: row for row in records}.values()
    write_lines(
        folder / "problems.jsonl",
        [
            {"id": one["problem_id"], "prompt": one["prompt"], "answer": one["gold"], "level": one["level"]}
            | {"source": "", "kind": "math"}
            for one in problems
        ],
    )
    fixed = {
        "samples": {"finish": "stop", "thinking_tokens": None, "seed": 0},
        "verdicts": {"extracted": None, "rule": "exact"},
        "decisions": {},
    }
    columns = {
        "samples": (*keys, "mode", "thinking", "answer", "tokens"),
        "verdicts": (*keys, "verdict"),
        "decisions": ("problem_id", "no_think_probability"),
    }
    for name, kept in columns.items():
        rows = [{"grader": {}}] if name == "verdicts" else []
        rows += [{key: row[key] for key in kept} | fixed[name] for row in records]
        write_lines(folder / f"{name}.jsonl", [row for row in rows if row.get("no_think_probability", 0) is not None])


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_run(folder: Path, num_steps: int = 60) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary()))
    config = {"model": "tiny", "delta": 0.05, "schedule": "constant", "odd": HOSTILE, "none": None}
    (folder / "config.json").write_text(json.dumps(config))
    write_lines(folder / "metrics.jsonl", metrics(num_steps))
    write_samples(folder / TRAINED, samples())
    return folder


SETTING = {
    "model": "tiny", "fingerprint": "93df", "temperature": 0.6, "top_p": 0.95, "max_think_tokens": 128,
    "max_no_think_tokens": 16, "seed": 0, "switch": None,
}  # fmt: skip
ROWS = {"auto": "adaptthink", "think": "original_think", "no_think": "original_no_think"}
# threshold, no_think share, accuracy, mean tokens: always think, two in between, always no_think
DIAL = ((2.0, 0.0, 0.94, 62.0), (0.8, 0.3, 0.95, 50.0), (0.25, 0.45, 0.96, 44.0), (0.0, 1.0, 0.55, 5.0))
# mean P(no_think), share where it pays, number of problems
BINS = ((0.05, 0.02, 40), (0.45, 0.5, 8), (0.97, 0.9, 52))


def make_evaluation(folder: Path, *, extras: bool = True, **setting: Any) -> Path:
    """Write an evaluation folder with three rows; `extras`: dial.json and quality.json too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(SETTING | setting))
    modes = summary()["modes"]
    rows = {requested: modes[row] | {"ungradable": 0} for requested, row in ROWS.items()}
    (folder / "summary.json").write_text(json.dumps({"model": "tiny", "config": {"kind": "chain"}, "modes": rows}))
    write_samples(folder, samples())
    if extras:
        (folder / "dial.json").write_text(json.dumps(to_json(made_up_dial())))
        (folder / "quality.json").write_text(json.dumps(to_json(made_up_mode_choice())))
    return folder


def made_up_dial() -> Dial:
    """A dial whose threshold in use is 0.25."""
    choice = Choice(Kind.ACCURACY_LOSS, 0.25, 0.01, None, 0.95, True, 50, None, None)
    curve = tuple(
        Point(
            threshold, share, (share, share), accuracy, (accuracy - 0.02, accuracy + 0.02), tokens,
            (tokens - 1, tokens + 1), 0.0, (0.0, 0.0), 0.0, (-0.1, None),
        )
        for threshold, share, accuracy, tokens in DIAL
    )  # fmt: skip
    return Dial(VERSION, choice, (choice,), curve, "93df", "arithmetic", 100, "2026-01-01", Setting(**SETTING))


def made_up_mode_choice() -> ModeChoice:
    """A calibration, and nothing else."""
    gap = Interval(0.0, -0.1, 0.1, 0.95, 10)
    bins = tuple(
        Bin(0.0, 1.0, count, probability, Interval(pays, pays - 0.02, pays + 0.1, 0.95, count), gap)
        for probability, pays, count in BINS
    )
    return ModeChoice(0.05, {}, None, None, None, None, None, None, Calibration(0.0425, 0.03, bins), {}, ())
