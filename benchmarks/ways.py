"""The ways in which the thoughts of an evaluation work: their shares, accuracy and mean tokens, by mode and level.

    adaptthink evaluate tiny_long --recipe toy_cpu --modes auto think --output runs/long
    python benchmarks/ways.py runs/long

Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from adaptthink.evaluation.store import Outcome, read_outcomes, read_samples
from adaptthink.models.ways import Way, read_way


def group_by_way(folder: Path) -> dict[tuple[str, str], dict[str, list[Outcome]]]:
    """Return the outcomes of an evaluation's thoughts, by requested mode and level, then by way ("other": none)."""
    ways = {sample.key: read_way(sample.thinking or "") or "other" for sample in read_samples(folder)}
    groups: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in read_outcomes(folder):
        if outcome.mode == "think":
            way = ways[outcome.problem_id, outcome.requested, outcome.index]
            groups[outcome.requested, outcome.level][way].append(outcome)
    return groups


def format_cell(outcomes: list[Outcome], num_thoughts: int) -> str:
    """Return share of the thoughts, accuracy and mean tokens."""
    if not outcomes:
        return "–"
    accuracy = fmean(outcome.verdict == "correct" for outcome in outcomes)
    tokens = fmean(outcome.tokens for outcome in outcomes)
    return f"{len(outcomes) / num_thoughts:.0%} / {accuracy:.1%} / {tokens:.0f}"


def main(folder: Path) -> None:
    """Print the table of a folder."""
    names = (*Way, "other")
    print(f"| mode, level: share / accuracy / tokens | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    for (requested, level), ways in sorted(group_by_way(folder).items()):
        num_thoughts = sum(map(len, ways.values()))
        cells = (format_cell(ways.get(name, []), num_thoughts) for name in names)
        print(f"| {requested}, {level} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The ways in which the thoughts of an evaluation work.")
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
