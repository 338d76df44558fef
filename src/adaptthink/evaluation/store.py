"""An evaluation's samples on disk: responses as generated, kept apart from their verdicts.

evaluation.json   what the samples depend on: the model and how it was sampled
problems.jsonl    the problems, once each
samples.jsonl     one line per sample as it was generated
verdicts.jsonl    which grader graded, and its verdict on each sample; made again when the grader changes, and of one
                  sample where the verdict is unknown or the reference answer has changed
decisions.jsonl   P(no_think) and P(think) of each problem, where the model shows them
timings.jsonl     how long an engine generated, and how many tokens

Nothing is generated twice: a folder that was interrupted, or of which more is requested, is completed. How the files
are read and repaired after a crash: `storage.jsonl`. One process at a time writes a folder.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from adaptthink.engines.base import Finish
from adaptthink.errors import UserError
from adaptthink.evaluation.levels import name_level
from adaptthink.grading import Grade, Rule, Verdict, check_failed_grades
from adaptthink.modes import Mode
from adaptthink.problems import Problem, from_row, has_content_id, hash_answer, to_row
from adaptthink.sampling.grader import AnswerGrader, Grader
from adaptthink.sampling.reading import Response
from adaptthink.storage.jsonl import (
    TEMPORARY,
    Appender,
    keep_lines,
    read_lines,
    read_object,
    read_record,
    read_records,
)
from adaptthink.storage.locks import locked
from adaptthink.storage.records import Count, Probability, from_json
from adaptthink.storage.runs import write_json
from adaptthink.storage.settings import find_changes, refuse_changes

SETTING, DEPENDENT = "evaluation.json", ("samples.jsonl", "verdicts.jsonl", "decisions.jsonl", "timings.jsonl")
REQUESTED_MODES: dict[str, Mode | None] = {"auto": None, "think": Mode.THINK, "no_think": Mode.NO_THINK}
GRADED_AT_ONCE = 1024  # samples whose texts are held in memory, and over which failed grades are counted
VERDICTS_REMEDY = "delete that file and evaluate again: verdicts are made again, nothing is sampled"
Key = tuple[str, str, int]  # problem id, requested mode, index
Requested = Annotated[str, Field(pattern=f"^({'|'.join(REQUESTED_MODES)})$")]
Seconds = Annotated[float, Field(ge=0)]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """What samples depend on, beside the problem: samples of one folder share it."""

    model: str
    fingerprint: str  # of the weights; for a model behind a chat endpoint, its name
    temperature: float
    top_p: float
    max_think_tokens: Count
    max_no_think_tokens: Count
    seed: int
    switch: str | None = None  # how the mode is set at a chat endpoint; None: by the tokens of the response
    prompt_date: str | None = None  # the day in the prompts, where the chat template writes one
    force_think: str | None = "ban"  # how requested thoughts begin (`ForceThink`); older folders do not say: a ban
    think_starts: dict[str, float] | None = None  # the texts that they begin with, and how often


@dataclass(frozen=True, slots=True)
class Sample:
    """One response as it was generated. `index` counts the samples of a problem in a requested mode from 0."""

    problem_id: str
    requested: Requested  # auto, think or no_think
    index: Count
    mode: Mode  # what the response did
    thinking: str | None
    answer: str | None  # what follows the thinking, end token excluded; None for a response that never got there
    finish: Finish
    tokens: Count  # of the whole response
    thinking_tokens: Count | None
    seed: int
    prompt_tokens: Count | None = None  # where a chat endpoint counts them
    tokens_estimated: bool = False  # the endpoint counted nothing: one token for every four characters
    beside: bool | None = None  # whether it began with neither mode's token, where the model chose; None: unknown
    seconds: Seconds | None = None  # that a request to a chat endpoint took

    @property
    def key(self) -> Key:
        """Identifies a sample within its folder."""
        return self.problem_id, self.requested, self.index

    @property
    def response(self) -> Response:
        """The response that was kept, as graders take it."""
        return Response(self.mode, self.thinking, self.answer, self.finish, self.tokens, self.thinking_tokens or 0)


@dataclass(frozen=True, slots=True)
class Decision:
    """The model's own first-token probabilities, at temperature 1; what the two leave of 1 goes to other tokens."""

    no_think_probability: Probability
    # Of the think decision token alone, thinking may begin with others; None where a chat endpoint does not say.
    think_probability: Probability | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A graded sample without its text, as statistics take it."""

    problem_id: str
    level: str  # "all" where the problem has none
    requested: str
    index: int
    mode: Mode
    verdict: Verdict
    tokens: int
    thinking_tokens: int | None
    own_reward: float | None = None  # of a reward function of the user's own
    max_tokens: float = math.inf  # that a response in the requested mode can have
    beside: bool | None = None  # see `Sample`
    seconds: float | None = None  # see `Sample`

    @property
    def correct(self) -> float:
        """1 for a correct answer, else 0; or the user's own reward. Means nothing without a reward."""
        return float(self.verdict is Verdict.CORRECT) if self.own_reward is None else self.own_reward


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A line of verdicts: the grade of a sample, and which reference answer it belongs to (`hash_answer`)."""

    problem_id: str
    requested: Requested
    index: Count
    verdict: Verdict
    extracted: str | None
    rule: Rule
    own_reward: float | None = None
    answer_hash: str = ""

    @property
    def key(self) -> Key:
        """That of the sample."""
        return self.problem_id, self.requested, self.index


@dataclass(frozen=True, slots=True)
class Timing:
    """Responses that an engine generated together: how many, their tokens, and how long it took."""

    requested: Requested
    responses: Count
    tokens: Count
    seconds: Seconds


# ---- writing --------------------------------------------------------------------------------------------------------


@contextmanager
def lock_folder(folder: Path, setting: Setting) -> Iterator[None]:
    """Make an evaluation folder or continue one, and hold its lock: no other process may write into it.

    Raises UserError if another process holds it, and if the folder was made with another setting or is something else.
    """
    refuse_foreign(folder)
    with locked(folder / "samples.jsonl", f"evaluation folder '{folder}'"):
        claim_folder(folder, setting)
        yield


def claim_folder(folder: Path, setting: Setting) -> None:
    """Make an evaluation folder; raises UserError if there is one with another setting, or something else.

    One that holds nothing that depends on its setting takes the new one.
    """
    if (folder / SETTING).is_file() and any(any(read_lines(folder / name)) for name in DEPENDENT):
        old, new = asdict(read_setting(folder)), asdict(setting)
        refuse_changes(f"evaluation folder '{folder}'", old, new, ignoring={"model"})  # the model may have been moved
    else:
        refuse_foreign(folder)
        write_json(folder / SETTING, asdict(setting))


def refuse_foreign(folder: Path) -> None:
    """Raise UserError for what is neither an evaluation folder, nor one whose start was killed, nor free."""
    left = {SETTING + TEMPORARY, "samples.jsonl.lock"}
    is_used = folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - left)
    if is_used and not (folder / SETTING).is_file():
        raise UserError(f"'{folder}' is in use and holds no evaluation; give another --output")


def open_folder(folder: Path, setting: Setting, problems: Iterable[Problem]) -> set[Key]:
    """Make an evaluation folder or continue one (see `claim_folder`); return the keys of the samples it holds.

    Problems that are new to it are added, and those that have got another reference answer replaced. Verdicts on
    samples that were lost are removed: the sample that takes its place may be another one.
    """
    claim_folder(folder, setting)
    path, known = folder / "problems.jsonl", read_problems(folder)
    new = [one for one in problems if one.id not in known or is_changed(known[one.id], one)]
    replaced = {problem.id for problem in new} & known.keys()
    if replaced:
        keep_lines(path, lambda line: read_record(line, from_row).id not in replaced)
    with Appender(path) as file:
        for problem in new:
            file.write(to_row(problem))
    found, verdicts = {sample.key for sample in read_samples(folder)}, folder / "verdicts.jsonl"
    if read_verdicts(verdicts).keys() - found:
        keep_lines(verdicts, lambda line: line.number == 1 or read_record(line, make_verdict).key in found)
    return found


def is_changed(stored: Problem, given: Problem) -> bool:
    """Return whether a problem has got another reference answer, or kind of answer, than a folder holds.

    Where the id follows from the answer that is given, another one in the folder was put there by hand, and stays.
    """
    if stored.answer == given.answer:
        return stored.kind != given.kind
    return not has_content_id(given)


@contextmanager
def open_samples(folder: Path) -> Iterator[Callable[[Sample], None]]:
    """Yield a function that appends a sample; each is in the file when it returns."""
    with Appender(folder / "samples.jsonl") as file:

        def write(sample: Sample) -> None:
            row = asdict(sample)
            if sample.seconds is None:
                del row["seconds"]
            file.write(row)

        yield write


def write_timing(folder: Path, timing: Timing) -> None:
    """Append how long an engine generated."""
    with Appender(folder / "timings.jsonl") as file:
        file.write(asdict(timing))


def write_decisions(folder: Path, decisions: Mapping[str, Decision]) -> None:
    """Append the decisions of problems that had none."""
    with Appender(folder / "decisions.jsonl") as file:
        for problem_id, decision in decisions.items():
            file.write({"problem_id": problem_id} | asdict(decision))


def make_decision_keeper(folder: Path) -> Callable[[str, Decision], None]:
    """Return a function that stores the decision of a problem, by its id, unless it has one."""
    known = set(read_decisions(folder))

    def keep(problem_id: str, decision: Decision) -> None:
        if problem_id not in known:
            known.add(problem_id)
            write_decisions(folder, {problem_id: decision})

    return keep


def grade_folder(
    folder: Path,
    grader: Grader | None = None,
    *,
    max_failed_grades: float = 1.0,
    on_grade: Callable[[int], None] | None = None,
) -> list[str]:
    """Grade every sample on which this grader has no verdict but UNKNOWN, or only one for another reference answer.

    Verdicts of another grader are replaced, all together. Returns in what that other grader differed, empty if nothing
    was replaced. Raises UserError if grading failed on more than `max_failed_grades` of a batch.
    """
    grader = grader or AnswerGrader()
    problems = read_problems(folder)
    described = grader.describe({problem.kind for problem in problems.values()})
    path, work = folder / "verdicts.jsonl", folder / "verdicts.jsonl.new"
    before = read_grader(path)
    target = path if before == described else work
    if read_grader(target) != described:
        target.unlink(missing_ok=True)
    hashes = {problem.id: hash_answer(problem) for problem in problems.values()}
    verdicts = read_verdicts(target)
    graded = {
        key
        for key, stored in verdicts.items()
        if stored.verdict is not Verdict.UNKNOWN and stored.answer_hash == hashes.get(key[0])
    }
    if len(graded) < len(verdicts):
        keep_lines(target, lambda line: line.number == 1 or read_record(line, make_verdict).key in graded)
    missing = (sample for sample in read_samples(folder) if sample.key not in graded)
    with Appender(target, header={"grader": described}) as file:
        while batch := list(islice(missing, GRADED_AT_ONCE)):
            pairs = ((find_entry(problems, sample, folder), sample.response) for sample in batch)
            grades = grader.grade(pairs, on_graded=on_grade)
            for sample, grade in zip(batch, grades, strict=True):
                row = dict(zip(("problem_id", "requested", "index"), sample.key, strict=True))
                file.write(row | make_row(grade, hashes[sample.problem_id]))
            if len(batch) == GRADED_AT_ONCE:
                check_failed_grades((grade.verdict for grade in grades), max_failed_grades)
    if target is work:
        work.replace(path)
    changes = find_changes(flatten(before), flatten(described)) if before else []
    return [f"{name} was {old} and is now {new}" for name, old, new in changes]


def make_row(grade: Grade, answer_hash: str) -> dict[str, Any]:
    """Return a grade as it is stored: a reward of the user's own, and the answer's hash, only where there is one."""
    row = asdict(grade) | {"answer_hash": answer_hash}
    if grade.own_reward is None:
        del row["own_reward"]
    if not answer_hash:
        del row["answer_hash"]
    return row


def flatten(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a grader depends on by name, libraries among the rest."""
    rest = dict(described)
    return rest | rest.pop("libraries", {})


# ---- reading --------------------------------------------------------------------------------------------------------


def read_setting(folder: Path) -> Setting:
    """Read what a folder's samples depend on; raises UserError if it is no evaluation folder."""
    path, remedy = folder / SETTING, "restore the file or evaluate into another folder"
    try:
        stored = read_object(path, remedy=remedy)
        if stored.get("switch"):  # a chat endpoint, which begins thoughts itself
            stored["force_think"] = None
            stored["fingerprint"] = stored.get("model")  # older folders have the address too
        return from_json(Setting, stored, exact=True)
    except FileNotFoundError:
        raise UserError(
            f"'{folder}' holds no evaluation; make one: adaptthink evaluate MODEL --output FOLDER"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {remedy}") from None


def read_evaluation_date(folder: Path) -> str | None:
    """Return the day in the prompts of an evaluation that is to be made or completed; None if there is none yet."""
    return read_setting(folder).prompt_date if (folder / SETTING).is_file() else None


def read_problems(folder: Path) -> dict[str, Problem]:
    """Return the problems of an evaluation by id, in order of the ids."""
    lines = read_lines(folder / "problems.jsonl")
    rows = read_records(lines, from_row, key=lambda problem: problem.id)
    return {problem.id: problem for problem in sorted(rows, key=lambda one: one.id)}


def read_samples(folder: Path) -> Iterator[Sample]:
    """Return the samples of an evaluation, in the order in which they ended."""
    return read_records(read_lines(folder / "samples.jsonl"), make_sample, key=lambda sample: sample.key)


def make_sample(row: dict[str, Any]) -> Sample:
    """Turn a row into a sample; names that many samples share are held in memory once."""
    sample = from_json(Sample, row, exact=True)
    return replace(sample, problem_id=sys.intern(sample.problem_id), requested=sys.intern(sample.requested))


def read_decisions(folder: Path) -> dict[str, Decision]:
    """Return the decisions of an evaluation, by problem id; empty where the model does not show them."""
    lines = read_lines(folder / "decisions.jsonl")
    rows = read_records(lines, make_decision, key=lambda pair: pair[0])
    return dict(sorted(rows))


def make_decision(row: dict[str, Any]) -> tuple[str, Decision]:
    """Turn a row into a problem's id and its decision."""
    problem_id = from_json(str, row.pop("problem_id"))
    return problem_id, from_json(Decision, row, exact=True)


def read_throughput(folder: Path) -> dict[str, float]:
    """Return the tokens per second that an engine generated, by requested mode; none where that was not measured."""
    tokens: defaultdict[str, int] = defaultdict(int)
    seconds: defaultdict[str, float] = defaultdict(float)
    for timing in read_records(read_lines(folder / "timings.jsonl"), partial(from_json, Timing, exact=True)):
        tokens[timing.requested] += timing.tokens
        seconds[timing.requested] += timing.seconds
    return {requested: tokens[requested] / whole for requested, whole in seconds.items() if whole}


def read_verdicts(path: Path) -> dict[Key, StoredVerdict]:
    """Return the verdicts of one grader, by key."""
    lines = read_lines(path)
    for line in islice(lines, 1):  # which names the grader
        read_record(line, make_grader, remedy=VERDICTS_REMEDY)
    rows = read_records(lines, make_verdict, key=lambda verdict: verdict.key, remedy=VERDICTS_REMEDY)
    return {verdict.key: verdict for verdict in rows}


def make_verdict(row: dict[str, Any]) -> StoredVerdict:
    """Turn a row into a verdict; names that many share are held in memory once, and what was extracted not at all."""
    found = from_json(StoredVerdict, row, exact=True)
    return replace(
        found,
        problem_id=sys.intern(found.problem_id),
        requested=sys.intern(found.requested),
        answer_hash=sys.intern(found.answer_hash),
        extracted=None,
    )


def read_grader(path: Path) -> dict[str, Any] | None:
    """Return the record of the grader whose verdicts a file holds; None if there are none."""
    graders = (read_record(line, make_grader, remedy=VERDICTS_REMEDY) for line in islice(read_lines(path), 1))
    return next(graders, None)


def make_grader(row: dict[str, Any]) -> dict[str, Any]:
    """Return the record of the grader in the first row of verdicts; raises TypeError if it is none."""
    return dict(**row["grader"])


def read_outcomes(folder: Path) -> list[Outcome]:
    """Return the graded samples of an evaluation, in an order that that of its lines has no part in.

    Raises UserError for one without samples or verdicts.
    """
    limits = list_limits(read_setting(folder))
    problems = read_problems(folder)
    levels = {problem.id: name_level(problem) for problem in problems.values()}
    hashes = {problem.id: hash_answer(problem) for problem in problems.values()}
    verdicts = read_verdicts(folder / "verdicts.jsonl")
    outcomes = []
    for sample in read_samples(folder):
        stored = verdicts.pop(sample.key, None)
        if stored is None:
            raise UserError(f"'{folder}' holds samples that are not graded; run its adaptthink evaluate again")
        if stored.answer_hash != find_entry(hashes, sample, folder):
            raise UserError(
                f"'{folder}' holds samples that were graded against another reference answer than its problems.jsonl "
                "has; run its adaptthink evaluate again, which grades them anew"
            )
        outcomes.append(
            Outcome(
                sample.problem_id,
                find_entry(levels, sample, folder),
                sample.requested,
                sample.index,
                sample.mode,
                stored.verdict,
                sample.tokens,
                sample.thinking_tokens,
                stored.own_reward,
                limits[sample.requested],
                sample.beside,
                sample.seconds,
            )
        )
    if verdicts:
        raise UserError(
            f"'{folder}' holds {len(verdicts)} verdicts on samples that its samples.jsonl has lost; restore that file, "
            "or run its adaptthink evaluate again, which samples them again"
        )
    if not outcomes:
        raise UserError(f"'{folder}' holds no samples yet; run its adaptthink evaluate again")
    return sorted(outcomes, key=lambda one: (one.problem_id, one.requested, one.index))


def list_limits(setting: Setting) -> dict[str, int]:
    """Return the most tokens that a response can have, by requested mode; in auto the model may choose either."""
    limits = {Mode.THINK: setting.max_think_tokens, Mode.NO_THINK: setting.max_no_think_tokens}
    return {name: limits[mode] if mode else max(limits.values()) for name, mode in REQUESTED_MODES.items()}


def find_entry(by_problem_id: Mapping[str, T], sample: Sample, folder: Path) -> T:
    """Return the entry of a sample's problem; raises UserError if the folder lacks it."""
    try:
        return by_problem_id[sample.problem_id]
    except KeyError:
        raise UserError(
            f"'{folder}' holds samples of problem {sample.problem_id}, but not the problem itself; run its adaptthink "
            "evaluate again on all of its problems"
        ) from None
