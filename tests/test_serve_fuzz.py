"""Calls made of the server's own OpenAPI document, good and bad ones: none may be answered by a fault of the server."""

import asyncio
import json

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from server import running
from waiting import WAIT_SECONDS

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import load_policy
from adaptthink.serving.app import make_app
from adaptthink.serving.feedback import open_dial
from adaptthink.serving.prepare import Served
from adaptthink.serving.worker import Worker

pytestmark = pytest.mark.slow
EXAMPLES = 40  # for each route and each kind: some 20 s in all
some = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture(scope="module")
def url(policy, tmp_path_factory):
    config = ServeConfig(max_think_tokens=6, max_no_think_tokens=6)
    with open_dial(tmp_path_factory.mktemp("state") / "online.json", None, "model") as online:
        served = Served("tiny", policy.tokenizer, policy.template, 1024, None, online=online)
        with running(make_app(served, Worker(NativeEngine(policy.model, policy.eos_ids)), config)) as url:
            yield url


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=WAIT_SECONDS) as client:
        yield client


def list_operations():
    policy = load_policy("tiny")
    served = Served("tiny", policy.tokenizer, policy.template, 1024, None)
    app = make_app(served, Worker(NativeEngine(policy.model, policy.eos_ids)), ServeConfig())
    [openapi] = [route.endpoint for route in app.routes if route.path == "/openapi.json"]
    schema = schemathesis.openapi.from_dict(json.loads(asyncio.run(openapi(None)).body))
    return [found.ok() for found in schema.get_all_operations()]


def check(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error if isinstance(error, str) else error["message"]  # Ollama's is a text
        assert answer.status_code in (400, 404, 405, 409, 413), error


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("operation", list_operations(), ids=lambda one: one.label)
def test_no_generated_call_is_a_fault_of_the_server(url, operation, mode):
    if mode is GenerationMode.NEGATIVE and operation.method.upper() == "GET":
        pytest.skip("it has no parameters")
    seen = []

    @some
    @given(operation.as_strategy(generation_mode=mode))
    def call(case):
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"  # else there would be no such model, nearly always
        answer = case.call(base_url=url, timeout=WAIT_SECONDS)
        seen.append(answer.status_code)
        check(answer)

    call()
    assert len(seen) >= (1 if operation.method.upper() == "GET" else EXAMPLES // 2)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@some
@given(st.data())
def test_a_good_call_with_any_value_in_one_place(client, data):
    """Schemathesis seldom reaches past the first fault; here the rest of the call is good."""
    call = {"model": "tiny", "messages": [{"role": "user", "content": "1+1=?"}], "max_tokens": 4}
    names = [
        "temperature", "top_p", "seed", "n", "stop", "stream", "stream_options", "x_think", "chat_template_kwargs",
        "reasoning_effort", "reasoning", "thinking_budget", "reasoning_format", "max_tokens", "messages", "model",
        "logit_bias", "logprobs", "tools", "tool_choice", "response_format", "user", "top_k",
    ]  # fmt: skip
    call[data.draw(st.sampled_from(names))] = data.draw(VALUES)
    answer = client.post(CHAT, content=json.dumps(call))
    check(answer)


@some
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_body(client, body):
    for path in (CHAT, "/v1/completions", "/v1/feedback"):
        answer = client.post(path, content=body)
        check(answer)
        assert answer.status_code == 400


def test_it_still_answers(url):
    call = {"model": "tiny:no_think", "temperature": 0, "messages": [{"role": "user", "content": "47+8-3=?"}]}
    answer = httpx.post(url + CHAT, json=call, timeout=WAIT_SECONDS).json()
    assert answer["choices"][0]["message"]["content"].startswith("\\boxed{5")
