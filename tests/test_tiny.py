"""The embedded reasoner starts as the paper's base models do. Bounds are loose against its measured values."""

import json

import pytest

from adaptthink.config import EvaluateConfig, resolve
from adaptthink.engines.native import NativeEngine
from adaptthink.evaluate import answer, no_think_probabilities, summarise
from adaptthink.models import TINY, load_policy
from adaptthink.modes import Mode
from adaptthink.rollout import Sampler
from adaptthink.tasks.arithmetic import Split, problems


@pytest.fixture(scope="module")
def sampler():
    policy = load_policy("tiny")
    return Sampler(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, policy.template)


@pytest.fixture(scope="module")
def config():
    return resolve("evaluate", EvaluateConfig, recipes=["toy_cpu"])


@pytest.fixture(scope="module")
def fresh():
    return problems(60, seed=99, split=Split.EVALUATION)


@pytest.fixture(scope="module")
def thinking(sampler, config, fresh):
    return answer(sampler, fresh, None, config)


def test_it_is_small():
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 8 * 1024**2


def test_its_prompt_ends_in_an_opened_thought(sampler, fresh):
    assert sampler.tokenizer.decode(sampler.prompt(fresh[0])).endswith("<|assistant|><think>\n")


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_left_free_it_always_thinks(sampler, fresh, temperature):
    probabilities = no_think_probabilities(sampler, fresh, temperature).values()
    assert sum(probabilities) / len(probabilities) <= 1e-3
    assert max(probabilities) <= 0.02


def test_it_over_thinks(thinking):
    assert sum("Wait" in rollout.text for rollout in thinking) > 0.3 * len(thinking)


def test_thinking_works_nearly_everywhere(thinking):
    accuracy = {level: scores.accuracy for level, scores in summarise(thinking).levels.items()}
    assert min(accuracy[level] for level in "123") > 0.9
    assert min(accuracy[level] for level in "45") > 0.6


def test_direct_answers_work_on_easy_levels_only(sampler, config, fresh, thinking):
    direct = summarise(answer(sampler, fresh, Mode.NO_THINK, config)).levels
    assert min(direct[level].accuracy for level in "123") > 0.8
    assert max(direct[level].accuracy for level in "45") < 0.6
    for level, scores in summarise(thinking).levels.items():
        assert scores.mean_tokens > 2.5 * direct[level].mean_tokens


def test_its_record_says_how_it_was_made():
    record = json.loads((TINY / "made_with.json").read_text())
    assert record["seed"] == 7
    assert "supervised" in (TINY / "README.md").read_text()
