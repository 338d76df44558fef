"""Production manners over HTTP: rates, the log, the OpenAPI document, the container's files, and a short soak."""

import asyncio
import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml
from openapi_spec_validator import validate
from server import running
from waiting import WAIT_SECONDS, wait_until

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.base import ScriptedEngine
from adaptthink.modes import probe
from adaptthink.serving import logs
from adaptthink.serving.app import make_app
from adaptthink.serving.prepare import Served
from adaptthink.serving.worker import Worker

ROOT = Path(__file__).parents[1]
CHAT = "/v1/chat/completions"
SECRET = "4711+1=?"
MESSAGES = [{"role": "user", "content": SECRET}]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def served(tokenizer):
    """Serve a scripted engine; gives the application and its URL."""
    stack = []

    def start(**config):
        close = tokenizer.convert_tokens_to_ids("</think>")

        def script(prompt, prefix):
            text = ("" if close in prefix else "\n9\n</think>") + "815<|eos|>"
            return tokenizer.encode(text, add_special_tokens=False)

        engine = ScriptedEngine(script, next_token=lambda prompt, token: math.log(0.25))
        app = make_app(Served("tiny", tokenizer, probe(tokenizer), 1024, 0.5), Worker(engine), ServeConfig(**config))
        server = running(app)
        stack.append(server)
        return app, server.__enter__()

    yield start
    for server in stack:
        server.__exit__(None, None, None)


def post(url, path=CHAT, key=None, **body):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    sent = {"model": "tiny", "messages": MESSAGES} | body
    return httpx.post(url + path, json=sent, headers=headers, timeout=WAIT_SECONDS)


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/api/show", "/v1/feedback"])
def test_a_client_that_leaves_within_its_body_is_no_fault_of_the_server(served, path):
    app, _ = served()
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 499


# ---- rates ----------------------------------------------------------------------------------------------------------


def test_each_key_has_its_rate_and_retry_after_is_true(served):
    app, url = served(api_key="a,b", requests_per_minute=3)
    clock = app.state.load.rate.clock = Clock()
    assert [post(url, key="a").status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = post(url, key="a")
    assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("20", "rate_limit_exceeded")
    assert "3 requests in a minute" in refused.json()["error"]["message"]
    assert post(url, key="b").status_code == 200
    assert httpx.get(f"{url}/v1/models", headers={"x-api-key": "a"}, timeout=WAIT_SECONDS).status_code == 200
    clock.now += 10
    assert post(url, key="a").headers["retry-after"] == "10"
    clock.now += 10
    assert post(url, key="a").status_code == 200


def test_requests_that_are_refused_for_their_body_count_too(served):
    """Else a client could keep the server parsing."""
    app, url = served(requests_per_minute=2)
    app.state.load.rate.clock = Clock()
    assert [post(url, top_k=3).status_code for _ in range(3)] == [400, 400, 429]


# ---- the log --------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(monkeypatch):
    """Log in a format; gives the lines that were written."""
    logger = logging.getLogger(logs.ROOT)
    before = logger.handlers, logger.propagate, logger.level
    lines = []

    class Stream:
        def write(self, text):
            lines.extend(text.splitlines())

        def flush(self):
            pass

    def start(log_format):
        monkeypatch.setattr(sys, "stderr", Stream())
        logs.start_log(log_format)
        return lines

    yield start
    logger.handlers, logger.propagate, logger.level = before


def test_each_request_is_one_json_line_without_its_text(served, logged):
    lines = logged("json")
    _, url = served(api_key="first,second")
    answers = [
        post(url, key="second"),
        post(url, key="first", model="tiny:no_think", n=2),
        post(url, key="first", stream=True),
        post(url, key="first", logit_bias={SECRET: 5}),
        post(url, key="wrong"),
        httpx.get(f"{url}/nothing/{SECRET}?{SECRET}", headers={"x-api-key": "first"}, timeout=WAIT_SECONDS),
    ]
    httpx.get(f"{url}/health", timeout=WAIT_SECONDS)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 400, 401, 404]
    wait_until(lambda: len(lines) == len(answers))  # a line is written when its answer has been sent
    seen = [json.loads(line) for line in lines]
    assert [line["status"] for line in seen] == [200, 200, 200, 400, 401, 404]
    assert [line["id"] for line in seen] == [answer.headers["x-request-id"] for answer in answers]
    first, second, streamed, refused, unknown, nothing = seen
    usage = answers[0].json()["usage"]
    assert answers[0].json()["id"].endswith(first["id"])
    assert (first["route"], first["mode"], first["reason"], first["key"]) == (f"POST {CHAT}", "think", "threshold", 2)
    assert first["prompt_tokens"] == usage["prompt_tokens"]
    assert first["thinking_tokens"] == usage["completion_tokens_details"]["reasoning_tokens"] > 0
    assert first["thinking_tokens"] + first["answer_tokens"] == usage["completion_tokens"]
    assert 0 < first["first_token_seconds"] <= first["seconds"]
    assert (second["mode"], second["reason"], second["thinking_tokens"]) == ("no_think", "request", 0)
    assert second["answer_tokens"] == answers[1].json()["usage"]["completion_tokens"]
    assert streamed["answer_tokens"] == first["answer_tokens"]
    assert (refused["mode"], refused["error"], refused["key"]) == (None, "unsupported_parameter", 1)
    assert (unknown["error"], unknown["key"]) == ("invalid_api_key", None)
    assert nothing["error"] is None
    text = "\n".join(line for line in lines if "/nothing/" not in line)
    assert not re.search(r"4711|815|first\b|second\b(?!s)", text)
    assert "?" not in nothing["route"]


def test_text_lines_and_faults(served, logged):
    lines = logged("text")
    _, url = served()
    post(url)
    wait_until(lambda: lines)
    [line] = lines
    assert re.fullmatch(
        r"\S+ POST /v1/chat/completions 200 think by threshold \d+\+\d+\+\d+ tokens [\d.]+ s \w{32}", line
    )
    httpx.get(f"{url}/a%0Ab", timeout=WAIT_SECONDS)  # no line break of a client's gets into the log
    wait_until(lambda: len(lines) == 2)
    assert "GET /a%0Ab 404" in lines[1]
    logging.getLogger("adaptthink.serving.app").error("a fault")
    assert lines[2].endswith(" error: a fault")


def test_by_default_nothing_is_logged_for_requests(served, logged):
    lines = logged(None)
    _, url = served()
    post(url)
    assert lines == []


# ---- the OpenAPI document -------------------------------------------------------------------------------------------


def test_the_document_is_valid_and_names_every_route(served):
    app, url = served()
    document = httpx.get(f"{url}/openapi.json", timeout=WAIT_SECONDS).json()
    validate(document)
    routes = [route for route in app.routes if route.path != "/" and not route.path.startswith("/page/")]
    assert set(document["paths"]) == {route.path_format for route in routes}
    posts = {path for path, methods in document["paths"].items() if "post" in methods}
    assert posts == {route.path for route in app.routes if "GET" not in (route.methods or ())}
    assert "text/event-stream" in document["paths"][CHAT]["post"]["responses"]["200"]["content"]
    body = document["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    call = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert call["additionalProperties"] is False
    assert {"messages", "temperature", "user", "top_k"} <= call["properties"].keys()
    assert "security" not in document


def test_with_keys_the_document_says_so(served):
    _, url = served(api_key="a")
    assert httpx.get(f"{url}/openapi.json", timeout=WAIT_SECONDS).status_code == 401
    document = httpx.get(f"{url}/openapi.json", headers={"x-api-key": "a"}, timeout=WAIT_SECONDS).json()
    validate(document)
    assert document["security"] == [{"key": []}, {"header": []}]


# ---- the container --------------------------------------------------------------------------------------------------


def read_dockerfile():
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    return [(step, value.strip()) for step, value in steps]


def test_the_dockerfile_copies_and_runs_what_there_is():
    steps = read_dockerfile()
    assert [step for step, _ in steps].count("FROM") == 1
    copied = [name for step, value in steps if step == "COPY" for name in value.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == kept
    given = dict(steps)
    command = [*json.loads(given["ENTRYPOINT"]), *json.loads(given["CMD"])]
    settings = dict(pair.split("=", 1) for step, value in steps if step == "ENV" for pair in value.split())
    check_command(command, settings)
    assert "--network" not in given["RUN"]
    assert given["USER"] == "adaptthink"


def check_command(command, environment):
    """A command of ours, with all of its flags, is one that the program takes."""
    assert command[0] == "adaptthink"
    done = subprocess.run(
        [sys.executable, "-m", *command, "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}},
    )
    assert done.returncode == 0, done.stderr


def test_the_commands_of_compose_exist():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    ours = services["adaptthink"]
    entry = json.loads(dict(read_dockerfile())["ENTRYPOINT"])
    command = [re.sub(r"\$\{MODEL:.*\}", "tiny", one) for one in ours["command"]]
    check_command([*entry, *command], {"ADAPTTHINK_API_KEY": "secret"})
    assert set(ours["depends_on"]) <= set(services)
    assert ours["ports"] == ["127.0.0.1:8000:8000"]
    assert int(ours["stop_grace_period"].removesuffix("s")) > 32  # what lifetime.py waits, and some


# ---- soak -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_short_soak(tmp_path):
    path = tmp_path / "soak.json"
    command = [sys.executable, "benchmarks/soak.py", "--requests", "300", "--rest", "0", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    found = json.loads(path.read_text())
    assert (found["crossed"], found["faults"], found["still_open"], found["still_connected"]) == ([], [], 0, 0), done
    assert sum(found["as_expected"].values()) == 300
    assert found["distinct_answers"] > 50
