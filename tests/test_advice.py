"""One line of advice where a verdict dominates, and none where nothing is wrong."""

import pytest

from adaptthink.config.chat import ChatConfig
from adaptthink.config.schema import EvaluateConfig, PresampleConfig
from adaptthink.grading import Verdict
from adaptthink.modes import Mode
from adaptthink.sampling.advice import advise, advise_by_mode, write_shares

CONFIG = EvaluateConfig(max_think_tokens=128, max_no_think_tokens=16)
MODES = {"auto": None, "think": Mode.THINK, "no_think": Mode.NO_THINK}


@pytest.mark.parametrize(
    "verdicts",
    [
        {},
        {"correct": 10},
        {"correct": 1, "wrong": 99},  # a matter of the problems
        {"wrong": 29},  # may happen by chance
        {"correct": 5, "unparsed": 5},  # half does not dominate
        {"correct": 4, "unparsed": 3, "truncated": 3},
        {"correct": 95, "timeout": 3, "error": 2},
        {"reference_unparsable": 100},  # cannot be graded, whatever they are
        {"correct": 1, "reference_unparsable": 100},
        {"correct": 1, "unknown": 100},
    ],
)
def test_nothing_is_advised_where_nothing_dominates(verdicts):
    assert advise(verdicts, CONFIG) is None


@pytest.mark.parametrize(
    ("verdicts", "settings", "parts"),
    [
        ({"unparsed": 6, "correct": 4}, {}, ["6 of 10 responses (60%)", "--instruction", "--no-boxed-only"]),
        ({"unparsed": 6, "correct": 4}, {"boxed_only": False}, ["--instruction"]),
        ({"unparsed": 6, "correct": 4}, {"reward": "my:score"}, ["my:score"]),
        ({"truncated": 6, "wrong": 4}, {}, ["max_think_tokens = 128", "raise it", "adaptthink doctor"]),
        ({"unclosed": 6, "wrong": 4}, {}, ["ended inside their thinking", "adaptthink doctor"]),
        ({"timeout": 6, "correct": 94}, {}, ["6 of 100 responses (6%)", "grading_seconds = 2"]),
        ({"timeout": 6, "correct": 94}, {"reward": "my:score"}, ["my:score failed on 6 of 100"]),
        ({"error": 6, "timeout": 5, "correct": 89}, {"reward": "my:score"}, ["my:score failed on 6 of 100"]),
        ({"error": 6, "correct": 94}, {}, ["grading failed on 6 of 100", "free memory"]),
        ({"wrong": 30}, {}, ["none of 30 responses is correct"]),
        ({"unparsed": 6, "correct": 4, "reference_unparsable": 90}, {}, ["6 of 10 responses"]),
    ],
)
def test_what_is_advised_names_the_share_and_the_setting(verdicts, settings, parts):
    line = advise(verdicts, CONFIG.model_copy(update=settings))
    assert [part for part in parts if part not in line] == []
    assert "\n" not in line


def test_boxes_are_no_matter_where_they_are_not_read():
    for settings in ({"boxed_only": False}, {"reward": "my:score"}):
        assert "--no-boxed-only" not in advise({"unparsed": 9}, CONFIG.model_copy(update=settings))
    assert "--instruction" not in advise({"unparsed": 9}, CONFIG.model_copy(update={"reward": "my:score"}))


def test_partial_rewards_of_ones_own_are_no_fault():
    assert advise({"wrong": 300}, CONFIG.model_copy(update={"reward": "my:score"})) is None


def test_verdicts_are_named_alike_as_text_and_as_themselves():
    assert advise({Verdict.UNPARSED: 9}, CONFIG) == advise({"unparsed": 9}, CONFIG)


@pytest.mark.parametrize(
    ("limits", "mode", "named"),
    [
        ((128, 16), None, "max_think_tokens = 128"),
        ((128, 16), Mode.NO_THINK, "max_no_think_tokens = 16"),
        ((8, 16), Mode.THINK, "max_no_think_tokens = 16"),  # the larger limit, as requests have it
    ],
)
def test_the_limit_that_was_reached_is_named(limits, mode, named):
    config = PresampleConfig(max_think_tokens=limits[0], max_no_think_tokens=limits[1])
    assert f"reached {named} before" in advise({"truncated": 3}, config, [mode])


def test_a_model_behind_an_endpoint_is_nothing_for_the_doctor():
    config = ChatConfig(model="m", chat="http://127.0.0.1:1/v1")
    for verdict in ("truncated", "unclosed"):
        assert "doctor" not in advise({verdict: 3}, config)


def test_modes_with_the_same_reason_share_a_line():
    verdicts = {"auto": {"unparsed": 4}, "think": {"unparsed": 3, "correct": 1}, "no_think": {"truncated": 4}}
    boxes, cut = advise_by_mode(verdicts, MODES, CONFIG)
    assert boxes.startswith("auto, think: 7 of 8 responses (88%) are unparsed")
    assert cut.startswith("no_think: 4 of 4 responses (100%) are truncated")
    assert "max_no_think_tokens = 16" in cut
    [line] = advise_by_mode({"auto": {"unparsed": 4}, "think": {"unparsed": 3}}, MODES, CONFIG)
    assert line.startswith("7 of 7 responses")
    assert advise_by_mode({"auto": {"correct": 4}, "think": {}}, MODES, CONFIG) == []


def test_both_limits_are_named_where_both_were_reached():
    [line] = advise_by_mode({"think": {"truncated": 4}, "no_think": {"truncated": 4}}, MODES, CONFIG)
    assert "reached max_think_tokens = 128 or max_no_think_tokens = 16 before their end; raise them" in line


def test_shares_are_written_largest_first():
    assert write_shares({"correct": 1, "wrong": 0, "truncated": 3}) == "75% truncated, 25% correct"
