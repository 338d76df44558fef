"""Rollouts: what is forced, what is sampled, and the one number that is the paper's importance sampling."""

import math
import threading

import pytest
from waiting import WAIT_SECONDS

from adaptthink import grading
from adaptthink.config.resolve import check
from adaptthink.config.schema import ForceThink, TrainConfig
from adaptthink.engines.base import ScriptedEngine
from adaptthink.engines.native import NativeEngine
from adaptthink.grading import Verdict
from adaptthink.modes import Mode, probe
from adaptthink.problems import make_problem
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.sampler import Sampler, Sampling, sample_rollouts
from adaptthink.training.rollout import collect, make_loss_mask

PROBLEMS = [make_problem("47+8=?", "55", level=1), make_problem("9-3=?", "6", level=1)]
SAMPLING = Sampling(MaxTokens(think=20, no_think=8), temperature=1.0)


def collect_rollouts(sampler, problems=PROBLEMS, **values):
    """Collect as the first step of a training with these settings does."""
    own = {"max_think_tokens": 20, "max_no_think_tokens": 8, "temperature": 1.0, "samples_per_problem": 4}
    return collect(sampler, problems, check(TrainConfig, own | values), step=1)


@pytest.fixture
def template(tokenizer):
    return probe(tokenizer)


def scripted(tokenizer, template, *, thinking="\n47+8=55\n", answer="55", cut=False):
    """A sampler whose model always writes the same thinking and answer, whatever is requested."""

    def script(prompt, prefix):
        closed = template.close_id in prefix
        text = ("" if closed else thinking + "</think>") + f"\\boxed{{{answer}}}" + ("" if cut else "<|eos|>")
        ids = tokenizer.encode(text, add_special_tokens=False)
        return [*ids, *ids, *ids] if cut else ids

    engine = ScriptedEngine(script)
    return Sampler(engine, tokenizer, template), engine


def test_half_of_the_samples_are_forced_into_each_mode(tokenizer, template):
    sampler, engine = scripted(tokenizer, template)
    rollouts = collect_rollouts(sampler)
    assert [rollout.mode for rollout in rollouts] == [Mode.NO_THINK, Mode.NO_THINK, Mode.THINK, Mode.THINK] * 2
    assert [rollout.problem for rollout in rollouts] == [PROBLEMS[0]] * 4 + [PROBLEMS[1]] * 4
    assert [request.prefix_ids for request in engine.requests[:4]] == [(template.no_think_id,)] * 2 + [
        (template.think_id,)
    ] * 2
    assert [request.max_tokens for request in engine.requests[:4]] == [8, 8, 20, 20]


@pytest.mark.parametrize(("share", "num_no_think"), [(0.5, 2), (0.25, 1), (1.0, 4)])
def test_the_decision_token_carries_the_log_of_its_share_and_no_other_token_does(
    tokenizer, template, share, num_no_think
):
    sampler, _ = scripted(tokenizer, template)
    rollouts = collect_rollouts(sampler, no_think_share=share)
    assert sum(rollout.mode is Mode.NO_THINK for rollout in rollouts) == 2 * num_no_think
    for rollout in rollouts:
        own_share = share if rollout.mode is Mode.NO_THINK else 1 - share
        assert rollout.behavior_logprobs[0] == pytest.approx(math.log(own_share))
        assert rollout.behavior_logprobs[1:] == (-0.5,) * (len(rollout.response_ids) - 1)
        assert all(make_loss_mask(rollout))


def test_a_think_start_that_is_not_forced_is_sampled_without_no_think_and_keeps_its_probability(tokenizer, template):
    sampler, engine = scripted(tokenizer, template)
    rollouts = collect_rollouts(sampler, PROBLEMS[:1], force_think="ban")
    assert [request.banned_first_ids for request in engine.requests] == [()] * 2 + [(template.no_think_id,)] * 2
    assert [rollout.behavior_logprobs[0] for rollout in rollouts] == pytest.approx(
        [math.log(0.5)] * 2 + [math.log(0.5) - 0.5] * 2
    )


def test_share_zero_forces_nothing_and_keeps_the_sampled_value(tokenizer, template):
    sampler, engine = scripted(tokenizer, template)
    rollouts = collect_rollouts(sampler, no_think_share=0.0)
    assert {request.prefix_ids for request in engine.requests} == {()}
    assert all(rollout.behavior_logprobs[0] == -0.5 for rollout in rollouts)


def test_responses_are_graded(tokenizer, template):
    sampler, _ = scripted(tokenizer, template)
    rollouts = collect_rollouts(sampler, samples_per_problem=2)
    assert [rollout.verdict for rollout in rollouts] == [Verdict.CORRECT] * 2 + [Verdict.WRONG] * 2
    read = [(one.response.thinking, one.response.answer) for one in rollouts[:2]]
    assert read == [(None, "\\boxed{55}"), ("Alright\n47+8=55\n", "\\boxed{55}")]


def test_a_response_that_meets_its_token_limit_is_truncated(tokenizer, template):
    sampler, _ = scripted(tokenizer, template, cut=True)
    rollouts = collect_rollouts(sampler, PROBLEMS[:1], samples_per_problem=2)
    assert [len(rollout.response_ids) for rollout in rollouts] == [8, 20]
    assert {rollout.verdict for rollout in rollouts} == {Verdict.TRUNCATED}


def test_forced_tokens_after_the_decision_are_not_in_the_loss(tokenizer, template):
    from dataclasses import replace

    newline = tokenizer.encode("\n", add_special_tokens=False)[0]
    forced = (template.close_id, newline, newline)
    block = replace(template, no_think_prefix_ids=forced, no_think_text="</think>\n\n")
    sampler, _ = scripted(tokenizer, block)
    no_think, think = collect_rollouts(sampler, PROBLEMS[:1], samples_per_problem=2)
    assert make_loss_mask(no_think)[:4] == (True, False, False, True)
    assert all(make_loss_mask(think))


@pytest.mark.parametrize("force", ForceThink)
def test_requested_think_begins_with_its_start_or_with_anything_but_the_no_think_token(tokenizer, template, force):
    sampler, engine = scripted(tokenizer, template)
    modes = [None, Mode.THINK, Mode.NO_THINK]
    [[unconstrained, _, no_think]] = sample_rollouts(sampler, PROBLEMS[:1], modes, SAMPLING, force_think=force)
    start, banned = (template.think_prefix_ids, ()) if force is ForceThink.START else ((), (template.no_think_id,))
    assert [request.prefix_ids for request in engine.requests] == [(), start, (template.no_think_id,)]
    assert [request.banned_first_ids for request in engine.requests] == [(), banned, ()]
    assert no_think.mode is Mode.NO_THINK
    assert unconstrained.behavior_logprobs[0] == no_think.behavior_logprobs[0] == -0.5


def test_a_response_does_not_depend_on_what_else_is_drawn(random_policy):
    engine = NativeEngine(random_policy.model, random_policy.eos_ids)
    sampler = Sampler(engine, random_policy.tokenizer, random_policy.template)
    both = sample_rollouts(sampler, PROBLEMS, [None, None], SAMPLING)
    alone = sample_rollouts(sampler, PROBLEMS[1:], [None, None], SAMPLING)
    assert [rollout.response_ids for rollout in both[1]] == [rollout.response_ids for rollout in alone[0]]
    assert both[1][0].response_ids != both[1][1].response_ids


def test_stream_seeds_differ_by_purpose_and_are_stable():
    assert make_seed(0, "rollout", 1) != make_seed(0, "rollout", 2)
    assert make_seed(0, "rollout", 1) != make_seed(1, "rollout", 1)
    assert make_seed(0, "reference") == make_seed(0, "reference")


def test_responses_are_graded_while_others_are_generated(tokenizer, template, monkeypatch):
    """The engine will not go on before the first response has been graded."""
    sampler, engine = scripted(tokenizer, template)
    graded, waited = threading.Event(), []
    grade_fast = grading.grade_fast

    def spy(submission):
        graded.set()
        return grade_fast(submission)

    class Patient:
        def generate(self, requests, *, on_finish, **options):
            done = engine.generate(requests, **options)
            on_finish(1, done[1])
            waited.append(graded.wait(timeout=WAIT_SECONDS))
            for index in (3, 0, 2):
                on_finish(index, done[index])
            return done

    monkeypatch.setattr(grading, "grade_fast", spy)
    patient = Sampler(Patient(), tokenizer, template)
    [first, second] = sample_rollouts(patient, PROBLEMS, [Mode.NO_THINK, Mode.THINK], SAMPLING)
    assert waited == [True]
    # 47+8=55 is answered rightly, 9-3 with the same 55 wrongly: each grade is with its own response.
    assert [one.verdict for one in first] == [Verdict.CORRECT] * 2
    assert [one.verdict for one in second] == [Verdict.WRONG] * 2
    expected = sample_rollouts(sampler, PROBLEMS, [Mode.NO_THINK, Mode.THINK], SAMPLING)
    assert [first, second] == expected


def test_an_engine_that_fails_is_not_waited_for(tokenizer, template):
    class Broken:
        def generate(self, requests, **options):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        sample_rollouts(Sampler(Broken(), tokenizer, template), PROBLEMS, [None], SAMPLING)
