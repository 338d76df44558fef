"""The clients that people use, for real, against the server on the embedded model (scripts/setup_clients.sh)."""

import asyncio
import os
import subprocess
import sys

import pytest
from server import running
from waiting import WAIT_SECONDS

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import load_policy
from adaptthink.serving.app import make_app
from adaptthink.serving.prepare import Served
from adaptthink.serving.worker import Worker

QUESTION = "47+8-3=?"
TURNS = [{"role": "user", "content": QUESTION}]
THOUGHT, ANSWER = "Alright\n47+8=55-3=52", "\\boxed{52}"
NAMES = ["tiny", "tiny:think", "tiny:no_think"]


@pytest.fixture(scope="module")
def url():
    policy = load_policy("tiny")
    served = Served("tiny", policy.tokenizer, policy.template, 1024, None)
    settings = ServeConfig(max_think_tokens=128, max_no_think_tokens=16, temperature=0, api_key="key")
    with running(make_app(served, Worker(NativeEngine(policy.model, policy.eos_ids)), settings)) as url:
        yield url


# openai.


@pytest.fixture
def openai(url):
    library = pytest.importorskip("openai")
    with library.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, timeout=WAIT_SECONDS) as client:
        yield client


def test_openai_chat(openai):
    done = openai.chat.completions.create(model="tiny", messages=TURNS, reasoning_effort="max")
    assert (done.choices[0].message.reasoning_content, done.choices[0].message.content) == (THOUGHT, ANSWER)
    again = [*TURNS, done.choices[0].message, {"role": "user", "content": "3+4=?"}]
    second = openai.chat.completions.create(model="tiny:no_think", messages=again)
    assert (second.choices[0].message.reasoning_content, second.x_think["mode"]) == (None, "no_think")
    assert [model.id for model in openai.models.list()] == NAMES
    assert openai.models.retrieve("tiny:think").id == "tiny:think"


def test_openai_responses(openai):
    done = openai.responses.create(model="tiny", input=QUESTION, reasoning={"effort": "max"})
    assert (done.status, done.output_text, done.output[0].content[0].text) == ("completed", ANSWER, THOUGHT)
    assert 0 < done.usage.output_tokens_details.reasoning_tokens < done.usage.output_tokens
    assert done.x_think["reason"] == "effort"
    again = [*TURNS, *done.output, {"role": "user", "content": "3+4=?"}]
    second = openai.responses.create(model="tiny", input=again, reasoning={"effort": "none"})
    assert [item.type for item in second.output] == ["message"]
    cut = openai.responses.create(model="tiny:think", input=QUESTION, max_output_tokens=4)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_openai_responses_stream(openai):
    with openai.responses.stream(model="tiny:think", input=QUESTION) as stream:
        events = list(stream)
        done = stream.get_final_response()
    assert (done.output_text, done.output[0].content[0].text) == (ANSWER, THOUGHT)
    assert "".join(one.delta for one in events if one.type == "response.reasoning_text.delta") == THOUGHT
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == ANSWER
    asked = {"model": "tiny:think", "input": QUESTION, "reasoning": {"summary": "auto"}}
    with openai.responses.stream(**asked) as stream:
        assert stream.get_final_response().output[0].summary[0].text == THOUGHT


def test_openai_async(url):
    library = pytest.importorskip("openai")

    async def ask():
        async with library.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", timeout=WAIT_SECONDS) as client:
            events = await client.responses.create(model="tiny:think", input=QUESTION, stream=True)
            chunks = await client.chat.completions.create(model="tiny:think", messages=TURNS, stream=True)
            return [event async for event in events], [chunk async for chunk in chunks]

    events, chunks = asyncio.run(ask())
    assert events[-1].response.output_text == ANSWER
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER


def test_openai_errors(openai):
    library = pytest.importorskip("openai")
    with pytest.raises(library.BadRequestError, match="the server stores nothing"):
        openai.responses.create(model="tiny", input="1", previous_response_id="resp_1")
    with pytest.raises(library.NotFoundError, match="no model 'other'"):
        openai.responses.create(model="other", input="1")
    with pytest.raises(library.AuthenticationError):
        openai.with_options(api_key="wrong").responses.create(model="tiny", input="1")


# anthropic.


@pytest.fixture
def anthropic(url):
    library = pytest.importorskip("anthropic")
    with library.Anthropic(base_url=url, api_key="key", max_retries=0, timeout=WAIT_SECONDS) as client:
        yield client


def test_anthropic_messages(anthropic):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    done = anthropic.messages.create(model="tiny", max_tokens=2048, messages=TURNS, thinking=thinking)
    thought, answer = done.content
    assert (thought.type, thought.thinking, answer.text, done.stop_reason) == ("thinking", THOUGHT, ANSWER, "end_turn")
    assert 0 < done.usage.output_tokens_details.thinking_tokens < done.usage.output_tokens
    again = [*TURNS, done.to_param(), {"role": "user", "content": "3+4=?"}]
    second = anthropic.messages.create(
        model="tiny", max_tokens=100, messages=again, thinking={"type": "disabled"}, system="Add."
    )
    assert [block.type for block in second.content] == ["text"]
    counted = anthropic.messages.count_tokens(model="tiny", messages=again, system="Add.")
    assert counted.input_tokens == second.usage.input_tokens


def test_anthropic_budget(anthropic):
    hard = [{"role": "user", "content": "17*23+4*(58-19)=?"}]
    budget = {"type": "enabled", "budget_tokens": 4}
    done = anthropic.messages.create(model="tiny", max_tokens=100, messages=hard, thinking=budget)
    assert done.x_think["thinking_budget"] == 4
    assert done.usage.output_tokens_details.thinking_tokens <= 4
    assert done.content[-1].text


def test_anthropic_stream(anthropic):
    with anthropic.messages.stream(model="tiny:think", max_tokens=100, messages=TURNS) as stream:
        events = list(stream)
        done = stream.get_final_message()
    assert [(block.type, getattr(block, "thinking", None) or block.text) for block in done.content] == [
        ("thinking", THOUGHT),
        ("text", ANSWER),
    ]
    assert "".join(event.thinking for event in events if event.type == "thinking") == THOUGHT
    assert "".join(event.text for event in events if event.type == "text") == ANSWER
    assert (done.stop_reason, done.content[0].signature) == ("end_turn", "adaptthink")
    whole = anthropic.messages.create(model="tiny:think", max_tokens=100, messages=TURNS)
    assert done.usage.output_tokens == whole.usage.output_tokens


def test_anthropic_async_lists_and_errors(anthropic, url):
    library = pytest.importorskip("anthropic")

    async def ask():
        async with library.AsyncAnthropic(base_url=url, auth_token="key", timeout=WAIT_SECONDS) as client:
            done = await client.messages.create(model="tiny:no_think", max_tokens=50, messages=TURNS)
            return done.content[0].text

    assert asyncio.run(ask()) == ANSWER
    assert [model.id for model in anthropic.models.list()] == NAMES
    with pytest.raises(library.BadRequestError, match="'top_k' is not supported"):
        anthropic.messages.create(model="tiny", max_tokens=9, messages=TURNS, extra_body={"top_k": 40})
    with pytest.raises(library.AuthenticationError):
        anthropic.with_options(api_key="wrong").messages.create(model="tiny", max_tokens=9, messages=TURNS)


# ollama.


@pytest.fixture
def ollama(url):
    library = pytest.importorskip("ollama")
    return library.Client(host=url, headers={"Authorization": "Bearer key"}, timeout=WAIT_SECONDS)


def test_ollama_chat(ollama):
    done = ollama.chat("tiny", messages=TURNS, think=True, options={"temperature": 0})
    assert (done.message.thinking, done.message.content, done.done_reason) == (THOUGHT, ANSWER, "stop")
    assert done.eval_count > 10
    assert done.total_duration == pytest.approx(done.prompt_eval_duration + done.eval_duration, abs=2)
    again = [*TURNS, done.message, {"role": "user", "content": "3+4=?"}]
    assert ollama.chat("tiny", messages=again, think=False).message.thinking is None


def test_ollama_streams(ollama):
    parts = list(ollama.chat("tiny", messages=TURNS, think=True, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == THOUGHT
    assert "".join(part.message.content for part in parts) == ANSWER
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    texts = list(ollama.generate("tiny", QUESTION, think="max", stream=True, keep_alive="5m"))
    assert "".join(part.response for part in texts) == ANSWER


def test_ollama_generate_lists_and_errors(ollama):
    library = pytest.importorskip("ollama")
    done = ollama.generate("tiny:no_think", QUESTION, options=library.Options(num_ctx=512, num_predict=16))
    assert (done.response, done.thinking) == (ANSWER, None)
    assert [model.model for model in ollama.list().models] == NAMES
    shown = ollama.show("tiny")
    assert shown.capabilities == ["completion", "thinking"]
    assert shown.modelinfo["adaptthink.context_length"] == 1024
    with pytest.raises(library.ResponseError, match="'format' is not supported") as refused:
        ollama.chat("tiny", messages=TURNS, format="json")
    assert refused.value.status_code == 400
    with pytest.raises(library.ResponseError, match="no model 'other'"):
        list(ollama.chat("other", messages=TURNS, stream=True))


# litellm, through three of its providers.


@pytest.fixture(scope="module")
def litellm():
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network
    library = pytest.importorskip("litellm")
    library.telemetry = False
    return library


@pytest.fixture(params=["openai", "anthropic", "ollama_chat"])
def ask(litellm, url, request):
    base = f"{url}/v1" if request.param == "openai" else url

    def ask(messages, name="tiny:think", **options):
        name = f"{request.param}/{name}"
        options |= {"api_base": base, "api_key": "key", "timeout": WAIT_SECONDS, "num_retries": 0, "max_tokens": 100}
        return litellm.completion(model=name, messages=messages, **options)

    return ask


def test_litellm_takes_turns(ask):
    done = ask(TURNS).choices[0].message
    assert (done.reasoning_content, done.content) == (THOUGHT, ANSWER)
    second = ask([*TURNS, done, {"role": "user", "content": "3+4=?"}], "tiny:no_think")
    assert second.choices[0].message.content.startswith("\\boxed")
    as_dict = ask([*TURNS, done.model_dump(), {"role": "user", "content": "3+4=?"}], "tiny:no_think")
    assert as_dict.choices[0].message.content == second.choices[0].message.content


def test_litellm_streams(ask):
    chunks = list(ask(TURNS, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == THOUGHT
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_litellm_responses(litellm, url):
    done = litellm.responses(model="openai/tiny:think", input=QUESTION, api_base=f"{url}/v1", api_key="key")
    assert done.output[1].content[0].text == ANSWER


# llm, the command.


def test_llm(url, tmp_path):
    pytest.importorskip("llm")
    settings = f"- model_id: ours\n  model_name: tiny:think\n  api_base: {url}/v1\n  api_key_name: ours\n"
    (tmp_path / "extra-openai-models.yaml").write_text(settings)
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "PYTHONPATH": ""}
    for options, starts in ([QUESTION, "--no-stream"], ANSWER), (["-c", "3+4=?"], "\\boxed"):  # the second one streams
        command = [sys.executable, "-m", "llm", "-m", "ours", "--key", "key", *options]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(starts)
