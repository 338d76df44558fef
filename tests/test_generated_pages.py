"""The pages of docs/reference that follow from the code are those that the code gives; so is the schema of recipes."""

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator

import adaptthink
from adaptthink.cli.app import COMMANDS, DATA_COMMANDS, app
from adaptthink.config.chat import ChatConfig
from adaptthink.config.resolve import RECIPES
from adaptthink.config.schema import EvaluateConfig, PresampleConfig, ServeConfig, VerlConfig

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
SCHEMAS = (PresampleConfig, VerlConfig, EvaluateConfig, ChatConfig, ServeConfig)


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load_script("make_reference")


@pytest.fixture(scope="module")
def recipes():
    schema = json.loads((RECIPES.parent / "recipe.schema.json").read_text(encoding="utf-8"))
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def test_they_are_current(script):
    for path, make in script.MADE.items():
        assert path.read_text(encoding="utf-8") == make(), f"{path.name}: run make reference"


def test_the_picture_of_the_layers_is_current():
    picture = load_script("draw_layers")
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.make_picture(), "run scripts/draw_layers.py"


def test_an_import_that_follows_from_others_is_not_drawn():
    imports = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    found = load_script("draw_layers").leave_out_implied(imports)
    assert found == {"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", adaptthink.__version__)
    assert "2505.13417" in citation["preferred-citation"]["url"]


def test_every_command_and_every_setting_is_there():
    commands = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    for name in (*COMMANDS, *(f"data {one}" for one in DATA_COMMANDS)):
        assert f"# adaptthink {name}\n" in commands
    settings = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    for schema in SCHEMAS:
        for key, field in schema.model_fields.items():
            assert f"| `{key}`" in settings
            assert (field.description or "").split("docs/")[0].rstrip(" (").replace("|", "\\|") in settings


def test_every_flag_that_the_parser_knows_is_there():
    commands = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        section = commands.split(f"\n## adaptthink {name}\n")[1].split("\n## ")[0]
        for argument in app[name].assemble_argument_collection():
            assert argument.name in section, (name, argument.name)


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda path: path.stem)
def test_the_schema_accepts_the_packages_recipes(recipes, path):
    assert list(recipes.iter_errors(tomllib.loads(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "text",
    [
        "stepz = 3",
        "steps = 0",
        "steps = '3'",
        "[train]\nhost = '0.0.0.0'",  # of another command
        "[evaluate]\nkind = 'poem'",
        "[trian]\nsteps = 3",
    ],
)
def test_the_schema_refuses_what_the_commands_would(recipes, text):
    assert list(recipes.iter_errors(tomllib.loads(text)))
