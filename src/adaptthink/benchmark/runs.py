"""The folder of a benchmark: where everything lies, and what is read from it.

references/SEED.jsonl     the reference store that all trainings of a seed share
original/0/               the evaluations of the model before training
tuned.json                the value that was chosen for each entry's knob
linear_probe/SEED.json    the scores that a linear probe gives the problems
ENTRY/SEED/               a training, with evaluations in `evaluation` and `shifted`; ENTRY/SEED.json once it has ended

ENTRY is the entry's name with the value of its knob, such as delta_0.05.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptthink.benchmark.answers import (
    Model,
    average,
    choose,
    compute_utility,
    is_for_tuning,
    mix,
    read_model,
    with_rule,
)
from adaptthink.benchmark.entries import ORIGINAL, Entry
from adaptthink.storage.jsonl import read_lines
from adaptthink.storage.runs import read_metrics, write_json
from adaptthink.training.reference import read_references

SETS = {"in distribution": "evaluation", "shifted": "shifted"}  # and the folder of each in a training's
OWN = "in distribution"
TUNED = "tuned.json"
Sets = Mapping[str, Model]


@dataclass(frozen=True, slots=True)
class Found:
    """An entry as far as it has been run: one value of its knob, every seed there is."""

    entry: Entry
    value: float | None
    num_tried: int  # values that it was chosen from
    seeds: Mapping[int, Sets]

    def select(self, name: str = OWN) -> dict[int, Model]:
        """Return the models of all seeds on one set."""
        return {seed: sets[name] for seed, sets in self.seeds.items() if name in sets}


def choose_reference_path(run: Path, seed: int) -> Path:
    """Return the path of a seed's reference store."""
    return run / "references" / f"{seed}.jsonl"


def choose_folder(run: Path, entry: Entry, value: float | None, seed: int) -> Path:
    """Return the folder of a training."""
    return run / entry.name_folder(value) / f"{seed}"


def read_sets(folder: Path) -> dict[str, Model]:
    """Read the evaluations in a folder that are complete."""
    paths = {name: folder / inside for name, inside in SETS.items()}
    return {name: read_model(path) for name, path in paths.items() if (path / "summary.json").is_file()}


def read_original(run: Path) -> dict[str, Model]:
    """Read the model before training."""
    return read_sets(run / ORIGINAL / "0")


def read_entry(run: Path, entry: Entry, value: float | None, seed: int, original: Sets) -> Sets:
    """Read one seed of an entry; empty if it is not there. Rules without training are applied to the original here."""
    if entry.name == ORIGINAL:
        return original if seed == 0 else {}
    if entry.name == "random_mix":
        assert value is not None
        return {name: with_rule(one, mix(one, value)) for name, one in original.items()} if seed == 0 else {}
    if entry.name == "linear_probe":
        return read_probe(choose_folder(run, entry, value, seed).with_suffix(".json"), value or 0.0, original)
    return read_sets(choose_folder(run, entry, value, seed))


def read_probe(path: Path, margin: float, original: Sets) -> Sets:
    """Return the original, answering at once where the probe expects it to lose at most `margin` of accuracy."""
    if not path.is_file():
        return {}
    scores: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["scores"]
    sets = {}
    for name, model in original.items():
        leaning = {problem: scores[name][problem] for problem in model.levels}
        answers = choose(model, lambda problem, leaning=leaning: leaning[problem] >= -margin)  # type: ignore[misc]
        sets[name] = with_rule(model, answers, leaning)
    return sets


def tune(run: Path, entries: Iterable[Entry], seed: int, original: Sets) -> None:
    """Choose the value of each entry's knob with the highest utility on the tuning half, among those run on a seed."""
    scale, chosen = compute_scale(original), read_tuned(run)
    for entry in entries:
        utility = {}
        for value in entry.values if entry.knob else ():
            sets = read_entry(run, entry, value, seed, original) or read_entry(run, entry, value, 0, original)
            if value is not None and OWN in sets:
                tuning = sets[OWN].keep(is_for_tuning).modes["auto"]
                utility[value] = average(compute_utility(tuning, scale))
        if utility:
            best = max(utility, key=lambda value: utility[value])
            chosen[entry.name] = {"value": best, "tried": len(utility), "seed": seed}
    write_json(run / TUNED, chosen)


def keep_values(run: Path, chosen: Mapping[str, tuple[float, int]]) -> None:
    """Take knob values that were chosen elsewhere, each with the number of values that were tried there."""
    write_json(run / TUNED, {name: {"value": value, "tried": tried} for name, (value, tried) in chosen.items()})


def read_tuned(run: Path) -> dict[str, dict[str, Any]]:
    """Read what was chosen, from how many values, on which seed, by entry; empty if nothing was."""
    path = run / TUNED
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def read_values(run: Path) -> dict[str, float]:
    """Return the value that was chosen for each entry that was tuned."""
    return {name: float(one["value"]) for name, one in read_tuned(run).items()}


def read_found(run: Path, entries: Iterable[Entry], original: Sets) -> dict[str, Found]:
    """Read every seed of every entry that has been run, with the value that was chosen for it."""
    found, tuned = {}, read_tuned(run)
    for entry in entries:
        one = tuned.get(entry.name, {"value": entry.default, "tried": 0})
        folder = run / entry.name_folder(one["value"])
        seeds = {0, *(int(path.stem) for path in folder.glob("*") if path.stem.isdecimal())}
        sets = {seed: read_entry(run, entry, one["value"], seed, original) for seed in sorted(seeds)}
        there = {seed: models for seed, models in sets.items() if OWN in models}
        if there:
            found[entry.name] = Found(entry, one["value"], one["tried"], there)
    return found


def rank(found: Iterable[Found], original: Sets, count: int) -> list[str]:
    """Return the names of the `count` best trained entries: by utility on the tuning half, the mean of their seeds."""
    scale = compute_scale(original)

    def score(one: Found) -> float:
        models = one.select().values()
        utilities = [average(compute_utility(model.keep(is_for_tuning).modes["auto"], scale)) for model in models]
        return sum(utilities) / len(utilities)

    ranked = sorted((one for one in found if one.entry.is_ranked), key=score, reverse=True)
    return [one.entry.name for one in ranked[:count]]


def compute_scale(original: Sets) -> float:
    """Return the mean length of the original's thoughts on the tuning half: the unit of length in the utility."""
    return original[OWN].keep(is_for_tuning).modes["think"].mean_tokens


# ---- stores and logs ------------------------------------------------------------------------------------------------


def read_rewards(store: Path) -> dict[str, float]:
    """Return R̄_ref of each problem in a reference store, those without a grade left out."""
    return {one.id: one.reward for one in read_references(store) if one.reward is not None}


def count_reference_tokens(store: Path, *, no_think: bool) -> int:
    """Return the tokens that were sampled for a reference store; with `no_think`, for its forced responses too."""
    forced = (row["no_think"]["responses"] for row in read_rows(store) if no_think and "no_think" in row)
    unconstrained = sum(sum(row["tokens"]) for row in read_rows(store))
    return unconstrained + sum(len(token_ids) for responses in forced for token_ids in responses)


def read_rows(store: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a reference store behind its first line."""
    return (json.loads(line.content) for line in read_lines(store) if line.number > 1)


def count_rollout_tokens(folder: Path) -> int:
    """Return the tokens that a training sampled; its probes sample none."""
    return sum(row["response_tokens"] for row in read_metrics(folder / "metrics.jsonl"))
