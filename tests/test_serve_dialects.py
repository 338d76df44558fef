"""The dialects beside chat completions: what they read, and how their answers, streams and errors are written."""

import json
import threading
from itertools import groupby

import httpx2 as httpx
import pytest
from server import running
from waiting import WAIT_SECONDS

from adaptthink.config.schema import ServeConfig
from adaptthink.dial.efforts import Level
from adaptthink.engines.base import Finish, ScriptedEngine
from adaptthink.modes import Message, Mode, probe
from adaptthink.sampling.reading import Response
from adaptthink.serving import app as app_module
from adaptthink.serving.app import make_app
from adaptthink.serving.generation import CallError, Decided, Delta, Ended, Part, Reason
from adaptthink.serving.prepare import Served
from adaptthink.serving.routes import make_dialects
from adaptthink.serving.worker import Worker

RESPONSES, MESSAGES, CHAT, GENERATE = "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"
COUNT = "/v1/messages/count_tokens"
TURNS = [{"role": "user", "content": "47+8-3=?"}]
BODIES = {
    RESPONSES: {"model": "tiny", "input": "47+8-3=?"},
    MESSAGES: {"model": "tiny", "max_tokens": 100, "messages": TURNS},
    COUNT: {"model": "tiny", "messages": TURNS},
    CHAT: {"model": "tiny", "messages": TURNS, "stream": False},
    GENERATE: {"model": "tiny", "prompt": "47+8-3=?", "stream": False},
}
LEVELS = (
    Level("none", 0.0, None),
    Level("low", 0.3, 0.05),
    Level("max", 2.0, 0.0, mean_tokens=50.0),
)
# What a think response of 12 tokens looks like, 7 of them before the close token.
DECIDED = Decided(Mode.THINK, 0.25, 0.5, 9, Reason.THRESHOLD, think_tokens=50.0)
DELTAS = [
    Delta(0, Part.THINKING, "47+8"),
    Delta(0, Part.THINKING, "=55"),
    Delta(0, Part.ANSWER, "5"),
    Delta(0, Part.ANSWER, "2"),
]
ENDED = Ended(0, Response(Mode.THINK, "47+8=55", "52", Finish.STOP, 12, 7))
CUT = Ended(0, Response(Mode.THINK, "47+8=55", None, Finish.LENGTH, 7, 7))
X_FIRST = {
    "mode": "think", "reason": "threshold", "no_think_probability": 0.25, "threshold": 0.5, "effort": None,
    "thinking_budget": None,
}  # fmt: skip
X_LAST = X_FIRST | {"modes": ["think"], "tokens_saved": 0, "second_looks": 0}


@pytest.fixture(scope="module")
def served(tokenizer):
    return Served("tiny", tokenizer, probe(tokenizer), 1024, 0.5, levels=LEVELS)


@pytest.fixture
def read(served):
    """Read a call's body, beside what is required."""
    dialects = {one.path: one for one in make_dialects(served, "separate")}

    def read(path, **body):
        return dialects[path].read(json.dumps(BODIES[path] | body).encode())

    return read


def stream(exchange, *events):
    """All that is sent for some events, one JSON object each; the names of events must be those in the data."""
    pieces = [piece for event in events for piece in exchange.stream(event)] + list(exchange.end_stream())
    return parse(exchange, pieces)


def parse(exchange, pieces):
    if exchange.media_type == "application/x-ndjson":
        assert all(piece.endswith("\n") for piece in pieces)
        return [json.loads(piece) for piece in pieces]
    found = []
    for piece in pieces:
        name, data, *rest = piece.split("\n")
        assert rest == ["", ""]
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def types(events):
    return [(kind, len(list(same))) for kind, same in groupby(event["type"] for event in events)]


# OpenAI's Responses.


def test_responses_stream(read):
    events = stream(read(RESPONSES, stream=True), DECIDED, *DELTAS, ENDED)
    assert types(events) == [
        ("response.created", 1),
        ("response.in_progress", 1),
        ("response.output_item.added", 1),
        ("response.content_part.added", 1),
        ("response.reasoning_text.delta", 2),
        ("response.reasoning_text.done", 1),
        ("response.content_part.done", 1),
        ("response.output_item.done", 1),
        ("response.output_item.added", 1),
        ("response.content_part.added", 1),
        ("response.output_text.delta", 2),
        ("response.output_text.done", 1),
        ("response.content_part.done", 1),
        ("response.output_item.done", 1),
        ("response.completed", 1),
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event.get("output_index") for event in events] == [None] * 2 + [0] * 7 + [1] * 7 + [None]
    thought, answer = (event["item"] for event in events if event["type"] == "response.output_item.done")
    assert {event["item_id"] for event in events[3:8]} == {thought["id"]}
    assert {event["item_id"] for event in events[10:15]} == {answer["id"]}
    assert (events[4]["delta"], events[5]["delta"], events[6]["text"]) == ("47+8", "=55", "47+8=55")
    assert events[7]["part"] == {"type": "reasoning_text", "text": "47+8=55"}
    assert events[2]["item"] == {
        "id": thought["id"], "type": "reasoning", "status": "in_progress", "summary": [], "content": [],
    }  # fmt: skip
    assert (events[0]["response"]["status"], events[0]["response"]["x_think"]) == ("in_progress", X_FIRST)
    last = events[-1]["response"]
    assert (last["status"], last["output"], last["x_think"]) == ("completed", [thought, answer], X_LAST)
    assert last["id"] == events[0]["response"]["id"]


def test_responses_answer(read):
    answer = read(RESPONSES, instructions="Add.", metadata={"a": "b"}, temperature=0.5).write(DECIDED, [ENDED])
    thought, message = answer["output"]
    assert thought == {
        "id": thought["id"],
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "47+8=55"}],
    }
    assert message == {
        "id": message["id"],
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "52", "annotations": [], "logprobs": []}],
    }
    assert (thought["id"][:3], message["id"][:4], answer["id"][:5]) == ("rs_", "msg_", "resp_")
    assert answer["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 21,
    }
    said = {"object": "response", "status": "completed", "model": "tiny", "instructions": "Add.", "temperature": 0.5}
    said |= {"metadata": {"a": "b"}, "store": False, "error": None, "incomplete_details": None, "x_think": X_LAST}
    assert said.items() <= answer.items()


def test_a_summary_is_the_thought_itself_where_one_is_asked_for(read):
    exchange = read(RESPONSES, stream=True, reasoning={"summary": "auto"})
    events = stream(exchange, DECIDED, *DELTAS, ENDED)
    assert types(events)[2:8] == [
        ("response.output_item.added", 1),
        ("response.reasoning_summary_part.added", 1),
        ("response.reasoning_summary_text.delta", 2),
        ("response.reasoning_summary_text.done", 1),
        ("response.reasoning_summary_part.done", 1),
        ("response.output_item.done", 1),
    ]
    assert {event["summary_index"] for event in events[3:8]} == {0}
    thought = events[-1]["response"]["output"][0]
    assert (thought["summary"], thought["content"]) == ([{"type": "summary_text", "text": "47+8=55"}], [])


def test_a_response_that_was_cut_is_incomplete(read):
    events = stream(read(RESPONSES, stream=True), DECIDED, *DELTAS[:2], CUT)
    last = events[-1]["response"]
    assert (events[-1]["type"], last["status"]) == ("response.incomplete", "incomplete")
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [(item["type"], item["status"]) for item in last["output"]] == [("reasoning", "incomplete")]
    whole = read(RESPONSES).write(DECIDED, [CUT])
    assert [(item["type"], item["status"]) for item in whole["output"]] == [("reasoning", "incomplete")]


def test_an_empty_answer_is_an_item_too(read):
    direct = Ended(0, Response(Mode.NO_THINK, None, "", Finish.STOP, 2, 0))
    events = stream(read(RESPONSES, stream=True), DECIDED, direct)
    assert [item["content"][0]["text"] for item in events[-1]["response"]["output"]] == [""]
    events = stream(read(MESSAGES, stream=True), DECIDED, direct)
    assert types(events)[1:3] == [("content_block_start", 1), ("content_block_stop", 1)]
    assert read(MESSAGES).write(DECIDED, [direct])["content"] == [{"type": "text", "text": ""}]


# Anthropic.


def test_messages_stream(read):
    first, *blocks, delta, stop = stream(read(MESSAGES, stream=True), DECIDED, *DELTAS, ENDED)
    message = first["message"]
    assert first["type"] == "message_start"
    assert message == {
        "id": message["id"],
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
            "output_tokens_details": {"thinking_tokens": 0},
        },
        "x_think": X_FIRST,
    }
    start, grow, end = "content_block_start", "content_block_delta", "content_block_stop"
    assert blocks == [
        {"type": start, "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": grow, "index": 0, "delta": {"type": "thinking_delta", "thinking": "47+8"}},
        {"type": grow, "index": 0, "delta": {"type": "thinking_delta", "thinking": "=55"}},
        {"type": grow, "index": 0, "delta": {"type": "signature_delta", "signature": "adaptthink"}},
        {"type": end, "index": 0},
        {"type": start, "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": grow, "index": 1, "delta": {"type": "text_delta", "text": "5"}},
        {"type": grow, "index": 1, "delta": {"type": "text_delta", "text": "2"}},
        {"type": end, "index": 1},
    ]
    assert (delta["type"], delta["x_think"]) == ("message_delta", X_LAST)
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"input_tokens": 9, "output_tokens": 12, "output_tokens_details": {"thinking_tokens": 7}}
    assert usage.items() <= delta["usage"].items()
    assert stop == {"type": "message_stop"}


def test_messages_answer(read):
    answer = read(MESSAGES).write(DECIDED, [ENDED])
    assert answer["content"] == [
        {"type": "thinking", "thinking": "47+8=55", "signature": "adaptthink"},
        {"type": "text", "text": "52"},
    ]
    assert (answer["stop_reason"], answer["stop_sequence"], answer["x_think"]) == ("end_turn", None, X_LAST)
    cut = read(MESSAGES).write(DECIDED, [CUT])
    assert ([block["type"] for block in cut["content"]], cut["stop_reason"]) == (["thinking"], "max_tokens")
    stopped = Ended(0, ENDED.response, stop="##")
    answer = read(MESSAGES, stop_sequences=["##"]).write(DECIDED, [stopped])
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "##")


def test_thinking_may_be_omitted(read):
    thinking = {"type": "enabled", "budget_tokens": 50, "display": "omitted"}
    answer = read(MESSAGES, thinking=thinking).write(DECIDED, [ENDED])
    assert answer["content"][0] == {"type": "thinking", "thinking": "", "signature": "adaptthink"}
    events = stream(read(MESSAGES, thinking=thinking, stream=True), DECIDED, *DELTAS, ENDED)
    assert [event["delta"]["type"] for event in events if "index" in event and "delta" in event] == [
        *("signature_delta", "text_delta", "text_delta")
    ]


# Ollama.


def test_chat_stream(read):
    lines = stream(read(CHAT, stream=True), DECIDED, *DELTAS, ENDED)
    assert all(line["model"] == "tiny" and line["created_at"].endswith("Z") for line in lines)
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "", "thinking": "47+8"},
        {"role": "assistant", "content": "", "thinking": "=55"},
        {"role": "assistant", "content": "5"},
        {"role": "assistant", "content": "2"},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in lines] == [False] * 5 + [True]
    assert lines[0]["x_think"] == X_FIRST
    end = {"done_reason": "stop", "prompt_eval_count": 9, "eval_count": 12, "thinking_count": 7, "x_think": X_LAST}
    assert end.items() <= lines[-1].items()


def test_generate_says_the_same_in_other_fields(read):
    lines = stream(read(GENERATE, stream=True), DECIDED, *DELTAS, ENDED)
    assert [(line["response"], line.get("thinking")) for line in lines] == [
        *[("", None), ("", "47+8"), ("", "=55"), ("5", None), ("2", None), ("", None)]
    ]
    whole = read(GENERATE).write(DECIDED, [ENDED])
    assert (whole["response"], whole["thinking"], whole["done_reason"]) == ("52", "47+8=55", "stop")
    cut = read(CHAT).write(DECIDED, [CUT])
    assert cut["message"] == {"role": "assistant", "content": "", "thinking": "47+8=55"}
    assert cut["done_reason"] == "length"


def test_durations_add_up(read):
    exchange = read(CHAT)
    exchange.began = 100.0
    decided = Decided(Mode.THINK, None, None, 9, Reason.REQUEST, at=100.5)
    end = exchange.write(decided, [ENDED])
    assert end["prompt_eval_duration"] == 500_000_000
    assert end["total_duration"] == end["prompt_eval_duration"] + end["eval_duration"]


def test_streams_are_ollamas_default(served):
    [chat, generate] = [one for one in make_dialects(served, "separate") if one.path.startswith("/api")]
    assert chat.read(json.dumps({"model": "tiny", "messages": TURNS}).encode()).request.stream
    assert generate.read(json.dumps({"model": "tiny:latest", "prompt": "1"}).encode()).request.stream


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, CHAT, GENERATE])
def test_no_text_breaks_a_line(read, path):
    """Clients split lines at these characters too."""
    text = "5\x85\u2028\u20292\n"
    exchange = read(path, stream=True)
    sent = "".join(exchange.stream(DECIDED)) + "".join(exchange.stream(Delta(0, Part.ANSWER, text)))
    last = sent.splitlines()[-1 if path.startswith("/api") else -2]
    delta = json.loads(last.removeprefix("data: "))
    delta = delta.get("delta") or delta.get("message") or delta
    found = delta if isinstance(delta, str) else delta.get("text") or delta.get("content") or delta.get("response")
    assert found == text


# What requests say.


@pytest.mark.parametrize(
    ("path", "body", "requested"),
    [
        (RESPONSES, {}, {}),
        (RESPONSES, {"reasoning": {"effort": "low"}}, {"effort": "low"}),
        (RESPONSES, {"reasoning": {"effort": "none"}}, {"effort": "none"}),
        (RESPONSES, {"model": "tiny:think"}, {"mode": "think"}),
        (RESPONSES, {"max_output_tokens": 5, "temperature": 0, "top_p": 0.5, "stream": True},
         {"max_tokens": 5, "temperature": 0, "top_p": 0.5, "stream": True}),
        (MESSAGES, {}, {"max_tokens": 100}),
        (MESSAGES, {"thinking": {"type": "disabled"}}, {"max_tokens": 100, "mode": "no_think"}),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 9}},
         {"max_tokens": 100, "mode": "think", "thinking_budget": 9}),
        (MESSAGES, {"thinking": {"type": "adaptive"}}, {"max_tokens": 100}),
        (MESSAGES, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
         {"max_tokens": 100, "effort": "max"}),
        (MESSAGES, {"stop_sequences": ["a"], "temperature": 1, "top_p": 0.5},
         {"max_tokens": 100, "stops": ("a",), "temperature": 1, "top_p": 0.5}),
        (CHAT, {"think": True}, {"mode": "think"}),
        (CHAT, {"think": False}, {"mode": "no_think"}),
        (CHAT, {"think": "low"}, {"effort": "low"}),
        (CHAT, {"options": {"num_predict": 5, "temperature": 0, "top_p": 0.5, "seed": 3, "stop": "a"}},
         {"max_tokens": 5, "temperature": 0, "top_p": 0.5, "seed": 3, "stops": ("a",)}),
        (GENERATE, {"options": {"num_predict": -1, "num_ctx": 4096}, "keep_alive": "5m"}, {}),
    ],
)  # fmt: skip
def test_what_parameters_mean(read, path, body, requested):
    request = read(path, **body).request
    unsaid = {"mode", "effort", "threshold", "tolerance", "thinking_budget", "max_tokens", "temperature", "top_p"}
    assert {name: getattr(request, name) for name in unsaid | {"seed"}} == dict.fromkeys(unsaid | {"seed"}) | {
        name: value for name, value in requested.items() if name not in ("stops", "stream")
    }
    assert (request.stops, request.stream) == (requested.get("stops", ()), requested.get("stream", False))
    assert request.n == 1


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, CHAT, GENERATE])
def test_our_own_options_are_read_in_each_dialect(read, path):
    request = read(path, x_think={"threshold": 0.3, "thinking_budget": 7, "second_look": True}).request
    assert (request.threshold, request.thinking_budget, request.second_look) == (0.3, 7, True)
    with pytest.raises(CallError, match=r"requests no_think by model and think by x_think\.mode"):
        read(path, model="tiny:no_think", x_think={"mode": "think"})


@pytest.mark.parametrize(
    ("path", "body", "first", "second"),
    [
        (RESPONSES, {"model": "tiny:think", "reasoning": {"effort": "low"}}, "model", "reasoning.effort"),
        (MESSAGES, {"model": "tiny:think", "thinking": {"type": "disabled"}}, "model", "thinking.type"),
        (MESSAGES, {"model": "tiny:think", "thinking": {"type": "adaptive"}}, "model", "thinking.type"),
        (MESSAGES, {"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking.budget_tokens", "thinking.type"),
        (MESSAGES, {"thinking": {"type": "enabled"}, "output_config": {"effort": "low"}},
         "thinking.type", "output_config.effort"),
        (CHAT, {"think": False, "x_think": {"thinking_budget": 5}}, "x_think.thinking_budget", "think"),
        (GENERATE, {"model": "tiny:low", "think": True}, "think", "model"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(read, path, body, first, second):
    with pytest.raises(CallError, match=rf"by {first} and .* by {second}; request one of them"):
        read(path, **body)


NEEDLESS = [
    (RESPONSES, {"store": True, "user": "a", "include": ["reasoning.encrypted_content"], "tools": [],
                 "tool_choice": "auto", "parallel_tool_calls": True, "truncation": "disabled", "background": False,
                 "text": {"format": {"type": "text"}, "verbosity": "medium"}, "previous_response_id": None,
                 "service_tier": "auto", "prompt_cache_key": "k", "stream_options": {"include_obfuscation": False},
                 "reasoning": {"context": "auto", "mode": "standard", "effort": None}}),
    (MESSAGES, {"metadata": {"user_id": "a"}, "service_tier": "auto", "tools": [], "tool_choice": {"type": "auto"},
                "cache_control": {"type": "ephemeral"}, "top_k": -1}),
    (CHAT, {"keep_alive": -1, "format": "", "tools": [], "logprobs": False,
            "options": {"num_ctx": 2048, "num_gpu": 1, "repeat_penalty": 1.0, "top_k": 0, "mirostat": 0}}),
    (GENERATE, {"context": [], "images": [], "suffix": "", "template": "", "raw": False, "system": ""}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), NEEDLESS)
def test_what_changes_no_answer_is_ignored(read, path, body):
    given, plain = read(path, **body).request, read(path).request
    names = [name for name in plain.__slots__ if name != "id"]  # an id of its own each
    assert [getattr(given, name) for name in names] == [getattr(plain, name) for name in names]


@pytest.mark.parametrize(
    ("path", "name", "body"),
    [
        (RESPONSES, "previous_response_id", {"previous_response_id": "resp_1"}),
        (RESPONSES, "conversation", {"conversation": "conv_1"}),
        (RESPONSES, "background", {"background": True}),
        (RESPONSES, "truncation", {"truncation": "auto"}),
        (RESPONSES, "text.format", {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}),
        (RESPONSES, "text.verbosity", {"text": {"verbosity": "low"}}),
        (RESPONSES, "reasoning.summary", {"reasoning": {"summary": "concise"}}),
        (RESPONSES, "reasoning.context", {"reasoning": {"context": "all_turns"}}),
        (RESPONSES, "include.0", {"include": ["message.output_text.logprobs"]}),
        (RESPONSES, "tools", {"tools": [{"type": "web_search"}]}),
        (RESPONSES, "tool_choice", {"tool_choice": "required"}),
        (RESPONSES, "metadata", {"metadata": {"a": [float("nan")]}}),
        (RESPONSES, "prompt", {"prompt": {"id": "p"}}),
        (RESPONSES, "seed", {"seed": 3}),
        (RESPONSES, "temperature", {"temperature": -1}),
        (RESPONSES, "input.0", {"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]}),
        (RESPONSES, "input.0", {"input": ["a"]}),
        (RESPONSES, "input.0.message.content.0.type",
         {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
        (RESPONSES, "input", {"input": []}),
        (RESPONSES, "input", {"input": [{"role": "assistant", "content": "a"}]}),
        (MESSAGES, "max_tokens", {"max_tokens": 0}),
        (MESSAGES, "top_k", {"top_k": 40}),
        (MESSAGES, "tools", {"tools": [{"name": "a", "input_schema": {}}]}),
        (MESSAGES, "container", {"container": "c"}),
        (MESSAGES, "output_config.format", {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
        (MESSAGES, "thinking.type", {"thinking": {"type": "between_tools"}}),
        (MESSAGES, "messages.0.content.0",
         {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
        (MESSAGES, "messages", {"messages": [*TURNS, {"role": "assistant", "content": "The answer is"}]}),
        (MESSAGES, "messages.0.role", {"messages": [{"role": "tool", "content": "a"}]}),
        (CHAT, "format", {"format": "json"}),
        (CHAT, "tools", {"tools": [{"type": "function", "function": {"name": "a"}}]}),
        (CHAT, "think", {"think": "perhaps"}),
        (CHAT, "options.top_k", {"options": {"top_k": 40}}),
        (CHAT, "options.repeat_penalty", {"options": {"repeat_penalty": 1.1}}),
        (CHAT, "options.num_predict", {"options": {"num_predict": 0}}),
        (CHAT, "messages.0.images", {"messages": [{"role": "user", "content": "a", "images": ["AAAA"]}]}),
        (CHAT, "messages", {"messages": []}),
        (GENERATE, "suffix", {"suffix": "b"}),
        (GENERATE, "template", {"template": "{{ .Prompt }}"}),
        (GENERATE, "context", {"context": [1, 2]}),
        (GENERATE, "prompt", {"prompt": ""}),
        (GENERATE, "system", {"raw": True, "system": "a"}),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused(read, path, name, body):
    with pytest.raises(CallError) as refused:
        read(path, **body)
    assert (refused.value.param, refused.value.status) == (name, 400)
    assert ";" in str(refused.value) or ":" in str(refused.value)  # and what to do


EARLIER = (Message("system", "Add."), Message("user", "1+1=?"), Message("assistant", "2"), Message("user", "2+2=?"))


def test_earlier_turns_are_read_without_their_thinking(read):
    """As each dialect's own answers are passed back."""
    own = read(RESPONSES).write(DECIDED, [Ended(0, Response(Mode.THINK, "1+1", "2", Finish.STOP, 9, 5))])["output"]
    items = [{"role": "user", "content": [{"type": "input_text", "text": "1+1=?"}]}, *own]
    last = {"type": "message", "role": "user", "content": "2+2=?"}
    assert read(RESPONSES, instructions="Add.", input=[*items, last]).request.prompt == EARLIER

    own = read(MESSAGES).write(DECIDED, [Ended(0, Response(Mode.THINK, "1+1", "2", Finish.STOP, 9, 5))])["content"]
    question = [{"type": "text", "text": "1+1=?", "cache_control": {"type": "ephemeral"}}]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": own}]
    again = [{"role": "user", "content": "2+2=?"}]
    for system in ("Add.", [{"type": "text", "text": "Add."}]):
        assert read(MESSAGES, system=system, messages=turns + again).request.prompt == EARLIER

    own = read(CHAT).write(DECIDED, [Ended(0, Response(Mode.THINK, "1+1", "2", Finish.STOP, 9, 5))])["message"]
    turns = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1=?"}, own]
    assert read(CHAT, messages=turns + again).request.prompt == EARLIER
    assert read(GENERATE, system="Add.", prompt="1").request.prompt == (Message("system", "Add."), Message("user", "1"))


def test_turns_in_a_row_are_one_turn_for_anthropic(read):
    turns = [{"role": "user", "content": "1"}, {"role": "user", "content": [{"type": "text", "text": "2"}]}]
    assert read(MESSAGES, messages=turns).request.prompt == (Message("user", "1\n\n2"),)


def test_a_raw_prompt_is_continued_as_it_is(read):
    assert read(GENERATE, raw=True, prompt="1+1=").request.prompt == "1+1="


# Over HTTP.


class Broken(ScriptedEngine):
    def generate(self, *args, **options):
        raise RuntimeError("secret")


@pytest.fixture(scope="module")
def script(tokenizer):
    close = tokenizer.convert_tokens_to_ids("</think>")

    def script(prompt, prefix):
        text = "52" if close in prefix else "9</think>52"
        return tokenizer.encode(text + "<|eos|>", add_special_tokens=False)

    return script


@pytest.fixture(scope="module")
def app(served, script):
    settings = ServeConfig(max_think_tokens=64, max_no_think_tokens=16, api_key="key")
    return make_app(served, Worker(ScriptedEngine(script)), settings)


@pytest.fixture(scope="module")
def url(app):
    with running(app) as url:
        yield url


def post(url, path, key="key", **body):
    headers = {"x-api-key": key} if path.startswith("/v1/messages") else {"Authorization": f"Bearer {key}"}
    return httpx.post(url + path, json=BODIES.get(path, {}) | body, headers=headers, timeout=WAIT_SECONDS)


def get(url, path):
    return httpx.get(url + path, headers={"Authorization": "Bearer key"}, timeout=WAIT_SECONDS)


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, CHAT, GENERATE])
def test_an_answer_over_http(url, path):
    whole = post(url, path, model="tiny:think").json()
    assert (whole["model"], whole["x_think"]["modes"]) == ("tiny:think", ["think"])
    streamed = post(url, path, model="tiny:think", stream=True)
    lines = path.startswith("/api")
    kind = "application/x-ndjson" if lines else "text/event-stream"
    assert streamed.headers["content-type"] == f"{kind}; charset=utf-8"
    pieces = [line.removeprefix("data: ") for line in streamed.text.splitlines() if "{" in line]
    assert len(pieces) > 4
    assert '"second_looks":0' in pieces[-2 if path == MESSAGES else -1]


def test_tokens_are_counted_as_the_answer_counts_them(url):
    body = {"system": "Add.", "messages": TURNS}
    counted = post(url, COUNT, **body, thinking={"type": "enabled", "budget_tokens": 4}).json()
    assert counted == {"input_tokens": post(url, MESSAGES, **body).json()["usage"]["input_tokens"]}
    refused = post(url, COUNT, messages=[{"role": "user", "content": "1" * 100_000}]).json()
    assert refused["error"]["type"] == "invalid_request_error"
    assert "100000 characters" in refused["error"]["message"]


def write_openai(status, message):
    kinds = {401: "authentication_error", 429: "rate_limit_error", 503: "server_error", 500: "server_error"}
    return {"type": kinds.get(status, "invalid_request_error"), "message": message}


ANTHROPIC = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 405: "invalid_request_error",
    413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 503: "overloaded_error",
}  # fmt: skip


def check_error(path, answer, status):
    assert answer.status_code == status
    found = answer.json()
    if path.startswith("/api"):
        assert list(found) == ["error"]
        return found["error"]
    message = found["error"]["message"]
    if path.startswith("/v1/messages"):
        assert found == {"type": "error", "error": {"type": ANTHROPIC[status], "message": message}}
    else:
        assert found["error"].items() >= write_openai(status, message).items()
    return message


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, COUNT, CHAT, GENERATE])
def test_errors_have_the_dialects_format(url, app, path, monkeypatch):
    assert "no valid API key" in check_error(path, post(url, path, key="other"), 401)
    assert "no model 'other'" in check_error(path, post(url, path, model="other"), 404)
    assert "'unknown' is not supported" in check_error(path, post(url, path, unknown=1), 400)
    assert "larger than" in check_error(path, post(url, path, unknown="1" * 2**20), 413)
    assert "Method Not Allowed" in check_error(path, get(url, path), 405)
    assert "Not Found" in check_error(path, get(url, f"{path}/nothing"), 404)
    if path == COUNT:
        return
    monkeypatch.setattr(app.state.load, "waiting", 256)
    refused = post(url, path)
    assert refused.headers["retry-after"] == "1"
    assert "no more are accepted" in check_error(path, refused, 429)
    monkeypatch.setattr(app.state.load, "draining", True)
    assert "shutting down" in check_error(path, post(url, path), 503)


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, CHAT, GENERATE])
def test_a_fault_within_a_stream(served, script, path):
    engine = Broken(script)
    with running(make_app(served, Worker(engine), ServeConfig())) as url:
        answer = post(url, path, stream=True)
    last = json.loads(answer.text.splitlines()[-1 if path.startswith("/api") else -2].removeprefix("data: "))
    assert "secret" not in answer.text
    message = "the server failed (RuntimeError); see its log"
    if path == RESPONSES:
        assert last["type"] == "response.failed"
        assert (last["response"]["status"], last["response"]["error"]["message"]) == ("failed", message)
    else:
        error = {"type": "error", "error": {"type": "api_error", "message": message}}
        assert last == (error if path == MESSAGES else {"error": message})


class Slow(ScriptedEngine):
    def __init__(self, script):
        super().__init__(script)
        self.go_on = threading.Event()

    def generate(self, *args, **options):
        assert self.go_on.wait(WAIT_SECONDS)
        return super().generate(*args, **options)


@pytest.mark.parametrize(("path", "sent"), [(RESPONSES, ": still generating"), (MESSAGES, 'data: {"type":"ping"}')])
def test_a_quiet_stream_is_kept_open(served, script, monkeypatch, path, sent):
    monkeypatch.setattr(app_module, "QUIET_SECONDS", 0.01)
    engine = Slow(script)
    body = BODIES[path] | {"stream": True}
    with (
        running(make_app(served, Worker(engine), ServeConfig())) as url,
        httpx.stream("POST", url + path, json=body, timeout=WAIT_SECONDS) as answer,
    ):
        lines = answer.iter_lines()
        assert sent in lines
        engine.go_on.set()
        assert ("response.completed" if path == RESPONSES else "message_stop") in "".join(lines)


def test_the_lists_of_models(url):
    names = ["tiny", "tiny:think", "tiny:no_think", "tiny:low"]
    listed = get(url, "/v1/models").json()
    assert [one["id"] for one in listed["data"]] == names
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, names[0], names[-1])
    assert {(one["object"], one["type"]) for one in listed["data"]} == {("model", "model")}
    assert get(url, "/v1/models/tiny:low").json() == listed["data"][-1]
    assert get(url, "/v1/models/other").status_code == 404
    tags = get(url, "/api/tags").json()["models"]
    assert [(one["name"], one["model"]) for one in tags] == [(name, name) for name in names]
    for body in ({"model": "tiny:latest"}, {"name": "tiny", "verbose": True}):
        shown = post(url, "/api/show", **body).json()
        assert shown["capabilities"] == ["completion", "thinking"]
        assert shown["model_info"]["adaptthink.context_length"] == 1024
        assert shown["thinking"]["values"] == [True, False, "none", "low", "max"]
        assert shown["x_think"] == listed["data"][0]["x_think"]
    assert "no model 'other'" in check_error(CHAT, post(url, "/api/show", model="other"), 404)
    assert set(get(url, "/api/version").json()) == {"version"}
