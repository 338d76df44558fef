"""Traces: questions with a thought and an answer, from which a cold start learns to think and to answer at once.

A file of traces is a data file of any format (`storage.rows`). A row has `prompt`, `thinking` and `answer`, or
`messages` that end in the assistant's, whose text has its thought between markers or whose thought is in a field of its
own. Without thinking a trace teaches to answer at once, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError
from adaptthink.modes import MARKERS, Message, split_text
from adaptthink.problems import Problem, arithmetic, words
from adaptthink.problems.arithmetic import Split
from adaptthink.problems.files import read_message, read_prompt
from adaptthink.problems.sources import (
    ArithmeticSource,
    Purpose,
    Reading,
    Source,
    WordsSource,
    add_instruction,
    parse_name,
)
from adaptthink.storage.jsonl import encode, replace_file
from adaptthink.storage.rows import BadRow, Row, RowError, check_text, read_rows, show_fields

THINKING = ("thinking", "reasoning_content", "reasoning")  # the fields that may hold a thought
OPENING = "Alright."  # of the thoughts that are written here; it begins as the usual think start does


@dataclass(frozen=True, slots=True)
class Trace:
    """A conversation that ends in a question, and how it is answered; without a thought `thinking` is empty.

    `id`, `level` and `source` are those of the problem, where it is known.
    """

    messages: tuple[Message, ...]
    thinking: str
    answer: str
    id: str = ""
    level: int | str | None = None
    source: str = ""


def make_trace(problem: Problem, thinking: str, answer: str) -> Trace:
    """Return how a problem is answered as a trace."""
    texts = thinking.strip(), answer.strip()
    return Trace(problem.messages, *texts, problem.id, problem.level, problem.source)


def solve_problems(name: str, *, per_level: int, seed: int, reading: Reading) -> Iterator[Trace]:
    """Yield the problems of a name with their own solutions: of a split that is for cold starts alone.

    Raises UserError for problems that have none.
    """
    for source in parse_name(name, Purpose.TRAINING):
        try:
            for problem, thought, solution in generate_solved(name, source, per_level, seed):
                instructed = add_instruction(problem, source, reading)
                yield make_trace(instructed, f"{OPENING}{thought}", f"{solution}\\boxed{{{problem.answer}}}")
        except ValueError as error:
            raise UserError(str(error)) from None


def generate_solved(name: str, source: Source, per_level: int, seed: int) -> Iterator[tuple[Problem, str, str]]:
    """Yield problems of a source, each with a thought and the solution that precedes the answer (none for arithmetic).

    Raises as `solve_problems`, and ValueError for too many.
    """
    split = Split.SUPERVISED
    match source:
        case WordsSource():
            for one in words.generate_word_problems(per_level, seed=seed, split=split):
                yield words.as_problem(one, split), f" {one.thought}", f"{one.solution} "
        case ArithmeticSource():
            for level, chain in arithmetic.generate_distinct_chains(per_level, seed=seed, split=split):
                yield arithmetic.as_problem(chain, level, split), "\n" + "\n".join(chain.equations), ""
        case _:
            raise UserError(
                f"'{name}' has no solutions of its own, as arithmetic and words have; give a model that solves the "
                "problems with --teacher MODEL"
            )


# ---- files ----------------------------------------------------------------------------------------------------------


def write_traces(path: Path, traces: Iterable[Trace]) -> int:
    """Write a file of traces, one a line, in place of what is there; return their number."""
    count = 0
    with replace_file(path) as file:
        for trace in traces:
            file.write(encode(to_row(trace)))
            count += 1
    return count


def to_row(trace: Trace) -> dict[str, Any]:
    """Return a trace as it is stored: the question alone where there is nothing before it."""
    prompt: Any = [{"role": one.role, "content": one.content} for one in trace.messages]
    if len(trace.messages) == 1:
        prompt = trace.messages[0].content
    rest = {name: getattr(trace, name) for name in ("id", "level", "source", "thinking", "answer")}
    return {"prompt": prompt} | rest


def read_traces(path: Path) -> list[Trace]:
    """Return the traces of a file, each once; raises UserError for the first row that is none, and if there is none."""
    if not path.exists():
        raise UserError(f"no file of traces '{path}'; make one: adaptthink traces --output {path}")
    found: dict[Trace, None] = {}
    for row in read_rows(path):
        try:
            if isinstance(row, BadRow):
                raise UserError(str(row))
            found[read_trace(row)] = None
        except RowError as error:
            raise UserError(f"{row.where}: {error}") from None
    if not found:
        raise UserError(f"{path} holds no trace; give a file with prompt, thinking and answer in each row")
    return list(found)


def make_trace_of(values: Mapping[str, Any], number: int) -> Trace:
    """Return the trace in a mapping, the `number`th; raises UserError if there is none."""
    where = f"trace {number}"
    try:
        return read_trace(Row(where, number, dict(values)))
    except RowError as error:
        raise UserError(f"{where}: {error}") from None


def read_trace(row: Row) -> Trace:
    """Return the trace in a row; raises RowError if there is none."""
    values = row.values
    if "messages" in values and "answer" not in values:
        messages, thinking, answer = read_conversation(values["messages"], values)
    elif "prompt" in values and "answer" in values:
        context, question = read_prompt("prompt", values["prompt"], values)
        messages = (*context, Message("user", question))
        thinking, answer = find_thinking(values), values["answer"]
    else:
        raise RowError(
            f"this is no trace: it needs prompt, thinking and answer, or messages; fields here: {show_fields(values)}"
        )
    if not isinstance(answer, str) or not answer.strip():
        raise RowError("'answer' is empty; a trace needs the text that follows the thinking")
    for text in (*(message.content for message in messages), thinking, answer):
        check_text(text, "messages")
    names = {key: str(values.get(key) or "") for key in ("id", "source")}
    level = values.get("level")
    return Trace(
        messages, thinking.strip(), answer.strip(), level=level if isinstance(level, int | str) else None, **names
    )


def read_conversation(value: object, values: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """Return the messages up to the question, and thinking and answer of the assistant's last one."""
    if not isinstance(value, list) or len(value) < 2:
        raise RowError("'messages' needs a question and an answer: a list of messages that ends in the assistant's")
    *_, last = value
    response = read_message(last, "messages")
    if response.role != "assistant":
        raise RowError(f"'messages' ends in a message of role '{response.role}'; the last one must be the assistant's")
    context, question = read_prompt("messages", value[:-1], values)
    thinking, answer = find_thinking(last), response.content
    for opening, closing in MARKERS:
        if not thinking and (closing in answer or answer.lstrip().startswith(opening)):
            thought, rest = split_text(answer, opening, closing)
            thinking, answer = thought or "", rest or ""
    return (*context, Message("user", question)), thinking, answer


def find_thinking(values: Mapping[str, Any]) -> str:
    """Return the thought in the first of the usual fields that has one; empty if none has. Raises RowError."""
    for name in THINKING:
        if value := values.get(name):
            if not isinstance(value, str):
                raise RowError(f"'{name}' is of type {type(value).__name__}; a text is needed")
            return value
    return ""
