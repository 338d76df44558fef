"""The chat client against a small server in this program that answers in each vendor's format, and misbehaves."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys

import httpx2 as httpx
import pytest
from chat_server import CUT, DONE, HANG, USAGE, claude, delta, event, serving, stream, text, text_event, thinking, total
from tenacity import wait_none
from waiting import WAIT_SECONDS, wait_until

from adaptthink.chat import client, pace
from adaptthink.chat.base import ChatResponse, Dialect, Endpoint, Prices, Question, Switch, compute_cost
from adaptthink.chat.client import ask_all
from adaptthink.engines import http_retry as web
from adaptthink.engines.base import Finish
from adaptthink.errors import UserError
from adaptthink.modes import Message, Mode

KEY = "sk-test-1234567890"
PLAIN = Question("1+1=?", None, 64)


@pytest.fixture
def server(monkeypatch):
    yield from serving(monkeypatch)


def ask(server, *questions, **settings):
    """Return the responses in the order of the questions."""
    responses = {}
    endpoint = Endpoint(url=server.url, model="m", **settings)
    ask_all(endpoint, questions or [PLAIN], lambda index, question, response: responses.setdefault(index, response))
    return [responses[index] for index in sorted(responses)]


def ask_claude(server, *questions, **settings):
    return ask(server, *questions, dialect=Dialect.ANTHROPIC, **settings)


def refused(server, message, *questions, **settings):
    with pytest.raises(UserError, match=message) as caught:
        ask(server, *questions, **settings)
    assert "\n" not in str(caught.value)
    assert len(server.plans) == 0
    return str(caught.value)


# What is sent


def test_a_plain_question_sends_only_what_was_set(server):
    ask(server, Question("2+2=?", None, 99))
    [call] = server.calls
    assert call.path == "/v1/chat/completions"
    assert "Authorization" not in call.headers
    assert call.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "2+2=?"}],
        "max_tokens": 99,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


CONTEXT = (Message("system", "Base 3."), Message("user", "1+1=?"), Message("assistant", "2"))


def test_what_precedes_a_question_is_sent(server):
    ask(server, Question("1+2=?", None, 99, context=CONTEXT))
    contents = [("system", "Base 3."), ("user", "1+1=?"), ("assistant", "2"), ("user", "1+2=?")]
    expected = [{"role": role, "content": content} for role, content in contents]
    assert server.calls[0].body["messages"] == expected
    server.default = list(claude(text("2")))
    ask_claude(server, Question("1+2=?", None, 99, context=CONTEXT))
    assert server.calls[1].body["messages"] == expected[1:]
    assert server.calls[1].body["system"] == "Base 3."


def test_settings_and_the_other_name_of_the_token_limit_are_sent(server):
    ask(server, Question("?", None, 99, temperature=0.0, top_p=0.9, seed=0), completion_cap=True)
    body = server.calls[0].body
    assert (body["temperature"], body["top_p"], body["seed"], body["max_completion_tokens"]) == (0, 0.9, 0, 99)
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    ("settings", "think", "no_think"),
    [
        (
            {"switch": Switch.ENABLE_THINKING},
            {"chat_template_kwargs": {"enable_thinking": True}},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
        (
            {"switch": Switch.TEMPLATE_THINKING},
            {"chat_template_kwargs": {"thinking": True}},
            {"chat_template_kwargs": {"thinking": False}},
        ),
        ({"switch": Switch.REASONING_EFFORT}, {"reasoning_effort": "medium"}, {"reasoning_effort": "none"}),
        (
            {"switch": Switch.REASONING_EFFORT, "effort": "high", "no_think_effort": "minimal"},
            {"reasoning_effort": "high"},
            {"reasoning_effort": "minimal"},
        ),
        ({"switch": Switch.THINKING_TYPE}, {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}),
        (
            {"switch": Switch.THINKING_TYPE, "effort": "max"},
            {"thinking": {"type": "enabled"}, "reasoning_effort": "max"},
            {"thinking": {"type": "disabled"}},
        ),
        ({"switch": Switch.REASONING}, {"reasoning": {"enabled": True}}, {"reasoning": {"enabled": False}}),
        (
            {"switch": Switch.REASONING, "effort": "low"},
            {"reasoning": {"enabled": True, "effort": "low"}},
            {"reasoning": {"enabled": False}},
        ),
        (
            {"switch": Switch.REASONING, "budget_tokens": 50},
            {"reasoning": {"enabled": True, "max_tokens": 50}},
            {"reasoning": {"enabled": False}},
        ),
    ],
)
def test_each_switch_is_sent_in_both_directions_and_not_at_all_for_the_models_own_choice(
    server, settings, think, no_think
):
    for mode in (Mode.THINK, Mode.NO_THINK, None):
        ask(server, Question("?", mode, 9), **settings)
    common = {"model", "messages", "max_tokens", "stream", "stream_options"}
    assert [{name: call.body[name] for name in call.body.keys() - common} for call in server.calls] == [
        think,
        no_think,
        {},
    ]


@pytest.mark.parametrize(
    ("settings", "think"),
    [
        ({"switch": Switch.BUDGET, "budget_tokens": 2048}, {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        ({"switch": Switch.ADAPTIVE}, {"thinking": {"type": "adaptive"}}),
        (
            {"switch": Switch.ADAPTIVE, "effort": "high"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
    ],
)
def test_anthropics_switches_headers_and_missing_seed(server, monkeypatch, settings, think):
    monkeypatch.setenv("ANTHROPIC_API_KEY", f" {KEY}\n")
    server.default = list(claude(text("2")))
    for mode in (Mode.THINK, Mode.NO_THINK, None):
        ask_claude(server, Question("?", mode, 4096, temperature=1.0, seed=3), **settings)
    base = {
        "model": "m",
        "messages": [{"role": "user", "content": "?"}],
        "max_tokens": 4096,
        "stream": True,
        "temperature": 1,
    }
    assert [call.body for call in server.calls] == [base | think, base | {"thinking": {"type": "disabled"}}, base]
    call = server.calls[0]
    assert call.path == "/v1/messages"
    assert (call.headers["x-api-key"], call.headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "Authorization" not in call.headers


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("?", Mode.THINK, 4096, temperature=0.6), "only temperature 1 .* not 0.6 and None"),
        (Question("?", Mode.THINK, 4096, top_p=0.8), "a top_p of at least 0.95, not None and 0.8"),
        (Question("?", Mode.THINK, 2048), "a thinking budget of 2048 tokens leaves none of the 2048"),
    ],
)
def test_what_anthropic_refuses_beside_thinking_is_reported_before_anything_is_sent(server, question, message):
    settings = {"dialect": Dialect.ANTHROPIC, "switch": Switch.BUDGET, "budget_tokens": 2048}
    refused(server, message, question, **settings)
    assert server.calls == []


@pytest.mark.parametrize(
    ("dialect", "url", "address"),
    [
        ("openai", "http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
        ("openai", "http://localhost:8000/", "http://localhost:8000/v1/chat/completions"),
        ("openai", "http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
        ("openai", "https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("openai", "https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("openai", "https://user:secret@h/v1", "https://h/v1/chat/completions"),
        ("anthropic", "https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("anthropic", "https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages"),
        ("anthropic", "https://api.deepseek.com/anthropic", "https://api.deepseek.com/anthropic/v1/messages"),
    ],
)
def test_urls_are_taken_in_the_forms_that_vendors_write(dialect, url, address):
    assert client.format_address(Endpoint(url=url, model="m", dialect=Dialect(dialect))) == address


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, "give one like http://localhost:8000"),
        ({"switch": Switch.ADAPTIVE}, "the dialect 'openai' has no switch 'adaptive'; choose none, enable_thinking"),
        ({"dialect": Dialect.ANTHROPIC, "switch": Switch.REASONING}, "choose none, budget, adaptive"),
        ({"dialect": Dialect.ANTHROPIC, "switch": Switch.BUDGET}, "at least 1024 tokens, not None"),
        ({"dialect": Dialect.ANTHROPIC, "switch": Switch.BUDGET, "budget_tokens": 1023}, "not 1023"),
        ({"switch": Switch.REASONING, "effort": "low", "budget_tokens": 9}, "an effort or a budget, not both"),
        ({"concurrency": 0}, "concurrency = 0 sends no questions; give 1 or more"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Endpoint(**{"url": "http://h", "model": "m", **settings})


def test_a_mode_without_a_switch_is_refused_before_anything_is_sent(server):
    refused(server, "requests the mode 'no_think', but no switch is set", Question("?", Mode.NO_THINK, 9))
    assert server.calls == []


def test_a_prompt_that_is_no_text_is_reported(server):
    refused(server, "half of a surrogate pair", Question("a\ud800b", None, 9))


# What comes back, dialect by dialect


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_in_a_field_of_its_own(server, field):
    server.default = stream({field: "Hm, "}, {field: "2."}, {"content": "It is "}, {"content": "2"})
    assert ask(server) == [ChatResponse("Hm, 2.", "It is 2", Finish.STOP, 7, None, 11)]
    assert ask(server)[0].mode is Mode.THINK


def test_both_names_of_the_field_are_one_thinking_text(server):
    server.default = stream({"reasoning": "Hm", "reasoning_content": "Hm"}, {"content": "2"})
    assert ask(server)[0].thinking == "Hm"


@pytest.mark.parametrize(
    ("content", "thinking", "answer"),
    [
        ("<think>\nHm\n</think>\n\n2", "\nHm\n", "\n\n2"),
        ("Hm</think>2", "Hm", "2"),  # the prompt ended in the open marker
        ("Hm</think>2 follows </think>", "Hm", "2 follows </think>"),
        ("<think>\n\n</think>\n\n2", None, "\n\n2"),  # Qwen3's empty block
        ("</think>2", None, "2"),  # AdaptThink's own way
        ("<seed:think>Hm</seed:think>2", "Hm", "2"),
        ("2", None, "2"),
        ("<think>Hm", "Hm", None),
        ("<think>Hm</think>  ", "Hm", None),
    ],
)
def test_thinking_inside_the_text(server, content, thinking, answer):
    server.default = stream(*({"content": character} for character in content), finish="length")
    [response] = ask(server)
    assert (response.thinking, response.answer, response.finish) == (thinking, answer, Finish.LENGTH)
    assert response.mode is (Mode.NO_THINK if thinking is None else Mode.THINK)


@pytest.mark.parametrize(
    ("content", "mode", "finish", "thinking", "answer"),
    [
        ("Alright, one and", None, "length", "Alright, one and", None),
        ("Alright, one and", Mode.THINK, "length", "Alright, one and", None),
        ("2", Mode.NO_THINK, "stop", None, "2"),  # that prompt's thinking is closed
        ("2, as </think> says", Mode.NO_THINK, "stop", None, "2, as </think> says"),
        ("Hm</think>2", None, "stop", "Hm", "2"),
    ],
)
def test_what_never_closes_is_thinking_where_the_prompt_opened_it(server, content, mode, finish, thinking, answer):
    server.default = stream({"content": content}, finish=finish)
    [response] = ask(server, Question("?", mode, 9), inline_thinking=True, switch=Switch.ENABLE_THINKING)
    assert (response.thinking, response.answer) == (thinking, answer)
    assert server.calls[0].body["skip_special_tokens"] is False  # else a server may take the markers away


def test_thinking_of_which_only_the_tokens_are_reported(server):
    details = {"completion_tokens": 40, "prompt_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 32}}
    server.default = stream({"content": "2"}, usage=details)
    [response] = ask(server)
    assert response == ChatResponse("", "2", Finish.STOP, 40, 32, 3)
    assert response.mode is Mode.THINK
    none = {**details, "completion_tokens_details": {"reasoning_tokens": 0}}
    server.default = stream({"content": "2"}, usage=none)
    assert ask(server) == [ChatResponse(None, "2", Finish.STOP, 40, 0, 3)]
    server.default = stream({"content": "2", "reasoning": "Hm"}, usage=none)  # always 0 there: it has no meaning
    assert ask(server) == [ChatResponse("Hm", "2", Finish.STOP, 40, None, 3)]


def test_cut_thinking_has_no_answer(server):
    server.default = stream({"reasoning_content": "Hm, one"}, finish="length")
    assert ask(server) == [ChatResponse("Hm, one", None, Finish.LENGTH, 7, None, 11)]
    hidden = {"completion_tokens": 64, "prompt_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 64}}
    server.default = stream(finish="length", usage=hidden)
    assert ask(server) == [ChatResponse("", None, Finish.LENGTH, 64, 64, 3)]


def test_refusals_of_openai(server):
    server.default = stream({"refusal": "I cannot "}, {"refusal": "help."})
    [response] = ask(server)
    assert (response.answer, response.refused, response.thinking) == ("I cannot help.", True, None)
    server.default = stream({"content": "As"}, finish="content_filter")
    assert [(response.answer, response.refused) for response in ask(server)] == [("As", True)]


@pytest.mark.parametrize("name", ["x_think", "adaptthink"])
@pytest.mark.parametrize("streamed", [True, False])
def test_what_our_own_servers_say_of_the_mode_is_read(server, name, streamed):
    extra = {name: {"mode": "auto", "no_think_probability": 0.75, "threshold": None}}
    choice = {"index": 0, "finish_reason": "stop", "mode": "think"}  # an empty thought leaves no text
    if streamed:
        server.default = [
            event(delta(content="2") | extra),
            event({"choices": [choice | {"delta": {}}]} | extra),
            event(total() | extra),
            DONE,
        ]
    else:
        whole = {"choices": [choice | {"message": {"content": "2"}}], "usage": USAGE}
        server.default = (200, {}, json.dumps(whole | extra).encode())
    [response] = ask(server)
    assert (response.no_think_probability, response.mode, response.thinking) == (0.75, Mode.THINK, None)


def test_the_mode_after_a_second_look_is_that_of_the_answer(server):
    decided = {"x_think": {"mode": "no_think", "no_think_probability": 0.75}}
    ended = {"x_think": decided["x_think"] | {"modes": ["think"]}}
    server.default = [event(delta(content="2") | decided), event(delta("stop")), event(total() | ended), DONE]
    [response] = ask(server)
    assert (response.mode, response.thinking) == (Mode.THINK, None)


@pytest.mark.parametrize(
    "extra",
    [{"x_think": value} for value in (True, "fast", [1], {"mode": 3}, {"no_think_probability": "high"},
     {"no_think_probability": 1.5})],
)  # fmt: skip
def test_fields_of_other_servers_with_such_names_are_left_alone(server, extra):
    server.default = [event(delta(content="2") | extra), event(delta("stop")), event(total()), DONE]
    [response] = ask(server)
    assert (response.no_think_probability, response.stated_mode, response.mode) == (None, None, Mode.NO_THINK)


def test_missing_usage_is_estimated_and_marked(server):
    server.default = stream({"reasoning": "abcdefgh"}, {"content": "ijk"}, usage=None)
    [response] = ask(server)
    assert response == ChatResponse(
        "abcdefgh", "ijk", Finish.STOP, 3, None, None, tokens_estimated=True
    )  # 11 characters
    assert compute_cost(response, Prices(1.0, 2.0)) is None


def test_a_server_that_knows_no_streams(server):
    message = {"role": "assistant", "content": "2", "reasoning_content": "Hm", "refusal": None}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    server.default = (200, {}, json.dumps({"object": "chat.completion", "choices": choices, "usage": USAGE}).encode())
    assert ask(server) == [ChatResponse("Hm", "2", Finish.STOP, 7, None, 11)]
    content = [{"type": "thinking", "thinking": "Hm", "signature": "x"}, {"type": "text", "text": "2"}]
    whole = {"type": "message", "role": "assistant", "content": content, "stop_reason": "end_turn"}
    server.default = (200, {}, json.dumps({**whole, "usage": {"input_tokens": 4, "output_tokens": 9}}).encode())
    assert ask_claude(server) == [ChatResponse("Hm", "2", Finish.STOP, 9, None, 4)]


def test_thinking_of_anthropics(server):
    server.default = list(claude(thinking("Hm, ", "2."), text("It is ", "2")))
    assert ask_claude(server) == [ChatResponse("Hm, 2.", "It is 2", Finish.STOP, 15, None, 30)]


def test_counts_of_anthropics(server):
    server.default = list(claude(text("12345"), usage={"input_tokens": 7, "output_tokens": 20}))
    [response] = ask_claude(server)
    assert (response.tokens, response.prompt_tokens, response.tokens_estimated) == (20, 7, False)
    server.default = list(claude(text("12345"), usage={"server_tool_use": None}))
    [response] = ask_claude(server)
    assert (response.tokens, response.prompt_tokens, response.tokens_estimated) == (
        2,
        30,
        True,
    )  # not the 1 of the start


def test_a_withheld_thinking_of_anthropics(server):
    for block in ([{"type": "redacted_thinking", "data": "EmwK"}], thinking()):  # thinking(): display omitted
        server.default = list(claude(block, text("2")))
        [response] = ask_claude(server)
        assert (response.thinking, response.answer, response.mode) == ("", "2", Mode.THINK)


@pytest.mark.parametrize(
    ("blocks", "stop", "thinking", "answer", "finish", "refusal"),
    [
        ([thinking("Hm")], "max_tokens", "Hm", None, Finish.LENGTH, False),
        ([text("1 and")], "model_context_window_exceeded", None, "1 and", Finish.LENGTH, False),
        ([], "refusal", None, None, Finish.STOP, True),
        ([text("I will not")], "refusal", None, "I will not", Finish.STOP, True),
        ([text("2")], "stop_sequence", None, "2", Finish.STOP, False),
    ],
)
def test_stop_reasons_of_anthropics(server, blocks, stop, thinking, answer, finish, refusal):
    server.default = list(claude(*blocks, stop=stop))
    [response] = ask_claude(server)
    assert (response.thinking, response.answer, response.finish, response.refused) == (
        thinking,
        answer,
        finish,
        refusal,
    )


@pytest.mark.parametrize(
    ("dialect", "plan", "message"),
    [
        ("openai", stream(finish="tool_calls"), "finish_reason 'tool_calls'"),
        ("anthropic", list(claude(stop="pause_turn")), "stop_reason 'pause_turn'"),
        ("openai", list(claude(text("2"))), "no event of the dialect 'openai'"),
        ("anthropic", stream({"content": "2"}), r"no message of Anthropic's API: type Field required"),
        ("openai", [b"data: {oops\n\n"], "no chat completion: Invalid JSON"),
        ("openai", [event(delta(content=["a", "list"]))], r"choices\.0\.delta\.content Input should be a valid string"),
        ("openai", (200, {}, b'{"hello": "world"}'), "this is no answer"),
    ],
)
def test_an_answer_in_another_form_is_reported(server, dialect, plan, message):
    server.default = plan
    refused(server, message, dialect=Dialect(dialect))


# The stream


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_the_cuts_between_pieces_of_a_stream_do_not_matter(server, ending):
    chunks = [delta(reasoning="Hm… δ → 🤔"), delta(content="答え is 2"), delta("stop"), total()]
    whole = (
        b": keep-alive\n\n" + b"".join(text_event(chunk) + b": OPENROUTER PROCESSING\n\n" for chunk in chunks) + DONE
    )
    whole = whole.replace(b"\n", ending)
    expected = [ChatResponse("Hm… δ → 🤔", "答え is 2", Finish.STOP, 7, None, 11)]
    for size in (1, 2, 3, 7, 64, len(whole)):
        server.default = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert ask(server) == expected


def test_the_end_of_the_stream_need_not_be_waited_for(server):
    server.default = [*stream({"content": "2"}), HANG]
    assert [response.answer for response in ask(server)] == ["2"]


@pytest.mark.parametrize(
    "plan",
    [
        [*stream({"content": "2"})[:2], CUT],
        stream({"content": "2"})[:2],  # in good order, as a proxy does it, but too soon
        stream({"content": "2"})[:-2],  # the usage and the end are missing
        [*stream({"content": "2"})[:2], event({"error": {"message": "busy", "type": "server_error", "code": None}})],
        [event({"error": {"message": "slow down", "code": 429}})],
        [event({"error": "out of memory"})],
        [event({**delta("error"), "error": {"code": "server_error", "message": "Provider disconnected"}})],
        stream({"content": "2"}, finish="insufficient_system_resource"),
        stream({"content": "2"}, finish="abort"),
        stream({"content": "2"}, finish=None),
        (429, {"Retry-After": "0"}, b"{}"),
        (408, {}, b""),
        (500, {}, b"oops"),
        (529, {}, b""),
    ],
)
def test_what_is_transient_is_tried_again(server, plan):
    server.plans += [plan] * (web.ATTEMPTS - 1)
    assert ask(server) == [ChatResponse(None, "2", Finish.STOP, 7, None, 11)]
    assert len(server.calls) == web.ATTEMPTS


@pytest.mark.parametrize("kind", ["overloaded_error", "api_error", "rate_limit_error"])
def test_anthropics_transient_errors_in_mid_stream_are_tried_again(server, kind):
    fault = event({"type": "error", "error": {"type": kind, "message": "Overloaded"}}, "error")
    begun = list(claude(thinking("Hm"), text("wro")))[:6]
    server.default = list(claude(text("2")))
    server.plans += [[*begun, fault], [*begun, CUT], begun, list(claude(text("2")))[:-1]]
    assert [(response.thinking, response.answer) for response in ask_claude(server)] == [(None, "2")]
    assert len(server.calls) == 5


def test_retry_after_is_honoured(server):
    server.plans += [(429, {"Retry-After": "7"}, b""), (503, {"Retry-After": "99999"}, b"")]
    assert [response.answer for response in ask(server)] == ["2"]
    assert server.waits == [7.0, web.LONGEST_WAIT]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("Thu, 01 Jan 2099 00:00:00 GMT", web.LONGEST_WAIT), ("Thu, 01 Jan 2015 00:00:00 GMT", 0),
     ("-3", 0), ("soon", None), ("inf", None), ("nan", None), ("", None)],
)  # fmt: skip
def test_the_forms_of_retry_after(header, seconds):
    response = httpx.Response(429, headers={"Retry-After": header}, request=httpx.Request("POST", "http://h"))
    error = httpx.HTTPStatusError("", request=response.request, response=response)
    assert web.parse_retry_after(error) == seconds


BUSY = [
    (429, {}, b'{"error": {"message": "Rate limit"}}'),
    (529, {}, b""),
    [event({"error": {"message": "slow down", "code": 429}})],
    [event({"error": {"message": "slow down", "code": "429"}})],
]


@pytest.mark.parametrize("plan", BUSY)
def test_an_endpoint_with_too_many_calls_is_waited_for_for_minutes(server, plan):
    """Far longer and more often than after other errors, and the user is told."""
    server.plans += [plan] * (2 * web.ATTEMPTS)
    lines, answers = [], []
    endpoint = Endpoint(url=server.url, model="m", concurrency=1)
    ask_all(endpoint, [PLAIN], lambda index, question, response: answers.append(response.answer), lines.append)
    assert answers == ["2"]
    assert len(server.calls) == 2 * web.ATTEMPTS + 1
    assert server.waits[:8] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert lines[0] == f"{server.url}/v1/chat/completions refuses, for too many calls: waiting 1 s"
    assert len(lines) == 7  # refused at 0, 1, 3, 7, 15, 31, 63, 123, …, 363 s: a line a minute
    assert lines[-1].endswith("waiting 60 s, then at most 1 questions a minute")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            BUSY[0],
            "answered 429: Rate limit; send fewer questions at once than 8, raise .* or repeat the command later",
        ),
        (BUSY[1], "answered 529: no message; "),
        (BUSY[2], "/v1/chat/completions: slow down; try again later"),
        ((503, {"Retry-After": "30"}, b"full"), "answered 503: full; try again later"),
    ],
)
def test_an_endpoint_that_never_has_time_is_given_up_after_ten_minutes(server, plan, message):
    server.default = plan
    refused(server, message)
    assert pace.PATIENCE_SECONDS - 2 * web.LONGEST_WAIT < sum(server.waits) <= pace.PATIENCE_SECONDS
    assert len(server.calls) < 40


@pytest.mark.parametrize(
    "plan",
    [
        (429, {}, b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'),
        [event({"error": {"message": "You exceeded your quota", "code": 429, "type": "insufficient_quota"}})],
    ],
)
def test_a_quota_that_is_used_up_is_not_waited_for(server, plan):
    server.default = plan
    refused(server, "You exceeded your quota")
    assert len(server.calls) == 1


def test_the_rate_is_adapted_to_what_the_endpoint_allows(server):
    """An endpoint that takes ten calls in a minute: all are answered, and few of the calls are refused."""
    taken = []

    def limited(body):
        now = sum(server.waits)
        if sum(now - 60 < time for time in taken) >= 10:
            return 429, {}, b""
        taken.append(now)
        return stream({"content": "2"})

    server.default = limited
    answers = ask(server, *[PLAIN] * 100, concurrency=4)
    assert [one.answer for one in answers] == ["2"] * 100
    assert len(server.calls) - 100 < 60


def test_questions_in_flight_together_slow_the_rate_down_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace, "clock", lambda: now[0])
    rate = pace.Pace("e", sent=100)
    now[0] = 50.0  # two a second so far
    assert all(rate.slow_down(sent, 20.0) for sent in (49.0, 49.5, 49.9))
    assert (rate.interval, rate.paused_until, rate.refusals) == (1.0, 70.0, 1)
    now[0] = 71.0
    assert rate.slow_down(70.5, None)
    assert (rate.interval, rate.paused_until, rate.refusals) == (2.0, 73.0, 2)
    rate.speed_up()
    assert (rate.interval, rate.refusals, rate.refused_since) == (2.0 * pace.FASTER, 0, None)


PAGE = (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>\n<h1>Be right back</h1>")


@pytest.mark.parametrize("plan", [PAGE, (200, {}, b"upstream went away"), (200, {}, b"")])
def test_a_page_in_place_of_an_answer_is_tried_again(server, plan):
    server.plans += [plan] * (web.ATTEMPTS - 1)
    assert [one.answer for one in ask(server)] == ["2"]


# What does not pass


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ((500, {}, b'{"error": {"message": "as requested"}}'), "answered 500: as requested; try again later"),
        (PAGE, r"a page \(text/html\) came with status 200 in place of an answer: <html> <h1>Be .*; try again later"),
        ([CUT], r"no answer from .*/v1/chat/completions \(RemoteProtocolError"),
        (stream({"content": "2"})[:-1], "the stream was cut before its end; try again later"),
        ([event({"error": {"message": "busy"}})], "/v1/chat/completions: busy; try again later"),
    ],
)
def test_transient_errors_that_last_are_reported_after_all_attempts(server, plan, message):
    server.default = plan
    refused(server, message)
    assert len(server.calls) == web.ATTEMPTS


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            (404, {}, b'{"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}'),
            "answered 404: The model `m` does not exist; check the URL and the model's name 'm'",
        ),
        (
            (400, {}, b'{"error": {"message": "Unsupported value: \'temperature\'"}}'),
            "answered 400: Unsupported value: 'temperature'; change the setting that it names",
        ),
        ((400, {}, b'{"error": "too long"}'), "answered 400: too long"),
        ((402, {}, b'{"error": {"message": "Insufficient credits", "code": 402}}'), "the account has no credit"),
        ((422, {}, b'{"detail": [{"loc": ["body"]}]}'), r"answered 422: .*body"),
        ((405, {}, b"<html>\n<h1>Not\nallowed</h1>"), "answered 405: <html> <h1>Not allowed</h1>"),
        ((404, {}, b""), "answered 404: no message"),
        ((308, {"Location": "https://h/v2"}, b""), "give the URL that it points to: https://h/v2"),
        ([event({"error": {"message": "Too\nlong" + 999 * "!", "code": 400}})], r"completions: Too long!{192}; see"),
        ([event({"error": {"message": "Bad", "type": "invalid_request_error", "code": "context"}})], "Bad"),
        ([event({"error": {"message": "No money", "type": "insufficient_quota"}})], "No money"),
    ],
)
def test_a_refusal_is_not_tried_again_and_is_reported_in_the_servers_words(server, plan, message):
    server.default = plan
    refused(server, message)
    assert len(server.calls) == 1


def test_a_refusal_of_anthropics_in_mid_stream(server):
    server.default = [event({"type": "error", "error": {"type": "invalid_request_error", "message": "No"}}, "error")]
    refused(server, "/v1/messages: No;", dialect=Dialect.ANTHROPIC)
    assert len(server.calls) == 1


def test_keys_are_sent_but_never_shown(server, monkeypatch):
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}}).encode()
    server.default = (401, {}, echo)
    assert "there is no key: set OPENAI_API_KEY" in refused(server, "answered 401")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    message = refused(server, r"answered 401: Incorrect API key provided: \*\*\*\.; check the key in OPENAI_API_KEY")
    assert KEY not in message
    assert server.calls[-1].headers["Authorization"] == f"Bearer {KEY}"
    server.default = [event({"error": {"message": f"bad {KEY}", "code": 401}})]
    assert KEY not in refused(server, r"bad \*\*\*")
    monkeypatch.setenv("OPENAI_API_KEY", "x")  # a stand-in for servers without keys
    server.default = (404, {}, b'{"error": "does not exist"}')
    refused(server, "does not exist")
    monkeypatch.setenv("MY_KEY", "another")
    server.default = stream({"content": "2"})
    ask(server, key_variable="MY_KEY")
    assert server.calls[-1].headers["Authorization"] == "Bearer another"
    monkeypatch.setenv("MY_KEY", "two\nlines")
    with pytest.raises(UserError, match="the key in MY_KEY has characters that a header cannot carry") as caught:
        ask(server, key_variable="MY_KEY")
    assert "two" not in str(caught.value)


def test_nobody_at_the_endpoint_is_reported(monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", wait_none())
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(UserError, match="is the server running there") as caught:
            ask_all(Endpoint(url=url, model="m"), [PLAIN], lambda *_: None)
    assert "secret" not in str(caught.value)


def test_silence_is_broken_off_and_tried_again(server, monkeypatch):
    server.plans.append([event(delta(content="2")), HANG])
    monkeypatch.setattr(client, "ATTEMPTS", 1000)  # a busy machine may be as slow more often than once
    assert [reply.answer for reply in ask(server, silence_seconds=0.5)] == ["2"]
    assert len(server.calls) > 1
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    server.default = [event(delta(content="2")), HANG]
    refused(server, r"sent nothing for 0\.5 s, 2 times over", silence_seconds=0.5)


def test_a_server_that_only_keeps_the_connection_alive_is_left(server, monkeypatch):
    def comments():
        while not server.released.wait(0.02):
            yield b": keep-alive\n\n"

    monkeypatch.setattr(client, "RESPONSE_TIMEOUT_SECONDS", 0.3)
    server.default = lambda body: comments()
    refused(server, "had not ended after 0 s; lower its max_tokens, 64 now")
    assert len(server.calls) <= 1  # not tried again; on a busy machine the time may have passed before the request


# Answers in the field of the thinking


def misplaced(prompt="lost"):
    return stream({"reasoning_content": f"The answer, {prompt}"})


@pytest.mark.parametrize("mode", [Mode.NO_THINK, None])
def test_answers_that_all_come_as_thinking_are_noticed(server, mode):
    server.default = misplaced()
    arrived = []
    endpoint = Endpoint(url=server.url, model="m", switch=Switch.ENABLE_THINKING, concurrency=2)
    with pytest.raises(
        UserError, match=r"finished [1-4] responses with thinking and none with an answer: its reasoning parser"
    ):
        ask_all(endpoint, [Question("?", mode, 9)] * 50, lambda *response: arrived.append(response))
    assert arrived == []
    assert len(server.calls) <= 5  # long before all are paid for


@pytest.mark.parametrize("mode", [Mode.THINK, None])
def test_a_server_that_takes_the_markers_away_is_noticed(server, mode):
    server.default = stream({"content": "Alright, 1+1=2. 2"})
    message = "finished 3 responses with thinking and none with an answer: no thinking was closed; the server may drop"
    refused(server, message, *[Question("?", mode, 9)] * 3, inline_thinking=True, switch=Switch.ENABLE_THINKING)


def test_one_answer_in_the_right_field_clears_the_others_of_its_mode(server):
    server.plans += [misplaced("first"), stream({"content": "2"}), misplaced("third")]
    responses = ask(server, *[Question("?", Mode.NO_THINK, 9)] * 3, switch=Switch.ENABLE_THINKING, concurrency=1)
    assert [(response.thinking, response.answer) for response in responses] == [
        ("The answer, first", None),
        (None, "2"),
        ("The answer, third", None),
    ]


def test_an_answer_of_another_mode_clears_nothing(server):
    server.plans += [stream({"reasoning": "Hm"}, {"content": "2"}), misplaced()]
    questions = [Question("?", Mode.THINK, 9), Question("?", Mode.NO_THINK, 9)]
    refused(server, "finished 1 responses with thinking", *questions, switch=Switch.ENABLE_THINKING, concurrency=1)


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        (Mode.THINK, {"switch": Switch.ENABLE_THINKING}),
        (Mode.NO_THINK, {"switch": Switch.THINKING_TYPE}),
        (None, {"switch": Switch.REASONING}),
    ],
)
def test_where_thinking_is_certain_a_response_may_have_no_answer(server, mode, settings):
    server.default = misplaced()
    [response] = ask(server, Question("?", mode, 9), **settings)
    assert (response.thinking, response.answer, response.finish) == ("The answer, lost", None, Finish.STOP)


# Many questions


def test_questions_are_taken_as_they_are_sent_and_at_most_so_many_at_once(server):
    taken, done, most = 0, [], 0

    def questions():
        nonlocal taken, most
        for number in range(60):
            taken += 1
            most = max(most, taken - len(done))
            yield Question(f"{number}", None, 9)

    def answer(body):
        if len(server.calls) == 1:
            wait_until(lambda: server.most_together > 1)  # the first waits until it was not alone
        return stream({"content": body["messages"][0]["content"]})

    server.default = answer
    endpoint = Endpoint(url=server.url, model="m", concurrency=4)
    ask_all(
        endpoint, questions(), lambda index, question, response: done.append((index, question.prompt, response.answer))
    )
    assert sorted(done) == [(number, f"{number}", f"{number}") for number in range(60)]
    assert most <= 4
    assert 1 < server.most_together <= 4


def test_what_came_before_a_refusal_has_been_handed_over(server):
    server.plans += [stream({"content": str(number)}) for number in range(5)]
    server.default = (404, {}, b'{"error": {"message": "gone"}}')
    answers = []
    endpoint = Endpoint(url=server.url, model="m", concurrency=1)
    with pytest.raises(UserError, match="gone"):
        ask_all(endpoint, [PLAIN] * 100, lambda index, question, response: answers.append((index, response.answer)))
    assert answers == [(number, str(number)) for number in range(5)]
    assert len(server.calls) == 6


def test_one_refusal_ends_calls_that_still_run(server):
    server.plans += [[event(delta(content="2")), HANG], (401, {}, b"{}")]
    refused(server, "answered 401", PLAIN, PLAIN, concurrency=2)


def test_an_error_of_the_caller_goes_through(server):
    def full(index, question, response):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        ask_all(Endpoint(url=server.url, model="m"), [PLAIN] * 20, full)

    def broken():
        yield PLAIN
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        ask_all(Endpoint(url=server.url, model="m"), broken(), lambda *_: None)


def test_no_questions_are_no_calls(server):
    assert ask_all(Endpoint(url=server.url, model="m"), [], lambda *_: None) is None
    assert server.calls == []


def test_memory_does_not_grow_with_the_number_of_questions(server):
    def live_responses(number):
        held = []

        def count(index, question, response):
            if index == number - 1:
                gc.collect()
                held.append(sum(type(thing) in (ChatResponse, Question) for thing in gc.get_objects()))

        ask_all(
            Endpoint(url=server.url, model="m", concurrency=2), (Question("?", None, n) for n in range(number)), count
        )
        return held[0]

    assert 1 <= live_responses(100) <= live_responses(10) + 2


PROGRAM = """
import sys
from adaptthink.chat.base import Endpoint, Question
from adaptthink.chat.client import ask_all
ask_all(Endpoint(url=sys.argv[1], model="m"), (Question("?", None, 9) for _ in range(99)), lambda *_: None)
"""


def test_an_interrupt_leaves_nothing_hanging(server):
    server.default = [event(delta(content="2")), HANG]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: server.together == 8 or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=WAIT_SECONDS)
    finally:
        process.kill()
    assert server.most_together == 8
    assert process.returncode in (-signal.SIGINT, 130, 1)
    assert message.rstrip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in message


def test_chat_loads_neither_torch_nor_transformers():
    program = (
        "import sys, adaptthink.chat.client\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_costs():
    response = ChatResponse("Hm", "2", Finish.STOP, 2_000, None, 500)
    assert compute_cost(response, Prices(input=3.0, output=15.0)) == pytest.approx(0.0315)  # 0.0015 + 0.03
    assert compute_cost(response, Prices(input=0.0, output=0.0)) == 0
    assert compute_cost(response, Prices(output=15.0)) is None
    assert compute_cost(ChatResponse(None, "2", Finish.STOP, 9, None, None), Prices(1.0, 1.0)) is None
    assert (
        compute_cost(ChatResponse(None, "2", Finish.STOP, 9, None, 9, tokens_estimated=True), Prices(1.0, 1.0)) is None
    )
