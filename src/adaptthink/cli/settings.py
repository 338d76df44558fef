"""Flags made from the schemas, and settings made from flags: what all commands with settings have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter
from pydantic import Field, create_model

from adaptthink.config.chat import ChatConfig
from adaptthink.config.groups import GROUPS
from adaptthink.config.resolve import RECIPES, resolve, resolve_evaluation
from adaptthink.config.schema import (
    DEFAULT_METHOD,
    Config,
    EngineConfig,
    EvaluateConfig,
    EvaluationConfig,
    ModelConfig,
    ProblemsConfig,
    TrainConfig,
    Unread,
)
from adaptthink.errors import escape_controls, redact
from adaptthink.models.embedded import EMBEDDED
from adaptthink.problems.sources import FileSource, Purpose, parse_name
from adaptthink.problems.unread import unread_samples, unread_settings
from adaptthink.storage.kinds import PathKind, expect

Command = TypeVar("Command", bound=Callable[..., None])
C = TypeVar("C", bound=Config)

SOLVED_KEYS = {"instruction", "problems", "problems_per_level", "seed"}  # that the problems' own solutions depend on
ORDER = [key for keys in GROUPS.values() for key in keys]
GROUP_OF = {key: Group(title, sort_key=number) for number, (title, keys) in enumerate(GROUPS.items()) for key in keys}


# Settings of a run's training that hold for its evaluations too, where they are given as flags.
SHARED = ProblemsConfig.model_fields.keys() - {"max_problems", "model"}


# ---- flags ----------------------------------------------------------------------------------------------------------


def add_flags(
    *schemas: type[Config], only: Collection[str] | None = None, without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Make the keys of schemas, or `only` some of them, flags of a command: its parameter `flags` holds those given."""
    keys = {key: field for schema in schemas for key, field in schema.model_fields.items() if key not in without}
    fields: dict[str, Any] = {}
    for key in sorted(keys if only is None else keys.keys() & only, key=ORDER.index):
        field = keys[key]
        kind = find_flag_type(field.annotation)
        default, kind = (None, kind | None) if field.is_required() else (field.default, kind)
        shown = Parameter(group=GROUP_OF[key], negative_iterable="", show_default=default not in (None, ()))
        annotation = Annotated[(kind, *field.metadata, shown)]  # type: ignore[valid-type]
        fields[key] = (annotation, Field(default, description=field.description))
    model = create_model("Flags", __base__=Config, **fields)

    def add(command: Command) -> Command:
        command.__annotations__["flags"] = Annotated[model, Parameter(name="*")]
        command.__kwdefaults__ = (command.__kwdefaults__ or {}) | {"flags": model()}
        return command

    return add


def find_flag_type(annotation: Any) -> Any:
    """Return the type of a flag: of an enumeration its values as they are, with underscores."""
    is_enumeration = isinstance(annotation, type) and issubclass(annotation, StrEnum)
    return Literal[tuple(str(member) for member in annotation)] if is_enumeration else annotation


def select_given(flags: Config) -> dict[str, Any]:
    """Return only the settings that were given on the command line."""
    return {name: getattr(flags, name) for name in flags.model_fields_set}


# ---- settings -------------------------------------------------------------------------------------------------------


def read_settings(
    command: str,
    schema: type[C],
    recipes: Sequence[str],
    flags: Mapping[str, Any],
    *,
    unread: Callable[[C], Iterable[Unread]] | None = None,
) -> C:
    """Resolve the settings of a command, and refuse flags without an effect and paths of another kind.

    `unread` yields the settings without an effect; default: those of the schema and of the problems.
    """
    check_recipes(recipes)
    config = resolve(command, schema, recipes=recipes, flags=flags, unread=unread or find_unread)
    check_paths(config)
    return config


def read_run_settings(recipes: Sequence[str], flags: Mapping[str, Any]) -> tuple[TrainConfig, EvaluateConfig]:
    """Resolve the settings of a whole run: of its training, and of the evaluations before and after.

    Flags are the training's; those that say which model, problems, limits and grading it is are the evaluations' too.
    """
    config = read_settings("train", TrainConfig, recipes, flags)
    shared = {name: value for name, value in flags.items() if name in SHARED}
    evaluation = read_settings("evaluate", EvaluateConfig, recipes, shared, unread=find_unread_in_run)
    return config, evaluation.model_copy(update={"model": config.model})


def find_unread_in_run(config: EvaluateConfig) -> Iterator[Unread]:
    """Yield the settings that a run's evaluations do not read, such as how the trained model is run."""
    yield from config.unread()
    yield from unread_settings(config.problems, Purpose.EVALUATION)
    yield from unread_samples(config)
    yield Unread(
        tuple(sorted(EngineConfig.model_fields.keys() - EvaluationConfig.model_fields.keys() | {"model", "chat"})),
        (),
        "a run evaluates the model that it trains, with the engine of the training",
        "leave it out of [evaluate]",
    )


def read_evaluation_settings(recipes: Sequence[str], flags: Mapping[str, Any]) -> EvaluateConfig | ChatConfig:
    """Resolve the settings of `evaluate`: those of a chat endpoint if one is named."""
    check_recipes(recipes)
    config = resolve_evaluation(recipes, flags, find_unread)
    check_paths(config)
    return config


def read_traces_settings(
    recipes: Sequence[str], flags: Mapping[str, Any], teacher: str | None
) -> EvaluateConfig | ChatConfig:
    """Resolve the settings of `traces`: those of a teacher, of which all but a few are nothing without one."""
    check_recipes(recipes)
    given = {**flags, **({} if teacher is None else {"model": teacher})}

    def unread(config: EvaluateConfig | ChatConfig) -> Iterator[Unread]:
        if teacher is None:
            keys = sorted(type(config).model_fields.keys() - SOLVED_KEYS)
            advice = "give a model that solves the problems with --teacher, or leave it out"
            yield Unread(tuple(keys), (), "the problems' own solutions are written", advice)
            return
        yield from config.unread()
        yield from unread_settings(config.problems, Purpose.TRAINING)
        yield Unread(("kind",), (), "problems to learn from have one wording", "leave it out")

    config = resolve_evaluation(recipes, given, unread, command="traces")
    if teacher is not None and not isinstance(config, ChatConfig):
        check_model(teacher)
    check_problem_files(config.problems, Purpose.TRAINING)
    return config


def find_unread(config: Config) -> Iterator[Unread]:
    """Yield what has no effect by the schema's own rules, and by the problems that are named."""
    yield from config.unread()
    if isinstance(config, ProblemsConfig):
        yield from unread_settings(config.problems, find_purpose(config))
    if isinstance(config, EvaluationConfig):
        yield from unread_samples(config)
    if isinstance(config, TrainConfig) and config.method != DEFAULT_METHOD:
        from adaptthink.training.methods import find_unread as find_unread_by_method  # noqa: PLC0415  (imports torch)

        yield from find_unread_by_method(config)


def find_purpose(config: ProblemsConfig) -> Purpose:
    """Return what a command wants its problems for."""
    return Purpose.EVALUATION if isinstance(config, EvaluateConfig | ChatConfig) else Purpose.TRAINING


def check_recipes(recipes: Iterable[str]) -> None:
    """Raise UserError for a path that is another kind of our files, not a recipe."""
    for recipe in recipes:
        if Path(recipe).is_file() or not (RECIPES / f"{recipe}.toml").is_file():
            expect(Path(recipe), "recipe", PathKind.RECIPE)


def check_paths(config: Config) -> None:
    """Raise UserError if the model or a file of problems is another kind of our files."""
    if isinstance(config, ModelConfig) and not isinstance(config, ChatConfig):
        check_model(config.model)
    if isinstance(config, ProblemsConfig):
        check_problem_files(config.problems, find_purpose(config))


def check_model(model: str) -> None:
    """Raise UserError if a model's name is the path of another kind of our files."""
    if model not in EMBEDDED:
        expect(Path(model), "model", PathKind.MODEL)


def check_problem_files(name: str, purpose: Purpose) -> None:
    """Raise UserError if the name of problems is the path of another kind of our files."""
    for source in parse_name(name, purpose):
        if isinstance(source, FileSource):
            expect(source.path, "problems", PathKind.PROBLEMS)


def show_settings(config: Config, *, only: set[str] | None = None) -> None:
    """Print a resolved configuration, or `only` some of it, as the recipe that would give it.

    What is not set has no line.
    """
    for name, value in config.model_dump(mode="json", exclude_none=True, include=only).items():
        line = f"{name} = {dumps(value, ensure_ascii=False)}"  # JSON writes a setting's value as TOML does
        print(escape_controls(redact(line)))
