"""Compare result files, as ratios with their spread: did a speed fall?

    python benchmarks/compare.py OLD NEW [--peers]
    python benchmarks/compare.py --table

OLD and NEW are result files, or folders of them: then each file of NEW is compared with the newest of its name in OLD.
A ratio is NEW over OLD of the medians, and its spread reaches from the least NEW over the greatest OLD to the opposite;
all figures are speeds, so below 1 is slower. `--peers` leaves only figures that are themselves ratios against a peer in
the same run, which can be compared between machines. Nothing fails for a slower speed: the spread of a few repetitions
is no test.

`--table` prints the table that docs/explanation/performance.md opens with: what, against whom, ratio, machine, date,
file.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import RESULTS, shown

PEERS = {
    "native_over",
    "native_over_with_sync",
    "times_as_fast_as_trl",
    "ours_over_verl",
    "ratio",
    "times_as_fast_as_transformers",
}
SPEEDS = PEERS | {"tokens_per_second", "update_tokens_per_second", "roofline_share", "mfu", "answers_per_second"}
SAMPLES = 16  # of each prompt, in the results without works
DATED = re.compile(r"(.+)-(\d{4}-\d\d-\d\d)")

Spread = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in two results: the ratio of its medians, and the least and the greatest that the spreads allow."""

    figure: str
    old: Spread
    new: Spread

    @property
    def ratio(self) -> float:
        """New over old."""
        return self.new["median"] / self.old["median"]

    @property
    def low(self) -> float:
        """The least ratio of two measurements."""
        return self.new["min"] / self.old["max"]

    @property
    def high(self) -> float:
        """The greatest ratio of two measurements."""
        return self.new["max"] / self.old["min"]

    @property
    def verdict(self) -> str:
        """Whether the spreads lie apart."""
        return "SLOWER" if self.high < 1 else "faster" if self.low > 1 else "same within the spread"


def read_works(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a result's figures by work; results from before there were several have one, named by its sizes."""
    if "works" in result:
        return result["works"]
    responses = result.get("rows", result.get("responses_per_step"))
    if not isinstance(responses, int):
        return {"": result}
    return {f"{responses // SAMPLES}x{','.join(map(str, result['max_tokens']))}": result}


def find_spreads(figures: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Spread]]:
    """Yield every spread in nested figures with its path."""
    for key, value in figures.items():
        if not isinstance(value, Mapping):
            continue
        if {"median", "min", "max"} <= value.keys():
            yield (*path, key), value
        else:
            yield from find_spreads(value, (*path, key))


def read_speeds(result: Mapping[str, Any], kept: set[str]) -> dict[tuple[str, ...], Spread]:
    """Return the speeds of a result by (work, figure, engine or trainer); no engine is compared with itself."""
    found = {}
    for work, figures in read_works(result).items():
        for path, spread in find_spreads(figures):
            if path[0] in kept and path[0].partition("_")[0] != path[-1]:  # not native_over … native
                found[(work, *path)] = spread
    return found


def compare(old: Mapping[str, Any], new: Mapping[str, Any], kept: set[str]) -> list[Change]:
    """Return the changes of all speeds that both results have."""
    before, after = read_speeds(old, kept), read_speeds(new, kept)
    return [Change(" ".join(filter(None, path)), before[path], after[path]) for path in after if path in before]


def find_newest(folder: Path) -> dict[str, Path]:
    """Return the newest result file of each name in a folder."""
    newest = {}
    for path in sorted(folder.glob("*.json")):
        match = DATED.fullmatch(path.stem)
        if match:
            newest[match[1]] = path
    return newest


def pair_files(old: Path, new: Path) -> list[tuple[Path, Path]]:
    """Return the files to compare: these two, or for each name in the folder `new` the newest on both sides."""
    names = find_newest(new) if new.is_dir() else {DATED.sub(r"\1", new.stem): new}
    before = find_newest(old) if old.is_dir() else dict.fromkeys(names, old)
    return [(before[name], path) for name, path in names.items() if name in before]


def show_changes(old: Path, new: Path, kept: set[str]) -> None:
    """Print the changes from one file to the other."""
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    print(f"{new.name} against {old.name}")
    for key in ("machine", "device", "versions"):
        if before.get(key, "cpu") != after.get(key, "cpu"):
            print(f"  {key} differs: {before.get(key)}, now {after.get(key)}")
    changes = compare(before, after, kept)
    for change in changes:
        print(
            f"  {change.figure:50} {change.ratio:5.2f} ({change.low:.2f} to {change.high:.2f})  {change.verdict}; "
            f"was {shown(change.old)}, is {shown(change.new)}"
        )
    if not changes:
        print("  nothing in common")


# ---- the table -------------------------------------------------------------------------------------------------------

WHAT = {
    "rollout": "rollouts",
    "update": "update",
    "step": "whole step",
    "step-verl": "whole step",
    "grading": "grading",
    "startup": "start-up",
}
PEER = {
    "transformers": "transformers, one batch",
    "transformers, by mode": "transformers, a batch for each mode",
    "vllm": "vLLM's CPU build",
    "times_as_fast_as_trl": "TRL",
    "times_as_fast_as_transformers": "transformers",
    "ours_over_verl": "verl",
    "ratio": "math-verify",
}


def make_table(folder: Path) -> list[str]:
    """Return the lines of a Markdown table of all ratios against peers, from the newest result of each name."""
    lines = ["| what | against | times as fast | machine | date | file |", "|---|---|---:|---|---|---|"]
    order = list(WHAT)
    for name, path in sorted(find_newest(folder).items(), key=lambda item: (order.index(find_kind(item[0])), item)):
        result = json.loads(path.read_text(encoding="utf-8"))
        for (work, figure, *rest), spread in read_speeds(result, PEERS - {"native_over_with_sync"}).items():
            peer = PEER.get(figure) or PEER.get(rest[0], rest[0])
            note = " (responses with advantage zero left out)" if rest == ["ours_reference"] else ""
            part = rest[0] if figure in ("ratio", "times_as_fast_as_transformers") else None
            settings = ", ".join(filter(None, [result.get("model"), result.get("dtype"), work, part]))
            device = result.get("device", "cpu")
            machine = result["machine"].removesuffix(", Linux") if device == "cpu" else device
            lines.append(
                f"| {WHAT[find_kind(name)]}: {settings}{note} | {peer} | {shown(spread)} "
                f"| {machine} | {result['date']} | [{path.stem}](../../benchmarks/results/{path.name}) |"
            )
    return lines


def find_kind(name: str) -> str:
    """Return which benchmark a result is of."""
    return max((kind for kind in WHAT if name.startswith(kind)), key=len, default=next(iter(WHAT)))


def main() -> None:
    """Print changes, or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="?")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(make_table(RESULTS)))
        return
    if not arguments.old or not arguments.new:
        parser.error("give two result files or folders, or --table")
    for path in (arguments.old, arguments.new):
        if not path.exists():
            parser.error(f"there is no '{path}'")
    pairs = pair_files(arguments.old, arguments.new)
    if not pairs:
        parser.error(f"no file in '{arguments.new}' has the name of one in '{arguments.old}'")
    for old, new in pairs:
        show_changes(old, new, PEERS if arguments.peers else SPEEDS)


if __name__ == "__main__":
    main()
