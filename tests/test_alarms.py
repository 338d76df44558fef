"""What a training that learns nothing, or the wrong thing, says about itself."""

import pytest

from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.training.alarms import Kind, check_idle, find_alarms

CONFIG = TrainConfig(steps=40, max_think_tokens=64, max_no_think_tokens=8)
GOOD = {
    "update_tokens": 100, "verdict_share_correct": 0.6, "truncated_share_think": 0.1, "truncated_share_no_think": 0.0,
    "reward_think": 0.9, "reward_no_think": 0.6, "entropy_think": 0.2, "entropy_no_think": 0.1,
    "mismatch_error_think": 1.0, "mismatch_kl_think": 0.0, "probe_no_think_share": 0.3, "probe_mode_mass": 0.9,
}  # fmt: skip


def kinds(rows, config=CONFIG):
    return [alarm.kind for alarm in find_alarms(rows, config)]


def test_a_training_that_goes_well_says_nothing():
    assert kinds([GOOD]) == kinds([GOOD] * 30) == []


@pytest.mark.parametrize(
    ("kind", "later", "said"),
    [
        (Kind.MISMATCH, {"mismatch_error_think": 1.2}, "mean exp|Δ| of think tokens is 1.2, above 1.05"),
        (
            Kind.MISMATCH, {"mismatch_kl_think": 0.1, "mismatch_masked": 250, "responses": 320},
            "'mask' leaves out 78% of the responses, and those that remain are no fair sample",
        ),
        (Kind.NO_SIGNAL, {"update_tokens": 0, "verdict_share_correct": 0.0}, "no response was right"),
        (Kind.NO_SIGNAL, {"update_tokens": 0, "verdict_share_correct": 1.0}, "all responses were right"),
        (Kind.NO_SIGNAL, {"update_tokens": 0}, "all advantages are zero"),
        (Kind.TRUNCATED, {"truncated_share_think": 0.95}, "95% of the think responses do not end within"),
        (Kind.TRUNCATED, {"truncated_share_no_think": 1.0}, "max_no_think_tokens = 8"),
        (Kind.WORSE, {"reward_think": 0.7}, "the reward of think fell from 0.90 in the first steps to 0.70"),
        (Kind.WORSE, {"reward_no_think": 0.4}, "the reward of no_think fell from 0.60"),
        (Kind.ENTROPY, {"entropy_think": 0.01}, "the entropy of think tokens fell from 0.200 to 0.0100 nats"),
        (Kind.ALWAYS_NO_THINK, {"probe_no_think_share": 0.995}, "answers all of them at once"),
        (Kind.NEVER_NO_THINK, {"probe_no_think_share": 1e-6}, "after 75% of the steps"),
        (Kind.BESIDE_STARTS, {"probe_mode_mass": 0.3}, "only 30% of the first token's probability"),
    ],
)  # fmt: skip
def test_each_sign_is_said_with_its_numbers(kind, later, said):
    [alarm] = find_alarms([GOOD] * 20 + [GOOD | later] * 10, CONFIG)
    assert alarm.kind is kind
    assert said in alarm.message


def test_one_bad_step_is_not_yet_a_sign_where_several_are_looked_at():
    once = {"update_tokens": 0, "truncated_share_think": 1.0, "reward_think": 0.5}
    assert kinds([GOOD] * 20 + [GOOD | once]) == []


def test_a_cold_start_is_no_alarm_in_the_first_half():
    cold = GOOD | {"probe_no_think_share": 1e-6}
    assert kinds([cold] * 19) == []
    assert kinds([cold] * 20) == [Kind.NEVER_NO_THINK]
    assert kinds([cold] * 20, CONFIG.model_copy(update={"no_think_share": 0.0})) == []
    assert kinds([cold] * 20, CONFIG.model_copy(update={"method": "dpo_shortest"})) == []  # it shortens thoughts


def test_what_was_not_measured_is_no_alarm():
    assert kinds([{"update_tokens": 5}] * 20) == []


def test_steps_that_learn_nothing_end_the_training():
    idle = {"update_tokens": 0, "verdict_share_correct": 0.0}
    check_idle([GOOD, *[idle] * 4], 5, 5)
    with pytest.raises(UserError, match=r"step 6: stopped after 5 steps that changed nothing .*no response was right"):
        check_idle([GOOD, *[idle] * 5], 5, 6)
    check_idle([idle] * 4, 5, 4)
