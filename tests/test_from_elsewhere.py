"""The pages for those who come from elsewhere: the settings that their tables name exist, and are what is said."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from trl import GRPOConfig

from adaptthink.config.resolve import check, list_keys
from adaptthink.config.schema import VerlConfig
from adaptthink.integrations.trl import FIXED, AdaptThinkConfig
from adaptthink.integrations.verl.settings import OURS, make_verl_settings

PAGES = Path(__file__).parents[1] / "docs" / "how-to"
NAME = re.compile(r"`([a-z][a-z_0-9.]*)`")  # of a setting: no flags, values and classes
TRL, OWN = ({field.name for field in fields(config)} for config in (GRPOConfig, AdaptThinkConfig))
NO_SETTINGS = {"evaluate", "adaptthink", "gap", "wandb", "problem", "answer", "peft_config", "reward_funcs"}


def read_tables(page, heading):
    """The rows of each table below a heading, as lists of cells."""
    section = (PAGES / page).read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert tables
    return [[re.split(r"\s*\|\s*", line)[1:-1] for line in table.splitlines()[2:]] for table in tables]


def names(cells, column):
    return [name for cell in cells if len(cell) > column for name in NAME.findall(cell[column])]


@pytest.mark.parametrize(
    ("page", "heading", "table", "column"),
    [
        ("from_official_code.md", "Settings", 0, 1),
        ("from_trl.md", "Settings", 0, 3),
        ("from_verl.md", "Settings", 0, 1),
        ("from_verl.md", "Settings", 1, 1),
    ],
)
def test_our_settings_exist(page, heading, table, column):
    found = names(read_tables(page, heading)[table], column)
    assert len(found) > 8
    assert set(found) - NO_SETTINGS <= list_keys()


def test_trls_settings_exist_with_these_defaults():
    settings, refused = read_tables("from_trl.md", "Settings")
    assert set(names([*settings, *refused], 0)) - NO_SETTINGS <= TRL
    assert set(names(settings, 2)) - NO_SETTINGS <= OWN
    assert set(names(refused, 0)) - NO_SETTINGS <= {name for held in FIXED.values() for name in held}
    defaults = {field.name: field.default for field in fields(GRPOConfig)}
    own = {field.name: field.default for field in fields(AdaptThinkConfig)}
    compared = 0
    for cells in settings:
        for name, theirs, ours in zip(names([cells], 0), cells[1].split(", "), cells[2].split(", "), strict=False):
            for given, known in ((theirs, defaults), (ours, own)):
                if re.fullmatch(r"[\d.e-]+", given):
                    compared += 1
                    assert float(given) == known[name], name
    assert compared > 10


@pytest.mark.parametrize(("table", "refused"), [(0, True), (1, False)])
def test_verls_settings_follow_from_the_recipe(table, refused):
    """Those of the first table are refused among overrides, those of the second are not."""
    made = {key.lstrip("+") for key in make_verl_settings(check(VerlConfig, {}), "m", Path("run"))}
    rows, section = read_tables("from_verl.md", "Settings")[table], ""
    found = []
    for name in names(rows, 0):
        section = name.rpartition(".")[0] or section  # a name alone is of the section before
        whole = f"{section}.{name.rpartition('.')[2]}"
        found += [key for key in made if f".{key}".endswith(f".{whole}")] or [f"no {whole}"]
    assert len(found) > 10
    assert [key for key in found if key not in made or (key in OURS) != refused] == []
