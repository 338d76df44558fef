"""The levels of problems: their names in stored files, their order, their titles."""

from __future__ import annotations

from adaptthink.problems import Problem


def level_name(problem: Problem) -> str:
    """A problem's level as text; "all" where it has none."""
    return "all" if problem.level is None else str(problem.level)


def level_order(level: str) -> tuple[bool, int, str]:
    """Sort key that puts level 2 before level 10, and names after numbers."""
    return (False, int(level), "") if is_number(level) else (True, 0, level)


def level_title(level: str) -> str:
    """A level as headings and legends name it: "Level 2", or its name."""
    return f"Level {level}" if is_number(level) else level


def is_number(level: str) -> bool:
    """Whether a level is a number written out, and not a name."""
    return level.removeprefix("-").isdecimal()
