"""The server engine against a small server in this program that speaks vLLM's format, and misbehaves on request."""

import asyncio
import math
import socket
import threading
from pathlib import Path

import httpx2 as httpx
import pytest
from completions_server import EOS, VOCABULARY, FakeServer, running
from tenacity import wait_none
from waiting import WAIT_SECONDS

from adaptthink.engines import http_retry as web
from adaptthink.engines import openai
from adaptthink.engines.base import Completion, Finish, Request, ScriptedEngine
from adaptthink.engines.openai import OpenAIEngine, check_server, connect
from adaptthink.errors import UserError

PROMPT = (5, 9, 17)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", wait_none())
    monkeypatch.delenv(openai.KEY_VARIABLE, raising=False)
    with running(FakeServer()) as server:
        yield server


@pytest.fixture
def engine(server):
    return OpenAIEngine(server.url, [EOS], model="tiny", capacity_tokens=64, max_concurrent_sequences=4)


def ask(engine, *requests, **extra):
    return engine.generate(requests or [Request(PROMPT, 3, 0)], temperature=extra.pop("temperature", 1.0), **extra)


def native():
    total = math.log(sum(math.exp(-i / 10) for i in range(VOCABULARY)))
    return ScriptedEngine(lambda *_: [], next_token=lambda prompt, token: -token / 10 - total)


def test_everything_that_shapes_the_distribution_is_said(engine, server):
    finished = []
    requested = [Request(PROMPT, 4, 3, (41,), (12,)), Request((*PROMPT, 8), 6, 4)]
    done = ask(engine, *requested, temperature=0.5, top_p=0.9, seed=1, on_finish=lambda *ended: finished.append(ended))
    assert done[0].token_ids == (41, 7, 7, 7)
    assert done[0].logprobs[0] - done[0].logprobs[1] == pytest.approx(-(41 - 7) / 10 / 0.5)
    assert (done[1].token_ids, done[1].finish) == ((EOS,), Finish.STOP)
    assert sorted(finished, key=lambda ended: ended[0]) == list(enumerate(done))
    bodies = sorted((body for _, body in server.calls), key=lambda body: (body["max_tokens"], "logit_bias" in body))
    score, first, rest, unconstrained = bodies
    assert (score["logprob_token_ids"], score["logprobs"], score["top_p"]) == ([41], 1, 1.0)
    assert (first["logit_bias"], first["prompt"]) == ({"12": -100}, [5, 9, 17, 41])
    assert (rest["prompt"], rest["max_tokens"], "logit_bias" in rest) == ([5, 9, 17, 41, 7], 2, False)
    assert len({body["seed"] for body in (first, rest, unconstrained)}) == 3
    for body in bodies:
        assert (body["model"], body["temperature"], body["stop_token_ids"]) == ("tiny", 0.5, [EOS])
        neutral = {name: body[name] for name in ("top_k", "min_p", "repetition_penalty", "presence_penalty")}
        assert neutral == {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0}


def test_no_more_calls_at_once_than_rows(engine, server):
    done = ask(engine, *(Request(PROMPT, 1, stream) for stream in range(40)))
    assert len(done) == 40
    assert server.max_together <= 4


@pytest.mark.parametrize("fault", [(429, {"Retry-After": "0"}), (429, {}), (500, {}), (503, {}), "drop"])
def test_what_passes_is_tried_again(engine, server, fault):
    server.faults += [fault] * (web.ATTEMPTS - 1)
    [done] = ask(engine)
    assert done == Completion((7, 7, 7), done.logprobs, Finish.LENGTH)
    assert len(server.keys) == web.ATTEMPTS


def test_a_servers_wish_to_wait_is_granted(engine, server, monkeypatch):
    waits = []
    choose_wait = openai.choose_wait
    monkeypatch.setattr(openai, "choose_wait", lambda state: waits.append(choose_wait(state)) or 0.0)
    server.faults += [(429, {"Retry-After": "7"}), (503, {"Retry-After": "99999"}), (429, {"Retry-After": "soon"})]
    ask(engine)
    assert waits == [7.0, web.LONGEST_WAIT, 0.0]


@pytest.mark.parametrize(
    ("fault", "messages"),
    [
        ((500, {}), "answered 500: .*as requested"),
        ("drop", r"no answer from .*/v1/completions \(RemoteProtocolError"),
    ],
)
def test_what_does_not_pass_is_said_once_all_attempts_are_made(engine, server, fault, messages):
    server.faults += [fault] * 50
    with pytest.raises(UserError, match=messages):
        ask(engine)
    assert len(server.keys) == web.ATTEMPTS


def test_a_refusal_is_not_tried_again(engine, server):
    server.faults.append((400, {}))
    with pytest.raises(UserError, match=r"answered 400: .*as requested"):
        ask(engine)
    assert len(server.keys) == 1


@pytest.mark.parametrize("body", ["{not json", "[]", '{"choices": []}'])
def test_an_answer_in_another_form_is_said(engine, server, body):
    server.faults.append(body)
    with pytest.raises(UserError, match="does not return token ids with log-probabilities"):
        ask(engine)


@pytest.mark.parametrize("field", ["token_ids", "logprobs"])
def test_a_server_without_token_ids_or_logprobs_is_said(engine, server, field):
    server.removed = (field,)
    with pytest.raises(UserError, match=rf"choices\.0\.{field} Field required.*--logprobs-mode processed_logprobs"):
        ask(engine)


def test_a_server_that_ignores_logprob_token_ids_is_said(engine, server, monkeypatch):
    complete = server.complete
    monkeypatch.setattr(server, "complete", lambda call: complete({**call, "logprob_token_ids": ()}))
    with pytest.raises(UserError, match="logprob_token_ids"):
        engine.next_token_logprobs([PROMPT], [11])


def test_nobody_at_the_endpoint_is_said(monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", wait_none())
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="is the server running there"):
            connect(f"http://127.0.0.1:{taken.getsockname()[1]}", [EOS], name="tiny", max_concurrent_sequences=1)


def test_a_response_may_take_longer_than_any_other_call(engine, server, monkeypatch):
    class Later(threading.Event):
        def wait(self, timeout=None):
            return super().wait(0.5)  # seconds after the call has come

    monkeypatch.setattr(openai, "TIMEOUT", httpx.Timeout(WAIT_SECONDS, read=0.1))
    server.faults.append(Later())
    [done] = ask(engine)
    assert done.token_ids == (7, 7, 7)
    assert len(server.calls) == 1  # and it was not sampled again
    never = threading.Event()
    server.faults.append(never)
    with pytest.raises(UserError, match=r"no answer from .*ReadTimeout"):
        connect(server.url, [EOS], name="tiny", max_concurrent_sequences=1)
    never.set()


def test_a_machine_that_is_gone_is_noticed(server):
    """Generation has no time-out, so the connection itself must show that nobody is there."""

    async def options():
        async with openai.make_client(server.url) as client, client.stream("GET", "/v1/models") as answer:
            there = answer.extensions["network_stream"].get_extra_info("socket")
            return [there.getsockopt(level, name) for level, name, _ in openai.KEEP_ALIVE]

    assert asyncio.run(options()) == [value for _, _, value in openai.KEEP_ALIVE]
    assert openai.KEEP_ALIVE[0] == (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def test_an_endpoint_that_is_no_url_is_said():
    for endpoint in ("localhost:8000", "ftp://host"):
        with pytest.raises(UserError, match="give one like http://localhost:8000"):
            connect(endpoint, [EOS], name="tiny", max_concurrent_sequences=1)


def test_the_servers_model_is_taken_and_the_key_is_sent(server, monkeypatch):
    monkeypatch.setenv(openai.KEY_VARIABLE, "secret")
    engine = connect(server.url + "/v1/", [EOS], name="other-name", max_concurrent_sequences=1)
    assert (engine.model, engine.capacity_tokens, engine.url) == ("tiny", 64, server.url)
    assert server.keys == ["Bearer secret"]
    server.models = [{"id": "a", "max_model_len": 8}, {"id": "b", "max_model_len": 9}]
    assert connect(server.url, [EOS], name="b", max_concurrent_sequences=1).capacity_tokens == 9
    with pytest.raises(UserError, match=r"no model 'tiny' but a, b; start it with --served-model-name tiny"):
        connect(server.url, [EOS], name="tiny", max_concurrent_sequences=1)


def test_the_check_passes_a_server_as_it_should_be(engine):
    check_server(engine, native(), PROMPT, (1, 40))


def test_raw_logprobs_are_measured_and_refused(engine, server):
    server.processed = False
    with pytest.raises(UserError, match=r"start it with: .*--logprobs-mode processed_logprobs"):
        check_server(engine, native(), PROMPT, (1, 40))


def test_another_model_is_measured_and_refused(engine):
    other = ScriptedEngine(lambda *_: [], next_token=lambda prompt, token: -1.0)
    with pytest.raises(UserError, match="another model than --model"):
        check_server(engine, other, PROMPT, (1, 40))


def test_weights_are_sent_and_the_cache_emptied(engine, server, random_model):
    engine.load_weights(random_model)
    assert [path for path, _ in server.calls] == ["/collective_rpc", "/reset_prefix_cache"]
    assert server.calls[0][1]["method"] == "load_fresh_weights"
    assert "model.safetensors" in server.files
    assert not Path(server.calls[0][1]["args"][0]).exists()
    server.resets = False
    with pytest.raises(UserError, match="prefix cache of the old weights"):
        engine.load_weights(random_model)


def test_a_server_that_takes_no_weights_says_what_to_start(engine, server, random_model):
    server.faults.append((404, {}))
    with pytest.raises(UserError, match=r"can evaluate but not train.*VLLM_SERVER_DEV_MODE=1 and --worker-extension"):
        engine.load_weights(random_model)
