"""Prompts and responses beyond a model's context are found before the work: refused, or reported for default limits."""

import json
from dataclasses import replace

import pytest
from transformers import LlamaConfig, MambaConfig, Qwen2Config

import adaptthink as at
from adaptthink.callbacks import Callback
from adaptthink.errors import UserError
from adaptthink.models import context as module
from adaptthink.models.context import check_context, find_context_tokens
from adaptthink.models.make_tiny import make_model
from adaptthink.modes import Message, encode_prompt, probe
from adaptthink.problems import encode_problem, make_problem

SHORT = [make_problem(f"{n}+1=?", str(n + 1), level=1) for n in range(10)]
LONG = make_problem("+".join("1" * 20) + "=?", "20", level=2)  # 20 digits, 19 signs and "=?" are 41 tokens
LIMITS = {"max_think_tokens": 40, "max_no_think_tokens": 8}
YARN = {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (Qwen2Config(max_position_embeddings=4096), 4096),
        (Qwen2Config(max_position_embeddings=1500, rope_parameters=YARN), 4000),
        (Qwen2Config(max_position_embeddings=4000, rope_parameters=YARN), 4000),
        (
            LlamaConfig(
                max_position_embeddings=2048, rope_parameters={"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}
            ),
            4096,
        ),
        (
            LlamaConfig(
                max_position_embeddings=131072,
                rope_parameters={
                    "rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
                },
            ),
            131072,
        ),
        (MambaConfig(), None),
    ],
)  # fmt: skip
def test_the_context_of_a_config(config, tokens):
    assert find_context_tokens(config) == tokens


@pytest.fixture
def check(tokenizer):
    template = probe(tokenizer)

    def check_(context, problems=(*SHORT, LONG), **options):
        return check_context(context, tokenizer, template, problems, LIMITS, **options)

    check_.length = len(encode_prompt(tokenizer, template, LONG.prompt))
    return check_


def test_what_just_fits_passes_and_one_token_less_is_refused_with_what_fits(check):
    fits = check.length + 40
    assert check(fits, given=LIMITS) is None
    assert check(None, given=LIMITS) is None
    with pytest.raises(UserError) as caught:
        check(fits - 1, given=LIMITS)
    text = str(caught.value)
    for part in (LONG.id, f"{check.length} tokens", "max_think_tokens = 40", f"context of {fits - 1}", "= 39 or less"):
        assert part in text


def test_a_default_limit_is_reported_and_no_reason_to_stop(check):
    line = check(check.length + 39, given={"max_no_think_tokens"})
    assert "max_think_tokens = 40" in line
    assert "give max_think_tokens = 39 or less" in line


def test_a_prompt_that_leaves_no_token_is_refused_whatever_the_limits(check):
    with pytest.raises(UserError, match=rf"problem {LONG.id} has {check.length} tokens, which leaves none") as caught:
        check(check.length + 1)
    assert "1+1+1" in str(caught.value)
    check(check.length + 1, SHORT)


def test_prompts_that_are_short_in_bytes_are_not_encoded(check, monkeypatch):
    encoded = []

    def encode(tokenizer, template, problem):
        encoded.append(problem)
        return encode_problem(tokenizer, template, problem)

    monkeypatch.setattr(module, "encode_problem", encode)
    check(check.length + 40)
    assert encoded == [LONG]


def test_what_precedes_a_question_counts(check):
    turns = (Message("user", LONG.prompt), Message("assistant", LONG.answer))
    problem = replace(SHORT[0], context=turns)
    assert check(check.length + 40, [SHORT[0]], given=LIMITS) is None
    with pytest.raises(UserError, match=rf"problem {problem.id}\) and max_think_tokens = 40"):
        check(check.length + 40, [problem], given=LIMITS)


# ---- where it is checked --------------------------------------------------------------------------------------------


class Lines(Callback):
    def __init__(self):
        self.lines = []

    def on_message(self, message):
        self.lines.append(message)


@pytest.fixture(scope="module")
def narrow(tokenizer, tmp_path_factory):
    """An untrained model with a context of 64 tokens."""
    folder = tmp_path_factory.mktemp("narrow")
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    return str(folder)


TOO_LONG = {"max_think_tokens": 60, "max_no_think_tokens": 8}
REFUSED = r"max_think_tokens = 60 are more than the model's context of 64; give max_think_tokens = \d+ or less"


@pytest.mark.parametrize(
    ("command", "settings"),
    [(at.presample, {}), (at.train, {"problems_per_step": 2}), (at.evaluate, {}), (at.calibrate, {})],
)
def test_limits_beyond_the_context_are_refused_before_anything_is_written(narrow, tmp_path, command, settings):
    with pytest.raises(UserError, match=REFUSED):
        command(narrow, SHORT, output=tmp_path / "out", **TOO_LONG, **settings)
    assert not (tmp_path / "out").exists()


def test_only_the_limits_of_the_requested_modes_count(narrow, tmp_path):
    at.evaluate(narrow, SHORT[:1], modes=["no_think"], output=tmp_path / "out", **TOO_LONG)


def test_default_limits_are_reported(narrow):
    lines = Lines()
    at.evaluate(narrow, SHORT[:1], modes=["no_think"], callbacks=[lines], max_think_tokens=8)
    assert [line for line in lines.lines if "give max_no_think_tokens = " in line]


def test_a_prompt_beyond_the_context_is_not_decided(narrow):
    with pytest.raises(UserError, match=r"leaves none for a response in the model's context of 64 \('1\+1"):
        at.decide(narrow, ["1+1=?", "+".join("1" * 40) + "=?"], threshold=0.5)
