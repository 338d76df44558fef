"""Chat templates that write today's date: prompts keep the day of the store, evaluation or run that they belong to."""

import datetime
import json
import shutil

import pytest
from test_modes import CHATML, build

from adaptthink import api, modes
from adaptthink.config.resolve import check
from adaptthink.config.schema import EngineConfig, TrainConfig
from adaptthink.dial import decide
from adaptthink.engines.base import ScriptedEngine
from adaptthink.errors import UserError
from adaptthink.models.loading import TINY
from adaptthink.modes import Message, describe, encode_prompt, probe

FIRST, SECOND = "2026-11-27", "2026-11-28"
PROBLEMS = [{"prompt": f"{n}+1=?", "answer": n + 1} for n in range(12)]
SMALL = {"max_think_tokens": 12, "max_no_think_tokens": 6}
TRAINING = SMALL | {
    "steps": 2, "problems_per_step": 2, "samples_per_problem": 2, "reference_samples": 1,
    "probe_problems_per_level": 1, "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture
def travel(monkeypatch):
    """A function that sets the day which the clock shows, to our code and to chat templates."""

    def set_day(day):
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls.fromisoformat(day)

        monkeypatch.setattr(modes, "datetime", Clock)
        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)

    return set_day


@pytest.fixture
def dated(tmp_path):
    """The embedded model with a template that writes the day."""
    shutil.copytree(TINY, tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    template.chmod(0o644)
    template.write_text("{{ strftime_now('%Y-%m-%d') }}" + template.read_text())
    return str(tmp_path / "model")


class Watching:
    """An engine that records the days in its prompts."""

    def __init__(self, tokenizer):
        self.tokenizer, self.days = tokenizer, set()
        ids = tokenizer.encode("<|eos|>", add_special_tokens=False)
        self.engine = ScriptedEngine(lambda prompt, prefix: ids)

    def generate(self, requests, **options):
        self.days |= {self.tokenizer.decode(one.prompt_ids)[:10] for one in requests}
        return self.engine.generate(requests, **options)

    def next_token_logprobs(self, prompts, token_ids, **options):
        self.days |= {self.tokenizer.decode(one)[:10] for one in prompts}
        return self.engine.next_token_logprobs(prompts, token_ids, **options)

    def load_weights(self, model):
        pass


def on(travel, day, dated):
    """Load the model on a day; return it and an engine that watches."""
    travel(day)
    policy = api.load(dated)
    assert policy.template.date == day
    return policy, Watching(policy.tokenizer)


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize(
    ("format_", "shown"), [("%d %b %Y", "27 Nov 2026"), ("%Y-%m-%d", FIRST), ("%A, %B %d", "Friday, November 27")]
)
def test_any_format_shows_the_day(format_, shown, quote, travel):
    travel(SECOND)
    source = "{% if strftime_now is defined %}{% set today = strftime_now(FORMAT) %}{% endif %}{{ today + '\n' }}"
    tokenizer = build(source.replace("FORMAT", quote + format_ + quote) + CHATML.replace("ENDING", "<think>\n"))
    template = probe(tokenizer, date=FIRST)
    text = tokenizer.decode(encode_prompt(tokenizer, template, "1+1=?"))
    assert text == f"{shown}\n<|im_start|>user\n1+1=?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    turns = [Message("system", "be brief"), Message("user", "1+1=?")]
    assert tokenizer.decode(encode_prompt(tokenizer, template, turns)).startswith(shown)
    [found] = [check.value for check in describe(tokenizer, template) if check.name == "date"]
    assert f"prompts change with the day, here {FIRST}" in found


def test_a_store_keeps_its_day(travel, dated, tmp_path):
    path = tmp_path / "ref.jsonl"
    for day, count in ((FIRST, 2), (SECOND, 4)):
        policy, engine = on(travel, day, dated)
        api.presample(policy, PROBLEMS[:count], samples=1, output=path, engine=engine, **SMALL)
        assert engine.days == {FIRST}
    assert json.loads(path.read_text().splitlines()[0])["settings"]["prompt_date"] == FIRST
    with pytest.raises(UserError, match=f"prompt_date was '{FIRST}' and is now '{SECOND}'"):
        api.presample(policy, PROBLEMS, samples=1, output=path, engine=engine, prompt_date=SECOND, **SMALL)


def test_an_evaluation_keeps_its_day(travel, dated, tmp_path):
    for day, count in ((FIRST, 2), (SECOND, 4)):
        policy, engine = on(travel, day, dated)
        api.evaluate(policy, PROBLEMS[:count], output=tmp_path / "e", engine=engine, **SMALL)
        assert engine.days == {FIRST}
    assert json.loads((tmp_path / "e/evaluation.json").read_text())["prompt_date"] == FIRST
    policy, engine = on(travel, SECOND, dated)
    api.evaluate(policy, PROBLEMS[:2], output=tmp_path / "other", engine=engine, **SMALL)
    assert engine.days == {SECOND}
    with pytest.raises(UserError, match="prompt_date"):
        api.compare([tmp_path / "e", tmp_path / "other"])
    policy, engine = on(travel, SECOND, dated)
    api.evaluate(policy, PROBLEMS[:2], output=tmp_path / "third", engine=engine, prompt_date=FIRST, **SMALL)
    assert engine.days == {FIRST}


def test_a_training_keeps_the_day_of_its_store_and_a_resumed_one_its_own(travel, dated, tmp_path):
    policy, engine = on(travel, FIRST, dated)
    api.presample(policy, PROBLEMS, samples=1, output=tmp_path / "ref.jsonl", engine=engine, **SMALL)
    for resume, steps, store in ((False, 1, tmp_path / "ref.jsonl"), (True, 1, None)):
        policy, engine = on(travel, SECOND, dated)
        api.train(
            policy, PROBLEMS, store, output=tmp_path / "run", engine=engine, resume=resume,
            config=check(TrainConfig, TRAINING | {"model": dated, "steps": steps}),
        )  # fmt: skip
        assert engine.days == {FIRST}
    assert json.loads((tmp_path / "run/config.json").read_text())["prompt_date"] == FIRST


@pytest.fixture
def calibrated(travel, dated):
    """The model with a certified dial beside its weights, calibrated on the first day."""
    policy, engine = on(travel, FIRST, dated)
    problems = [{"prompt": f"{n}+2=?", "answer": n + 2} for n in range(40)]
    dial = api.calibrate(policy, problems, tolerance=60, engine=engine, **SMALL)
    assert (dial.threshold.certified, dial.setting.prompt_date, engine.days) == (True, FIRST, {FIRST})
    return dated


@pytest.mark.parametrize(("threshold", "day"), [(None, FIRST), (0.5, SECOND)])
def test_decisions_by_a_dial_have_its_day(threshold, day, travel, calibrated, monkeypatch):
    policy, engine = on(travel, SECOND, calibrated)
    monkeypatch.setattr(decide, "NativeEngine", lambda model, eos_ids: engine)
    api.decide(policy, ["1+1=?"], threshold=threshold)
    assert engine.days == {day}


@pytest.mark.parametrize(("given", "day"), [({}, SECOND), ({"prompt_date": "2026-01-31"}, "2026-01-31")])
def test_a_server_has_todays_day_whatever_its_dial(given, day, travel, calibrated, monkeypatch):
    travel(SECOND)
    served = []
    monkeypatch.setattr(api, "serve_forever", lambda policy, engine, threshold, *_: served.append((policy, threshold)))
    api.serve(calibrated, port=0, **given)
    [(policy, threshold)] = served
    assert (policy.template.date, threshold is None) == (day, False)


def test_the_harness_has_the_day_of_the_dial(travel, calibrated):
    pytest.importorskip("lm_eval")
    from adaptthink.integrations.lm_eval import AdaptThinkLM

    travel(SECOND)
    given = {"prompt_date": "2026-01-31"}
    dates = [AdaptThinkLM(model=calibrated, **one).template.date for one in ({}, {"threshold": 0.5}, given)]
    assert dates == [FIRST, SECOND, "2026-01-31"]


def test_templates_without_a_date_record_none_and_refuse_one(tmp_path):
    policy = api.load("tiny")
    assert policy.template.date is None
    api.presample(policy, PROBLEMS[:1], samples=1, output=tmp_path / "ref.jsonl", **SMALL)
    assert "prompt_date" not in json.loads((tmp_path / "ref.jsonl").read_text().splitlines()[0])["settings"]
    for model in ("tiny", policy):
        with pytest.raises(UserError, match=f"prompt_date = {FIRST} has no effect: the chat template writes no date"):
            api.evaluate(model, PROBLEMS[:1], prompt_date=FIRST, **SMALL)


@pytest.mark.parametrize("value", ["today", "27 Nov 2026", "2026-13-01", ""])
def test_a_day_in_another_form_is_refused(value):
    with pytest.raises(UserError, match="prompt_date"):
        check(EngineConfig, {"prompt_date": value})
