"""The gateway in front of running servers: every dialect, what remains where one lacks something, faults, manners."""

import json
import logging
import socket
import threading
from types import SimpleNamespace

import httpx2 as httpx
import pytest
from server import running
from upstream_server import CONTEXT, FakeUpstream
from waiting import WAIT_SECONDS, wait_until

from adaptthink import api
from adaptthink.config.resolve import check, resolve
from adaptthink.config.schema import EngineConfig, ServeConfig
from adaptthink.dial import online as dial_online
from adaptthink.engines.base import Finish
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.models.loading import load_policy, load_tokenization
from adaptthink.modes import Mode, encode_prompt
from adaptthink.serving import upstream as upstream_module
from adaptthink.serving.app import make_app
from adaptthink.serving.feedback import open_dial
from adaptthink.serving.pieces import PieceReader
from adaptthink.serving.prepare import Served
from adaptthink.serving.speakers import Completions, Ollama, Piece, UpstreamError, read_line
from adaptthink.serving.upstream import Upstream, make_refusal
from adaptthink.serving.worker import Worker

QUESTION = "47+8-3=?"
MESSAGES = [{"role": "user", "content": QUESTION}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RAW = ("vllm", "sglang", "llama.cpp", "ollama")


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture(scope="module")
def text():
    return load_tokenization(EngineConfig(model="tiny"))


@pytest.fixture(scope="module")
def engine(policy):
    return NativeEngine(policy.model, policy.eos_ids)


class Gateway:
    """A gateway in front of a fake upstream, both running."""

    def __init__(
        self, stack, policy, text, engine, *, threshold=None, online=None, key=None, config=None, app=None, **options
    ):
        self.said = []
        fake = NativeEngine(policy.model, policy.eos_ids), policy.tokenizer
        self.fake = app or FakeUpstream(*fake, key=key, **options)
        url = stack(running(self.fake.app))
        self.upstream = Upstream(url, text, "tiny", key=key, on_message=self.said.append)
        self.upstream.meet()
        served = Served("tiny", policy.tokenizer, policy.template, 1024, threshold, online=online)
        settings = ServeConfig(max_think_tokens=400, max_no_think_tokens=400, **(config or {}))
        self.app = make_app(served, self.upstream, settings)
        self.url = stack(running(self.app))

    def get(self, path):
        return httpx.get(self.url + path, timeout=WAIT_SECONDS)

    def post(self, path=CHAT, **body):
        sent = {"model": "tiny", "temperature": 0} | ({"messages": MESSAGES} if path == CHAT else {}) | body
        return httpx.post(self.url + path, json=sent, timeout=WAIT_SECONDS)

    def stream(self, **body):
        sent = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "stream": True} | body
        return httpx.stream("POST", self.url + CHAT, json=sent, timeout=WAIT_SECONDS)

    @property
    def calls(self):
        """Calls after those of the inspection."""
        return [call for _, call in self.fake.calls if call.get("seed") or call.get("options", {}).get("seed")]


@pytest.fixture
def gateway(policy, text, engine):
    contexts = []

    def enter(context):
        value = context.__enter__()
        contexts.append(context)
        return value

    yield lambda **options: Gateway(enter, policy, text, engine, **options)
    for context in reversed(contexts):
        context.__exit__(None, None, None)


@pytest.fixture
def native(policy):
    """The same model, served without a gateway."""
    settings = ServeConfig(max_think_tokens=400, max_no_think_tokens=400)
    served = Served("tiny", policy.tokenizer, policy.template, 1024, None)
    app = make_app(served, Worker(NativeEngine(policy.model, policy.eos_ids)), settings)
    with running(app) as url:
        yield lambda **body: httpx.post(
            url + CHAT, json={"model": "tiny", "messages": MESSAGES, "temperature": 0} | body, timeout=WAIT_SECONDS
        ).json()


def without_names(answer):
    return {key: value for key, value in answer.items() if key not in ("id", "created")}


# Every dialect says what the native server says.


@pytest.mark.parametrize("dialect", RAW)
def test_a_gateway_says_what_the_model_says(gateway, native, dialect):
    one = gateway(dialect=dialect)
    for model in ("tiny", "tiny:think", "tiny:no_think"):
        for extra in ({}, {"max_tokens": 9}, {"stop": "boxed"}, {"max_tokens": 1}, {"n": 2}):
            here, there = native(model=model, **extra), one.post(model=model, **extra).json()
            assert without_names(there) == without_names(here), (model, extra)


@pytest.mark.parametrize("dialect", RAW)
def test_a_stop_text_is_named(gateway, dialect):
    """In Anthropic's dialect."""
    one = gateway(dialect=dialect)
    for stops, stop, text in ([], None, "\\boxed{52}"), (["7", "52"], "52", "\\boxed{"):
        body = {"messages": MESSAGES, "max_tokens": 100, "stop_sequences": stops}
        answer = one.post("/v1/messages", model="tiny:no_think", **body).json()
        assert answer["stop_sequence"] == stop
        assert answer["stop_reason"] == ("stop_sequence" if stop else "end_turn")
        assert answer["content"] == [{"type": "text", "text": text}]
    counted = one.post("/v1/messages/count_tokens", messages=MESSAGES, temperature=None).json()
    assert counted["input_tokens"] == answer["usage"]["input_tokens"]


@pytest.mark.parametrize("dialect", RAW)
def test_the_threshold_decides_by_the_probability_that_the_upstream_gives(gateway, policy, engine, dialect):
    prompt = encode_prompt(policy.tokenizer, policy.template, QUESTION)
    [[logprob]] = engine.next_token_logprobs([prompt], (policy.template.no_think_id,))
    expected = 2.718281828459045**logprob
    for factor, mode in ((0.9, "no_think"), (1.1, "think")):
        one = gateway(dialect=dialect, threshold=expected * factor)
        answer = one.post().json()
        assert answer["choices"][0]["mode"] == mode
        decision = answer["x_think"]
        assert decision["mode"] == mode
        assert decision["no_think_probability"] == pytest.approx(expected, rel=1e-4)
        assert answer["choices"][0]["message"]["content"] == "\\boxed{52}"


@pytest.mark.parametrize("dialect", RAW)
def test_a_stream_passes_through_in_pieces(gateway, dialect):
    one = gateway(dialect=dialect)
    whole = one.post(model="tiny:think").json()
    with one.stream(model="tiny:think", stream_options={"include_usage": True}) as answer:
        chunks = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    thinking = [delta["reasoning"] for delta in deltas if "reasoning" in delta]
    content = [delta["content"] for delta in deltas if delta.get("content")]
    assert "".join(thinking) == whole["choices"][0]["message"]["reasoning"]
    assert "".join(content) == "\\boxed{52}"
    assert len(thinking) > 5
    assert len(content) > 3
    assert chunks[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("dialect", RAW)
def test_a_budget_closes_a_thought_by_a_second_call(gateway, dialect):
    """The embedded model's thought has 15 tokens; what follows the budget is behind what there was of it."""
    one = gateway(dialect=dialect)
    whole = one.post(model="tiny:think").json()
    cut = one.post(model="tiny:think", x_think={"thinking_budget": 6}).json()
    message, usage = cut["choices"][0]["message"], cut["usage"]
    assert message["reasoning"] == "Alright\n47+8"
    assert whole["choices"][0]["message"]["reasoning"].startswith(message["reasoning"])
    assert (cut["x_think"]["thinking_budget"], cut["choices"][0]["finish_reason"]) == (6, "stop")
    assert message["content"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 6
    first, second = one.calls[-2:]
    if dialect == "vllm":
        assert (first["max_tokens"], second["prompt"][: len(first["prompt"])]) == (5, first["prompt"])
        assert len(second["prompt"]) == len(first["prompt"]) + 6
    loose = one.post(model="tiny:think", x_think={"thinking_budget": 300}).json()
    assert (loose["choices"], loose["usage"]) == (whole["choices"], whole["usage"])
    direct = one.post(model="tiny", x_think={"thinking_budget": 8}, n=2, temperature=1).json()
    assert all(choice["message"]["content"] for choice in direct["choices"])


@pytest.mark.parametrize("dialect", ["vllm", "ollama"])
def test_a_doubtful_answer_is_followed_by_a_thought(gateway, dialect, monkeypatch):
    one = gateway(dialect=dialect, threshold=0.0)
    sure = one.post(x_think={"second_look": True}).json()
    assert (sure["choices"][0]["mode"], sure["x_think"]["second_looks"]) == ("no_think", 0)
    monkeypatch.setattr(upstream_module, "is_doubtful", lambda answer, *, finished: answer == "\\boxed{52}")
    doubtful = one.post(x_think={"second_look": True}).json()
    assert (doubtful["choices"][0]["mode"], doubtful["x_think"]["second_looks"]) == ("think", 1)
    assert doubtful["choices"][0]["message"]["reasoning"].startswith("Alright")
    thought = one.post(model="tiny:think").json()["usage"]["completion_tokens"]
    assert doubtful["usage"]["completion_tokens"] == thought + sure["usage"]["completion_tokens"]


def test_texts_are_continued_as_they_are(gateway, policy):
    one = gateway()
    rendered = policy.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    no_think = one.post(TEXT, model="tiny:no_think", prompt=rendered).json()["choices"][0]
    assert (no_think["text"], no_think["finish_reason"]) == ("\\boxed{52}", "stop")
    begun = one.post(TEXT, prompt=rendered + "Alright\n47", stop="55").json()["choices"][0]
    assert (begun["text"], begun["finish_reason"]) == ("+8=", "stop")


def test_sampling_and_seed_are_passed_on(gateway):
    one = gateway()
    first = one.post(model="tiny:think", temperature=3, top_p=0.9, seed=7, n=2, max_tokens=50).json()
    again = one.post(model="tiny:think", temperature=3, top_p=0.9, seed=7, n=2, max_tokens=50).json()
    assert first["choices"] == again["choices"]
    assert first["choices"][0]["message"] != first["choices"][1]["message"]
    for call in one.calls:
        assert (call["temperature"], call["top_p"], call["max_tokens"]) == (3, 0.9, 49)  # one token is forced
    assert len({call["seed"] for call in one.calls}) == 2


def test_the_smaller_context_holds(gateway):
    one = gateway()
    answer = one.post(messages=[{"role": "user", "content": "1" * (CONTEXT - 20)}], max_tokens=100).json()
    assert answer["usage"]["completion_tokens"] <= 20
    answer = one.post(messages=[{"role": "user", "content": "1" * (CONTEXT + 1)}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


# What remains where an upstream lacks something.


def test_without_log_probabilities_modes_remain(gateway, text):
    one = gateway(scores=False, threshold=0.5)
    assert "without log-probabilities" in one.said[0]
    auto = one.post().json()
    assert auto["x_think"]["threshold"] is None
    assert one.post(model="tiny:no_think").json()["choices"][0]["message"]["content"] == "\\boxed{52}"
    refused = one.post(x_think={"threshold": 0.5})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_by_upstream")
    assert "returns no log-probabilities" in refused.json()["error"]["message"]


def test_an_own_threshold_without_log_probabilities_is_refused(policy, monkeypatch):
    fake = FakeUpstream(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, scores=False)
    monkeypatch.setattr(api, "serve_forever", lambda *_: pytest.fail("it must not serve"))
    with running(fake.app) as url, pytest.raises(UserError, match=r"threshold = 0.5 needs log-probabilities"):
        api.serve("tiny", port=0, upstream=url, threshold=0.5)


def test_an_online_dial_decides_and_takes_feedback(gateway, tmp_path, monkeypatch):
    with open_dial(tmp_path / "online.json", 0.2, "upstream tiny") as online:
        one = gateway(online=online)
        for drawn, mode in ((0.0, "no_think"), (0.999, "think")):
            monkeypatch.setattr(dial_online, "draw", lambda seed, number, drawn=drawn: drawn)
            monkeypatch.setattr(dial_online, "find_bin", lambda *_: 0)  # the embedded model nearly always thinks
            answer = one.post().json()
            assert (answer["x_think"]["mode"], answer["choices"][0]["mode"]) == (mode, mode)
            assert answer["x_think"]["reason"] == ("exploration" if mode == "no_think" else "online")
            sent = {"id": answer["id"], "correct": True}
            assert httpx.post(f"{one.url}/v1/feedback", json=sent, timeout=WAIT_SECONDS).status_code == 200
        assert online.report().with_feedback == 2


def test_an_online_dial_without_log_probabilities_is_refused(policy, monkeypatch):
    fake = FakeUpstream(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, scores=False)
    monkeypatch.setattr(api, "serve_forever", lambda *_: pytest.fail("it must not serve"))
    with running(fake.app) as url, pytest.raises(UserError, match="an online dial needs log-probabilities"):
        api.serve("tiny", port=0, upstream=url, online_state="online.json")


@pytest.mark.parametrize("scores", [True, False])
def test_the_dial_beside_the_model_is_used_where_it_can_be(policy, monkeypatch, scores):
    fake = FakeUpstream(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, scores=scores)
    setting = SimpleNamespace(max_think_tokens=99, max_no_think_tokens=9, temperature=1.0, top_p=0.5)
    dial = SimpleNamespace(setting=setting, threshold=SimpleNamespace(no_think_probability=0.3))
    monkeypatch.setattr(api, "read_upstream_dial", lambda text: dial)
    served, said = [], SimpleNamespace(lines=[])
    monkeypatch.setattr(api, "serve_forever", lambda *args: served.append(args))
    monkeypatch.setattr(api.Callbacks, "on_message", lambda self, line: said.lines.append(line))
    with running(fake.app) as url:
        api.serve("tiny", port=0, upstream=url)
    _, _, threshold, used, config, *_ = served[0]
    if scores:
        assert (threshold, used, config.max_think_tokens, config.temperature) == (0.3, dial, 99, 1.0)
        assert said.lines[-1].endswith("cannot be checked from here")
    else:
        assert (threshold, used, config.max_think_tokens) == (None, None, ServeConfig().max_think_tokens)
        assert said.lines[-1] == "the model's dial is not used, as it needs log-probabilities"


def test_a_server_of_conversations_alone_is_auto_alone(gateway):
    """The embedded model's template has no switch, so the two modes cannot be requested there."""
    one = gateway(dialect="chat")
    assert "only as the server chooses" in one.said[0]
    assert [model["id"] for model in one.get("/v1/models").json()["data"]] == ["tiny"]
    assert one.post().json()["choices"][0]["message"]["content"].endswith("\\boxed{52}")
    refused = one.post(model="tiny:think")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_by_upstream")
    assert one.post(TEXT, prompt="47+8=").status_code == 400


def test_our_own_server_can_be_an_upstream(gateway, policy, native):
    class Own:
        app = make_app(
            Served("tiny", policy.tokenizer, policy.template, 1024, None),
            Worker(NativeEngine(policy.model, policy.eos_ids)),
            ServeConfig(),
        )

    one = gateway(app=Own())
    assert "prompts as text, without log-probabilities" in one.said[0]
    for model in ("tiny:think", "tiny:no_think"):
        assert one.post(model=model).json()["choices"] == native(model=model)["choices"]


def test_of_several_models_the_named_one_is_taken(gateway):
    one = gateway(names=("other", "tiny"))
    assert one.post().status_code == 200
    assert one.calls[-1]["model"] == "tiny"
    with pytest.raises(UserError, match="no model 'tiny' but other, third; give --name with one of them"):
        gateway(names=("other", "third"))


def test_a_key_is_passed_on_and_a_wrong_one_is_said(gateway, text):
    one = gateway(key="secret")
    assert one.post().status_code == 200
    with pytest.raises(UserError, match=r"refuses the key \(401\); give its own"):
        Upstream(one.upstream.url, text, "tiny", key="wrong").meet()
    assert "secret" not in repr(ServeConfig(upstream="http://a", upstream_key="secret"))


# Faults.


def test_an_upstream_that_is_down_is_said_and_comes_back(gateway, policy, text, monkeypatch, caplog):
    monkeypatch.setattr(upstream_module, "RETURN_SECONDS", 0.05)
    monkeypatch.setattr(upstream_module, "CHECK_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = []
    upstream = Upstream(f"http://127.0.0.1:{port}", text, "tiny", on_message=said.append)
    upstream.meet()
    assert "no answer" in said[0]
    app = make_app(Served("tiny", policy.tokenizer, policy.template, 1024, None), upstream, ServeConfig())

    def post():
        return httpx.post(
            url + CHAT, json={"model": "tiny", "messages": MESSAGES, "max_tokens": 3}, timeout=WAIT_SECONDS
        )

    def health():
        answer = httpx.get(f"{url}/health", timeout=WAIT_SECONDS)
        return answer.status_code, answer.json()["status"]

    with running(app) as url:
        for _ in range(2):  # before it was there, and after it has gone
            assert health() == (503, "upstream down")
            answer = post()
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"]["code"] == "upstream_down"
            assert str(port) not in answer.text
            fake = FakeUpstream(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer)
            with running(fake.app, port=port):
                wait_until(lambda: health() == (200, "ok"))
                assert post().status_code == 200
            wait_until(lambda: health() == (503, "upstream down"))
    assert said[1].startswith("upstream http://127.0.0.1")
    assert len(said) == 2  # the same abilities are said once


@pytest.mark.parametrize(
    ("fault", "status", "headers", "message"),
    [
        ((429, {"Retry-After": "7"}, "{}"), 429, {"retry-after": "7"}, "too many requests"),
        ((503, {"Retry-After": "2.5"}, "loading"), 503, {"retry-after": "3"}, "is busy"),
        ((500, {}, '{"error": {"message": "at 10.0.0.7"}}'), 502, {}, r"failed (500); the log says how"),
        ((401, {}, "no"), 502, {}, "failed (401)"),
        ((400, {}, '{"error": {"message": "too long"}}'), 400, {}, "refuses the call: too long"),
        ((400, {}, '{"message": "too long"}'), 400, {}, "refuses the call: too long"),
        ((200, {}, "<html>"), 502, {}, "failed; the log says how"),
        ((200, {}, '{"error": "at 10.0.0.7"}'), 502, {}, "failed; the log says how"),
    ],
)
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_what_an_upstream_refuses(gateway, fault, status, headers, message, threshold):
    """Both in the call for the decision and in the one for the answer."""
    one = gateway(threshold=threshold)
    one.fake.faults.append(fault)
    answer = one.post()
    if (threshold, fault[0], fault[2]) == (None, 200, "<html>"):
        assert answer.status_code == 502
        return
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text
    assert answer.headers.items() >= headers.items()
    assert "10.0.0.7" not in answer.text
    assert one.post().status_code == 200


@pytest.mark.parametrize("fault", ["drop", "error"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_that_breaks_off_is_said(gateway, fault, stream):
    one = gateway()
    one.fake.faults.append(fault)
    answer = one.post(model="tiny:think", stream=stream)
    if stream:
        events = [line for line in answer.text.split("\n\n") if line]
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert answer.status_code == 200
        assert "[DONE]" not in answer.text
    else:
        error = answer.json()["error"]
        assert answer.status_code == 502
    assert error["type"] == "server_error"
    assert "the server behind this one" in error["message"]
    assert "10.0.0.7" not in answer.text
    assert one.post(model="tiny:think").status_code == 200


def test_a_client_that_leaves_ends_the_call_upstream(gateway):
    one = gateway()
    worker, go_on, steps = one.fake.worker, threading.Event(), []
    step = worker.runner.forward.step

    def held(*args):
        steps.append(1)
        if len(steps) >= 5:
            assert go_on.wait(WAIT_SECONDS)
        return step(*args)

    worker.runner.forward.step = held
    with one.stream(model="tiny:think") as answer:
        lines = answer.iter_lines()
        next(lines)
        wait_until(lambda: len(steps) == 5)
    wait_until(lambda: one.fake.abandoned == 1)
    go_on.set()
    wait_until(lambda: worker.runner.idle)
    assert len(steps) == 5
    assert one.app.state.load.open == 0


def test_a_stop_text_ends_the_call_upstream(gateway):
    """The server behind is held before its last token, as it may else be done before the call is closed."""
    one = gateway()
    worker, go_on, steps, last = one.fake.worker, threading.Event(), [], []
    step = worker.runner.forward.step

    def held(*args):
        steps.append(1)
        if last and len(steps) >= last[0]:
            assert go_on.wait(WAIT_SECONDS)
        return step(*args)

    worker.runner.forward.step = held
    assert one.post(model="tiny:think", temperature=0).status_code == 200
    wait_until(lambda: worker.runner.idle)
    last.append(len(steps))
    steps.clear()
    answer = one.post(model="tiny:think", temperature=0, stop="b")
    assert answer.json()["choices"][0]["message"]["content"] == "\\"
    wait_until(lambda: one.fake.abandoned == 1)
    go_on.set()


def test_connections_are_kept(gateway):
    one = gateway(threshold=0.5)
    for _ in range(5):
        assert one.post().status_code == 200
    # One of the inspection, which has a client of its own; one for all else, as nothing runs at the same time.
    assert len(one.fake.connections) <= 3


def test_prompts_are_not_in_the_log(gateway, caplog):
    caplog.set_level(logging.DEBUG, "adaptthink")
    one = gateway()
    one.fake.faults.extend(["drop", (500, {}, "broken")])
    one.post()
    one.post()
    assert "broke off" in caplog.text
    assert QUESTION not in caplog.text


# Settings.


@pytest.mark.parametrize(
    ("key", "value"),
    [("engine", "vllm"), ("device", "cpu"), ("dtype", "float32"), ("threads", 2), ("force_think", "ban")],
)
def test_settings_of_an_engine_here_are_refused(key, value):
    with pytest.raises(UserError, match=rf"^{key} has no effect: the server at http://a generates; leave it out"):
        resolve("serve", ServeConfig, flags={"upstream": "http://a", key: value})


def test_a_key_without_an_upstream_is_refused():
    with pytest.raises(UserError, match="upstream_key has no effect: there is no upstream"):
        resolve("serve", ServeConfig, flags={"upstream_key": "secret"})


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("ADAPTTHINK_UPSTREAM_KEY", "secret")
    assert resolve("serve", ServeConfig, flags={"upstream": "http://a"}).upstream_key == "secret"


def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="'localhost:8000' is not a URL of http or https"):
        Upstream("localhost:8000", text, "tiny")


def test_no_weights_are_loaded(monkeypatch, policy):
    monkeypatch.setattr(api, "load_configured", lambda *_, **__: pytest.fail("weights"))
    served = []
    monkeypatch.setattr(api, "serve_forever", lambda text, *rest: served.append(text))
    fake = FakeUpstream(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer)
    with running(fake.app) as url:
        api.serve("tiny", port=0, upstream=url)
    [text] = served
    assert (text.eos_ids, text.template, text.context_tokens) == (policy.eos_ids, policy.template, 1024)
    assert check(ServeConfig, {"upstream": "http://a"}).upstream == "http://a"


# Pieces.


def make_reader(policy, stops=(), **options):
    return PieceReader(0, policy.tokenizer, policy.template, stops, policy.eos_ids, plain=False, **options)


def read_all(reader, *pieces):
    *deltas, ended = [event for piece in pieces for event in reader.take(piece)] + reader.close()
    return [(delta.part.value, delta.text) for delta in deltas], ended.response


def test_a_close_marker_in_pieces_splits_a_text(policy):
    deltas, response = read_all(
        make_reader(policy),
        *(Piece(part) for part in ("Al", "right\n</th", "ink", ">", "4", "2")),
        Piece("", None, finish=Finish.STOP, tokens=9),
    )
    assert deltas == [("thinking", "Al"), ("thinking", "right"), ("answer", "4"), ("answer", "2")]
    assert (response.thinking, response.answer, response.mode) == ("Alright", "42", Mode.THINK)
    assert (response.tokens, response.thinking_tokens) == (9, 3)


def test_a_text_that_begins_with_the_close_marker_did_not_think(policy):
    _, response = read_all(make_reader(policy), Piece("</thi"), Piece("nk>42"), Piece("", finish=Finish.LENGTH))
    assert (response.thinking, response.answer, response.mode) == (None, "42", Mode.NO_THINK)


def test_what_never_closes_has_no_answer(policy):
    _, response = read_all(make_reader(policy), Piece("Alright</th"), Piece("", finish=Finish.LENGTH))
    assert (response.thinking, response.answer) == ("Alright</th", None)


def test_a_stream_without_an_end_is_a_fault(policy):
    reader = make_reader(policy)
    reader.take(Piece("Alright"))
    with pytest.raises(UpstreamError, match="within a response"):
        reader.close()


def test_an_end_token_of_the_servers_own_is_text_or_not(policy):
    """An end token of ours is no text; another one's last token is."""
    ids = tuple(policy.tokenizer.encode("</think>42", add_special_tokens=False))
    for extra in ((), policy.eos_ids[:1]):
        deltas, response = read_all(make_reader(policy), Piece("", ids + extra, finish=Finish.STOP))
        assert deltas == [("answer", "4"), ("answer", "2")]
        assert response.tokens == len(ids + extra)


# Forms of answers, as the servers write them.


@pytest.mark.parametrize(
    ("speaker", "answer", "logprob"),
    [
        (Completions("m", ()), {"choices": [{"logprobs": {"top_logprobs": [{"token_id:5": -1.5}]}}]}, -1.5),
        (Completions("m", ()), {"choices": [{"logprobs": {"top_logprobs": [{"</think>": -2.5, "a": -1}]}}]}, -2.5),
        (Completions("m", ()), {"choices": [{"logprobs": {"top_logprobs": [{"a": -1}]}}]}, float("-inf")),
        (
            Completions("m", ()),
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"id": 5, "token": "", "logprob": -3.0}]}]}}]},
            -3.0,
        ),
        (Completions("m", ()), {"choices": [{"logprobs": None}]}, None),
        (Ollama("m"), {"logprobs": [{"top_logprobs": [{"token": "</think>", "logprob": -4.0}]}]}, -4.0),
        (Ollama("m"), {"response": "a"}, None),
    ],
)
def test_where_log_probabilities_stand(speaker, answer, logprob):
    assert speaker.read_score(answer, (5, "</think>")) == logprob


def test_lines_of_streams():
    assert read_line(b'data: {"a": 1}\r') == {"a": 1}
    assert read_line(b'{"a": 1}') == {"a": 1}
    for line in (b"", b": comment", b"event: x", b"data: [DONE]"):
        assert read_line(line) is None
    with pytest.raises(UpstreamError):
        read_line(b'error: {"message": "x"}')


def test_ends_that_are_faults():
    for reason in ("abort", "error"):
        with pytest.raises(UpstreamError):
            Completions("m", ()).read({"choices": [{"text": "", "finish_reason": reason}]})


def test_a_refusal_without_a_message(caplog):
    request = httpx.Request("POST", "http://10.0.0.7/v1")
    error = make_refusal(httpx.Response(400, request=request), b"<html>10.0.0.7")
    assert error.status == 502
    assert "10.0.0.7" not in str(error)


@pytest.mark.parametrize(("written", "stop"), [("42<|eos|>", None), ("42;", ";")])
def test_an_end_token_that_is_written_is_no_stop_text(policy, written, stop):
    reader = make_reader(policy, (";", "<|eos|>"))
    *_, ended = reader.take(Piece(f"9</think>{written}"))
    assert (ended.response.answer, ended.stop) == ("42", stop)
