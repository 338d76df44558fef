"""What a sampler that is not the trainer's policy does to a training, and what each gate makes of it.

    python benchmarks/mismatch.py RUN [--recipe toy_cpu toy_gap] [--gap 0.6] [--seed 0]
    python benchmarks/mismatch.py --table RESULT     # the table of docs/explanation/mismatch.md

Trains the same thing several times, with the same seed. In the first the engine is sound. In the others it reports
log-probabilities with noise, as an engine with other kernels or another precision does; they differ in the gate alone.
Prints the mismatch and the reward of both modes at the end, and stores a result. What is done in RUN is not done again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from record import surroundings, write_result

from adaptthink import api
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import PresampleConfig, TrainConfig
from adaptthink.engines.base import Completion, OnFinish, Request
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import DivergedError
from adaptthink.models.loading import load_trainee

LAST = 10  # steps that are averaged at the end
SHOWN = ("reward_think", "reward_no_think", "mean_tokens_think", "probe_no_think_share", "probe_mode_mass")


class SkewedEngine(NativeEngine):
    """The native engine, but its log-probabilities are off by noise of a standard deviation of `gap`, in nats."""

    gap = 0.0

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: OnFinish | None = None,
    ) -> list[Completion]:
        """Sample as the native engine does, and report other log-probabilities."""

        def skew(index: int, completion: Completion) -> Completion:
            noise = random.Random(f"{seed}/{requests[index].stream}")
            off = tuple(one + noise.gauss(0, self.gap) for one in completion.logprobs)
            return replace(completion, logprobs=off)

        def pass_on(index: int, completion: Completion) -> None:
            if on_finish:
                on_finish(index, skew(index, completion))

        found = super().generate(requests, temperature=temperature, top_p=top_p, seed=seed, on_finish=pass_on)
        return [skew(index, one) for index, one in enumerate(found)]


def train(run: Path, name: str, config: TrainConfig, gap: float, store: Path) -> list[dict[str, Any]]:
    """Train, if it is not done, and return the metrics of each step; those until it stopped, if it did."""
    folder = run / name
    if not (folder / "model").is_dir() and not (folder / "stopped.txt").is_file():
        policy = load_trainee(config)
        engine = SkewedEngine(policy.model, policy.eos_ids, max_concurrent_sequences=config.max_concurrent_sequences)
        engine.gap = gap
        problems = api.load_problems("arithmetic", split="train", per_level=config.problems_per_level, seed=config.seed)
        try:
            api.train(policy, problems, store, output=folder, engine=engine, config=config, clean=folder.exists())
        except DivergedError as error:  # the gate
            (folder / "stopped.txt").write_text(f"{error}\n", encoding="utf-8")
            print(f"{name}: {error}")
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mismatch over all steps, and what the last ones came to."""
    errors = [row["mismatch_error_think"] for row in rows if "mismatch_error_think" in row]
    found: dict[str, Any] = {"steps": len(rows), "mismatch_error_think": fmean(errors) if errors else None}
    for name in SHOWN:
        values = [row[name] for row in rows[-LAST:] if row.get(name) is not None]
        found[name] = round(fmean(values), 4) if values else None
    alarms = {kind for row in rows for kind in row.get("alarms", {})}
    return found | {"alarms": sorted(alarms), "masked": sum(row.get("mismatch_masked") or 0 for row in rows)}


def make_table(result: Path) -> list[str]:
    """Return the Markdown table of a stored result."""
    trainings = json.loads(result.read_text(encoding="utf-8"))["trainings"]
    columns = {
        "steps": ("steps", "{}"),
        "mismatch_error_think": ("mean exp\\|Δ\\|", "{:.7g}"),
        "reward_think": ("reward, think", "{:.3f}"),
        "reward_no_think": ("reward, no_think", "{:.3f}"),
        "mean_tokens_think": ("tokens, think", "{:.1f}"),
        "probe_no_think_share": ("P(no_think)", "{:.3f}"),
        "masked": ("responses left out", "{:,}"),
    }
    lines = [["training", *(title for title, _ in columns.values())], ["---", *["---:"] * len(columns)]]
    for name, row in trainings.items():
        cells = (form.format(row[key]) if row[key] is not None else "–" for key, (_, form) in columns.items())
        lines.append([f"`{name}`", *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def main(run: Path, recipes: Sequence[str], gap: float, seed: int) -> None:
    """Train all, print and store."""
    config: TrainConfig = resolve("train", TrainConfig, recipes=recipes, flags={"seed": seed, "probe_samples": 0})
    store = run / "reference.jsonl"
    sound: list[tuple[str, float, str]] = [("sound", 0.0, "warn")]
    trainings = sound + [(f"skewed-{gate}", gap, gate) for gate in ("warn", "mask", "truncate", "stop")]
    if not store.is_file():
        problems = api.load_problems("arithmetic", split="train", per_level=config.problems_per_level, seed=seed)
        settings = resolve("presample", PresampleConfig, recipes=recipes, flags={"seed": seed})
        api.presample(config.model, problems, output=store, config=settings)
    results = {}
    for name, amount, gate in trainings:
        rows = train(run, name, config.model_copy(update={"mismatch": gate}), amount, store)
        results[name] = summarise(rows)
        print(name, json.dumps(results[name], ensure_ascii=False), flush=True)
    about = surroundings(["adaptthink", "torch"])
    write_result("mismatch", about | {"recipes": list(recipes), "gap": gap, "seed": seed, "trainings": results})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--table", type=Path, metavar="RESULT", help="print the table of a stored result and stop")
    parser.add_argument("--recipe", nargs="+", default=["toy_cpu", "toy_gap"])
    parser.add_argument("--gap", type=float, default=0.6, help="standard deviation of the noise, in nats")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(make_table(arguments.table)))
        parser.exit()
    if not arguments.run:
        parser.error("give a folder for the runs, or --table and a result")
    main(arguments.run, arguments.recipe, arguments.gap, arguments.seed)
