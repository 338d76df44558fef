#!/usr/bin/env python3
"""Write the pages of docs/reference that follow from the code, and the schema of recipes for editors.

Usage: .venv/bin/python scripts/make_reference.py

The pages are kept in the repository, so that they can be read and linked to there, a change of them is seen in its
diff, and the site is built without torch. tests/test_generated_pages.py fails where they are not what this writes.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

import adaptthink as at
from adaptthink.cli.app import COMMANDS, DATA_COMMANDS, app
from adaptthink.config.groups import GROUPS
from adaptthink.config.resolve import TABLES
from adaptthink.config.schema import HOW

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- scripts/make_reference.py writes this page from the code: make reference -->\n"
PAGE = re.compile(r"(?<![\w/.-])(?<!\]\()docs/([\w/-]+)\.md")
TRACKERS = ("wandb", "trackio", "tensorboard", "mlflow")
WIDTH = 88  # of a signature
DRAFT = "http://json-schema.org/draft-07/schema#"  # what taplo and Even Better TOML read
SECTIONS = ("Models and problems", "Training", "Evaluation", "Use", "Records", "Engines and callbacks")
SECTION_OF = {
    **dict.fromkeys(("load", "load_problems", "make_problem", "doctor"), 0),
    **dict.fromkeys(("presample", "train", "make_traces"), 1),
    **dict.fromkeys(("evaluate", "compare", "grade"), 2),
    **dict.fromkeys(("calibrate", "decide", "score", "serve", "OnlineDial"), 3),
    **dict.fromkeys(("Callback", "Progress", "Engine", "Request", "Completion", "Finish", "trackers"), 5),
}


def link_pages(text: str) -> str:
    """Return text in which pages that are named by their path are links with their titles, from docs/reference."""

    def link(match: re.Match[str]) -> str:
        title = (ROOT / match[0]).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return f"[{title}](../{match[1]}.md)"

    return PAGE.sub(link, text)


# ---- commands --------------------------------------------------------------------------------------------------------


def make_commands() -> str:
    """Return the page of all commands with their flags, from the parser itself."""
    sections = {
        section.partition("\n")[0]: f"## {section.strip()}\n"
        for section in re.split(r"^## ", app.generate_docs(), flags=re.MULTILINE)
    }
    chosen = [sections[f"adaptthink {name}"] for name in (*COMMANDS, "data")]
    listed = [
        f"| [`{name}`](#adaptthink-{name.replace(' ', '-')}) | {summary} |"
        for name, summary in (COMMANDS | {f"data {one}": text for one, text in DATA_COMMANDS.items()}).items()
    ]
    intro = (
        "`adaptthink COMMAND --help` prints the same. How settings, recipes and flags come together is in\n"
        "[Configure a command](../how-to/configure.md), and what the settings do in [Settings](settings.md).\n"
    )
    text = "\n".join([NOTE, "# Commands\n", intro, "| command | |", "|---|---|", *listed, "", *chosen])
    text = re.sub(r"^#+ Table of Contents\n\n(?:\s*- .*\n)+\n", "", text, flags=re.MULTILINE)
    text = text.replace(" *[default: ()]*", "").replace("\\[", "[")
    return re.sub(r" +$", "", link_pages(text), flags=re.MULTILINE).rstrip() + "\n"


# ---- settings --------------------------------------------------------------------------------------------------------


def list_flags() -> dict[str, type[BaseModel]]:
    """Return for each command that has settings a model whose fields are those settings."""
    found = {}
    for name in COMMANDS:
        function = app[name].default_command
        flags = getattr(function, "__kwdefaults__", None) or {}
        if "flags" in flags:
            found[name] = type(flags["flags"])
    return found


def make_settings() -> str:
    """Return the page of all settings: key, values, default, meaning, and the commands that read it."""
    readers: dict[str, dict[tuple[str, str, str], list[str]]] = {}  # key -> what it is -> commands
    for command, model in list_flags().items():
        properties = inline_references(model.model_json_schema())["properties"]
        for key, field in model.model_fields.items():
            default = show_default(field.get_default())
            row = (describe_values(properties[key]), default, field.description or properties[key]["description"])
            readers.setdefault(key, {}).setdefault(row, []).append(command)
    parts = [NOTE, "# Settings\n", SETTINGS_INTRO]
    for title, keys in GROUPS.items():
        parts += [f"## {title}\n", "| key | values | default | | commands |", "|---|---|---|---|---|"]
        for key in keys:
            for number, (row, commands) in enumerate(readers.get(key, {}).items()):
                name = "" if number else f"`{key}`" + " †" * (key in HOW)
                cells = [name, *row, ", ".join(commands)]
                parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts.append("")
    return link_pages("\n".join(parts)).rstrip() + "\n"


SETTINGS_INTRO = """\
Each key is a setting in recipes, a flag (`max_think_tokens` is `--max-think-tokens`), a keyword of the Python library,
and an environment variable (`ADAPTTHINK_MAX_THINK_TOKENS`). Defaults are the paper's. Where a key has several rows, its
meaning differs by command. `evaluate` takes the model as an argument, and so do `calibrate` and `serve`.

Those with † say how a training runs, not what it is: they may change when it is resumed.

Editors that read TOML with a schema (taplo, Even Better TOML for VS Code) complete and check recipes. Put this line on
top of a recipe, with the path to [recipe.schema.json](../../src/adaptthink/config/recipe.schema.json):

```toml
#:schema path/to/recipe.schema.json
```

In an installed package it lies at the path that this prints:

```python
from adaptthink.config.resolve import RECIPES

print(RECIPES.parent / "recipe.schema.json")
```
"""


def show_default(value: Any) -> str:
    """Return a default as it would be written in a recipe."""
    if value in (None, ()):
        return "–"
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"


def describe_values(schema: Mapping[str, Any]) -> str:
    """Return in words what a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(describe_values(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {describe_values(schema.get('items', {}))}s"
    if kind not in ("integer", "number"):
        return {"boolean": "true, false", "string": "path" if schema.get("format") == "path" else "text"}[str(kind)]
    bounds = [
        f"{sign} {schema[name]:g}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in schema
    ]
    return " ".join([str(kind), ", ".join(bounds)]).strip()


def inline_references(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema without references: each is replaced by what it names."""
    definitions = schema.pop("$defs", {})

    def expand(value: Any) -> Any:
        if isinstance(value, list):
            return [expand(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            named = definitions[value["$ref"].rpartition("/")[2]]
            return expand({**named, **{key: one for key, one in value.items() if key != "$ref"}})
        return {key: expand(one) for key, one in value.items()}

    return expand(schema)


# ---- recipes ---------------------------------------------------------------------------------------------------------


def make_recipe_schema() -> str:
    """Return a JSON schema of recipes: keys at the top for all commands, a table for each of some."""
    tables = {}
    for table, schemas in TABLES.items():
        keys: dict[str, Any] = {}
        for schema in schemas:
            for key, value in list_toml_keys(schema).items():
                merge(keys, key, value)
        tables[table] = keys
    top: dict[str, Any] = {}
    for keys in tables.values():
        for key, value in keys.items():
            merge(top, key, value)
    properties = dict(sorted(top.items()))
    for table, keys in tables.items():
        own = {key: {"$ref": f"#/properties/{key}"} if value == top[key] else value for key, value in keys.items()}
        properties[table] = {"type": "object", "properties": own, "additionalProperties": False}
    schema = {
        "$schema": DRAFT,
        "title": "AdaptThink recipe",
        "description": "Settings of adaptthink's commands. scripts/make_reference.py writes this file.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def list_toml_keys(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of each key, without null, which TOML does not have."""
    properties = inline_references(schema.model_json_schema())["properties"]
    return {key: drop_null(value) for key, value in properties.items()}


def drop_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a key's schema for TOML; titles, which repeat the key, are left out."""
    kept = {key: value for key, value in schema.items() if key != "title" and not (key == "default" and value is None)}
    if "anyOf" in kept:
        [one] = [one for one in kept.pop("anyOf") if one.get("type") != "null"]
        kept = one | kept
    return kept


def merge(keys: dict[str, Any], key: str, value: dict[str, Any]) -> None:
    """Add a key's schema to those of the same key in other commands: a value may be any of them."""
    if key not in keys:
        keys[key] = value
    elif value != keys[key] and value not in keys[key].get("anyOf", []):
        keys[key] = {"anyOf": [*keys[key].get("anyOf", [keys[key]]), value]}


# ---- the Python library ----------------------------------------------------------------------------------------------


def make_api() -> str:
    """Return the page of the public names: signature, docstring, examples."""
    parts = [NOTE, "# Python API\n", API_INTRO]
    names = sorted(at.__all__, key=lambda name: (SECTION_OF.get(name, 4), name.lower()))
    section = None
    for name in names:
        title = SECTIONS[SECTION_OF.get(name, 4)]
        if title != section:
            parts.append(f"## {title}\n")
            section = title
        parts += describe_name(name, getattr(at, name))
    return link_pages("\n".join(parts)).rstrip() + "\n"


API_INTRO = """\
What `import adaptthink as at` gives. [The Python library](../how-to/library.md) shows how they go together. Every
example here is run by a test. Settings that are not parameters are given by keyword, under their names in
[Settings](settings.md).
"""


def describe_name(name: str, value: Any) -> Iterator[str]:
    """Yield the section of a public name."""
    yield f"### {name}\n"
    if isinstance(value, ModuleType):
        functions = [getattr(value, one) for one in ("wandb", "trackio", "tensorboard", "mlflow")]
        yield (
            "```python\n" + "\n".join(show_signature(f"trackers.{one.__name__}", one) for one in functions) + "\n```\n"
        )
    elif isinstance(value, type) and issubclass(value, enum.Enum):
        yield "| value | |\n|---|---|"
        yield from (f"| `{name}.{one.name}` | `{one.value!r}` |" for one in value)
        yield ""
    elif not (isinstance(value, type) and (issubclass(value, Exception) or getattr(value, "_is_protocol", False))):
        yield f"```python\n{show_signature(name, value)}\n```\n"
    yield show_docstring(value)
    if isinstance(value, type):
        yield from describe_methods(value)


def describe_methods(owner: type) -> Iterator[str]:
    """Yield a table of a class's own public methods and properties."""
    rows = []
    for name, value in vars(owner).items():
        member = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if name.startswith("_") or not inspect.isfunction(member) or not (text := inspect.getdoc(member)):
            continue
        shown = name if isinstance(value, property) else " ".join(show_signature(name, member, width=10**4).split())
        rows.append(f"| `{shown.replace('|', chr(92) + '|')}` | {join_lines(text.split(chr(10) * 2)[0])} |")
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows, ""])


def show_signature(name: str, function: Callable[..., Any], *, width: int = WIDTH) -> str:
    """Return a signature as code, a parameter a line where it is long."""
    signature = inspect.signature(function)
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    returned = signature.return_annotation
    arrow = f" -> {unquote(returned)}" if isinstance(returned, str) and returned != "None" else ""
    line = f"{name}{show_parameters(signature.replace(parameters=parameters))}{arrow}"
    if len(line) <= width:
        return line
    shown, starred = [], False
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and not starred:
            shown.append("*")
        starred = starred or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        shown.append(unquote(str(one)))
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){arrow}"


def show_parameters(signature: inspect.Signature) -> str:
    """Return the parameters of a signature in brackets, annotations as they are in the source."""
    return unquote(str(signature.replace(return_annotation=inspect.Signature.empty)))


def unquote(text: str) -> str:
    """Return text of a signature without the quotes of annotations, and with defaults that are made as an ellipsis."""
    text = re.sub(r"<(\w+\.\w+): [^>]*>", r"\1", text.replace("<factory>", "..."))  # a member of an enumeration
    return re.sub(r"""(?<=: )(['"])(.*?)\1""", r"\2", text)


def show_docstring(value: Any) -> str:
    """Return a docstring as Markdown: its examples as code."""
    parts = []
    for block in inspect.getdoc(value).split("\n\n"):  # type: ignore[union-attr]
        parts.append(f"```pycon\n{block}\n```" if block.startswith(">>>") else block)
    return "\n\n".join(parts) + "\n"


def join_lines(text: str) -> str:
    """Return a paragraph on one line, for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


MADE: dict[Path, Callable[[], str]] = {
    REFERENCE / "commands.md": make_commands,
    REFERENCE / "settings.md": make_settings,
    REFERENCE / "api.md": make_api,
    ROOT / "src" / "adaptthink" / "config" / "recipe.schema.json": make_recipe_schema,
}

if __name__ == "__main__":
    for path, make in MADE.items():
        path.write_text(make(), encoding="utf-8")
        print(path.relative_to(ROOT))
