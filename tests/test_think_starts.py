"""Think starts from a reference store: which ones, how often, where they are forced, what becomes of the rest."""

import json
import math
from dataclasses import replace

import pytest
from evaluations import make_folder, outcome
from rollouts import correct

from adaptthink.engines.base import Completion, Finish
from adaptthink.errors import UserError
from adaptthink.evaluation.mode_choice import measure_beside_starts
from adaptthink.evaluation.run import begins_beside, describe_starts
from adaptthink.evaluation.store import Setting, read_setting
from adaptthink.models.think_starts import probe_configured
from adaptthink.modes import Mode, ThinkStart
from adaptthink.problems import make_problem
from adaptthink.sampling.requests import MaxTokens, make_request
from adaptthink.training.rollout import replace_decision_logprob


@pytest.fixture
def ids(tokenizer):
    return {text: tokenizer.encode(text, add_special_tokens=False)[0] for text in ("Alright", "Okay", "1", "</think>")}


def write_store(path, rows):
    lines = [{"settings": {"samples": 4}}, *({"id": f"{n:016x}", "first_ids": row} for n, row in enumerate(rows))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def template(tokenizer, tmp_path, ids):
    """Alright three times in four, Okay once; the no_think token and a rare digit do not count."""
    rows = [[ids["Alright"]] * 3 + [ids["Okay"]]] * 60 + [[ids["</think>"], ids["1"]]]
    return probe_configured(tokenizer, write_store(tmp_path / "ref.jsonl", rows))


def test_the_starts_of_a_store_with_their_frequencies(template, ids, tokenizer):
    assert template.think_starts == (ThinkStart((ids["Alright"],), 0.75), ThinkStart((ids["Okay"],), 0.25))
    assert template.think_ids == (ids["Alright"], ids["Okay"])
    assert template.think_id == ids["Alright"]
    assert describe_starts(tokenizer, template) == {"Alright": 0.75, "Okay": 0.25}
    assert describe_starts(tokenizer, probe_configured(tokenizer, "Okay")) == {"Okay": 1.0}


def test_requested_thoughts_begin_with_them_as_often(template, ids):
    limits = MaxTokens(8, 8)
    prefixes = [make_request(template, (1,), Mode.THINK, stream, limits, seed=3).prefix_ids for stream in range(2000)]
    assert set(prefixes) == {(ids["Alright"],), (ids["Okay"],)}
    assert prefixes.count((ids["Okay"],)) / 2000 == pytest.approx(0.25, abs=0.03)
    assert prefixes == [make_request(template, (1,), Mode.THINK, n, limits, seed=3).prefix_ids for n in range(2000)]
    assert prefixes != [make_request(template, (1,), Mode.THINK, n, limits, seed=4).prefix_ids for n in range(2000)]


def test_the_log_probability_of_a_start_among_several_is_part_of_the_behaviour(template, ids):
    rollout = correct(make_problem("1+1=?", "2"), Mode.THINK, (1,), (ids["Okay"], 5), (-9.0, -1.0))
    within = template.compute_start_logprob((ids["Okay"],))
    assert within == pytest.approx(math.log(0.25))
    assert template.compute_start_logprob(()) == template.compute_start_logprob((ids["</think>"],)) == 0
    replaced = replace_decision_logprob(replace(rollout, within_mode=within), 0.5, "start")
    assert replaced.behavior_logprobs == (pytest.approx(math.log(0.5 * 0.25)), -1.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "holds no first tokens"), ([["</think>"]], "holds no sample that thinks")],
)
def test_a_store_without_starts(tokenizer, tmp_path, ids, rows, message):
    store = write_store(tmp_path / "ref.jsonl", [[ids[text] for text in row] for row in rows])
    with pytest.raises(UserError, match=message):
        probe_configured(tokenizer, store)


def test_a_store_that_is_not_there(tokenizer, tmp_path):
    with pytest.raises(UserError, match="no such reference store"):
        probe_configured(tokenizer, str(tmp_path / "none.jsonl"))


def test_what_a_free_choice_does_beside_both_starts(template, ids):
    begun = {text: begins_beside(template, Completion((ids[text],), (0.0,), Finish.STOP)) for text in ids}
    assert begun == {"Alright": False, "Okay": False, "1": True, "</think>": False}
    auto = [
        replace(outcome("a", 1, tokens=10), beside=False),
        replace(outcome("a", 0, tokens=30, index=1), beside=True),
        replace(outcome("b", 1, tokens=50), beside=True),
        replace(outcome("b", 1, tokens=10, index=1), beside=False),
    ]
    found = measure_beside_starts(auto)
    assert found.share.estimate == 0.5
    assert found.accuracy.estimate == 0.5
    assert found.mean_tokens == 40
    assert measure_beside_starts([replace(one, beside=None) for one in auto]) is None
    none = measure_beside_starts([replace(one, beside=False) for one in auto])
    assert (none.share.estimate, none.accuracy, none.mean_tokens) == (0, None, None)


def test_folders_of_older_versions_were_forced_by_a_ban_and_chat_endpoints_by_themselves(tmp_path):
    setting = Setting("m", "weights", 0.6, 0.95, 128, 16, 0, force_think="start", think_starts={"Alright": 1.0})
    make_folder(tmp_path / "new", {"think": {0: ["thought:1"]}}, setting=setting)
    assert read_setting(tmp_path / "new") == setting
    path = tmp_path / "new" / "evaluation.json"
    row = json.loads(path.read_text())
    del row["force_think"], row["think_starts"]
    path.write_text(json.dumps(row))
    assert read_setting(tmp_path / "new").force_think == "ban"
    path.write_text(json.dumps(row | {"switch": "effort"}))
    assert read_setting(tmp_path / "new").force_think is None
