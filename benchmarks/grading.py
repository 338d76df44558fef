r"""Our grader beside math-verify alone: the same answers, accuracy and answers per second, in one run.

    python benchmarks/grading.py DATA [--repetitions 5]

DATA is a folder with gsm8k_graded_solutions.jsonl and math500_test.jsonl, and grader_faults.jsonl if there is one:
cases that an earlier version got wrong. With tests/graded_cases.jsonl they count for agreement only.

The timed mix: four models' solutions of GSM8K test, graded by their publisher; and for each problem of MATH-500 its own
solution, one rewriting of the reference (both right) and one near miss (wrong). Each repetition grades all of it in a
new process, so that nothing is remembered from the one before; imports and the start of our workers are not timed,
reading the reference answers is. The two take turns.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import shown, spread, surroundings, write_result

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

Case = tuple[str, str, bool, str]  # response, gold, whether it is right, where it comes from


def cases(data: Path) -> list[Case]:
    """Return the mix, in a seeded order."""
    from rewritings import near_misses, rewritings  # noqa: PLC0415

    found: list[Case] = []
    for line in (data / "gsm8k_graded_solutions.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        reference_answer = row["ground_truth"].rpartition("A:")[2].strip()
        solutions = [value for name, value in row.items() if name not in ("question", "ground_truth")]
        found += [(item["solution"], reference_answer, item["is_correct"], "GSM8K, four models") for item in solutions]
    rng = random.Random(0)
    for line in (data / "math500_test.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        reference_answer = row["answer"]
        found.append((row["solution"], reference_answer, True, "MATH-500, solutions"))
        found.append(
            (
                f"It is $\\boxed{{{rng.choice(rewritings(reference_answer))}}}$.",
                reference_answer,
                True,
                "MATH-500, rewritings",
            )
        )
        misses = near_misses(reference_answer)
        if misses:
            found.append(
                (f"It is $\\boxed{{{rng.choice(misses)}}}$.", reference_answer, False, "MATH-500, near misses")
            )
    rng.shuffle(found)
    return found


def is_right(row: dict[str, str]) -> bool:
    """Return whether a row is expected to be graded correct."""
    return row.get("expect", row.get("expected")) == "correct"


def cases_of_faults(data: Path) -> list[Case]:
    """Return the answers in mathematics of which an earlier version graded one of the kind wrong."""
    files = {"faults found from outside": data / "grader_faults.jsonl", "own table": TESTS / "graded_cases.jsonl"}
    rows = [
        (where, json.loads(line))
        for where, path in files.items()
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [
        (row["response"], row.get("gold") or row["reference_answer"], is_right(row), where)
        for where, row in rows
        if row["kind"] == "math"
    ]


def run_ours(mix: list[Case]) -> tuple[float, list[bool]]:
    """Grade with our cascade."""
    from adaptthink.grading import Submission, Verdict, grade, grade_all  # noqa: PLC0415

    grade("\\boxed{z+1}", "1+z")  # the workers' start
    started = time.perf_counter()
    grades = grade_all([Submission(response, reference_answer) for response, reference_answer, *_ in mix])
    return time.perf_counter() - started, [grade.verdict is Verdict.CORRECT for grade in grades]


def run_math_verify(mix: list[Case]) -> tuple[float, list[bool]]:
    """Grade with math-verify as its documentation shows it."""
    from math_verify import parse, verify  # noqa: PLC0415

    verify(parse("$1+z$"), parse("\\boxed{z+1}"))
    started = time.perf_counter()
    says = [bool(verify(parse(f"${reference_answer}$"), parse(response))) for response, reference_answer, *_ in mix]
    return time.perf_counter() - started, says


RUNS = {"ours": run_ours, "math-verify": run_math_verify}


def agreement(part: list[Case], says: list[bool]) -> dict[str, int]:
    """Count true and false positives and negatives."""
    table = {"right, yes": 0, "right, no": 0, "wrong, yes": 0, "wrong, no": 0}
    for (_, _, right, _), yes in zip(part, says, strict=True):
        table[f"{'right' if right else 'wrong'}, {'yes' if yes else 'no'}"] += 1
    return table


def summarize(table: dict[str, int]) -> dict[str, float | None]:
    """Return agreement, precision and recall; None where nothing counts."""
    right, total = table["right, yes"] + table["wrong, no"], sum(table.values())
    yes, correct = table["right, yes"] + table["wrong, yes"], table["right, yes"] + table["right, no"]
    hits = table["right, yes"]
    return {
        "agreement": right / total if total else None,
        "precision": hits / yes if yes else None,
        "recall": hits / correct if correct else None,
    }


def main() -> None:
    """Run both in turns and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--one", choices=RUNS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    mix = cases(arguments.data)
    parts = {where: [case for case in mix if case[3] == where] for where in sorted({case[3] for case in mix})}
    faults = cases_of_faults(arguments.data)
    untimed = {where: [case for case in faults if case[3] == where] for where in sorted({case[3] for case in faults})}
    if arguments.one:
        print(json.dumps({where: RUNS[arguments.one](part) for where, part in (parts | untimed).items()}))
        return
    rates: dict[str, dict[str, list[float]]] = {where: {name: [] for name in RUNS} for where in ("all", *parts)}
    tables: dict[str, Any] = {}
    for repetition in range(arguments.repetitions):
        for name in RUNS if repetition % 2 else reversed(RUNS):
            command = [sys.executable, __file__, str(arguments.data), "--one", name]
            outcome = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for where, part in parts.items():
                rates[where][name].append(len(part) / outcome[where][0])
            total = sum(outcome[where][0] for where in parts)
            rates["all"][name].append(len(mix) / total)
            tables[name] = {where: agreement(part, outcome[where][1]) for where, part in (parts | untimed).items()}
            print(f"{repetition + 1}/{arguments.repetitions} {name}: {len(mix) / total:.0f} answers/s", flush=True)
    result = surroundings(["math-verify", "latex2sympy2-extended", "sympy"]) | {
        "answers": {where: len(part) for where, part in parts.items()},
        "answers_per_second": {
            where: {name: spread(values) for name, values in row.items()} for where, row in rates.items()
        },
        "ratio": {
            where: spread([ours / other for ours, other in zip(row["ours"], row["math-verify"], strict=True)])
            for where, row in rates.items()
        },
        "agreement": tables,
        "summary": {name: {where: summarize(table) for where, table in row.items()} for name, row in tables.items()},
    }
    path = write_result("grading", result)
    for where in rates:
        print(f"\n{where}: ratio {shown(result['ratio'][where])}")
        for name in RUNS:
            counts = "".join(f"{key}: {count}  " for key, count in tables[name].get(where, {}).items())
            print(f"  {name:12} {shown(result['answers_per_second'][where][name], '.0f')} answers/s   {counts}")
    print("\nagreement, precision, recall")
    for where in (*parts, *untimed):
        for name in RUNS:
            figures = list(result["summary"][name][where].values())
            print(f"  {where:28} {name:12}", *("   -  " if one is None else f"{one:6.1%}" for one in figures))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
