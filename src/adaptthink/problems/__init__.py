"""The `Problem` record and its stable id. Where problems come from: `sources`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.modes import Message, ThinkTemplate, encode_prompt
from adaptthink.storage.records import from_json
from adaptthink.storage.rows import RowError, check_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer.

    `id` is derived from the content (`make_problem_id`), so it is the same on every machine and in every run.
    `level` is the difficulty or the group where the source knows one (arithmetic: 1-5), else None.
    `kind` is how a response's answer is compared with the reference answer.
    `context` is what comes before the question in a conversation: a system message, earlier turns (`check_roles`).

    >>> import adaptthink as at
    >>> problem = at.load_problems("arithmetic", split="train", per_level=1)[0]
    >>> problem.level, problem.source
    (1, 'arithmetic/chain/train')
    """

    id: str
    prompt: str
    answer: str
    level: int | str | None = None
    source: str = ""
    kind: AnswerKind = AnswerKind.MATH
    context: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation that is sent to a model; it ends in the question."""
        return (*self.context, Message("user", self.prompt))


def make_problem_id(prompt: str, answer: str, source: str = "", context: tuple[Message, ...] = ()) -> str:
    """Return 16 hex digits that identify a problem by its content (SHA-256 of source, context, prompt and answer)."""
    turns = [f"{message.role}\x1e{message.content}" for message in context]
    content = "\x1f".join((source, *turns, prompt, answer))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def has_content_id(problem: Problem) -> bool:
    """Return whether a problem's id was derived from its content, and not given by its user."""
    return problem.id == make_problem_id(problem.prompt, problem.answer, problem.source, problem.context)


def hash_answer(problem: Problem) -> str:
    """Return what tells a problem's reference answer from others with the same id; stored beside its verdicts.

    That is 16 hex digits, or nothing for the usual problem, a mathematical one whose id follows from its answer.
    """
    if problem.kind is AnswerKind.MATH and has_content_id(problem):
        return ""
    return hashlib.sha256(f"{problem.kind}\x1f{problem.answer}".encode()).hexdigest()[:16]


def make_problem(
    prompt: str,
    answer: str,
    *,
    level: int | str | None = None,
    source: str = "",
    kind: AnswerKind = AnswerKind.MATH,
    context: tuple[Message, ...] = (),
) -> Problem:
    """Return a `Problem` whose id follows from its content; raises UserError for what is no text that can be encoded.

    >>> import adaptthink as at
    >>> at.make_problem("2+2=?", "4", level=1).answer
    '4'
    """
    try:
        check_texts(prompt, answer, level=level, context=context)
    except RowError as error:
        raise UserError(f"problem: {error}") from None
    return Problem(
        make_problem_id(prompt, answer, source, context), prompt, answer, level, source, kind, tuple(context)
    )


def check_texts(prompt: str, answer: str, *, level: int | str | None, context: Sequence[Message]) -> None:
    """Raise RowError for a text of a problem that no tokenizer can encode, and as `check_roles`."""
    check_text(prompt, "prompt")
    check_text(answer, "answer")
    check_text(str(level), "level")
    check_roles(context, "context")
    for message in context:
        check_text(message.content, "prompt")


def check_roles(context: Sequence[Message], column: str) -> None:
    """Raise RowError for what precedes a question if a role is unknown, or a system message is not the first."""
    for index, message in enumerate(context):
        if message.role not in ROLES:
            raise RowError(f"'{column}' has a message of role {message.role!r}; known are system, user and assistant")
        if index and message.role == "system":
            raise RowError(f"'{column}' has a system message after its first; put all of it into the first")


def encode_problem(
    tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, problem: Problem, *, where: str = ""
) -> tuple[int, ...]:
    """Return the prompt of a problem in tokens, up to where the mode is decided.

    Raises UserError for messages that the chat template refuses or leaves out; it begins with `where`, or else with the
    problem's id and source.
    """
    try:
        return encode_prompt(tokenizer, template, problem.messages)
    except UserError as error:
        named = where or " of ".join(filter(None, (f"problem {problem.id}", problem.source)))
        raise UserError(f"{named} ({problem.prompt[:60]!r}): {error}") from None


def format_prompt(problem: Problem) -> str:
    """Return what is sent for a problem as people read it: the question, after earlier messages with their roles."""
    if not problem.context:
        return problem.prompt
    return "\n\n".join(f"{message.role}: {message.content}" for message in problem.messages)


def to_row(problem: Problem) -> dict[str, Any]:
    """Return a problem as it is stored; a context only where there is one."""
    row = asdict(problem)
    if not problem.context:
        del row["context"]
    return row


def from_row(row: Mapping[str, Any]) -> Problem:
    """Return what `to_row` was given; raises ValueError or KeyError for a row of another form."""
    problem = from_json(Problem, {**row, "level": row["level"], "source": row["source"]}, exact=True)
    try:
        check_texts(problem.prompt, problem.answer, level=problem.level, context=problem.context)
        check_text(problem.source, "source")
    except RowError as error:
        raise ValueError(str(error)) from None
    return problem
