"""The server over real HTTP: the embedded model, and scripted ones where an answer has to be known."""

import json
import math
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from server import running
from upstream_server import FakeUpstream
from waiting import WAIT_SECONDS, wait_until

from adaptthink import api
from adaptthink.config.schema import EvaluateConfig, ServeConfig
from adaptthink.engines.base import ScriptedEngine, check_finite
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.evaluation.run import Query, make_policy_responder
from adaptthink.grading import Verdict
from adaptthink.models.loading import Tokenization, load_policy
from adaptthink.modes import Mode, encode_prompt, probe
from adaptthink.problems import make_problem
from adaptthink.sampling.requests import MaxTokens
from adaptthink.sampling.sampler import Sampler, Sampling, sample_rollouts
from adaptthink.serving.app import make_app
from adaptthink.serving.calls import HARMLESS, NEUTRAL, ChatCall, read_call
from adaptthink.serving.generation import CallError, write_json
from adaptthink.serving.prepare import Served
from adaptthink.serving.upstream import Upstream
from adaptthink.serving.worker import Worker

QUESTION = "47+8-3=?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture(scope="module")
def native(policy):
    return NativeEngine(policy.model, policy.eos_ids)


def app_of(engine, tokenizer, *, threshold=None, context=1024, backend=None, **config):
    template = probe(tokenizer)
    settings = ServeConfig(max_think_tokens=128, max_no_think_tokens=16, **config)
    return make_app(Served("tiny", tokenizer, template, context, threshold), backend or Worker(engine), settings)


@pytest.fixture(scope="module", params=["native", "gateway"])
def backend(request):
    """What answers: the engine in the server, or a gateway with a server of vLLM's form behind it."""
    return request.param


here_alone = pytest.mark.parametrize("backend", ["native"], scope="module")  # for what the engine here does


@contextmanager
def serving(backend, engine, tokenizer, **options):
    """Serve an engine; yields the URL."""
    if backend == "native":
        with running(app_of(engine, tokenizer, **options)) as url:
            yield url
        return
    template = probe(tokenizer)
    eos_ids = (tokenizer.eos_token_id,)
    with running(FakeUpstream(engine, tokenizer, template=template).app) as behind:
        upstream = Upstream(behind, Tokenization("tiny", tokenizer, template, eos_ids, None), "tiny")
        upstream.meet()
        if isinstance(engine, ScriptedEngine):
            engine.requests.clear()  # of the inspection
        with running(app_of(engine, tokenizer, backend=upstream, **options)) as url:
            yield url


@pytest.fixture(scope="module")
def url(policy, native, backend):
    with serving(backend, native, policy.tokenizer) as url:
        yield url


@pytest.fixture
def client(url):
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=WAIT_SECONDS) as client:
        yield client


def scripted(tokenizer, *, thinking="\n9\n", answer="5+5\n\n4;3", no_think=0.25):
    """A model that writes the same thinking and answer for any prompt, with a known P(no_think)."""
    close = tokenizer.convert_tokens_to_ids("</think>")

    def script(prompt, prefix):
        start = "" if prefix else "Alright"
        text = ("" if close in prefix else f"{start}{thinking}</think>") + answer + "<|eos|>"
        return tokenizer.encode(text, add_special_tokens=False)

    return ScriptedEngine(script, next_token=lambda prompt, token: math.log(no_think))


@pytest.fixture
def served(tokenizer, backend):
    """Serve a scripted engine; gives the engine and a function that posts a chat call."""
    stack = []

    def start(engine=None, **options):
        engine = engine or scripted(tokenizer)
        server = serving(backend, engine, tokenizer, **options)
        url = server.__enter__()
        stack.append(server)

        def post(path="/v1/chat/completions", **body):
            body_sent = {"model": "tiny"} | ({"messages": MESSAGES} if "chat" in path else {}) | body
            return httpx.post(url + path, json=body_sent, timeout=WAIT_SECONDS)

        return engine, post

    yield start
    for server in stack:
        server.__exit__(None, None, None)


# The embedded model, through the official client.


def test_the_models_are_listed_with_their_modes(client, url):
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:think", "tiny:no_think"]
    assert httpx.get(f"{url}/health", timeout=WAIT_SECONDS).json() == {"status": "ok"}


def direct(policy, native, mode):
    """What the engine itself gives, greedily by its own log-probabilities: thinking and answer."""
    context = encode_prompt(policy.tokenizer, policy.template, QUESTION)
    start = len(context)
    if mode is Mode.NO_THINK:
        context += policy.template.no_think_prefix_ids
    while context[-1] not in policy.eos_ids:
        (row,) = native.next_token_logprobs([context], range(len(policy.tokenizer)))
        if mode is Mode.THINK and len(context) == start:
            row[policy.template.no_think_id] = -math.inf
        context += (max(range(len(row)), key=row.__getitem__),)
    before, _, after = policy.tokenizer.decode(context[start:-1]).rpartition("</think>")
    return before.strip() or None, after


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_by_the_models_name(client, policy, native, mode):
    done = client.chat.completions.create(model=f"tiny:{mode}", messages=MESSAGES, temperature=0)
    [choice] = done.choices
    thinking, answer = direct(policy, native, mode)
    assert (choice.message.reasoning, choice.message.reasoning_content) == (thinking, thinking)
    assert (choice.message.content, choice.finish_reason, choice.mode) == (answer, "stop", mode)
    assert answer == "\\boxed{52}"
    encoded = [policy.tokenizer.encode(text, add_special_tokens=False) for text in (thinking or "", answer)]
    usage = done.usage
    # The thinking's white space at its end and its marker, the answer's end token.
    between = len(policy.tokenizer.encode("\n</think>", add_special_tokens=False)) if thinking else 1
    assert usage.completion_tokens == len(encoded[0]) + between + len(encoded[1]) + 1
    assert usage.completion_tokens_details.reasoning_tokens == (len(encoded[0]) + between - 1 if thinking else 0)
    assert usage.prompt_tokens == len(encode_prompt(policy.tokenizer, policy.template, QUESTION))
    assert done.x_think == {
        "mode": mode,
        "reason": "request",
        "no_think_probability": None,
        "threshold": None,
        "effort": None,
        "thinking_budget": None,
        "modes": [mode],
        "tokens_saved": None,
        "second_looks": 0,
    }


def test_a_stream_says_the_same_in_pieces(client):
    options = {"model": "tiny:think", "messages": MESSAGES, "temperature": 0}
    whole = client.chat.completions.create(**options)
    pieces = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    assert deltas[0].role == "assistant"
    thinking = [delta.reasoning for delta in deltas if hasattr(delta, "reasoning")]
    assert "".join(thinking) == whole.choices[0].message.reasoning
    assert [delta.reasoning_content for delta in deltas if hasattr(delta, "reasoning_content")] == thinking
    answer = [delta.content for delta in deltas if delta.content]
    assert "".join(answer) == whole.choices[0].message.content
    assert len(thinking) > 5
    assert len(answer) > 1
    finishes = [piece.choices[0].finish_reason for piece in pieces if piece.choices]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]
    assert pieces[-1].usage == whole.usage
    assert len({piece.id for piece in pieces}) == 1


def test_a_seed_repeats_its_choices_whatever_else_is_asked(client, url):
    options = {"model": "tiny", "messages": MESSAGES, "temperature": 1.5, "top_p": 1.0, "n": 3}

    def complete_with_seed(seed):
        done = client.chat.completions.create(**options, seed=seed)
        assert [choice.index for choice in done.choices] == [0, 1, 2]
        return [(choice.message.reasoning, choice.message.content) for choice in done.choices]

    first = complete_with_seed(11)
    assert len(set(first)) > 1
    others = [
        threading.Thread(
            target=httpx.post,
            args=(f"{url}/v1/chat/completions",),
            kwargs={"json": options | {"n": 5}, "timeout": WAIT_SECONDS},
        )
        for _ in range(3)
    ]
    for other in others:
        other.start()
    assert complete_with_seed(11) == first
    assert complete_with_seed(12) != first
    for other in others:
        other.join()


def test_texts_are_continued_as_they_are(client, policy):
    rendered = policy.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    think = client.completions.create(model="tiny:think", prompt=rendered, temperature=0, max_tokens=100)
    assert think.choices[0].text.startswith("Alright\n47+8=55")
    assert think.choices[0].text.endswith("</think>\\boxed{52}")
    no_think = client.completions.create(model="tiny:no_think", prompt=rendered, temperature=0)
    assert (no_think.choices[0].text, no_think.choices[0].finish_reason) == ("\\boxed{52}", "stop")
    assert no_think.usage.prompt_tokens == think.usage.prompt_tokens  # the forced marker is the response's
    begun = client.completions.create(model="tiny", prompt=rendered + "Alright\n47", temperature=0, stop="55")
    assert (begun.choices[0].text, begun.choices[0].finish_reason) == ("+8=", "stop")
    with pytest.raises(BadRequestError, match="there is no mode to choose"):
        client.completions.create(model="tiny:think", prompt="47+8=")
    streamed = list(client.completions.create(model="tiny:no_think", prompt=rendered, temperature=0, stream=True))
    assert "".join(piece.choices[0].text for piece in streamed) == "\\boxed{52}"
    assert streamed[-1].choices[0].finish_reason == "stop"


def test_half_a_character_is_bad_input():
    for body in (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"model": "\\udfff"}', b"[" * 100_000):
        with pytest.raises(CallError, match=r"half a character|not JSON"):
            read_call(ChatCall, body)


def test_another_model_is_not_found(client):
    with pytest.raises(NotFoundError, match="no model 'gpt'; available: tiny, tiny:think, tiny:no_think") as caught:
        client.chat.completions.create(model="gpt", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


# Scripted models.


@pytest.mark.parametrize(
    ("sent", "mode"),
    [
        ({}, "auto"),
        ({"model": "tiny:think"}, "think"),
        ({"model": "tiny:no_think"}, "no_think"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "think"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "no_think"),
        ({"chat_template_kwargs": {"thinking": True}}, "think"),
        ({"chat_template_kwargs": {"thinking": False}}, "no_think"),
        ({"reasoning_effort": "none"}, "no_think"),
        ({"model": "tiny:no_think", "reasoning_effort": "none"}, "no_think"),
        ({"reasoning_effort": None, "chat_template_kwargs": {}}, "auto"),
    ],
)
def test_every_way_to_request_a_mode(served, tokenizer, backend, sent, mode):
    template = probe(tokenizer)
    engine, post = served()
    answer = post(**sent).json()
    [request] = engine.requests
    assert answer["x_think"]["mode"] == mode
    assert request.prefix_ids == (() if mode == "auto" else template.prefix_ids(Mode(mode)))
    if backend == "native":  # which keeps thoughts from being empty; the gateway cannot
        assert request.banned_first_ids == ((template.close_id,) if mode == "think" else ())
    assert request.prompt_ids == encode_prompt(tokenizer, template, QUESTION)
    message = answer["choices"][0]["message"]
    assert message["reasoning"] == (None if mode == "no_think" else "Alright\n9")
    assert message["content"] == "5+5\n\n4;3"


@pytest.mark.parametrize(("threshold", "mode"), [(0.2, "no_think"), (0.3, "think")])
def test_the_threshold_decides_auto_and_says_so(served, threshold, mode):
    _, post = served(threshold=threshold)
    found = post().json()["x_think"]
    assert (found["mode"], found["reason"], found["threshold"]) == (mode, "threshold", threshold)
    assert found["no_think_probability"] == pytest.approx(0.25)
    requested = post(model="tiny:think").json()["x_think"]
    assert (requested["mode"], requested["reason"]) == ("think", "request")
    assert (requested["no_think_probability"], requested["threshold"]) == (None, None)


@pytest.mark.parametrize(
    ("sent", "content", "reasoning"),
    [
        ({}, "5+5\n\n4;3", "Alright\n9"),
        ({"stop": "\n\n"}, "5+5", "Alright\n9"),
        ({"stop": ["9", ";"]}, "5+5\n\n4", "Alright\n9"),
        ({"reasoning_format": "inline"}, "<think>\nAlright\n9\n</think>5+5\n\n4;3", None),
        ({"reasoning_format": "inline", "model": "tiny:no_think"}, "<think>\n</think>5+5\n\n4;3", None),
        ({"reasoning_format": "inline", "stop": "+"}, "<think>\nAlright\n9\n</think>5", None),
        ({"max_tokens": 3}, None, "Alright\n9"),
        ({"max_tokens": 100, "max_completion_tokens": 6}, "5", "Alright\n9"),
    ],
)
def test_what_comes_back(served, sent, content, reasoning):
    _, post = served()
    [choice] = post(**sent).json()["choices"]
    assert choice["message"]["content"] == content
    assert choice["message"].get("reasoning_content") == reasoning
    cut = any(name.startswith("max") for name in sent)
    assert choice["finish_reason"] == ("length" if cut else "stop")


def test_the_format_of_the_server_holds_where_a_request_says_nothing(served):
    _, post = served(reasoning_format="inline")
    assert post().json()["choices"][0]["message"]["content"].startswith("<think>\nAlright")
    assert post(reasoning_format="separate").json()["choices"][0]["message"]["content"] == "5+5\n\n4;3"


@here_alone
def test_sampling_is_passed_on_and_defaults_are_the_servers(served, tokenizer):
    calls = []
    engine = scripted(tokenizer)
    generate = engine.generate
    engine.generate = lambda requests, **options: calls.append(options) or generate(requests, **options)
    _, post = served(engine, temperature=0.7, top_p=0.8)
    post()
    post(temperature=1.3, top_p=0.5, n=2, max_tokens=5)
    assert [(call["temperature"], call["top_p"]) for call in calls] == [(0.7, 0.8), (1.3, 0.5)]
    assert [request.max_tokens for request in engine.requests] == [128, 5, 5]
    assert len({request.stream for request in engine.requests}) == 3  # without a seed, nothing repeats


def test_a_conversation_loses_its_earlier_thoughts(served, tokenizer):
    engine, post = served()
    answer = post().json()["choices"][0]["message"]
    inline = post(reasoning_format="inline").json()["choices"][0]["message"]
    for earlier in (answer, inline):
        post(messages=[*MESSAGES, earlier, {"role": "user", "content": [{"type": "text", "text": "1+1=?"}]}])
        rendered = tokenizer.decode(engine.requests[-1].prompt_ids)
        assert rendered == (
            f"<|bos|><|user|>{QUESTION}<|assistant|>5+5\n\n4;3<|eos|><|user|>1+1=?<|assistant|><think>\n"
        )


@pytest.mark.parametrize(
    ("sent", "param", "message"),
    [
        ({"top_k": 5}, "top_k", "would change the answer; leave it out"),
        ({"logit_bias": {"5": -100}}, "logit_bias", "would change the answer"),
        ({"tools": [{"type": "function"}]}, "tools", "would change the answer"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "would change the answer"),
        ({"temperatur": 0.5}, "temperatur", "would change the answer"),
        ({"logprobs": True}, "logprobs", "would change the answer"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        (
            {"reasoning_effort": "low"},
            "reasoning_effort",
            "effort 'low' is not certified for the model 'tiny'; available: none, max",
        ),
        ({"chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs.tools", "would change the answer"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "assistant", "content": "So"}]}, "messages", "must be the user's"),
        ({"messages": [{"role": "tool", "content": "So"}]}, "messages.0.role", "'system'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
            "should be 'text'",
        ),
        ({"model": "tiny:think", "reasoning_effort": "none"}, "reasoning_effort", "request one of them"),
        ({"prompt": "1+1"}, "prompt", "would change the answer"),
        ({"messages": None}, "messages", "is missing"),
    ],
)
def test_what_would_change_the_answer_is_refused(served, sent, param, message):
    engine, post = served()
    answer = post(**sent)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]
    assert engine.requests == []


def test_what_changes_nothing_is_ignored(served):
    _, post = served()
    harmless = {"user": "me", "store": False, "metadata": {"run": "1"}, "service_tier": "auto"}
    neutral = {
        "frequency_penalty": 0.0,
        "top_k": -1,
        "logit_bias": {},
        "tools": [],
        "response_format": {"type": "text"},
    }
    assert post(**harmless, **neutral, logprobs=False, functions=None).status_code == 200


def test_bodies_that_are_no_calls(url):
    for body in (b"", b"{", b"[]", b"\xff"):
        answer = httpx.post(f"{url}/v1/chat/completions", content=body, timeout=WAIT_SECONDS)
        assert answer.status_code == 400
        assert "JSON" in answer.json()["error"]["message"]
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405)):
        answer = httpx.request(method, url + path, timeout=WAIT_SECONDS)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


def test_the_models_context_bounds_prompt_and_response(served, tokenizer):
    size = len(encode_prompt(tokenizer, probe(tokenizer), QUESTION))
    engine, post = served(context=size + 5)
    assert post().status_code == 200
    assert engine.requests[0].max_tokens == 5
    answer = post(messages=[{"role": "user", "content": QUESTION * 2}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_what_waits_is_answered_as_one_batch(served, tokenizer):
    """The first batch is held until three more calls wait; they must then come together."""
    engine = scripted(tokenizer)
    generate, sizes = engine.generate, []
    entered, go_on = threading.Event(), threading.Event()

    def held(requests, **options):
        sizes.append(len(requests))
        entered.set()
        assert go_on.wait(WAIT_SECONDS)
        return generate(requests, **options)

    engine.generate = held
    template = probe(tokenizer)
    worker = Worker(engine)
    app = make_app(Served("tiny", tokenizer, template, None, None), worker, ServeConfig())
    with running(app) as url:
        body = {"model": "tiny", "messages": MESSAGES}
        answers = []

        def post():
            answers.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=WAIT_SECONDS).status_code)

        calls = [threading.Thread(target=post) for _ in range(4)]
        calls[0].start()
        assert entered.wait(WAIT_SECONDS)
        for call in calls[1:]:
            call.start()
        wait_until(lambda: worker.inbox.qsize() == 3)
        go_on.set()
        for call in calls:
            call.join()
    assert sizes == [1, 3]
    assert answers == [200] * 4


@here_alone
def test_a_model_whose_logits_are_not_finite_is_a_server_error_that_says_so(served, tokenizer, caplog):
    engine = scripted(tokenizer)

    def failing(requests, **options):
        check_finite([float("nan")])

    engine.generate = failing
    _, post = served(engine)
    answer = post()
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert answer.json()["error"]["message"].startswith("the model's logits are not finite (NaN)")
    assert "the model's logits are not finite" in caplog.text


@here_alone
def test_a_fault_is_answered_and_the_next_call_works(served, tokenizer):
    engine = scripted(tokenizer)
    generate, faults = engine.generate, [RuntimeError("out of memory"), UserError("the engine cannot; do otherwise")]

    def failing(requests, **options):
        if faults:
            raise faults.pop(0)
        return generate(requests, **options)

    engine.generate = failing
    _, post = served(engine)
    first, second, third = post(), post(), post()
    assert (first.status_code, first.json()["error"]["type"]) == (500, "server_error")
    assert "out of memory" not in first.text
    assert (second.status_code, second.json()["error"]["message"]) == (400, "the engine cannot; do otherwise")
    assert third.status_code == 200


def test_the_same_tokens_mean_the_same_in_training_evaluation_and_serving(served, tokenizer, tmp_path):
    """A marker in ordinary tokens was once correct in training, unclosed in evaluation and answered in serving."""
    spelled = [tokenizer.encode(sign, add_special_tokens=False) for sign in "9</think>\\boxed{52}"]
    ids = [token for piece in spelled for token in piece] + [tokenizer.eos_token_id]
    engine, post = served(ScriptedEngine(lambda *_: ids))
    message = post().json()["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == (None, "9</think>\\boxed{52}")
    problem = make_problem(QUESTION, "52")
    sampler = Sampler(engine, tokenizer, probe(tokenizer))
    [[rollout]] = sample_rollouts(sampler, [problem], [None], Sampling(MaxTokens(64, 64), 1.0))
    assert (rollout.verdict, rollout.response.answer) == (Verdict.UNCLOSED, None)
    config = EvaluateConfig(max_think_tokens=64, max_no_think_tokens=64)
    samples = []
    make_policy_responder(sampler, config)([Query(problem, "auto", 0)], samples.append)
    assert (samples[0].thinking, samples[0].answer) == ("9</think>\\boxed{52}", None)


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(api, "load_configured", lambda *_, **__: pytest.fail("too early"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {port}: address already in use; give"):
            api.serve("tiny", port=port)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"serving needs uvicorn; install it with: pip install '\.\[serve\]'"):
        api.serve("tiny", port=0)


# What clients send beside what they mean.


@pytest.mark.parametrize(
    "more",
    [
        {"logprobs": False, "top_logprobs": None},
        {"tools": [], "tool_choice": "auto", "functions": [], "parallel_tool_calls": True},
        {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": True, "use_beam_search": False},
        {"cache_prompt": True, "typical_p": 1, "mirostat": 0, "provider": {"sort": "price"}, "usage": {}},
        {"include_reasoning": True, "reasoning": {"exclude": False}, "verbosity": "medium"},
    ],
)
def test_what_changes_nothing_is_accepted(served, more):
    _, post = served()
    assert post(**more).json()["choices"][0]["message"] == post().json()["choices"][0]["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"logprobs": True},
        {"top_logprobs": 3},
        {"tools": [{"type": "function"}]},
        {"skip_special_tokens": False},
        {"stop_token_ids": [3]},
        {"typical_p": 0.9},
        {"transforms": ["middle-out"]},
        {"verbosity": "low"},
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(served, more):
    _, post = served()
    refused = post(**more)
    [name] = more
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
    assert "would change the answer" in refused.json()["error"]["message"]


@pytest.mark.parametrize("more", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
@pytest.mark.parametrize("reasoning_format", ["separate", "inline"])
def test_thinking_can_be_left_out_of_the_answer(served, more, reasoning_format):
    _, post = served(reasoning_format=reasoning_format)
    whole = post(model="tiny:think", **more)
    message = whole.json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "5+5\n\n4;3", "reasoning": None, "reasoning_content": None}
    assert whole.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    streamed = post(model="tiny:think", stream=True, **more).text
    assert "Alright" not in streamed
    assert "reasoning" not in streamed.replace("reasoning_tokens", "")
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == "5+5\n\n4;3"


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"include_reasoning": True, "reasoning": {"exclude": True}}, ["reasoning.exclude", "include_reasoning"]),
        ({"include_reasoning": False, "reasoning": {"exclude": False}}, ["reasoning.exclude", "include_reasoning"]),
        ({"include_reasoning": False, "reasoning_format": "inline"}, ["include_reasoning", "reasoning_format"]),
        ({"reasoning": {"exclude": True}, "reasoning_format": "inline"}, ["reasoning.exclude", "reasoning_format"]),
    ],
)
def test_parameters_that_contradict_each_other_on_whether_thinking_is_sent_are_refused(served, more, names):
    _, post = served()
    refused = post(**more)
    assert refused.status_code == 400
    assert all(name in refused.json()["error"]["message"] for name in names)


def test_earlier_answers_are_taken_as_clients_keep_them(served, tokenizer):
    """Fields of litellm's and OpenAI's own messages; none of them gets into the prompt."""
    engine, post = served()
    kept = {
        "role": "assistant", "content": "52", "refusal": None, "tool_calls": None, "function_call": None, "audio": None,
        "reasoning_content": "secret", "thinking_blocks": [{"type": "thinking", "thinking": "secret"}],
        "reasoning_items": [], "annotations": [], "images": [], "provider_specific_fields": {"reasoning": "secret"},
    }  # fmt: skip
    turns = [{**MESSAGES[0], "name": "secret"}, kept, *MESSAGES]
    plain = [MESSAGES[0], {"role": "assistant", "content": "52"}, *MESSAGES]
    for messages in (turns, [turns[0], {**kept, "tool_calls": []}, *MESSAGES], plain):
        assert post(messages=messages).status_code == 200
    assert len({request.prompt_ids for request in engine.requests}) == 1
    assert "secret" not in tokenizer.decode(engine.requests[0].prompt_ids)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    refused = post(messages=[MESSAGES[0], {**kept, "tool_calls": [call]}, *MESSAGES])
    assert refused.status_code == 400
    assert "tool_calls" in refused.json()["error"]["message"]


def test_the_page_names_all_that_is_accepted_without_an_effect():
    page = (Path(__file__).parents[1] / "docs/how-to/serving.md").read_text(encoding="utf-8")
    assert [name for name in (*NEUTRAL, *HARMLESS) if f"`{name}`" not in page and f"`{name} " not in page] == []


def test_no_line_of_a_stream_is_split_by_its_text(tokenizer):
    """U+0085, U+2028 and others are line breaks for str.splitlines, and so for clients in Python; not for streams."""
    text = "a\x85b\u2028c\u2029d\x0be\x1cf\r\ng…é\U0001f642"
    line = write_json({"text": text, "x": [1]})
    assert line.splitlines() == [line]
    assert json.loads(line) == {"text": text, "x": [1]}
    assert "é\U0001f642" in line  # other text stays as short as it is
