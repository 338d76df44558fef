"""Procedural problems of reasoning-gym, a library of some hundred families, by its curriculum's levels.

Our level i sets every attribute of a family's curriculum to its i-th level, or to its highest if it has fewer. Ranges
begin at the lowest level, as they do by default in the library. There are five levels at most, and none for a family
without a curriculum. A level whose settings the library itself refuses does not exist.

The split of a problem follows from a hash of its prompt alone, as in `arithmetic`. The same seed gives the same
problems, except for three families that iterate over Python sets: see docs/how-to/problems.md.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.grading.gym import load_library, make_reference_json, score_entry
from adaptthink.problems import Problem, make_problem
from adaptthink.problems.arithmetic import Split

MAX_LEVELS = 5
_SPLIT_UPPER_PERCENT = ((Split.TRAIN, 70), (Split.HELD_OUT, 75), (Split.EVALUATION, 100))


def find_split(prompt: str) -> Split:
    """Return the split that a prompt belongs to."""
    percent = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % 100
    return next(split for split, upper in _SPLIT_UPPER_PERCENT if percent < upper)


def generate_problems(family: str, per_level: int, *, seed: int, split: Split) -> list[Problem]:
    """Return `per_level` distinct problems of each level, level by level.

    Raises UserError for an unknown family, one that runs out of different problems, one that fails, and one whose
    scorer does not give 1 to its own answer.
    """
    prompts: set[str] = set()
    found = []
    for level, config in read_level_configs(family).items():
        for entry in generate_entries(family, level, config, per_level, seed=seed, split=split, prompts=prompts):
            source = f"reasoning_gym/{family}/{split}"
            reference_answer = check_reference(entry, family, level)
            found.append(
                make_problem(
                    entry["question"], reference_answer, level=level, source=source, kind=AnswerKind.REASONING_GYM
                )
            )
    return found


def read_level_configs(family: str) -> dict[int | None, Mapping[str, Any]]:
    """Return the settings of each level of a family; {None: {}} for one without a curriculum.

    Raises UserError for an unknown family, and for one that refuses all levels of its curriculum.
    """
    load_library()
    from reasoning_gym import factory  # noqa: PLC0415

    known = sorted(set(factory.DATASETS) - {"composite"})
    if family not in known:
        near = difflib.get_close_matches(family, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"families: {', '.join(known)}"
        raise UserError(f"reasoning_gym has no family '{family}'; {hint}")
    if not factory.has_curriculum(family):
        return {None: {}}
    attributes = factory.create_curriculum(family).attributes.values()
    configs: dict[int | None, Mapping[str, Any]] = {}
    for level in range(1, min(MAX_LEVELS, max(len(attribute.levels) for attribute in attributes)) + 1):
        curriculum = factory.create_curriculum(family)
        curriculum.set_global_level(level - 1)
        config = curriculum.generate_configuration()
        with contextlib.suppress(AssertionError):  # how the library refuses settings
            if hasattr(config, "validate"):
                config.validate()
            configs[level] = vars(config)
    if not configs:
        raise UserError(f"reasoning_gym: '{family}' refuses every level of its own curriculum; choose another family")
    return configs


def generate_entries(
    family: str,
    level: int | None,
    config: Mapping[str, Any],
    count: int,
    *,
    seed: int,
    split: Split,
    prompts: set[str],
) -> Iterator[Mapping[str, Any]]:
    """Yield `count` entries of one split whose prompts are not in `prompts` yet, and add them there."""
    max_entries = 20 * (count + 100)
    digest = hashlib.sha256(f"{seed}/{split}/{family}/{level}".encode()).digest()
    settings = {**config, "seed": int.from_bytes(digest[:4], "big"), "size": max_entries}
    dataset = make_dataset(family, level, settings)
    num_found = 0
    for index in range(max_entries):
        if num_found == count:
            return
        entry = generate_entry(dataset, index, family, level)
        prompt = entry["question"]
        if find_split(prompt) is split and prompt not in prompts:
            prompts.add(prompt)
            num_found += 1
            yield entry
    if num_found < count:
        raise UserError(
            f"reasoning_gym: {format_family(family, level)} holds only about {num_found} different problems in the "
            f"split '{split}', but {count} were requested; request fewer (problems_per_level)"
        )


def make_dataset(family: str, level: int | None, settings: Mapping[str, Any]) -> Any:
    """Return a family's procedural dataset; raises UserError if the family fails."""
    from reasoning_gym import factory  # noqa: PLC0415

    try:
        return factory.create_dataset(family, **settings)
    except Exception as error:  # each family is a program of its own
        raise make_family_error(family, level, error) from error


def generate_entry(dataset: Any, index: int, family: str, level: int | None) -> Mapping[str, Any]:
    """Return one entry of a dataset; raises UserError if the family fails."""
    try:
        entry: Mapping[str, Any] = dataset[index]
    except Exception as error:  # as above
        raise make_family_error(family, level, error) from error
    return entry


def make_family_error(family: str, level: int | None, error: Exception) -> UserError:
    """Return the error for a family that raised one."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(f"reasoning_gym: {format_family(family, level)} fails ({reason}); choose another family")


def format_family(family: str, level: int | None) -> str:
    """Return a family's name, with its level if it has one."""
    return f"'{family}'" if level is None else f"level {level} of '{family}'"


def check_reference(entry: Mapping[str, Any], family: str, level: int | None) -> str:
    """Return an entry's reference answer; raises UserError unless the entry's own answer scores 1 against it."""
    try:
        reference_answer = make_reference_json(entry)
        score = score_entry(entry["answer"], reference_answer)
    except Exception as error:  # as above
        raise make_family_error(family, level, error) from error
    if score != 1:
        raise UserError(
            f"reasoning_gym: the scorer of '{family}' gives {score:g} to the family's own answer, so no response to "
            "it could be graded; choose another family"
        )
    return reference_answer
