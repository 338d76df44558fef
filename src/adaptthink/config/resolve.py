"""How settings come together: defaults < recipes < environment < command line.

A recipe is a TOML file. Keys at its top are shared by every command that has them; a table named after a command
(`[presample]`, `[train]`, `[evaluate]`) holds keys for that command alone, but that training, which pre-samples what is
missing, reads `[presample]` too, all but the engine, and pre-sampling, which samples what the steps of a training use,
reads those in `[train]`. Unknown keys are errors that name the nearest known key.

No setting is ignored in silence where it was given for the command at hand, by a flag or in the command's own table of
a recipe: if it has no effect, it is an error in one line with its name, the reason and what to do. What is shared by
several commands (a recipe's top, the table of another command, an ADAPTTHINK_ variable) is passed over by those that
have no use for it. So is a setting that a stronger source has made useless: `--problems gsm8k` over a recipe of
arithmetic. Schemas define what has no effect (`Config.unread`); problem sets add theirs (`problems.unread`).
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from adaptthink.config.chat import ChatConfig
from adaptthink.config.schema import (
    PREFIX,
    STEP_KEYS,
    Config,
    EvaluateConfig,
    PresampleConfig,
    ServeConfig,
    SftConfig,
    TrainConfig,
    Unread,
    VerlConfig,
    imply_engine,
)
from adaptthink.errors import SECRET, UserError, show_value

RECIPES = Path(__file__).parent / "recipes"
ENGINE_KEYS = ("engine", "endpoint")  # pre-sampling may have more servers than training

TABLES: dict[str, tuple[type[Config], ...]] = {  # of a recipe, with the schemas whose keys they may hold
    "presample": (PresampleConfig,),
    "train": (TrainConfig,),
    "verl": (VerlConfig,),
    "evaluate": (EvaluateConfig, ChatConfig),
    "traces": (EvaluateConfig, ChatConfig),
    "sft": (SftConfig,),
    "serve": (ServeConfig,),
}


@dataclass(frozen=True, slots=True)
class Reads:
    """The tables that a command reads beside a recipe's top, the strongest last; `own` are for it alone."""

    tables: tuple[str, ...]
    own: tuple[str, ...] = ()


READS = {
    "presample": Reads(("train", "presample"), own=("presample",)),
    "train": Reads(("presample", "train"), own=("train",)),
    "verl": Reads(("presample", "train", "verl"), own=("train", "verl")),
    "plan": Reads(("presample", "train", "verl")),
    "evaluate": Reads(("evaluate",), own=("evaluate",)),
    "calibrate": Reads(("evaluate",)),
    "traces": Reads(("traces",), own=("traces",)),
    "sft": Reads(("sft",), own=("sft",)),
    "serve": Reads(("serve",), own=("serve",)),
}

SECRETS = {  # settings whose values no message repeats
    name for schemas in TABLES.values() for one in schemas for name, field in one.model_fields.items() if not field.repr
}

# The message for keys that only a sibling of a schema has, which takes the same flags or the same table.
SIBLINGS: dict[type[Config], tuple[type[Config], Unread]] = {
    TrainConfig: (VerlConfig, Unread((), (), "it is for --backend verl", "give that too, or leave it out")),
    EvaluateConfig: (
        ChatConfig,
        Unread((), ("chat",), "it is for chat endpoints, and none is given", "give --chat URL, or leave it out"),
    ),
    ChatConfig: (
        EvaluateConfig,
        Unread((), ("chat",), "the chat endpoint runs the model", "leave it out, or leave out --chat"),
    ),
}

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from, for messages; `own` are the keys that were given for the command at hand alone."""

    name: str
    values: Mapping[str, Any]
    own: frozenset[str] = frozenset()


def resolve(
    command: str,
    schema: type[C],
    *,
    recipes: Iterable[str | Path] = (),
    flags: Mapping[str, Any] | None = None,
    unread: Callable[[C], Iterable[Unread]] | None = None,
) -> C:
    """Merge defaults < recipes (later ones win) < environment < flags into a checked config.

    `unread` yields the keys without an effect; default: those of the schema. Raises UserError that names the key, the
    value and what is allowed, or for a key without an effect why it has none.
    """
    return settle(schema, read_sources(command, recipes, flags or {}), unread)


def resolve_evaluation(
    recipes: Iterable[str | Path],
    flags: Mapping[str, Any],
    unread: Callable[[EvaluateConfig | ChatConfig], Iterable[Unread]] | None = None,
    *,
    command: str = "evaluate",
) -> EvaluateConfig | ChatConfig:
    """Resolve the settings of `evaluate`: of a chat endpoint if one is named, else of a model that is loaded here.

    So for other commands in which models answer.
    """
    sources = read_sources(command, recipes, flags)
    if merge(sources).get("chat"):
        return settle(ChatConfig, sources, unread)
    return settle(EvaluateConfig, sources, unread)


# ---- sources --------------------------------------------------------------------------------------------------------


def read_sources(command: str, recipes: Iterable[str | Path], flags: Mapping[str, Any]) -> list[Source]:
    """Return everything that sets values for a command, the weakest first."""
    return [
        *(read_recipe(find_recipe(name), command) for name in recipes),
        Source("environment", imply_engine(read_environment())),
        Source("", imply_engine(flags), frozenset(flags)),
    ]


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe given by path, or by the name of one that ships with the package."""
    for candidate in (Path(name), RECIPES / f"{name}.toml"):
        if candidate.is_file():
            return candidate
    raise UserError(f"no recipe '{name}': give the path of a TOML file or one of: {', '.join(list_recipes())}")


def list_recipes() -> list[str]:
    """Return the names of the recipes for users; those in folders are parts of `adaptthink reproduce`."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(path: Path, command: str) -> Source:
    """Return the values that one recipe file gives to `command`, after checking every key in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a valid TOML file: {error}") from None
    shared = {key: value for key, value in content.items() if key not in TABLES}
    for key in shared:
        if key not in list_keys():
            raise make_unknown_key_error(str(path), key, list_keys() | set(TABLES))
    for table in TABLES:
        check_table(path, table, content.get(table, {}))
    values, own = imply_engine(shared), set()
    for table in READS[command].tables:
        part = {key: value for key, value in content.get(table, {}).items() if is_read(key, table, command)}
        values |= imply_engine(part)
        if table in READS[command].own:
            own |= set(part)
    return Source(str(path), values, frozenset(own))


def is_read(key: str, table: str, command: str) -> bool:
    """Return whether a command reads a key of one of its tables."""
    if command == "presample" and table == "train":
        return key in STEP_KEYS
    return not (table == "presample" and command != table and key in ENGINE_KEYS)


def check_table(path: Path, table: str, values: object) -> None:
    """Raise UserError for a table of a recipe that is a value, or that has an unknown key."""
    if not isinstance(values, dict):
        raise UserError(f"{path}: '{table}' must be a table ([{table}]), not a value")
    known = set().union(*(schema.model_fields for schema in TABLES[table]))
    for key in values:
        if key not in known:
            raise make_unknown_key_error(f"{path} [{table}]", key, known)


def read_environment() -> dict[str, str]:
    """Return the values given as ADAPTTHINK_<KEY> variables, after checking that some command has each key."""
    known = {f"{PREFIX}{key.upper()}": key for key in list_keys()}
    variables = [variable for variable in os.environ if variable.startswith(PREFIX)]
    for variable in variables:
        if variable not in known:
            raise make_unknown_key_error("environment", variable, known)
    return {known[variable]: os.environ[variable] for variable in variables}


def list_keys() -> set[str]:
    """Return the keys of all commands."""
    return set().union(*(schema.model_fields for schemas in TABLES.values() for schema in schemas))


def find_commands(key: str) -> list[str]:
    """Return the commands that have a key, as they are given."""
    names = [name for name, schemas in TABLES.items() if any(key in schema.model_fields for schema in schemas)]
    return ["train --backend verl"] if names == ["verl"] else [name for name in names if name != "verl"]


# ---- merging and checking -------------------------------------------------------------------------------------------


def merge(sources: Iterable[Source]) -> dict[str, Any]:
    """Merge sources, the weakest first; the engine that endpoints imply is set already."""
    return {key: value for source in sources for key, value in source.values.items()}


def settle(schema: type[C], sources: Sequence[Source], unread: Callable[[C], Iterable[Unread]] | None = None) -> C:
    """Return the checked config that sources give, the weakest first; raises UserError as `resolve` does."""
    for key in sources[-1].values:
        if key not in list_keys() | set(schema.model_fields):
            raise make_unknown_key_error(schema.__name__, key, schema.model_fields)
    config = check(schema, {key: value for key, value in merge(sources).items() if key in schema.model_fields})
    refuse_unread(find_foreign_keys(schema, sources), sources)
    refuse_unread(unread(config) if unread else config.unread(), sources)
    return config


def find_foreign_keys(schema: type[Config], sources: Iterable[Source]) -> list[Unread]:
    """Return the keys in sources that a schema lacks; keys of a sibling schema with their own message."""
    foreign = {key for source in sources for key in source.own if key not in schema.model_fields}
    sibling, unread = SIBLINGS.get(schema, (Config, Unread((), (), "", "")))
    shared = sorted(foreign & set(sibling.model_fields) - set(unread.because))
    others = sorted(foreign - set(sibling.model_fields))
    return [
        replace(unread, keys=tuple(shared)),
        Unread(tuple(others), (), f"it is no setting of this command ({schema.__name__})", "leave it out"),
    ]


def refuse_unread(found: Iterable[Unread], sources: Sequence[Source]) -> None:
    """Raise UserError for keys without an effect that were given for this command, unless a stronger source did it."""
    origin = {key: number for number, source in enumerate(sources) for key in source.values}
    for one in found:
        decided = max((origin.get(key, -1) for key in one.because), default=-1)
        for number, source in enumerate(sources):
            keys = [key for key in one.keys if origin.get(key) == number and key in source.own and decided <= number]
            if keys:
                where = f"{source.name}: " if source.name else ""
                verb = "has" if len(keys) == 1 else "have"
                raise UserError(f"{where}{', '.join(keys)} {verb} no effect: {one.reason}; {one.advice}")


def check(schema: type[C], values: Mapping[str, Any]) -> C:
    """Validate `values` against `schema`; raises UserError with every fault in one line."""
    for key in values:
        if key not in schema.model_fields:
            raise make_unknown_key_error(schema.__name__, key, schema.model_fields)
    try:
        config = schema.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(describe_faults(error)) from None
    config.check_together()
    return config


def make_unknown_key_error(where: str, key: str, known: Iterable[str]) -> UserError:
    """Build the error for a misspelt key, with the nearest name."""
    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(sorted(known))}"
    return UserError(f"{where}: unknown key '{key}'{hint}")


def describe_faults(error: ValidationError) -> str:
    """Return one line with what is wrong with each value."""
    faults = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        value = SECRET if name.partition(".")[0] in SECRETS else show_value(fault["input"])
        faults.append(f"{name} = {value}: {message[0].lower()}{message[1:]}")
    return "; ".join(faults)
