"""The embedded reasoners start as the paper's base models do. Bounds are loose against their measured values."""

import json
import math
from collections import Counter, defaultdict
from statistics import fmean

import pytest

from adaptthink.config.resolve import resolve
from adaptthink.config.schema import EvaluateConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.evaluation.run import make_policy_responder, make_policy_setting, sample_missing
from adaptthink.evaluation.scores import summarise
from adaptthink.evaluation.store import grade_folder, read_outcomes, read_problems, read_samples
from adaptthink.models.embedded import EMBEDDED
from adaptthink.models.loading import load_policy
from adaptthink.models.ways import Way, read_way
from adaptthink.problems.arithmetic import Split, generate_problems
from adaptthink.sampling.sampler import Sampler


@pytest.fixture(scope="module", params=EMBEDDED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def sampler(name):
    policy = load_policy(name)
    return Sampler(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, policy.template)


@pytest.fixture(scope="module")
def config():
    return resolve("evaluate", EvaluateConfig, recipes=["toy_cpu"])


@pytest.fixture(scope="module")
def fresh():
    return generate_problems(60, seed=99, split=Split.EVALUATION)


@pytest.fixture(scope="module")
def folder(name, sampler, config, fresh, tmp_path_factory):
    """An evaluation of the model left to choose, and forced to answer at once."""
    folder = tmp_path_factory.mktemp(name) / "evaluation"
    setting = make_policy_setting(name, "weights", config, {"Alright": 1.0})
    sample_missing(
        make_policy_responder(sampler, config), folder, setting, fresh, ("auto", "no_think"), lambda problem: 3
    )
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


def test_it_is_small(name):
    assert sum(path.stat().st_size for path in EMBEDDED[name].iterdir()) <= 8 * 1024**2


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


@pytest.mark.slow
def test_it_over_thinks(folder):
    thinkings = [sample.thinking for sample in read_samples(folder) if sample.requested == "auto"]
    assert sum("Wait" in (thinking or "") for thinking in thinkings) > 0.3 * len(thinkings)


def test_each_base_works_in_its_ways(name, folder):
    levels = {problem.id: problem.level for problem in read_problems(folder).values()}
    free = [sample for sample in read_samples(folder) if sample.requested == "auto" and levels[sample.problem_id] > 1]
    ways = Counter(read_way(sample.thinking or "") for sample in free)
    shares = {way: ways[way] / len(free) for way in Way}
    if name == "tiny":
        assert shares[Way.SHORT] > 0.98
    else:
        assert shares[Way.LONG] > 0.5
        assert min(shares.values()) > 0.03
        assert sum(shares.values()) > 0.97


def test_each_way_is_nearly_always_right(folder):
    problems = read_problems(folder)
    right = defaultdict(list)
    for sample in read_samples(folder):
        if sample.requested == "auto" and 2 <= problems[sample.problem_id].level <= 4:
            first_pass = (sample.thinking or "").partition("\nWait")[0].strip()
            value = first_pass.rpartition("=")[2]
            right[read_way(sample.thinking or "")].append(value == problems[sample.problem_id].answer)
    assert all(fmean(found) > 0.85 for way, found in right.items() if way)


def test_thinking_works_nearly_everywhere(name, levels):
    accuracy = {level: scores.accuracy for level, scores in levels["auto"].items()}
    assert min(accuracy[level] for level in "123") > 0.9
    assert accuracy["4"] > 0.6
    assert accuracy["5"] > (0.6 if name == "tiny" else 0.4)  # the token limit cuts more of the longer thoughts


def test_direct_answers_work_on_easy_levels_only(levels):
    direct = levels["no_think"]
    assert min(direct[level].accuracy for level in "123") > 0.8
    assert max(direct[level].accuracy for level in "45") < 0.6
    for level, scores in levels["auto"].items():
        assert scores.mean_tokens > 2.5 * direct[level].mean_tokens


def test_its_record_says_how_it_was_made(name):
    record = json.loads((EMBEDDED[name] / "made_with.json").read_text())
    assert record["seed"] == 7
    assert "supervised" in (EMBEDDED[name] / "README.md").read_text()
