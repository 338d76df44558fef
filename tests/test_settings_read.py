"""No setting is ignored in silence: for every command, each key changes what is done, or is refused in one line.

The commands are run as a person runs them, on a model with random weights and an engine that writes scripted responses.
What is compared is what was done: how the model was loaded, how the engine was started, every request to it, every
answer that was graded and how, the steps of a training, the calls to a chat endpoint, the answers of a server.
A key that is new needs a value in OTHER, and something that reads it.
"""

import asyncio
import copy
import itertools
import json
import math
import os
import re
import shutil
import sys
import zlib
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import httpx2 as httpx
import pytest
import torch
import uvicorn

from adaptthink import api
from adaptthink.chat.base import ChatResponse
from adaptthink.chat.client import load_adapter
from adaptthink.cli import app as cli
from adaptthink.config.chat import ChatConfig
from adaptthink.config.schema import (
    PLANNED,
    EvaluateConfig,
    PresampleConfig,
    ServeConfig,
    SftConfig,
    TrainConfig,
    VerlConfig,
)
from adaptthink.engines.base import Completion, Finish
from adaptthink.evaluation import chat as chat_module
from adaptthink.grading import Grade, Rule, Verdict
from adaptthink.models import loading
from adaptthink.models.think_starts import probe_configured
from adaptthink.sampling import engine as engine_module
from adaptthink.sampling import grader as grader_module
from adaptthink.sampling.grader import RewardGrader
from adaptthink.serving import logs
from adaptthink.serving.worker import Worker
from adaptthink.training import sft as sft_module
from adaptthink.training import train as train_module
from adaptthink.training import update as update_module
from adaptthink.training.dump import Skipping

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # sys.argv is ours

OTHER = {  # a value that is not the default, for each key
    "model": "org/name", "max_think_tokens": 9, "max_no_think_tokens": 20, "think_start": "Okay", "device": "cuda",
    "prompt_date": "2026-01-31", "dtype": "bfloat16", "max_concurrent_sequences": 7, "engine": "vllm", "endpoint": "http://localhost:1",
    "engine_memory": 0.7, "seed": 3, "problems": "a.jsonl", "data": "other", "fields": "prompt=q",
    "instruction": "so", "max_problems": 11, "boxed_only": False, "grading_seconds": 9.0, "problems_per_level": 4,
    "reward": "mine:score", "reward_seconds": 3.0, "samples_by_set": "arithmetic=3",
    "reference_samples": 3, "reference_temperature": 0.9, "reference_top_p": 0.5, "delta": 0.2, "method": "grpo",
    "no_think_share": 0.25, "samples_per_problem": 8, "token_share": 0.5, "force_think": "ban",
    "ratio": "token", "clip": 0.9, "implicit_thinking": "no_reward", "steps": 2, "problems_per_step": 3,
    "temperature": 0.9, "learning_rate": 1e-3, "warmup_steps": 3, "schedule": "stable_decay", "lora_rank": 8,
    "lora_alpha": 3, "lora_targets": "q_proj", "max_grad_norm": 1e-3, "micro_batch_tokens": 40,
    "gradient_checkpointing": True, "probe_every": 3, "probe_problems_per_level": 2, "probe_samples": 2,
    "mismatch": "mask", "rehearsal_problems": 2, "max_idle_steps": 3, "max_skipped_steps": 0,
    "all_problems": True, "keep_responses": True, "no_think_samples": 2,
    "checkpoint_every": 2, "max_failed_grades": 0.0, "keep_checkpoints": 3, "nodes": 2, "gpus_per_node": 4,
    "tensor_parallel": 2, "ray_address": "auto", "max_prompt_tokens": 3000, "offload": True,
    "overrides": "trainer.logger=[wandb]", "kind": "story", "top_p": 0.5, "host": "0.0.0.0", "port": 1234,
    "name": "other", "threshold": 0.4, "reasoning_format": "inline", "closing_sentence": "So:",
    "chat": "http://b", "dialect": "anthropic",
    "switch": "template_thinking", "key_variable": "MY_KEY", "concurrency": 3, "effort": "high",
    "no_think_effort": "minimal", "budget_tokens": 2000, "completion_cap": True, "inline_thinking": True,
    "server_sampling": True, "price_input": 2000.0, "price_output": 2000.0, "api_key": "mine", "max_requests": 1,
    "online_state": "online.json", "online_tolerance": 3.0, "requests_per_minute": 4, "log_format": "json",
    "traces_per_step": 3, "no_think_weight": 1.0, "max_trace_tokens": 30, "held_out_traces": 1,
    "threads": 2, "upstream": "http://localhost:2", "upstream_key": "theirs",
}  # fmt: skip
OTHER_OF_PLANS = OTHER | {"dtype": "float32", "micro_batch_tokens": 50000, "model": "Qwen/Qwen3-4B"}
CONTEXT = {  # what must be set beside a key, that it may have an effect; None: not given
    "engine_memory": {"engine": "vllm"},
    "data": {"problems": "gsm8k", "data": "folder", "problems_per_level": None},
    "fields": {"problems": "a.jsonl", "problems_per_level": None},
    "lora_alpha": {"lora_rank": 4},
    "reward_seconds": {"reward": "mine:other"},
    "lora_targets": {"lora_rank": 4},
    "online_tolerance": {"online_state": "online.json"},
    "upstream_key": {"upstream": "http://localhost:1"},
    "effort": {"switch": "reasoning_effort"},
    "no_think_effort": {"switch": "reasoning_effort"},
    "budget_tokens": {"switch": "reasoning"},
    "price_input": {"price_output": 1000.0, "price_input": 1000.0},
    "price_output": {"price_output": 1000.0, "price_input": 1000.0},
}
BESIDE = {  # what makes the effect of a key visible; without it the key is read all the same
    "problems": {"problems_per_level": None},
    "all_problems": {"problems": "a.jsonl", "problems_per_level": None, "steps": None, "problems_per_step": None},
    "dialect": {"switch": "none"},  # the only one that both know
    "token_share": {"steps": 7},  # the first five steps sample everything
}
HELD_OUT = {"problems": "a.jsonl", "problems_per_level": None, "probe_problems_per_level": 1}
BESIDE |= {  # what is held out is taken from a file's problems, and so seen where these are counted or sampled
    ("presample", "probe_problems_per_level"): HELD_OUT | {"steps": None},
    ("plan", "probe_problems_per_level"): HELD_OUT,
    ("plan-native", "probe_problems_per_level"): HELD_OUT,
}
SMALL = {"max_think_tokens": 16, "max_no_think_tokens": 8, "problems_per_level": 3, "max_failed_grades": 1.0}
BASE = {
    "presample": SMALL | {"reference_samples": 2, "steps": 1, "problems_per_step": 8},
    "train": SMALL | {
        "reference_samples": 2, "steps": 4, "problems_per_step": 4, "samples_per_problem": 4, "temperature": 1.0,
        "learning_rate": 1e-2, "probe_every": 1, "probe_problems_per_level": 1, "checkpoint_every": 1,
    },
    "evaluate": SMALL | {"samples_per_problem": 2},
    "chat": SMALL | {"chat": "http://a", "switch": "enable_thinking"},
    "calibrate": SMALL | {"samples_per_problem": 2},
    "serve": {"max_think_tokens": 16, "max_no_think_tokens": 8},
    "sft": {
        "steps": 4, "traces_per_step": 4, "learning_rate": 1e-2, "warmup_steps": 1, "probe_every": 1,
        "checkpoint_every": 1, "held_out_traces": 3, "schedule": "constant",
    },
    "plan": {"max_prompt_tokens": 2000, "gpus_per_node": 8},
    "plan-native": {},
}  # fmt: skip
SCHEMAS = {
    "presample": PresampleConfig, "train": TrainConfig, "evaluate": EvaluateConfig, "chat": ChatConfig,
    "calibrate": EvaluateConfig, "serve": ServeConfig, "sft": SftConfig, "plan": VerlConfig, "plan-native": TrainConfig,
}  # fmt: skip
ARGUMENTS = {  # that are no settings
    "train": ("--output", "run"), "evaluate": ("--modes", "auto", "think", "no_think"),
    "sft": ("--traces", "t.jsonl", "--output", "run"),
    "chat": ("--modes", "auto", "think", "no_think"), "calibrate": ("--tolerance", "50"),
    "plan": ("--gpus", "8xH100", "--json", "plan.json"), "plan-native": ("--gpus", "H100", "--json", "plan.json"),
}  # fmt: skip
REFUSED = {  # keys that one of these commands refuses whatever else is set, with what it says
    ("plan", "engine"): "verl generates with a vLLM of its own",
    ("plan", "endpoint"): "are not for --backend verl",
    ("plan", "lora_rank"): "is not for --backend verl",
} | {
    (command, "prompt_date"): "has no effect: the chat template writes no date"  # that of the model here
    for command in ("presample", "train", "evaluate", "calibrate", "serve", "sft")
}
BEFORE = {}  # what commands do with settings under which keys have an effect
TIMES = re.compile(r"seconds|date|command|attempts")


def keys_of(command):
    keys = SCHEMAS[command].model_fields.keys()
    return sorted(keys & PLANNED if command.startswith("plan") else keys)


class RecordingEngine:
    """Writes a response that follows from the request's random stream, and records what is requested of it."""

    def __init__(self, record, tokenizer, eos_id):
        self.record, self.tokenizer, self.eos_id = record, tokenizer, eos_id

    def generate(self, requests, *, temperature, top_p=1.0, seed=0, on_finish=None):
        completions = []
        for index, request in enumerate(requests):
            # one by one: which requests a server puts into the same batch depends on the moment
            self.record("generate", request, temperature, top_p, seed)
            draw = zlib.crc32(f"{request.stream} {seed}".encode())
            thinks = request.banned_first_ids or (not request.prefix_ids and draw % 2)
            text = "Alright\n1</think>" if thinks else "" if request.prefix_ids else "</think>"
            text += f"{'Wait ' if draw % 3 else ''}{draw % 7}"
            ids = (*request.prefix_ids, *self.tokenizer.encode(text, add_special_tokens=False), self.eos_id)
            finish = Finish.STOP if len(ids) <= request.max_tokens else Finish.LENGTH
            ids = ids[: request.max_tokens]
            completions.append(Completion(ids, (-0.5,) * len(ids), finish))
            if on_finish:
                on_finish(index, completions[-1])
        return completions

    def next_token_logprobs(self, prompts, token_ids, *, temperature=1.0):
        self.record("logprobs", [tuple(prompt) for prompt in prompts], tuple(token_ids), temperature)
        return [[math.log(0.45)] * len(token_ids) for _ in prompts]

    def load_weights(self, model):
        self.record("weights", sum(parameter.double().sum().item() for parameter in model.parameters()))


@pytest.fixture
def world(monkeypatch, tmp_path, tokenizer, random_policy, capfd):
    """Run a command with settings as flags; returns what it did, or the one line with which it refused."""
    for variable in [name for name in os.environ if name.startswith("ADAPTTHINK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MY_KEY", "mine")
    records = []

    def record(*what):
        records.append(json.loads(json.dumps(what, default=repr)))

    def engine(name):
        def make(*args, **options):
            record(
                name,
                [repr(one) for one in args if isinstance(one, str | tuple)],
                {k: repr(v) for k, v in options.items() if not callable(v)},
            )
            return RecordingEngine(record, tokenizer, tokenizer.eos_token_id)

        return make

    def load_policy(name, **options):
        record("load", name, {key: repr(value) for key, value in options.items()})
        return replace(random_policy, name=name, model=copy.deepcopy(random_policy.model))

    def grade(submissions, *, limits=None, on_finish=None):
        listed = list(submissions)
        record("grade", sorted({(one.boxed_only, limits.seconds) for one in listed}))
        verdicts = [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, Verdict.TIMEOUT]
        return [Grade(verdicts[zlib.crc32(f"{one.answer}".encode()) % 4], "1", Rule.EXACT) for one in listed]

    def load_reward(name):
        def reward(problem, response):
            return 1.0

        record("reward", name)
        return reward

    def reward_grader(function, seconds):
        record("reward seconds", seconds)
        return RewardGrader(function, 60.0)

    def ask_all(endpoint, questions, on_response, on_message):
        adapter = load_adapter(endpoint.dialect)
        record("endpoint", adapter.address(endpoint), endpoint.key_name, endpoint.concurrency, endpoint.inline_thinking)
        for index, question in enumerate(list(questions)):
            record("ask", adapter.body(endpoint, question))
            on_response(
                index, question, ChatResponse(None, "1", Finish.STOP, tokens=3, thinking_tokens=0, prompt_tokens=5)
            )

    def answer_http(server, sockets):
        async def post():
            app = server.config.app
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app=app)
                async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
                    listed = await client.get("/v1/models")
                    record("status", listed.status_code)
                    names = [one["id"] for one in listed.json().get("data", [])]
                    call = {}
                    for name in names:
                        call = {"model": name, "seed": 1, "messages": [{"role": "user", "content": "1+1=?"}]}
                        answer = (await client.post("/v1/chat/completions", json=call)).json()
                        record("answer", names, answer["choices"], answer["x_think"])
                    if names:
                        cut = call | {"model": names[1], "x_think": {"thinking_budget": 2}}
                        record("cut", (await client.post("/v1/chat/completions", json=cut)).json()["choices"])
                    both = await asyncio.gather(*(client.post("/v1/chat/completions", json=call) for _ in range(2)))
                    record("dial", (await client.get("/v1/dial")).json())
                    record("statuses", sorted(answer.status_code for answer in both))

        asyncio.run(post())

    def upstream(url, text, name, *, key, on_message):
        record("upstream", url, text.name, name, key)
        worker = Worker(RecordingEngine(record, tokenizer, tokenizer.eos_token_id))
        worker.meet, worker.can = lambda: None, None
        return worker

    def listen(host, port):
        record("listen", host, port)
        return closing(SimpleNamespace(getsockname=lambda: (host, port), close=lambda: None))

    monkeypatch.setattr(loading, "load_policy", load_policy)
    for name in ("NativeEngine", "start_vllm", "connect", "open_fleet"):
        monkeypatch.setattr(engine_module, name, engine(name))
    for name in ("check_server", "make_probe"):
        monkeypatch.setattr(engine_module, name, lambda *args: None)
    monkeypatch.setattr(engine_module, "find_model", lambda name: name)
    monkeypatch.setattr(grader_module, "grade_all", grade)
    monkeypatch.setattr(grader_module, "load_reward", load_reward)
    monkeypatch.setattr(grader_module, "RewardGrader", reward_grader)
    monkeypatch.setattr(chat_module, "ask_all", ask_all)
    monkeypatch.setattr(api, "listen", listen)
    monkeypatch.setattr(api, "Upstream", upstream)
    monkeypatch.setattr(api, "read_stored_dial", lambda policy: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: record("threads", count))
    monkeypatch.setattr(uvicorn.Server, "run", answer_http)
    monkeypatch.setattr(logs, "start_log", lambda log_format: record("log", log_format))
    for module, name in (
        (update_module, "make_micro_batches"), (update_module, "checkpoint_gradients"),
        (sft_module, "make_micro_batches"),
    ):  # fmt: skip
        original = getattr(module, name)

        def wrapped(*args, name=name, original=original, **options):
            record(name, [one for one in args if isinstance(one, int)])
            return original(*args, **options)

        monkeypatch.setattr(module, name, wrapped)
    monkeypatch.setattr(train_module, "check_idle", lambda rows, limit, step: record("idle", limit))
    monkeypatch.setattr(train_module, "Skipping", lambda *args: record("skipping", args[1]) or Skipping(*args))
    number = itertools.count()

    def load_parts_of_the_model():
        """A cold start loads tokenizer and weights by themselves."""

        def load(name, *, dtype):
            record("load", name, repr(dtype))
            return copy.deepcopy(random_policy.model)

        def probe(tokenizer, think_start, date):
            record("probe", think_start)
            return probe_configured(tokenizer, think_start, date)

        monkeypatch.setattr(loading, "load_tokenizer", lambda name: copy.deepcopy(tokenizer))
        monkeypatch.setattr(loading, "load_model", load)
        monkeypatch.setattr(loading, "probe_configured", probe)
        monkeypatch.setattr(loading, "choose_device", lambda name: record("device", name) or torch.device("cpu"))

    def run(command, settings):
        folder = tmp_path / f"{next(number)}"
        write_problems(folder)
        monkeypatch.chdir(folder)
        records.clear()
        if command == "sft":
            load_parts_of_the_model()
        named = {key: value for key, value in settings.items() if value is not None}
        argument = (named.pop("model", "tiny"),) if command in WITH_MODEL else ()
        name = {"chat": "evaluate", "plan-native": "plan"}.get(command, command)
        flags = [part for key, value in named.items() for part in flag(key, value)]
        monkeypatch.setattr(sys, "argv", ["adaptthink", name, *argument, *flags, *ARGUMENTS.get(command, ())])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        if caught.value.code == 2:
            [line] = [line for line in err.splitlines() if line.startswith("adaptthink: ")]
            return line.removeprefix("adaptthink: ")
        assert not caught.value.code or (command, caught.value.code) == ("calibrate", 1), err  # 1: not certified
        costs = [line for line in out.splitlines() if line.startswith("cost")]
        done = {"records": list(records), "files": read_results(folder), "cost": costs}
        shutil.rmtree(folder)
        return json.dumps(done, sort_keys=True, indent=0).splitlines()

    return run


WITH_MODEL = ("evaluate", "chat", "calibrate", "serve")  # as an argument


def flag(key, value):
    name = key.replace("_", "-")
    return (f"--{name}" if value else f"--no-{name}",) if isinstance(value, bool) else (f"--{name}", str(value))


def write_problems(folder):
    rows = [{"prompt": f"{n}+1=?", "q": f"{n}+2=?", "answer": f"{n + 1}"} for n in range(30)]
    rows += [row | {"prompt": "7+1=?", "answer": "8", "q": f"{n}+3=?"} for n, row in enumerate(rows[:5])]  # one prompt
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    traces = [{"prompt": f"{n}+1=?", "thinking": "Alright. " + "1" * n, "answer": f"{n + 1}"} for n in range(30)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in traces))
    for name, word, count in (("folder", "one", 30), ("other", "two", 25)):
        (folder / name).mkdir()
        sums = [{"question": f"{word} {n}?", "answer": f"#### {n}"} for n in range(count)]
        for split in ("train", "test"):
            path = folder / name / f"gsm8k_{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in sums))


def read_results(folder):
    """What a command left, without times and without what it was told: that would be an effect of every key."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("metrics.jsonl", "reference.jsonl", "evaluation.json", "dial.json", "plan.json"):
            found[name] = [without_times(json.loads(line)) for line in lines_of(path)]
        elif "checkpoints" in name:
            found[name] = None
    return found


def lines_of(path):
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if not TIMES.search(key)}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def settings_for(command, key):
    """Settings under which a key has an effect, and another value of it."""
    context = {} if (command, key) == ("plan", "engine_memory") else CONTEXT.get(key, {})  # verl always reads it
    other = OTHER_OF_PLANS if command.startswith("plan") else OTHER
    beside = BESIDE.get((command, key), BESIDE.get(key, {}))
    return BASE[command] | context | beside, {key: other[key]}


@pytest.mark.parametrize("command", SCHEMAS)
def test_the_same_settings_do_the_same(world, command):
    """Without this, what follows would show nothing."""
    first = world(command, BASE[command])
    assert isinstance(first, list), first
    assert first == world(command, BASE[command])


@pytest.mark.slow
@pytest.mark.parametrize(("command", "key"), [(command, key) for command in SCHEMAS for key in keys_of(command)])
def test_every_key_has_an_effect_or_is_refused(world, command, key):
    base, other = settings_for(command, key)
    after = world(command, base | other)
    if key == "max_failed_grades":
        assert "max_failed_grades" in after
        return
    if (command, key) in REFUSED:
        assert isinstance(after, str)
        assert key in after
        assert REFUSED[command, key] in after
        return
    if (command, str(base)) not in BEFORE:
        BEFORE[command, str(base)] = world(command, base)
    before = BEFORE[command, str(base)]
    assert isinstance(before, list), before
    assert isinstance(after, list), after
    assert before != after, f"{command} does not read {key}"


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (command, key)
        for command in SCHEMAS
        for key in keys_of(command)
        if key in CONTEXT and (command, key) != ("plan", "engine_memory")
    ],
)
def test_a_key_without_what_it_needs_is_refused(world, command, key):
    line = world(command, BASE[command] | settings_for(command, key)[1])
    assert isinstance(line, str), f"{command} ignores {key} in silence"
    assert re.match(rf"{key} has no effect: .+; .+", line)
