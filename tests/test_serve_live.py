"""Manners of the server over real HTTP: streams, clients that leave, limits, keys, metrics, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import httpx2 as httpx
import pytest
import torch
from server import running
from waiting import WAIT_SECONDS, wait_until

from adaptthink import api
from adaptthink.cli import app as cli
from adaptthink.config.schema import ServeConfig
from adaptthink.dial.decide import adopt_setting
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.models.loading import TINY, load_policy
from adaptthink.modes import probe
from adaptthink.serving import app as app_module
from adaptthink.serving import lifetime
from adaptthink.serving import worker as worker_module
from adaptthink.serving.app import make_app
from adaptthink.serving.generation import Ended
from adaptthink.serving.metrics import Metrics
from adaptthink.serving.prepare import Served
from adaptthink.serving.server import listen
from adaptthink.serving.worker import Worker

MESSAGES = [{"role": "user", "content": "47+8-3=?"}]
LONG = [{"role": "user", "content": "1" * 900_000}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


class Live:
    """A server on the embedded model, whose decoding steps can be counted and held."""

    def __init__(self, policy, **config):
        self.worker = Worker(NativeEngine(policy.model, policy.eos_ids, max_concurrent_sequences=4))
        served = Served("tiny", policy.tokenizer, probe(policy.tokenizer), 1024, None)
        self.app = make_app(served, self.worker, ServeConfig(max_think_tokens=400, max_no_think_tokens=400, **config))
        self.load = self.app.state.load
        self.url = ""
        self.steps, self.held_from = 0, 10**9
        self.go_on = threading.Event()
        forward = self.worker.runner.forward
        step = forward.step

        def counted(*args):
            self.steps += 1
            if self.steps >= self.held_from:
                assert self.go_on.wait(WAIT_SECONDS)
            return step(*args)

        forward.step = counted

    def post(self, path=CHAT, **body):
        sent = {"model": "tiny"} | ({"messages": MESSAGES} if path == CHAT else {}) | body
        return httpx.post(self.url + path, json=sent, timeout=WAIT_SECONDS)

    @contextmanager
    def stream(self, **body):
        sent = {"model": "tiny", "messages": MESSAGES, "stream": True} | body
        with httpx.stream("POST", self.url + CHAT, json=sent, timeout=WAIT_SECONDS) as answer:
            yield answer

    def connect(self, data=b""):
        """A connection that has sent some bytes."""
        host, port = self.url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), timeout=WAIT_SECONDS)
        connection.sendall(data)
        return connection


@pytest.fixture
def live(policy):
    stack = []

    def start(**config):
        one = Live(policy, **config)
        server = running(one.app)
        one.url = server.__enter__()
        stack.append((one, server))
        return one

    yield start
    for one, server in stack:
        one.go_on.set()
        server.__exit__(None, None, None)


def read_deltas(lines):
    for line in lines:
        if line.startswith("data: {"):
            yield from (choice["delta"] for choice in json.loads(line.removeprefix("data: "))["choices"])


def head(length, *others):
    return "\r\n".join([f"POST {CHAT} HTTP/1.1", "Host: t", f"Content-Length: {length}", *others, "", ""]).encode()


# Streams.


def test_text_is_sent_while_the_rest_is_generated(live):
    server = live()
    server.held_from = 8
    with server.stream(model="tiny:think") as answer:
        deltas = read_deltas(answer.iter_lines())
        assert next(deltas)["role"] == "assistant"
        text = "".join(next(deltas)["reasoning"] for _ in range(4))
        assert text.startswith("Alright\n4")
        assert server.steps <= 8  # of the ninth token there is nothing yet
        server.go_on.set()
        assert any(delta.get("content") for delta in deltas)


def test_nobody_waits_for_anothers_response(live):
    """A short response that begins when a long one is under way ends before it."""
    server = live()
    server.held_from = 5
    ended = []
    post = server.worker.post

    def noted(events, event):
        if isinstance(event, Ended):
            ended.append(event.response.mode)
        post(events, event)

    server.worker.post = noted
    models = ["tiny:think", "tiny:no_think"]
    calls = [threading.Thread(target=server.post, kwargs={"model": name, "temperature": 0}) for name in models]
    calls[0].start()
    wait_until(lambda: server.steps == 5)
    calls[1].start()
    wait_until(lambda: server.worker.inbox.qsize() == 1)
    server.go_on.set()
    for call in calls:
        call.join()
    assert ended == ["no_think", "think"]


def test_a_client_that_leaves_stops_its_generation(live):
    server = live()
    server.held_from = 5
    with server.stream(model="tiny:think", temperature=0, n=4) as answer:
        lines = answer.iter_lines()  # a name, as the connection is closed when it is dropped
        next(lines)
        wait_until(lambda: server.steps == 5)
    wait_until(lambda: server.load.open == 0)
    server.go_on.set()
    wait_until(lambda: server.worker.runner.idle)
    assert server.steps == 5


def test_a_client_that_leaves_without_a_stream_stops_its_generation_too(live):
    server = live()
    server.held_from = 5
    body = json.dumps({"model": "tiny:think", "messages": MESSAGES, "temperature": 0, "n": 4}).encode()
    connection = server.connect(head(len(body)) + body)
    wait_until(lambda: server.steps == 5)
    connection.close()
    wait_until(lambda: server.load.open == 0)
    server.go_on.set()
    wait_until(lambda: server.worker.runner.idle)
    assert server.steps == 5


def test_a_stop_text_ends_generation(live):
    server = live()
    whole = server.post(model="tiny:no_think", temperature=0).json()
    steps = server.steps
    cut = server.post(model="tiny:no_think", temperature=0, stop="boxed").json()
    assert whole["choices"][0]["message"]["content"] == "\\boxed{52}"
    assert (cut["choices"][0]["message"]["content"], cut["choices"][0]["finish_reason"]) == ("\\", "stop")
    assert cut["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]
    assert server.steps - steps < steps


def test_an_inline_stream_says_what_an_inline_answer_says(live):
    server = live(reasoning_format="inline")
    for model in ("tiny:think", "tiny:no_think"):
        with server.stream(model=model, temperature=0) as answer:
            streamed = "".join(delta.get("content") or "" for delta in read_deltas(answer.iter_lines()))
        assert streamed == server.post(model=model, temperature=0).json()["choices"][0]["message"]["content"]
        assert streamed.startswith("<think>\n")
        assert streamed.endswith("</think>\\boxed{52}")


def test_a_fault_within_a_stream_is_said_in_it(live, monkeypatch):
    server = live()
    server.held_from = 4
    with server.stream(model="tiny:think") as answer:
        lines = answer.iter_lines()
        next(lines)

        def fail(*_):
            raise RuntimeError("secret")

        server.worker.runner.forward.step = fail
        server.go_on.set()
        rest = "\n".join(lines)
    assert json.loads(rest.split("data: ")[-1])["error"]["type"] == "server_error"
    assert "secret" not in rest
    assert "[DONE]" not in rest


def test_absurd_sampling_settings_are_bounded(live):
    server = live()
    for absurd in ({"top_p": 1e-300}, {"temperature": 1e-300}, {"temperature": 0}):
        answer = server.post(model="tiny:no_think", **absurd)
        assert answer.json()["choices"][0]["message"]["content"] == "\\boxed{52}"


# Bad input.


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (CHAT, b"[" * 100_000, "not JSON"),
        (CHAT, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "not JSON"),
        (CHAT, b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', "half a character"),
        (CHAT, b'{"model": "tiny", "seed": ' + b"9" * 5000 + b"}", "not JSON"),
        ("/v1/completions", b'{"model": "tiny", "prompt": ""}', "empty"),
        (CHAT, json.dumps({"model": "tiny", "messages": MESSAGES, "stop": ["a"] * 65}).encode(), "stop"),
        (CHAT, json.dumps({"model": "tiny", "messages": MESSAGES, "n": 129}).encode(), "128"),
        (CHAT, json.dumps({"model": "tiny", "messages": LONG}).encode(), "900000 characters"),
    ],
)  # fmt: skip
def test_bad_bodies_are_the_clients_fault(live, path, body, message):
    server = live()
    answer = httpx.post(server.url + path, content=body, timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert message in answer.json()["error"]["message"]


def test_an_empty_message_is_answered(live):
    assert live().post(messages=[{"role": "user", "content": ""}], max_tokens=3).status_code == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read(live):
    server = live()
    for sent in (head(2**20 + 1), head(0, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")):
        connection = server.connect(sent)
        if b"chunked" in sent:
            for _ in range(17):
                connection.sendall(b"10000\r\n" + b"1" * 2**16 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
        connection.close()


def test_a_body_that_does_not_come_is_given_up(live, monkeypatch):
    monkeypatch.setattr(app_module, "CLIENT_SECONDS", 0.2)
    connection = live().connect(head(100) + b"{")
    assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_large_messages_leave_the_event_loop_free(live):
    """While one thread encodes, which is held here, another route answers."""
    server = live()
    encoding, go_on = threading.Event(), threading.Event()
    encode = worker_module.make_job

    def held(*args, **options):
        encoding.set()
        assert go_on.wait(WAIT_SECONDS)
        return encode(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "make_job", held)
        thread = threading.Thread(target=server.post, kwargs={"max_tokens": 2})
        thread.start()
        assert encoding.wait(WAIT_SECONDS)
        assert httpx.get(f"{server.url}/health", timeout=WAIT_SECONDS).status_code == 200
        go_on.set()
        thread.join()


# Limits, keys, metrics.


def test_too_many_requests_are_told_when_to_come_back(live):
    server = live(max_requests=2)
    server.held_from = 2
    threads = [threading.Thread(target=server.post, kwargs={"model": "tiny:think"}) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.load.open == 2)
    refused = server.post()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    server.go_on.set()
    for thread in threads:
        thread.join()
    assert server.post(max_tokens=2).status_code == 200


def test_keys_guard_every_route_but_health(live):
    server = live(api_key="first,second")
    for path in ("/v1/models", "/metrics", "/nothing"):
        assert httpx.get(server.url + path, timeout=WAIT_SECONDS).status_code == 401
    assert httpx.get(f"{server.url}/health", timeout=WAIT_SECONDS).status_code == 200
    for headers, status in (
        ({"Authorization": "Bearer second"}, 200),
        ({"x-api-key": "first"}, 200),
        ({"Authorization": "bearer second"}, 200),
        ({"Authorization": "Bearer wrong", "x-api-key": "first"}, 200),
        ({"Authorization": "Bearer secon"}, 401),
        ({"Authorization": "second"}, 200),
        ({"Authorization": "Basic second"}, 401),
        ({"Authorization": "Bearer é".encode("latin-1")}, 401),
    ):
        assert httpx.get(f"{server.url}/v1/models", headers=headers, timeout=WAIT_SECONDS).status_code == status
    refused = httpx.post(server.url + CHAT, json={}, timeout=WAIT_SECONDS).json()["error"]
    assert (refused["type"], refused["code"]) == ("authentication_error", "invalid_api_key")


def test_a_key_is_not_shown():
    config = ServeConfig(api_key=("secret",))
    assert "secret" not in f"{config!r} {config.model_dump()}"


def test_metrics_count_what_was_done(live):
    server = live()
    server.post(model="tiny:no_think", temperature=0)
    thought = server.post(model="tiny:think", temperature=0).json()["usage"]
    server.post(top_k=3)
    lines = httpx.get(f"{server.url}/metrics", timeout=WAIT_SECONDS).text.splitlines()
    thinking = thought["completion_tokens_details"]["reasoning_tokens"]
    for line in (
        'adaptthink_decisions_total{mode="no_think",by="request"} 1',
        'adaptthink_decisions_total{mode="think",by="request"} 1',
        'adaptthink_answers_total{status="200"} 2',
        'adaptthink_answers_total{status="400"} 1',
        f'adaptthink_tokens_total{{part="thinking"}} {thinking}',
        f'adaptthink_tokens_total{{part="prompt"}} {2 * thought["prompt_tokens"]}',
        "adaptthink_first_token_seconds_count 2",
        "adaptthink_running_requests 0",
        "adaptthink_waiting_requests 0",
    ):
        assert line in lines


def test_the_histogram_adds_up():
    metrics = Metrics()
    for seconds in (0.01, 0.02, 100):
        metrics.observe_first_token(seconds)
    lines = metrics.write(waiting=1, running=2).splitlines()
    assert 'adaptthink_first_token_seconds_bucket{le="0.01"} 1' in lines
    assert 'adaptthink_first_token_seconds_bucket{le="60"} 2' in lines
    assert 'adaptthink_first_token_seconds_bucket{le="+Inf"} 3' in lines
    assert "adaptthink_first_token_seconds_sum 100.03" in lines


# How it listens and how it ends.


def test_small_pieces_do_not_wait_for_acknowledgements():
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.close()


def test_a_head_that_does_not_come_is_given_up(policy, monkeypatch):
    monkeypatch.setattr(lifetime, "HEAD_SECONDS", 0.2)
    one = Live(policy)
    with drained(one):
        for sent in (b"", b"POST /v1/chat"):
            assert one.connect(sent).recv(100) == b""


@contextmanager
def drained(one):
    """Serve with the program's own server; yields it."""
    with listen("127.0.0.1", 0) as listening:
        server = lifetime.make_server(one.app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        one.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        wait_until(lambda: server.started)
        try:
            yield server
        finally:
            one.go_on.set()
            server.should_exit = True
            thread.join()


def test_it_drains_and_refuses_newcomers_meanwhile(policy):
    one = Live(policy)
    one.held_from = 3
    answers = []
    with drained(one) as server:
        thread = threading.Thread(target=lambda: answers.append(one.post(model="tiny:think", temperature=0)))
        thread.start()
        wait_until(lambda: one.steps == 3)
        half_sent = one.connect(head(100) + b"{")
        server.handle_exit(signal.SIGTERM, None)
        refused = one.post()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert httpx.get(f"{one.url}/health", timeout=WAIT_SECONDS).status_code == 503
        one.go_on.set()
        thread.join()
        wait_until(lambda: server.should_exit)
    assert answers[0].json()["choices"][0]["message"]["content"] == "\\boxed{52}"
    half_sent.close()


def test_what_is_not_answered_in_time_is_given_up(policy, monkeypatch):
    monkeypatch.setattr(lifetime, "DRAIN_SECONDS", 0.0)
    one = Live(policy)
    one.held_from = 3
    with drained(one) as server, one.stream(model="tiny:think") as answer:
        lines = answer.iter_lines()
        next(lines)
        server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: server.should_exit)
    assert one.worker.runner.idle


def test_the_program_ends_at_sigterm_with_a_half_sent_request_open(tmp_path):
    command = [sys.executable, "-m", "adaptthink", "serve", "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    try:
        line = next(line for line in process.stdout if "http://" in line)
        assert "'tiny'" in line  # the embedded model, where none is named
        port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head(100) + b"{")
            connection.settimeout(WAIT_SECONDS)
            health = httpx.get(f"http://127.0.0.1:{port}/health", timeout=WAIT_SECONDS)
            assert health.status_code == 200
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_a_closed_worker_tells_all_that_wait(policy):
    one = Live(policy)
    one.held_from = 2
    with running(one.app) as one.url:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(one.post(model="tiny:think", temperature=0)))
        thread.start()
        wait_until(lambda: one.steps == 2)
        one.worker.inbox.put(None)
        one.go_on.set()
        thread.join()
    assert answers[0].status_code == 503


def test_threads_are_set(monkeypatch):
    before = torch.get_num_threads()
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(api, "serve_forever", lambda *_, **__: None)
    api.serve("tiny", port=0, threads=3)
    assert set_to == [3]
    assert torch.get_num_threads() == before


def test_a_run_folder_serves_its_model(monkeypatch, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"problems_per_step": 4}')
    with pytest.raises(UserError, match="is a training run's folder without a model"):
        api.serve(str(run), port=0)
    (run / "model").symlink_to(TINY)
    served = []
    monkeypatch.setattr(api, "serve_forever", lambda policy, *args: served.append((policy.name, args[3].name)))
    api.serve(str(run), port=0)
    monkeypatch.setattr(sys, "argv", ["adaptthink", "serve", str(run), "--port", "0"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert served == [(str(run / "model"), "run")] * 2


def test_a_dials_settings_are_the_servers_where_no_others_are_given():
    setting = SimpleNamespace(max_think_tokens=99, max_no_think_tokens=9, temperature=1.0, top_p=0.5)
    dial = SimpleNamespace(setting=setting)
    config, message = adopt_setting(ServeConfig(), dial)
    assert (config.max_think_tokens, config.max_no_think_tokens, config.temperature, config.top_p) == (99, 9, 1.0, 0.5)
    assert message == "from the dial: max_think_tokens = 99, max_no_think_tokens = 9, temperature = 1, top_p = 0.5"
    config, message = adopt_setting(ServeConfig(temperature=0.3, top_p=0.5), dial)
    assert (config.max_think_tokens, config.temperature) == (99, 0.3)
    assert message.splitlines()[1].endswith("may not hold: temperature = 0.3, certified at 1")


# Thoughts that are requested.


def shape_logits(server, change):
    """Let `change(row, logits)` change what the model would sample next, row by row."""
    runner = server.worker.runner
    sample = runner._sample

    def shaped(logits_BV):
        for index, row in enumerate(runner.rows):
            change(row, logits_BV[index])
        sample(logits_BV)

    runner._sample = shaped


@pytest.mark.parametrize("force_think", ["start", "ban"])
@pytest.mark.parametrize("ending", ["close", "end"])
def test_a_requested_thought_is_not_empty(live, policy, force_think, ending):
    """A model that writes white space and wants to close, or to end, as soon as it may."""
    server = live(force_think=force_think)
    close, blank = policy.template.close_id, policy.tokenizer.convert_tokens_to_ids("Ċ")
    seen = []

    def change(row, logits):
        seen.append(row.position - len(row.request.prefix_ids))
        if row.position == len(row.request.prefix_ids):
            logits[blank] += 60
        logits[close if ending == "close" else policy.eos_ids[0]] += 50

    shape_logits(server, change)
    answer = server.post(model="tiny:think", temperature=1, top_p=1, max_tokens=20).json()["choices"][0]
    start = "Alright" if force_think == "start" else ""
    assert answer["message"]["reasoning"].removeprefix(start).strip()
    assert 1 in seen  # behind the white space it was held back as well
    unforced = server.post(model="tiny", temperature=1, top_p=1, max_tokens=20).json()["choices"][0]
    assert not (unforced["message"]["reasoning"] or "").strip()  # where the model chooses, it may


def test_blank_tokens_are_those_of_white_space(policy):
    served = Served("tiny", policy.tokenizer, policy.template, 1024, None)
    every = range(len(policy.tokenizer))
    assert served.blank_ids == {one for one in every if not policy.tokenizer.decode([one]).strip()}
    assert len(served.blank_ids) > 1
