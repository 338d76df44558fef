"""Traces of a teacher: the correct ones of the thoughts and answers that an evaluation folder holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptthink.evaluation.store import Sample, read_samples, read_verdicts
from adaptthink.grading import Verdict
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.problems.traces import Trace, make_trace


@dataclass(frozen=True, slots=True)
class Taught:
    """The traces of a teacher, in the order of the problems, and why the other responses are none."""

    traces: tuple[Trace, ...]
    left_out: Mapping[str, int]  # how many, by reason


def collect_traces(folder: Path, problems: Sequence[Problem], requested: str, samples: int) -> Taught:
    """Return as traces what is graded correct among the first `samples` responses in a requested mode."""
    by_id = {problem.id: problem for problem in problems}
    order = {problem.id: number for number, problem in enumerate(problems)}
    verdicts = read_verdicts(folder / "verdicts.jsonl")
    found: list[tuple[int, int, Trace]] = []
    left_out: Counter[str] = Counter()
    for sample in read_samples(folder):
        if sample.problem_id not in by_id or sample.requested != requested or sample.index >= samples:
            continue
        stored = verdicts[sample.key]
        correct = stored.verdict is Verdict.CORRECT if stored.own_reward is None else stored.own_reward >= 1
        if not correct:
            left_out[str(stored.verdict)] += 1
        elif not has_thought(sample):
            left_out["correct without a thought"] += 1
        else:
            trace = make_trace(by_id[sample.problem_id], sample.thinking or "", sample.answer or "")
            found.append((order[sample.problem_id], sample.index, trace))
    return Taught(tuple(trace for *_, trace in sorted(found, key=lambda one: one[:2])), dict(left_out))


def has_thought(sample: Sample) -> bool:
    """Return whether a response thought, and its thought is known: some servers withhold it."""
    return sample.mode is Mode.THINK and bool((sample.thinking or "").strip() and (sample.answer or "").strip())
