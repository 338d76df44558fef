"""An evaluation's samples on disk: what a model wrote, kept apart from what was made of it.

evaluation.json   what the samples depend on: the model and how it was asked
problems.jsonl    the problems, once each
samples.jsonl     one line per sample as it was generated; only ever appended to
verdicts.jsonl    what the grader says about each; made again when the grader changes
decisions.jsonl   P(no_think) and P(think) of each problem, where the model shows them

Nothing is generated twice: a folder that was interrupted, or from which more is asked, is completed. A line that an
interruption cut is dropped, and its sample drawn again. One process at a time writes a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from adaptthink.engines.base import Finish
from adaptthink.errors import UserError
from adaptthink.evaluation.levels import level_name
from adaptthink.grading import AnswerKind, Limits, Submission, Verdict, grade_all
from adaptthink.grading.identity import grader_id
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.storage.locks import locked
from adaptthink.storage.runs import write_json

REQUESTED_MODES: dict[str, Mode | None] = {"auto": None, "think": Mode.THINK, "no_think": Mode.NO_THINK}
GRADED_AT_ONCE = 4096  # samples whose texts are held in memory
Key = tuple[str, str, int]  # problem id, asked mode, index
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """What samples depend on, beside the problem: samples of one folder share it."""

    model: str
    fingerprint: str  # of the weights; for a model behind a chat endpoint, its name and address
    temperature: float
    top_p: float
    max_think_tokens: int
    max_no_think_tokens: int
    seed: int
    switch: str | None = None  # how a chat endpoint is told the mode; None: by the tokens of the response


@dataclass(frozen=True, slots=True)
class Sample:
    """One response as it was generated. `index` counts the samples of a problem in an asked mode from 0."""

    problem_id: str
    requested: str  # auto, think or no_think
    index: int
    mode: Mode  # what the response did
    thinking: str | None
    answer: str | None  # what follows the thought, end token excluded; None if it never came to that
    finish: Finish
    tokens: int  # of the whole response
    thinking_tokens: int | None
    seed: int
    prompt_tokens: int | None = None  # where a chat endpoint counts them
    tokens_estimated: bool = False  # the endpoint counted nothing: one token for every four characters

    @property
    def key(self) -> Key:
        """What names a sample within its folder."""
        return self.problem_id, self.requested, self.index


@dataclass(frozen=True, slots=True)
class Decision:
    """The model's own first-token probabilities, at temperature 1; what the two leave of 1 goes to other tokens."""

    no_think_probability: float
    think_probability: float  # of the think decision token alone; a thought may begin with others


@dataclass(frozen=True, slots=True)
class Outcome:
    """A graded sample without its text: what statistics are made of."""

    problem_id: str
    level: str  # "all" where the problem has none
    requested: str
    index: int
    mode: Mode
    verdict: Verdict
    tokens: int
    thinking_tokens: int | None

    @property
    def correct(self) -> float:
        """1 for a correct answer, else 0."""
        return float(self.verdict is Verdict.CORRECT)


# ---- writing --------------------------------------------------------------------------------------------------------


@contextmanager
def writing(folder: Path, setting: Setting) -> Iterator[None]:
    """Make an evaluation folder or go on with one, and keep other processes from writing into it meanwhile.

    Raises UserError if one does, or if the folder was made with another setting or is something else.
    """
    claim_folder(folder, setting)
    with locked(folder / "samples.jsonl", f"evaluation folder '{folder}'"):
        yield


def claim_folder(folder: Path, setting: Setting) -> None:
    """Make an evaluation folder; raises UserError if there is one with another setting, or something else."""
    path = folder / "evaluation.json"
    if path.is_file():
        check_setting(folder, read_setting(folder), setting)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' is in use and holds no evaluation; give another --output")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(setting))


def open_folder(folder: Path, setting: Setting, problems: Iterable[Problem]) -> set[Key]:
    """Make an evaluation folder or go on with one (see `claim_folder`); return the keys of the samples it holds.

    Problems that are new to it are added.
    """
    claim_folder(folder, setting)
    for name in ("problems.jsonl", "samples.jsonl", "decisions.jsonl"):
        drop_cut_line(folder / name)
    known = read_problems(folder)
    with (folder / "problems.jsonl").open("a", encoding="utf-8") as file:
        for problem in problems:
            if problem.id not in known:
                file.write(to_line(problem))
    return {sample.key for sample in read_samples(folder)}


def check_setting(folder: Path, old: Setting, new: Setting) -> None:
    """Raise UserError naming each way in which an evaluation would differ from its beginning."""
    before, now = asdict(old), asdict(new)
    changed = [name for name in now if before[name] != now[name] and name != "model"]  # a folder may have moved
    if changed:
        differences = ", ".join(f"{name} was {before[name]!r} and is now {now[name]!r}" for name in changed)
        raise UserError(f"'{folder}' holds samples made otherwise: {differences}; give another --output")


@contextmanager
def sample_writer(folder: Path) -> Iterator[Callable[[Sample], None]]:
    """Yield a function that appends a sample; each is in the file when it returns."""
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:

        def write(sample: Sample) -> None:
            file.write(to_line(sample))
            file.flush()

        yield write


def write_decisions(folder: Path, decisions: Mapping[str, Decision]) -> None:
    """Append the decisions of problems that had none."""
    with (folder / "decisions.jsonl").open("a", encoding="utf-8") as file:
        for problem_id, decision in decisions.items():
            file.write(json.dumps({"problem_id": problem_id} | asdict(decision)) + "\n")


def grade_folder(
    folder: Path,
    *,
    boxed_only: bool = True,
    limits: Limits | None = None,
    on_grade: Callable[[int], None] | None = None,
) -> None:
    """Grade every sample that this grader has not graded; verdicts of another grader are replaced, all together."""
    chosen = limits or Limits()
    grader = grader_id(boxed_only=boxed_only, seconds=chosen.seconds)
    path, work = folder / "verdicts.jsonl", folder / "verdicts.jsonl.new"
    drop_cut_line(path)
    drop_cut_line(work)
    target = path if grader_of(path) == grader else work
    if grader_of(target) != grader:
        target.write_text(json.dumps({"grader": grader}) + "\n", encoding="utf-8")
    graded = {key for key, _ in read_verdicts(target)}
    problems = read_problems(folder)
    missing = (sample for sample in read_samples(folder) if sample.key not in graded)
    with target.open("a", encoding="utf-8") as file:
        while batch := list(islice(missing, GRADED_AT_ONCE)):
            submissions = [submission(sample, problems[sample.problem_id], boxed_only) for sample in batch]
            grades = grade_all(submissions, limits=chosen, on_finish=on_grade)
            for sample, grade in zip(batch, grades, strict=True):
                row = dict(zip(("problem_id", "requested", "index"), sample.key, strict=True))
                file.write(json.dumps(row | asdict(grade)) + "\n")
            file.flush()
    if target is work:
        work.replace(path)


def submission(sample: Sample, problem: Problem, boxed_only: bool) -> Submission:
    """What of a sample is graded: its answer, if it came to the end of one."""
    answer = sample.answer if sample.finish is Finish.STOP else None
    return Submission(answer, problem.answer, problem.kind, boxed_only)


def to_line(record: Any) -> str:
    """One record as a line of JSON; in ASCII, as what a server sent may hold half a character."""
    return json.dumps(asdict(record)) + "\n"


def drop_cut_line(path: Path) -> None:
    """Remove what follows the last end of line: half a line that an interruption left."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        while end:
            start = max(0, end - 2**16)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                file.truncate(start + found + 1)
                return
            end = start
        file.truncate(0)


# ---- reading --------------------------------------------------------------------------------------------------------


def read_setting(folder: Path) -> Setting:
    """Read what a folder's samples depend on; raises UserError if it is no evaluation folder."""
    path = folder / "evaluation.json"
    try:
        return Setting(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(
            f"'{folder}' holds no evaluation; make one: adaptthink evaluate MODEL --output FOLDER"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); restore the file or evaluate into another folder") from None


def read_problems(folder: Path) -> dict[str, Problem]:
    """The problems of an evaluation, by id."""
    rows = read_rows(folder / "problems.jsonl", lambda row: Problem(**row | {"kind": AnswerKind(row["kind"])}))
    return {problem.id: problem for problem in rows}


def read_samples(folder: Path) -> Iterator[Sample]:
    """The samples of an evaluation, in the order in which they ended."""
    return read_rows(
        folder / "samples.jsonl",
        lambda row: Sample(**row | {"mode": Mode(row["mode"]), "finish": Finish(row["finish"])}),
    )


def read_decisions(folder: Path) -> dict[str, Decision]:
    """The decisions of an evaluation, by problem id; empty where the model does not show them."""
    return dict(read_rows(folder / "decisions.jsonl", lambda row: (row.pop("problem_id"), Decision(**row))))


def read_verdicts(path: Path) -> Iterator[tuple[Key, Verdict]]:
    """The verdicts of one grader, by key."""
    rows = read_rows(
        path,
        lambda row: (
            None if "grader" in row else ((row["problem_id"], row["requested"], row["index"]), Verdict(row["verdict"]))
        ),
    )
    return (row for row in rows if row is not None)


def grader_of(path: Path) -> str | None:
    """The grader whose verdicts a file holds; None if there is none."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        return next(read_lines(path, islice(file, 1), lambda row: str(row["grader"])), None)


def read_outcomes(folder: Path) -> list[Outcome]:
    """The graded samples of an evaluation; raises UserError for a folder without samples or without their verdicts."""
    read_setting(folder)
    levels = {problem.id: level_name(problem) for problem in read_problems(folder).values()}
    verdicts = dict(read_verdicts(folder / "verdicts.jsonl"))
    outcomes = []
    for sample in read_samples(folder):
        if sample.key not in verdicts:
            raise UserError(f"'{folder}' holds samples that are not graded; run its adaptthink evaluate again")
        outcomes.append(
            Outcome(
                sample.problem_id,
                levels[sample.problem_id],
                sample.requested,
                sample.index,
                sample.mode,
                verdicts[sample.key],
                sample.tokens,
                sample.thinking_tokens,
            )
        )
    if not outcomes:
        raise UserError(f"'{folder}' holds no samples yet; run its adaptthink evaluate again")
    return outcomes


def read_rows(path: Path, make: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Read a JSONL file into records, nothing if there is none; raises UserError that says which line is damaged."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from read_lines(path, file, make)


def read_lines(path: Path, lines: Iterable[str], make: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Read lines of JSON into records."""
    for number, line in enumerate(lines, start=1):
        try:
            yield make(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: damaged ({error}); remove that line, and what it held is made again"
            ) from None
