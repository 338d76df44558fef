"""Real vLLM against the native engine: same log-probabilities, same distribution, fresh weights.

Needs an environment with vLLM: scripts/setup_vllm.sh makes one for a CPU.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
import torch
from server import running
from vllm_server import KEY, MEMORY_SHARE, start_server, stop_server
from waiting import WAIT_SECONDS

from adaptthink.config.resolve import check
from adaptthink.config.schema import EngineConfig, ServeConfig, TrainConfig
from adaptthink.engines.base import Finish, Request
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.openai import KEY_VARIABLE, check_server, connect
from adaptthink.engines.sampling import apply_top_p
from adaptthink.engines.vllm import start_vllm
from adaptthink.errors import UserError
from adaptthink.grading import Verdict
from adaptthink.models.loading import TINY, load_policy, load_tokenization, load_trainee
from adaptthink.modes import Mode, encode_prompt
from adaptthink.problems.arithmetic import Split, generate_problems
from adaptthink.sampling.sampler import Sampler
from adaptthink.serving.app import make_app
from adaptthink.serving.prepare import Served
from adaptthink.serving.upstream import Upstream
from adaptthink.serving.worker import Worker
from adaptthink.storage.runs import read_metrics
from adaptthink.training.reference import Reference
from adaptthink.training.rollout import collect
from adaptthink.training.train import Reporting, TrainingData, train

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here; scripts/setup_vllm.sh, .venv-vllm"
)

QUESTIONS = ("47+8=?", "9-3+77=?", "12+34+56-7=?")
SMALL = (
    "--problems-per-level",
    "2",
    "--max-think-tokens",
    "48",
    "--max-no-think-tokens",
    "16",
    "--max-concurrent-sequences",
    "64",
)


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture(scope="module")
def vllm_engine(policy):
    engine = start_vllm(
        str(TINY),
        policy.eos_ids,
        dtype=policy.model.dtype,
        max_concurrent_sequences=64,
        memory_share=MEMORY_SHARE,
    )
    yield engine
    engine.llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="module")
def server(vllm_server):
    return vllm_server[0]


@pytest.fixture
def server_engine(server, policy, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    return connect(server, policy.eos_ids, name="tiny", max_concurrent_sequences=32)


@pytest.fixture(params=["vllm", "openai"])
def engine(request):
    return request.getfixturevalue({"vllm": "vllm_engine", "openai": "server_engine"}[request.param])


def prompts(policy):
    return [encode_prompt(policy.tokenizer, policy.template, question) for question in QUESTIONS]


def native(policy):
    return NativeEngine(policy.model, policy.eos_ids)


def distribution(policy, context, temperature, top_p=1.0, banned=()):
    """The distribution of the next token, by one forward pass."""
    with torch.no_grad():
        logprobs_1V = (policy.model(torch.tensor([context])).logits[:, -1] / temperature).log_softmax(-1)
    logprobs_1V[:, list(banned)] = -torch.inf
    logprobs_1V = logprobs_1V.log_softmax(-1)
    return (apply_top_p(logprobs_1V, top_p) if top_p < 1 else logprobs_1V)[0]


def mixed_requests(policy):
    """Unconstrained, forced and banned responses, of several lengths."""
    no_think, think = policy.template.no_think_id, policy.template.think_id
    kinds = [
        ((), ()),
        ((no_think,), ()),
        ((think,), ()),
        ((), (no_think,)),
        ((think, 198), (22, 23)),
        ((no_think, 90, 16), ()),
    ]
    return [
        Request(prompt, 20 + 7 * (index % 4), index, prefix, banned)
        for index, (prompt, (prefix, banned)) in enumerate((p, kind) for p in prompts(policy) for kind in kinds)
    ]


@pytest.mark.parametrize(("temperature", "top_p"), [(0.6, 1.0), (0.6, 0.95), (1.0, 0.8)])
def test_logprobs_are_those_of_the_distribution_drawn_from(engine, policy, temperature, top_p):
    requested, finished = mixed_requests(policy), []
    done = engine.generate(
        requested, temperature=temperature, top_p=top_p, seed=7, on_finish=lambda *ended: finished.append(ended)
    )
    gaps = []
    for request, completion in zip(requested, done, strict=True):
        forced = len(request.prefix_ids)
        assert completion.token_ids[:forced] == request.prefix_ids
        assert len(completion.logprobs) == len(completion.token_ids) <= request.max_tokens
        assert (completion.finish is Finish.STOP) == (completion.token_ids[-1] in policy.eos_ids)
        assert completion.finish is Finish.STOP or len(completion.token_ids) == request.max_tokens
        assert not set(completion.token_ids[:-1]) & set(policy.eos_ids)
        for t, token in enumerate(completion.token_ids):
            banned = request.banned_first_ids if t == forced else ()
            nucleus_here = top_p if t >= forced else 1.0
            context = request.prompt_ids + completion.token_ids[:t]
            expected = distribution(policy, context, temperature, nucleus_here, banned)[token].item()
            gaps.append(abs(completion.logprobs[t] - expected))
    assert max(gaps) < 1e-3
    assert sorted(finished, key=lambda ended: ended[0]) == list(enumerate(done))


@pytest.mark.parametrize(("top_p", "ban"), [(1.0, False), (0.9, True)])
def test_first_tokens_are_drawn_with_their_probabilities(vllm_engine, policy, top_p, ban):
    """2,000 samples of one token against the exact distribution: chi-square below its 99.9% quantile, seed fixed."""
    num, prompt = 2000, (*prompts(policy)[1], policy.template.think_id, 198)
    unconstrained = distribution(policy, prompt, 2.0)
    banned = (int(unconstrained.argmax()),) if ban else ()
    requested = [Request(prompt, 1, stream, (), banned) for stream in range(num)]
    sampled = [c.token_ids[0] for c in vllm_engine.generate(requested, temperature=2.0, top_p=top_p, seed=5)]
    expected = num * distribution(policy, prompt, 2.0, top_p, banned).exp().double()
    count = torch.bincount(torch.tensor(sampled), minlength=len(expected)).double()
    assert count[expected == 0].sum() == 0
    common = expected >= 5
    cells = [*zip(count[common], expected[common], strict=True), (count[~common].sum(), expected[~common].sum())]
    cells = [(float(seen), float(hoped)) for seen, hoped in cells if hoped >= 1]
    freedom = len(cells) - 1
    assert freedom >= 3
    quantile = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3  # Wilson and Hilferty
    assert sum((seen - hoped) ** 2 / hoped for seen, hoped in cells) < quantile


def test_a_response_does_not_depend_on_the_rest_of_the_batch(engine, policy):
    requested = mixed_requests(policy)
    together = engine.generate(requested, temperature=1.0, seed=3)
    for index in (0, 3, 4):
        [alone] = engine.generate([requested[index]], temperature=1.0, seed=3)
        assert alone.token_ids == together[index].token_ids
    others = engine.generate(requested, temperature=1.0, seed=4)
    assert [c.token_ids for c in others] != [c.token_ids for c in together]


def test_next_token_logprobs_equal_the_native_engines(engine, policy):
    ids = [policy.template.no_think_id, policy.template.think_id, *range(40)]
    for temperature in (1.0, 0.6):
        found = engine.next_token_logprobs(prompts(policy), ids, temperature=temperature)
        expected = native(policy).next_token_logprobs(prompts(policy), ids, temperature=temperature)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)


def test_fresh_weights_are_used_at_once_and_all_of_them(engine, policy):
    ids = [policy.template.no_think_id, policy.template.think_id, *range(20)]

    def gap():
        found = engine.next_token_logprobs(prompts(policy), ids)
        expected = native(policy).next_token_logprobs(prompts(policy), ids)
        return max(
            abs(a - b) for ours, theirs in zip(found, expected, strict=True) for a, b in zip(ours, theirs, strict=True)
        )

    assert gap() < 1e-3
    original = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    try:
        for turn in (1, 2):  # the second update must not be built upon the first
            torch.manual_seed(turn)
            with torch.no_grad():
                for parameter in policy.model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1 * parameter.std().item())
            assert gap() > 0.1
            engine.load_weights(policy.model)
            assert gap() < 1e-3
    finally:
        with torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                parameter.copy_(original[name])
        engine.load_weights(policy.model)
    assert gap() < 1e-3


def test_rollouts_keep_each_modes_limit(engine, policy):
    sampler = Sampler(engine, policy.tokenizer, policy.template)
    settings = {"max_think_tokens": 24, "max_no_think_tokens": 5, "samples_per_problem": 4, "temperature": 1.0}
    config = check(TrainConfig, settings | {"force_think": "ban", "seed": 2})
    rollouts = collect(sampler, generate_problems(2, seed=1, split=Split.TRAIN), config, step=1)
    for mode, limit in ((Mode.THINK, 24), (Mode.NO_THINK, 5)):
        lengths = [len(rollout.response_ids) for rollout in rollouts if rollout.mode is mode]
        assert len(lengths) == len(rollouts) / 2
        assert max(lengths) == limit


@pytest.mark.parametrize("forced", [True, False])
def test_training_with_vllm_stays_on_policy(vllm_engine, policy, tmp_path, forced):
    """After each update vLLM's probe equals the native engine's on the trained weights: nothing is stale."""
    trained = load_policy("tiny")
    pool = generate_problems(4, seed=0, split=Split.TRAIN)
    reference = {p.id: Reference(p.id, (Verdict.CORRECT, Verdict.WRONG), (5, 5)) for p in pool}
    settings = check(
        TrainConfig,
        {
            "steps": 2,
            "problems_per_step": 8,
            "samples_per_problem": 2,
            "max_think_tokens": 64,
            "max_no_think_tokens": 16,
        }
        | {"learning_rate": 1e-3, "probe_every": 1, "temperature": 1.0, "force_think": "start" if forced else "ban"},
    )
    no_think = []

    def on_step(metrics):
        ids = (trained.template.no_think_id,)
        requested = [encode_prompt(trained.tokenizer, trained.template, p.prompt) for p in pool[:2]]
        exact = native(trained).next_token_logprobs(requested, ids, temperature=1.0)
        assert metrics["probe_no_think_logprob"] == pytest.approx(sum(row[0] for row in exact) / 2, abs=1e-3)
        no_think.append(metrics["probe_no_think_logprob"])

    sampler = Sampler(vllm_engine, trained.tokenizer, trained.template)
    try:
        data = TrainingData(pool, reference, held_out=pool[:2])
        train(trained, sampler, data, settings, tmp_path, Reporting(on_step, warn=print))
    finally:
        vllm_engine.load_weights(policy.model)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert abs(no_think[1] - no_think[0]) > 0.01


def test_training_an_adapter_sends_merged_weights(engine, policy, tmp_path):
    """After each update the engine's probe equals that of the model with its adapter, whose own weights stay."""
    pytest.importorskip("peft")
    pool = generate_problems(4, seed=0, split=Split.TRAIN)
    reference = {p.id: Reference(p.id, (Verdict.CORRECT, Verdict.WRONG), (5, 5)) for p in pool}
    settings = check(
        TrainConfig,
        {"steps": 2, "problems_per_step": 8, "samples_per_problem": 2, "max_think_tokens": 64, "probe_every": 1}
        | {"max_no_think_tokens": 16, "learning_rate": 1e-2, "temperature": 1.0, "lora_rank": 4},
    )
    trained = load_trainee(settings)
    no_think = []

    def on_step(metrics):
        contexts = [encode_prompt(trained.tokenizer, trained.template, p.prompt) for p in pool[:2]]
        with torch.no_grad():
            rows = [trained.model(torch.tensor([context])).logits[0, -1].log_softmax(-1) for context in contexts]
        exact = sum(row[trained.template.no_think_id].item() for row in rows) / 2
        assert metrics["probe_no_think_logprob"] == pytest.approx(exact, abs=1e-3)
        no_think.append(metrics["probe_no_think_logprob"])

    sampler = Sampler(engine, trained.tokenizer, trained.template)
    try:
        data = TrainingData(pool, reference, held_out=pool[:2])
        train(trained, sampler, data, settings, tmp_path, Reporting(on_step, warn=print))
    finally:
        engine.load_weights(policy.model)
    assert abs(no_think[1] - no_think[0]) > 0.01


def test_prompt_and_limit_that_do_not_fit_are_refused(engine, policy):
    with pytest.raises(UserError, match="lower max_think_tokens"):
        engine.generate([Request(prompts(policy)[0], 5000, 0)], temperature=1.0)


def adaptthink(*arguments, **environment):
    command = [sys.executable, "-m", "adaptthink", *arguments]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, timeout=WAIT_SECONDS, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_the_train_command_with_vllm(tmp_path):
    status, _, errors = adaptthink(
        *("train", "toy_cpu", "--engine", "vllm", "--engine-memory", str(MEMORY_SHARE), "--steps", "2", *SMALL),
        *("--problems-per-step", "4", "--reference-samples", "2", "--output", str(tmp_path / "run")),
    )
    assert status == 0, errors[-2000:]
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_presample_and_evaluate_through_a_server(server, tmp_path):
    through = ("--engine", "openai", "--endpoint", server, *SMALL)
    status, _, errors = adaptthink(
        *("presample", *through, "--reference-samples", "2", "--output", str(tmp_path / "ref.jsonl")),
        **{KEY_VARIABLE: KEY},
    )
    assert status == 0, errors[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "ref.jsonl").read_text().splitlines()[1:]]
    assert len(rows) == 10
    assert all(len(row["verdicts"]) == 2 for row in rows)
    status, _, errors = adaptthink(
        *("evaluate", "tiny", *through, "--modes", "think", "no_think", "--json", str(tmp_path / "evaluation.json")),
        **{KEY_VARIABLE: KEY},
    )
    assert status == 0, errors[-2000:]
    modes = json.loads((tmp_path / "evaluation.json").read_text())["modes"]
    assert modes["no_think"]["overall"]["no_think_share"] == 1
    assert modes["think"]["overall"]["no_think_share"] == 0
    assert modes["no_think"]["overall"]["accuracy"] > 0.2


def test_a_fleet_presamples_what_one_server_does(server, tmp_path):
    """Two addresses of the same server stand for two; a response is the same whoever samples it."""
    addresses = ("--endpoint", server, "--endpoint", server.replace("127.0.0.1", "localhost"))
    stores = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for store, endpoints in zip(stores, (addresses[:2], addresses), strict=True):
        status, out, errors = adaptthink(
            *("presample", *endpoints, *SMALL, "--reference-samples", "2", "--output", str(store)),
            **{KEY_VARIABLE: KEY},
        )
        assert status == 0, errors[-2000:]
    lines = [line.split() for line in out.splitlines()]
    assert {line[0] for line in lines if len(line) == 5 and line[0] in addresses} == {addresses[1], addresses[3]}, out
    assert sorted(stores[0].read_text().splitlines()) == sorted(stores[1].read_text().splitlines())


def test_a_server_with_vllm_in_it_or_behind_it_says_what_the_model_says(server, vllm_engine, policy):
    """Each mode, the decision by a threshold, streams at the same time, a thinking budget: as the native server."""
    upstream = Upstream(server, load_tokenization(EngineConfig(model="tiny")), "tiny", key=KEY)
    upstream.meet()
    assert upstream.can.speaker.takes_ids
    assert upstream.can.speaker.scores
    assert upstream.can.context_tokens == 256
    answers = []
    for backend in (upstream, Worker(vllm_engine), exact := Worker(native(policy))):
        served = Served("tiny", policy.tokenizer, policy.template, 256, 0.5)
        config = ServeConfig(max_think_tokens=200, max_no_think_tokens=50)
        with running(make_app(served, backend, config)) as url, ThreadPoolExecutor(8) as pool:

            def post(question, url=url, **body):
                sent = {"temperature": 0, "messages": [{"role": "user", "content": question}]} | body
                answer = httpx.post(f"{url}/v1/chat/completions", json=sent, timeout=WAIT_SECONDS)
                if body.get("stream"):
                    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
                    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines]
                    return {key: "".join(one.get(key) or "" for one in deltas) for key in ("reasoning", "content")}
                return answer.json()

            calls = [
                pool.submit(post, question, model=model, **options)
                for question in QUESTIONS
                for model in ("tiny", "tiny:think", "tiny:no_think")
                for options in ({}, {"stream": True}, {"max_tokens": 8})
            ]
            answers.append([call.result() for call in calls])
            cut = post(QUESTIONS[0], model="tiny:think", x_think={"thinking_budget": 5})
            thought = cut["usage"]["completion_tokens_details"]["reasoning_tokens"]
            assert 1 <= thought <= 5 if backend is exact else thought == 5  # the native engine alone has a ramp
            assert cut["choices"][0]["message"]["content"]
    *others, wanted = answers
    for found in others:
        for ours, theirs in zip(found, wanted, strict=True):
            if "x_think" not in ours:
                assert ours == theirs
                continue
            assert [ours[key] for key in ("choices", "usage")] == [theirs[key] for key in ("choices", "usage")]
            probability = theirs["x_think"]["no_think_probability"]
            assert ours["x_think"]["no_think_probability"] == (probability and pytest.approx(probability, rel=1e-3))


def test_a_wrong_key_and_a_wrong_model_are_said(server, server_engine, policy, random_model, monkeypatch):
    requested = prompts(policy)[0], (policy.template.no_think_id, policy.template.think_id, 5)
    check_server(server_engine, native(policy), *requested)
    with pytest.raises(UserError, match="another model than --model"):
        check_server(server_engine, NativeEngine(random_model, policy.eos_ids), *requested)
    monkeypatch.setenv(KEY_VARIABLE, "wrong")
    with pytest.raises(UserError, match=f"answered 401: .*set {KEY_VARIABLE}"):
        connect(server, policy.eos_ids, name="tiny", max_concurrent_sequences=1)


def test_a_server_with_raw_logprobs_or_without_our_extension_is_refused(policy, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    process, url = start_server(TINY, tmp_path / "log", "--served-model-name", "tiny")
    try:
        engine = connect(url, policy.eos_ids, name="tiny", max_concurrent_sequences=1)
        requested = prompts(policy)[0], (policy.template.no_think_id, policy.template.think_id, 5)
        with pytest.raises(UserError, match="--logprobs-mode processed_logprobs"):
            check_server(engine, native(policy), *requested)
        with pytest.raises(UserError, match="--worker-extension-cls"):
            engine.load_weights(policy.model)
    finally:
        stop_server(process)
