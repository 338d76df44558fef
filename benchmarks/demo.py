"""What the demo came to: the result behind the figures of the README and the tutorials.

    adaptthink demo --seed SEED --output runs/demo-SEED     # once for each seed; five minutes on a busy machine
    python benchmarks/demo.py runs/demo-0 runs/demo-1 …
    python benchmarks/demo.py --name demo-paper runs/…       # of runs with --recipe toy_cpu, the paper's method
    python benchmarks/demo.py --name demo-dial runs/demo-0   # of one run, for the dial's curve

Trains nothing: reads the run folders, compares their evaluations and asks the models, and stores a result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from record import surroundings, write_result

import adaptthink as at
from adaptthink.dial.curve import compute_curve, measure
from adaptthink.dial.guarantee import choose_loss
from adaptthink.evaluation.mode_choice import assess_mode_choice
from adaptthink.evaluation.statistics import Difference
from adaptthink.evaluation.store import read_decisions, read_outcomes
from adaptthink.storage.records import to_json

QUESTIONS = ["47+8=?", "12+8-3+4-7+5=?"]
SCORES = ("accuracy", "accuracy_interval", "mean_tokens", "no_think_share", "truncated_share")
STEPS = ("reward_think", "reward_no_think", "mean_tokens_think", "mean_tokens_no_think", "truncated_share_think")
PROBE = ("probe_no_think_logprob", "probe_mode_mass", "probe_no_think_by_level")
TOLERANCE = 0.01  # of the threshold in the table of docs/how-to/dial.md
SHARES = (0.2, 0.4, 0.5, 0.6, 0.7)  # of no_think; the nearest points of the curve are in that table


def describe(run: Path) -> dict[str, Any]:
    """Return the figures of one run."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    dial = json.loads((run / "model/adaptthink.json").read_text(encoding="utf-8"))
    original, trained = run / "evaluations/original", run / "evaluations/adaptthink"
    choice = assess_mode_choice(trained)
    beside = choice.beside_starts
    decisions = at.decide(str(run / "model"), QUESTIONS)
    return {
        "modes": {
            row: {level: {key: one[key] for key in SCORES} for level, one in scores["levels"].items()}
            for row, scores in summary["modes"].items()
        },
        "changes": {row: {key: brief(one) for key, one in both.items()} for row, both in summary["changes"].items()},
        "truncated_share": summary["modes"]["original_think"]["overall"]["truncated_share"],
        "auto_by_level": compare(original, trained),
        "no_think_by_level": compare(f"{original}:no_think", f"{trained}:no_think"),
        "implicit_no_think": to_json(choice.implicit_thinking["no_think"].share),
        "beside_starts": {"share": beside.share.estimate, "accuracy": beside.accuracy.estimate} if beside else None,
        "threshold": dial["threshold"]["no_think_probability"],
        "dial": describe_dial(trained),
        "no_think_probability": dict(zip(QUESTIONS, (one.no_think_probability for one in decisions), strict=True)),
        "reward_no_think": {"first 20": mean_reward(steps[:20]), "last 20": mean_reward(steps[-20:])},
        "steps": {one["step"]: {key: one[key] for key in (*STEPS, *PROBE)} for one in steps if PROBE[0] in one},
        "seconds": summary["seconds"]["total"],
        "peak_memory_mb": summary["peak_memory_mb"],
    }


def compare(base: Path | str, other: Path | str) -> dict[str, Any]:
    """Return how accuracy and length change by level."""
    changes = at.compare([str(base), str(other)]).rows[1].changes
    return {level: {"accuracy": brief(one.accuracy), "tokens": brief(one.tokens)} for level, one in changes.items()}


def describe_dial(folder: Path) -> dict[str, Any]:
    """Return the threshold that is certified at TOLERANCE, and points of the curve, from always to never thinking."""
    problems = measure(read_outcomes(folder), read_decisions(folder))
    curve, certified = compute_curve(problems), choose_loss(problems, TOLERANCE).no_think_probability
    nearest = [min(curve, key=lambda point, share=share: abs(point.no_think_share - share)) for share in SHARES]
    kept = {point.threshold for point in (curve[0], *nearest, curve[-1])} | {certified}
    return {"certified": certified, "curve": [to_json(point) for point in curve if point.threshold in kept]}


def brief(change: Difference | dict[str, Any]) -> dict[str, float]:
    """Return the interval and the p-value of a difference."""
    found = change if isinstance(change, dict) else to_json(change)
    return {end: found["interval"][end] for end in ("estimate", "low", "high")} | {"p": found["p_value"]}


def mean_reward(steps: list[dict[str, Any]]) -> float:
    """Return the mean reward without thinking over some steps."""
    return fmean(step["reward_no_think"] for step in steps)


def main() -> None:
    """Describe the runs, and store a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--name", default="demo", help="of the result")
    arguments = parser.parse_args()
    runs = arguments.runs
    found = surroundings(["adaptthink", "torch", "transformers"])
    found["machine"] += f", {torch.backends.cpu.get_cpu_capability()}"
    seeds = {json.loads((run / "summary.json").read_text(encoding="utf-8"))["seed"]: run for run in runs}
    print(write_result(arguments.name, found | {"runs": {seed: describe(run) for seed, run in seeds.items()}}))


if __name__ == "__main__":
    main()
