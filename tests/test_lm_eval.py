"""lm-evaluation-harness for real, on our model class and on our server: the same scores, without the thinking.

Needs an environment with it: scripts/setup_harness.sh makes one. Nothing is fetched: tasks are written here.
"""

import importlib.util
import json
import os
import re
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.base import Request
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.models.loading import load_policy
from adaptthink.modes import Mode, encode_prompt
from adaptthink.problems.arithmetic import Split, generate_problems

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm_eval is not installed here; scripts/setup_harness.sh, .venv-harness", allow_module_level=True)
os.environ["HF_HUB_OFFLINE"] = "1"  # before the harness imports what reads it

import lm_eval
from lm_eval.tasks import TaskManager
from server import running

from adaptthink.integrations.harness import main
from adaptthink.integrations.lm_eval import AdaptThinkLM, read_generation
from adaptthink.serving.app import make_app
from adaptthink.serving.prepare import Served
from adaptthink.serving.worker import Worker

PROBLEMS = generate_problems(2, seed=3, split=Split.EVALUATION)
FIRST_NUMBER = "(-?[0-9]+)"
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n", "="], max_gen_toks: 120, do_sample: false}}
filter_list:
  - name: first-number
    filter: [{{function: regex, regex_pattern: "{pattern}"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOICES = """
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture(scope="module")
def native(policy):
    return NativeEngine(policy.model, policy.eos_ids)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with two tasks on the same problems."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "sums.json"
    tasks = [
        {
            "question": problem.prompt,
            "answer": problem.answer,
            "choices": [f"\\boxed{{{problem.answer}}}", "\\boxed{99}"],
        }
        for problem in PROBLEMS
    ]
    rows.write_text(json.dumps(tasks))
    for name, text in (("sums", TASK), ("choices", CHOICES)):
        filled = text.format(rows=rows, cache=folder / "cache", pattern=FIRST_NUMBER)
        (folder / f"{name}.yaml").write_text(filled)
    return folder


@pytest.fixture(scope="module")
def expected(policy, native):
    """Each mode's score, from the engine alone: greedy, what follows the last marker, its first number."""
    template, scores = policy.template, {}
    for mode in Mode:
        prefix = template.no_think_prefix_ids if mode is Mode.NO_THINK else ()
        banned = () if prefix else (template.no_think_id,)
        prompts = [encode_prompt(policy.tokenizer, template, problem.prompt) for problem in PROBLEMS]
        requests = [Request(prompt, 120 + len(prefix), 0, prefix, banned) for prompt in prompts]
        right = 0
        for problem, done in zip(PROBLEMS, native.generate(requests, temperature=1.0, top_p=1e-9), strict=True):
            text = policy.tokenizer.decode(done.token_ids)
            numbers = re.findall(FIRST_NUMBER, text.rpartition("</think>")[2]) if "</think>" in text else []
            right += numbers[:1] == [problem.answer]
        scores[mode] = right / len(PROBLEMS)
    assert 0 < scores[Mode.NO_THINK] < scores[Mode.THINK] <= 1  # or else nothing below would be shown
    return scores


def evaluate(tasks, task="sums", **options):
    results = lm_eval.simple_evaluate(
        tasks=[task], task_manager=TaskManager(include_path=str(tasks), include_defaults=False), **options
    )
    [score] = [value for name, value in results["results"][task].items() if re.match("(exact_match|acc),", name)]
    texts = [sample["resps"][0][0] for sample in results["samples"][task]]
    return score, texts


@pytest.mark.parametrize("templated", [False, True])
@pytest.mark.parametrize("mode", Mode)
def test_our_model_class_gives_the_known_score(tasks, expected, mode, templated):
    arguments = {"model": "tiny", "mode": str(mode)}
    score, texts = evaluate(tasks, model="adaptthink", model_args=arguments, apply_chat_template=templated)
    assert score == expected[mode]
    assert not any("Alright" in text or "think>" in text for text in texts)


def test_the_threshold_makes_auto_one_of_the_modes(tasks, expected):
    for threshold, mode in ((0.0, Mode.NO_THINK), (1.0, Mode.THINK)):
        arguments = f"model=tiny,mode=auto,threshold={threshold}"
        assert evaluate(tasks, model="adaptthink", model_args=arguments)[0] == expected[mode]


@pytest.fixture(scope="module")
def url(policy, native):
    served = Served("tiny", policy.tokenizer, policy.template, 1024, None)
    with running(make_app(served, Worker(native), ServeConfig())) as url:
        yield url


@pytest.mark.parametrize("mode", Mode)
def test_their_chat_client_on_our_server_gives_the_known_score(tasks, expected, url, mode):
    arguments = {"model": f"tiny:{mode}", "base_url": f"{url}/v1/chat/completions", "num_concurrent": 4}
    score, texts = evaluate(tasks, model="local-chat-completions", model_args=arguments, apply_chat_template=True)
    assert score == expected[mode]
    assert not any("think>" in text for text in texts)


def test_a_thought_that_is_not_stripped_confuses_the_filter(tasks, expected, url):
    """The same responses as one text: the filter's first number is then one of the thinking's."""
    arguments = {"model": "tiny:think", "base_url": f"{url}/v1/chat/completions", "num_concurrent": 4}
    options = {"model": "local-chat-completions", "apply_chat_template": True, "gen_kwargs": "reasoning_format=inline"}
    confused, texts = evaluate(tasks, model_args=arguments, **options)
    assert all(text.startswith("<think>\nAlright") for text in texts)
    assert confused < expected[Mode.THINK]
    stripped, _ = evaluate(tasks, model_args=arguments | {"think_end_token": "</think>"}, **options)
    assert stripped == expected[Mode.THINK]


def test_a_thought_that_is_cut_is_an_empty_answer_and_is_said(tasks, url, caplog):
    cut = {"apply_chat_template": True, "gen_kwargs": "max_gen_toks=8"}
    score, texts = evaluate(tasks, model="adaptthink", model_args="model=tiny,mode=think", **cut)
    assert (score, set(texts)) == (0, {""})
    assert "10 of 10 responses reached max_tokens before an answer and count as empty" in caplog.text
    arguments = {"model": "tiny:think", "base_url": f"{url}/v1/chat/completions", "num_concurrent": 4}
    score, texts = evaluate(tasks, model="local-chat-completions", model_args=arguments, **cut)
    assert (score, set(texts)) == (0, {""})


def test_given_answers_are_scored_behind_the_no_think_prefix(policy):
    """Against a plain forward pass of the model's own modules."""
    model = AdaptThinkLM(model="tiny", mode="no_think")
    pairs = [(QUESTION, answer) for QUESTION in ("3+4=?", "47+8-3=?") for answer in (" \\boxed{7}", "\\boxed{52}", "")]
    found = model.loglikelihood([SimpleNamespace(args=pair) for pair in pairs])
    for (question, answer), (logprob, greedy) in zip(pairs, found, strict=True):
        text = f"<|bos|><|user|>{question}<|assistant|><think>\n</think>{answer.strip()}"
        ids = policy.tokenizer.encode(text, add_special_tokens=False)
        size = len(policy.tokenizer.encode(answer.strip(), add_special_tokens=False))
        with torch.inference_mode():
            rows = policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        indices = range(len(ids) - size, len(ids))
        assert logprob == pytest.approx(sum(rows[index - 1, ids[index]].item() for index in indices), abs=1e-3)
        assert greedy == all(rows[index - 1].argmax().item() == ids[index] for index in indices)
    assert [greedy for _, greedy in found] == [True, False, True, False, True, True]


@pytest.mark.parametrize("templated", [False, True])
def test_choices_in_no_think_mode(tasks, templated):
    arguments = {"model": "tiny", "mode": "no_think"}
    score, _ = evaluate(tasks, "choices", model="adaptthink", model_args=arguments, apply_chat_template=templated)
    assert score == 1  # the other choice is always 99


@pytest.mark.parametrize("mode", ["auto", "think"])
def test_choices_in_other_modes_are_refused(tasks, mode):
    with pytest.raises(UserError, match=f"which mode={mode} does not define .*; use --model_args mode=no_think"):
        evaluate(tasks, "choices", model="adaptthink", model_args={"model": "tiny", "mode": mode})


def test_what_a_model_with_modes_cannot_give_is_refused():
    model = AdaptThinkLM(model="tiny")
    with pytest.raises(UserError, match="perplexity of plain texts"):
        model.loglikelihood_rolling([])
    with pytest.raises(UserError, match="begins the answer itself"):
        model.apply_chat_template([{"role": "user", "content": "1+1=?"}], add_generation_prompt=False)


def test_reading_generation_kwargs():
    requested = read_generation(
        {"until": ["\n"], "do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_gen_toks": 9}
    )
    assert (requested.max_tokens, requested.temperature, requested.top_p, requested.stops) == (9, 0.6, 0.9, ("\n",))
    greedy = read_generation({"until": "\n", "do_sample": False, "num_beams": 1, "top_k": -1})
    assert (greedy.max_tokens, greedy.temperature, greedy.stops) == (None, 0.0, ("\n",))
    with pytest.raises(UserError, match="requests num_beams=4, which is not supported; change it with --gen_kwargs"):
        read_generation({"num_beams": 4})


def test_prompts_beyond_the_context_are_refused_and_limits_beyond_it_reported(caplog):
    model = AdaptThinkLM(model="tiny", mode="no_think", max_no_think_tokens=8)
    requests = [SimpleNamespace(args=("1+1=?", {})), SimpleNamespace(args=("1+1+1+1=?", {}))]
    model.context = 40
    with caplog.at_level("WARNING"):
        model.generate_until(requests)
    assert "max_gen_toks" in caplog.text
    assert "more than the model's context of 40" in caplog.text
    model.context = 8
    with pytest.raises(UserError, match=r"which leaves none for a response in the model's context of 8"):
        model.generate_until(requests)
    with pytest.raises(UserError, match=r"which leaves none for a response in the model's context of 8"):
        model.loglikelihood([SimpleNamespace(args=("1+1+1+1=?", "4"))])


def test_repeats_are_other_draws_and_a_seed_gives_them_again():
    request = SimpleNamespace(args=("47+8-3+9-2+5=?", {"do_sample": True, "temperature": 3.0, "max_gen_toks": 12}))
    samples = [AdaptThinkLM(model="tiny", mode="no_think", seed=5).generate_until([request] * 4) for _ in range(2)]
    assert samples[0] == samples[1]
    assert len(set(samples[0])) > 1


@pytest.fixture
def command(monkeypatch):
    """Run adaptthink-lm-eval in this program, without the minute in which the harness reads its own tasks."""
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["adaptthink-lm-eval", *args])
        main()

    return run


def test_the_command(command, tasks, expected, tmp_path, capsys):
    flags = ["--tasks", "sums", "--include_path", str(tasks), "--output_path", str(tmp_path)]
    command("--model", "adaptthink", "--model_args", "model=tiny,mode=no_think", *flags)
    [written] = tmp_path.rglob("results_*.json")
    score = json.loads(written.read_text())["results"]["sums"]["exact_match,first-number"]
    assert score == expected[Mode.NO_THINK]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        command("--model", "adaptthink", "--model_args", "model=tiny,mod=think", *flags)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "adaptthink: ModelArgs: unknown key 'mod'; did you mean 'mode'?"
    )


def test_the_number_without_thinking_is_said(caplog):
    with caplog.at_level("INFO", "lm_eval"):
        AdaptThinkLM(model="tiny", mode="no_think").generate_until([SimpleNamespace(args=("1+1=?", {}))] * 3)
    assert "3 of 3 responses without thinking" in caplog.text


def test_the_command_without_the_harness_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("adaptthink: needs lm_eval")
