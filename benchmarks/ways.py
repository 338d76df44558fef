"""The ways in which the thoughts of an evaluation work: their shares, accuracy and mean tokens, by mode and level.

    adaptthink evaluate tiny_long --recipe toy_cpu --modes auto no_think --samples-per-problem 2 --output runs/long
    python benchmarks/ways.py runs/long

Prints a table in Markdown; shares are of the thoughts. --result also writes a result file of all folders given. That of
docs/tutorials/demo.md has the evaluation above, and `uncut`, one with --modes think --max-think-tokens 320.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from record import surroundings, write_result

from adaptthink.evaluation.store import Outcome, read_outcomes, read_samples
from adaptthink.models.ways import Way, read_way

ALL, NO_THOUGHT, OTHER = "all", "no thought", "other"  # beside the ways
Groups = dict[tuple[str, str], dict[str, list[Outcome]]]


def group_by_way(folder: Path) -> Groups:
    """Return the outcomes of an evaluation, by requested mode and level, then by way ("other": a thought in none)."""
    ways = {sample.key: read_way(sample.thinking or "") or OTHER for sample in read_samples(folder)}
    groups: Groups = defaultdict(lambda: defaultdict(list))
    for outcome in read_outcomes(folder):
        way = ways[outcome.problem_id, outcome.requested, outcome.index] if outcome.mode == "think" else NO_THOUGHT
        for name in (ALL, way):
            groups[outcome.requested, outcome.level][name].append(outcome)
    return groups


def measure(outcomes: Sequence[Outcome], total: int) -> dict[str, float]:
    """Return the share in a total, accuracy, mean tokens, and the share that the token limit cut."""
    return {
        "share": len(outcomes) / total,
        "accuracy": fmean(outcome.verdict == "correct" for outcome in outcomes),
        "tokens": fmean(outcome.tokens for outcome in outcomes),
        "cut": fmean(outcome.verdict == "truncated" for outcome in outcomes),
    }


def measure_ways(groups: Groups) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return what was measured by requested mode, level and way."""
    found: dict[str, Any] = defaultdict(dict)
    for (requested, level), ways in sorted(groups.items()):
        responses = len(ways[ALL])
        thoughts = responses - len(ways.get(NO_THOUGHT, []))
        found[requested][level] = {
            name: measure(outcomes, responses if name in (ALL, NO_THOUGHT) else thoughts)
            for name, outcomes in ways.items()
        }
    return found


def main() -> None:
    """Print the table of each folder, and store a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="EVALUATION")
    parser.add_argument("--result", action="store_true", help="also write a result of all of them")
    arguments = parser.parse_args()
    found = {folder.name: measure_ways(group_by_way(folder)) for folder in arguments.folders}
    names = (*Way, OTHER)
    for folder, modes in found.items():
        print(f"| {folder}: share / accuracy / tokens | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
        for requested, levels in modes.items():
            for level, ways in levels.items():
                cells = (
                    f"{one['share']:.0%} / {one['accuracy']:.1%} / {one['tokens']:.0f}" if one else "–"
                    for one in map(ways.get, names)
                )
                print(f"| {requested}, {level} | {' | '.join(cells)} |")
    if arguments.result:
        print(write_result("ways", surroundings(["adaptthink", "torch"]) | {"evaluations": found}))


if __name__ == "__main__":
    main()
