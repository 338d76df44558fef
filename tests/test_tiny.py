"""The embedded reasoner starts as the paper's base models do. Bounds are loose against its measured values."""

import json
import math

import pytest

from adaptthink.config.resolve import resolve
from adaptthink.config.schema import EvaluateConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.evaluation.run import make_policy_responder, make_policy_setting, sample_missing
from adaptthink.evaluation.scores import summarise
from adaptthink.evaluation.store import grade_folder, read_outcomes, read_samples
from adaptthink.models.loading import TINY, load_policy
from adaptthink.problems.arithmetic import Split, generate_problems
from adaptthink.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def sampler():
    policy = load_policy("tiny")
    return Sampler(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, policy.template)


@pytest.fixture(scope="module")
def config():
    return resolve("evaluate", EvaluateConfig, recipes=["toy_cpu"])


@pytest.fixture(scope="module")
def fresh():
    return generate_problems(60, seed=99, split=Split.EVALUATION)


@pytest.fixture(scope="module")
def folder(sampler, config, fresh, tmp_path_factory):
    """An evaluation of the model left to choose, and forced to answer at once."""
    folder = tmp_path_factory.mktemp("tiny") / "evaluation"
    setting = make_policy_setting("tiny", "weights", config, {"Alright": 1.0})
    sample_missing(make_policy_responder(sampler, config), folder, setting, fresh, ("auto", "no_think"), 3)
    grade_folder(folder)
    return folder


@pytest.fixture(scope="module")
def levels(folder):
    """Scores by requested mode and level."""
    outcomes = read_outcomes(folder)
    return {
        requested: summarise(o for o in outcomes if o.requested == requested).levels
        for requested in ("auto", "no_think")
    }


def test_it_is_small():
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 8 * 1024**2


def test_its_prompt_ends_in_an_opened_thought(sampler, fresh):
    assert sampler.tokenizer.decode(sampler.encode_prompt(fresh[0])).endswith("<|assistant|><think>\n")


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_left_free_it_always_thinks(sampler, fresh, temperature):
    prompts = [sampler.encode_prompt(problem) for problem in fresh]
    ids = (sampler.template.no_think_id,)
    rows = sampler.engine.next_token_logprobs(prompts, ids, temperature=temperature)
    probabilities = [math.exp(no_think) for [no_think] in rows]
    assert sum(probabilities) / len(probabilities) <= 1e-3
    assert max(probabilities) <= 0.02


def test_it_over_thinks(folder):
    thinkings = [sample.thinking for sample in read_samples(folder) if sample.requested == "auto"]
    assert sum("Wait" in (thinking or "") for thinking in thinkings) > 0.3 * len(thinkings)


def test_thinking_works_nearly_everywhere(levels):
    accuracy = {level: scores.accuracy for level, scores in levels["auto"].items()}
    assert min(accuracy[level] for level in "123") > 0.9
    assert min(accuracy[level] for level in "45") > 0.6


def test_direct_answers_work_on_easy_levels_only(levels):
    direct = levels["no_think"]
    assert min(direct[level].accuracy for level in "123") > 0.8
    assert max(direct[level].accuracy for level in "45") < 0.6
    for level, scores in levels["auto"].items():
        assert scores.mean_tokens > 2.5 * direct[level].mean_tokens


def test_its_record_says_how_it_was_made():
    record = json.loads((TINY / "made_with.json").read_text())
    assert record["seed"] == 7
    assert "supervised" in (TINY / "README.md").read_text()
