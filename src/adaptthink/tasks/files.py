"""Problems from a JSONL file: one object a line with `prompt`, `answer` and, if known, `level`."""

from __future__ import annotations

import json
from pathlib import Path

from adaptthink.errors import UserError
from adaptthink.tasks import Problem, make_problem


def read_problems(path: Path) -> list[Problem]:
    """Read every problem; raises UserError with the line number of the first one that cannot be used."""
    if not path.is_file():
        raise UserError(f"no problem file '{path}': give 'arithmetic' or the path of a JSONL file")
    found: dict[str, Problem] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                problem = parse_problem(line, f"{path}, line {number}", source=path.name)
                found.setdefault(problem.id, problem)
    if not found:
        raise UserError(f"{path}: holds no problem; expected one JSON object a line with 'prompt' and 'answer'")
    return list(found.values())


def parse_problem(line: bytes, where: str, *, source: str) -> Problem:
    """Parse one line; raises UserError that starts with `where`."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start} of the line)") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error.msg} (column {error.colno})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object with 'prompt' and 'answer', found {type(row).__name__}")
    prompt, answer, level = row.get("prompt"), row.get("answer"), row.get("level")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where}: 'prompt' is missing or empty; every problem needs a question")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"{where}: 'answer' is missing or empty; a problem without an answer cannot be graded")
    if level is not None and (not isinstance(level, int) or isinstance(level, bool)):
        raise UserError(f"{where}: 'level' must be a whole number, found {level!r}")
    return make_problem(prompt, answer, level=level, source=source)
