"""A method of one's own, as docs/explanation/methods.md has it; what each keeps to; settings that one does not read."""

import re
from pathlib import Path

import pytest
import torch
from test_train import config, run_training

from adaptthink.cli.settings import find_unread
from adaptthink.config.resolve import check, resolve
from adaptthink.config.schema import METHOD_KEYS, TrainConfig
from adaptthink.errors import UserError
from adaptthink.storage.runs import read_metrics
from adaptthink.training import methods
from adaptthink.training.methods import check_method, list_methods, load_method

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "methods.md"
NAMES = list_methods()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The page's method, in a folder that the package looks into."""
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "mine.py").write_text(block, encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    yield
    load_method.cache_clear()


def test_the_pages_method_trains_and_its_setting_counts(mine, random_policy, tmp_path):
    before = {name: one.clone() for name, one in random_policy.model.state_dict().items()}
    weights = {}
    for scale in ("0", "1"):
        random_policy.model.load_state_dict(before)
        run_training(random_policy, config(steps=1, method=f"mine:scale={scale}", delta=1), tmp_path / scale)
        weights[scale] = {name: one.clone() for name, one in random_policy.model.state_dict().items()}
        [row] = read_metrics(tmp_path / scale / "metrics.jsonl")
        assert row["update_tokens"] == (0 if scale == "0" else row["responses"])  # one token of each
    assert all(torch.equal(one, before[name]) for name, one in weights["0"].items())
    assert not all(torch.equal(one, before[name]) for name, one in weights["1"].items())
    with pytest.raises(UserError, match="mine has no setting 'size'; it has scale"):
        load_method("mine:size=1")


def test_the_page_names_every_method():
    named = re.findall(r"^\| `(\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(NAMES) <= set(named)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_reads_known_settings_and_says_what_it_does(name):
    method = load_method(name)
    assert method.reads <= METHOD_KEYS
    assert type(method).__doc__


def test_settings_that_a_method_does_not_read_are_refused():
    flags = {"method": "gap", "samples_per_problem": 4, "ratio": "token"}
    with pytest.raises(UserError, match=r"ratio has no effect: the method gap does not read it; leave it out"):
        resolve("train", TrainConfig, flags=flags, unread=find_unread)
    with pytest.raises(UserError, match="ratio has no effect: the method gap does not read it"):
        check_method(check(TrainConfig, flags))  # in Python and in TRL too, where it is not the default
    resolve("train", TrainConfig, flags=flags | {"method": "adaptthink"}, unread=find_unread)
    with pytest.raises(UserError, match=f"method = 'nothing' is unknown; there are: {', '.join(NAMES)}"):
        resolve("train", TrainConfig, flags={"method": "nothing"}, unread=find_unread)
