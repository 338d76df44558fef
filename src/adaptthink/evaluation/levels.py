"""The sets and levels of problems: their names in stored files, their order, their titles."""

from __future__ import annotations

from adaptthink.problems import Problem
from adaptthink.storage.jsonl import parse_integer


def name_level(problem: Problem) -> str:
    """Return a problem's level as text; "all" where it has none."""
    return "all" if problem.level is None else str(problem.level)


def name_set(problem: Problem) -> str:
    """Return a source without split and subject: mmlu of mmlu/test/anatomy; of reasoning_gym the family is kept."""
    name, *rest = problem.source.split("/")
    return "/".join([name, *rest[:1]]) if name == "reasoning_gym" else name


def rank_level(level: str) -> tuple[bool, int, str]:
    """Return a sort key that puts level 2 before level 10, and names after numbers."""
    return (False, int(level), "") if is_number(level) else (True, 0, level)


def write_level(level: str) -> str:
    """Return a level as headings and legends name it: "Level 2", or its name."""
    return f"Level {level}" if is_number(level) else level


def is_number(level: str) -> bool:
    """Return whether a level is a number, not a name."""
    return level.removeprefix("-").isdecimal() and isinstance(parse_integer(level), int)
