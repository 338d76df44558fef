"""What the data commands do: check a set before training on it, and show it as a model sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from adaptthink.cli.console import show_data_check, show_problem
from adaptthink.config.schema import PresampleConfig
from adaptthink.errors import UserError
from adaptthink.models.loading import load_tokenizer
from adaptthink.models.think_starts import probe_configured
from adaptthink.modes import Mode
from adaptthink.problems import Problem, encode_problem, to_row
from adaptthink.problems.checks import build_index, check_problems
from adaptthink.problems.sources import Purpose, make_reading, read_every_problem, split_name
from adaptthink.storage.rows import BadRow


def read_all(
    name: str, purpose: Purpose, config: PresampleConfig, instruction: str | None
) -> Iterator[Problem | BadRow]:
    """Yield everything that a name stands for, with rows that cannot be used."""
    reading = replace(make_reading(config), instruction=instruction)
    return read_every_problem(name, purpose, per_level=config.problems_per_level, seed=config.seed, reading=reading)


def check_job(config: PresampleConfig, against: Sequence[str]) -> dict[str, Any]:
    """Check a set and look for it in the sets `against`, which are held in memory."""
    indexes = []
    for name in (part for names in against for part in split_name(names)):
        problems = read_all(name, Purpose.AGAINST, config, instruction="")
        indexes.append(build_index(name, (problem.prompt for problem in problems if isinstance(problem, Problem))))
    problems = read_all(config.problems, Purpose.CHECK, config, instruction="")
    check = check_problems(config.problems, problems, indexes)
    show_data_check(check)
    return asdict(check)


def show_job(config: PresampleConfig, count: int, mode: str) -> dict[str, Any]:
    """Print the first problems of a set as they are sent to a model, special tokens and forced prefix included."""
    problems = list(islice(read_all(config.problems, Purpose.CHECK, config, config.instruction), count))
    tokenizer = load_tokenizer(config.model)
    template = probe_configured(tokenizer, config.think_start, config.prompt_date)
    prefix = () if mode == "auto" else template.prefix_ids(Mode(mode))
    shown = []
    for problem in problems:
        if isinstance(problem, BadRow):
            raise UserError(str(problem))
        ids = (*encode_problem(tokenizer, template, problem), *prefix)
        rendered = tokenizer.decode(ids, skip_special_tokens=False)
        show_problem(problem, rendered)
        shown.append({**to_row(problem), "rendered": rendered, "prompt_tokens": len(ids)})
    return {"problems": shown}
