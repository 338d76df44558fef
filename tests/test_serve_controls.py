"""What a request may say about thinking: modes, efforts, thresholds, budgets and second looks, over HTTP."""

import math

import httpx2 as httpx
import pytest
from server import running
from waiting import WAIT_SECONDS

from adaptthink.config.schema import ServeConfig
from adaptthink.dial.efforts import Level, list_levels
from adaptthink.engines.base import ScriptedEngine
from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import load_policy
from adaptthink.modes import probe
from adaptthink.serving.app import make_app
from adaptthink.serving.controls import Controls, ThinkOptions, merge_controls
from adaptthink.serving.generation import CallError
from adaptthink.serving.prepare import Served
from adaptthink.serving.worker import Worker

MESSAGES = [{"role": "user", "content": "47+8-3=?"}]
LEVELS = (
    Level("none", 0.0, None, 0.5, 8.0, 1.0),
    Level("minimal", 0.1, 0.1, 0.8, 12.0, 0.7),
    Level("low", 0.3, 0.05, 0.9, 20.0, 0.5),
    Level("max", 2.0, 0.0, 0.92, 50.0, 0.0),
)


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture
def serve(tokenizer):
    """Serve an engine; gives a function that starts a server, which gives a function that posts a call."""
    stack = []

    def start(engine, *, context=1024, levels=LEVELS, threshold=None, **config):
        settings = ServeConfig(**({"max_think_tokens": 128, "max_no_think_tokens": 16} | config))
        served = Served("tiny", tokenizer, probe(tokenizer), context, threshold, levels=levels)
        server = running(make_app(served, Worker(engine), settings))
        url = server.__enter__()
        stack.append(server)

        def post(path="/v1/chat/completions", **body):
            sent = {"model": "tiny", "messages": MESSAGES} | body
            return httpx.post(url + path, json=sent, timeout=WAIT_SECONDS)

        post.url = url
        return post

    yield start
    for server in stack:
        server.__exit__(None, None, None)


def scripted(tokenizer, *, thought="9", answer="\\boxed{52}", no_think=0.25):
    """A model that thinks `thought` and answers `answer`, with a known P(no_think)."""
    close = tokenizer.convert_tokens_to_ids("</think>")

    def script(prompt, prefix):
        text = answer if close in prefix else f"{thought}</think>{answer}"
        return tokenizer.encode(text + "<|eos|>", add_special_tokens=False)

    return ScriptedEngine(script, next_token=lambda prompt, token: math.log(no_think))


def test_what_parameters_say_together():
    def merge(**sources):
        return merge_controls(sources)

    assert merge(a=Controls(), b=Controls(mode="think")) == Controls(mode="think")
    assert merge(a=Controls(effort="none"), b=Controls(mode="no_think")) == Controls(mode="no_think", effort="none")
    assert merge(a=Controls(mode="auto"), b=Controls(threshold=0.3)) == Controls(mode="auto", threshold=0.3)
    assert merge(a=Controls(mode="think"), b=Controls(thinking_budget=9)) == Controls(mode="think", thinking_budget=9)
    assert merge(a=Controls(effort="xhigh"), b=Controls(effort="max")) == Controls(effort="max")
    for first, second in [
        (Controls(mode="think"), Controls(mode="no_think")),
        (Controls(mode="auto"), Controls(mode="think")),
        (Controls(mode="auto"), Controls(effort="max")),
        (Controls(mode="think"), Controls(effort="low")),
        (Controls(effort="none"), Controls(mode="think")),
        (Controls(threshold=0.1), Controls(tolerance=0.1)),
        (Controls(threshold=0.1), Controls(effort="low")),
        (Controls(mode="no_think"), Controls(thinking_budget=9)),
        (Controls(effort="none"), Controls(thinking_budget=9)),
        (Controls(mode="no_think"), Controls(second_look=True)),
        (Controls(effort="max"), Controls(second_look=True)),
        (Controls(thinking_budget=8), Controls(thinking_budget=9)),
    ]:
        with pytest.raises(
            CallError, match=r"the call requests .* by (one|other) and .* by (one|other); request one of them"
        ):
            merge(one=first, other=second)


@pytest.mark.parametrize(
    ("sent", "decided"),
    [
        ({}, ("think", "threshold", 0.5, None)),
        ({"reasoning_effort": "low"}, ("think", "effort", 0.3, "low")),
        ({"reasoning_effort": "minimal"}, ("no_think", "effort", 0.1, "minimal")),
        ({"model": "tiny:minimal"}, ("no_think", "effort", 0.1, "minimal")),
        ({"reasoning": {"effort": "minimal"}}, ("no_think", "effort", 0.1, "minimal")),
        ({"reasoning_effort": "none"}, ("no_think", "effort", None, "none")),
        ({"reasoning_effort": "xhigh"}, ("think", "effort", None, "max")),
        ({"model": "tiny:max"}, ("think", "effort", None, "max")),
        ({"x_think": {"threshold": 0.2}}, ("no_think", "threshold", 0.2, None)),
        ({"x_think": {"threshold": 0.2, "mode": "auto"}}, ("no_think", "threshold", 0.2, None)),
        ({"x_think": {"tolerance": 0.07}}, ("think", "effort", 0.3, "low")),
        ({"x_think": {"tolerance": 0.3}}, ("no_think", "effort", 0.1, "minimal")),
        ({"x_think": {"tolerance": 0.01}}, ("think", "effort", None, "max")),
        ({"x_think": {"mode": "no_think"}}, ("no_think", "request", None, None)),
        ({"thinking_budget": 0}, ("no_think", "request", None, None)),
        ({"x_think": {"thinking_budget": 0}}, ("no_think", "request", None, None)),
        ({"thinking_budget": -1}, ("think", "threshold", 0.5, None)),
        ({"reasoning": {"enabled": False}}, ("no_think", "request", None, None)),
    ],
)
def test_what_decides(serve, tokenizer, sent, decided):
    post = serve(scripted(tokenizer), threshold=0.5)
    found = post(**sent).json()["x_think"]
    assert (found["mode"], found["reason"], found["threshold"], found["effort"]) == decided


@pytest.mark.parametrize(
    "other", [{"mode": "think"}, {"mode": "auto"}, {"effort": "max"}, {"threshold": 2.0}, {"second_look": True}]
)
def test_a_budget_of_nothing_is_no_thinking_and_contradicts_what_may_think(serve, tokenizer, other):
    answer = serve(scripted(tokenizer))(x_think={"thinking_budget": 0} | other)
    assert answer.status_code == 400
    assert "no_think by x_think.thinking_budget" in answer.json()["error"]["message"]


def test_a_budget_of_nothing_and_no_think_say_the_same(serve, tokenizer):
    answer = serve(scripted(tokenizer))(x_think={"thinking_budget": 0, "mode": "no_think"})
    assert (answer.status_code, answer.json()["x_think"]["mode"]) == (200, "no_think")


@pytest.mark.parametrize("said", [{"threshold": 0}, {"tolerance": 0}, {"thinking_budget": 0}])
def test_a_zero_is_not_ignored_where_a_text_has_no_mode(serve, tokenizer, said):
    answer = serve(scripted(tokenizer))("/v1/completions", prompt="47+8", messages=None, x_think=said)
    assert answer.status_code == 400
    assert "there is no mode to choose" in answer.json()["error"]["message"]


def test_a_level_that_is_not_certified_is_refused_with_what_there_is(serve, tokenizer):
    post = serve(scripted(tokenizer))
    for sent in ({"reasoning_effort": "high"}, {"model": "tiny:high"}):
        answer = post(**sent)
        assert answer.status_code == 400
        assert "effort 'high' is not certified" in answer.json()["error"]["message"]
        assert "none, minimal, low, max" in answer.json()["error"]["message"]


def test_an_unknown_model_is_not_told_of_levels_that_are_not_certified(serve, tokenizer):
    answer = serve(scripted(tokenizer))(model="tiny:often")
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert "available: tiny, tiny:think, tiny:no_think, and" in message
    assert "tiny:high" not in message


def test_the_levels_are_listed_with_what_they_give(serve, tokenizer):
    post = serve(scripted(tokenizer), threshold=0.5)
    listed = httpx.get(f"{post.url}/v1/models", timeout=WAIT_SECONDS).json()["data"]
    names = ["tiny", "tiny:think", "tiny:no_think", "tiny:minimal", "tiny:low"]
    assert [one["id"] for one in listed] == names
    dial = listed[0]["x_think"]
    assert (dial["threshold"], dial["certified"], dial["think_tokens"]) == (0.5, False, 50.0)
    assert dial["efforts"][2] == {
        "name": "low", "threshold": 0.3, "tolerance": 0.05, "accuracy": 0.9, "mean_tokens": 20.0, "no_think_share": 0.5,
    }  # fmt: skip


def test_saved_tokens_are_those_of_the_calibrations_thoughts(serve, tokenizer):
    post = serve(scripted(tokenizer))
    answer = post(x_think={"mode": "no_think"}, n=2).json()
    assert answer["x_think"]["tokens_saved"] == 100 - answer["usage"]["completion_tokens"]
    assert post(x_think={"mode": "think"}).json()["x_think"]["tokens_saved"] == 0
    metrics = httpx.get(f"{post.url}/metrics", timeout=WAIT_SECONDS).text
    assert f"adaptthink_tokens_saved_total {answer['x_think']['tokens_saved']}\n" in metrics
    unknown = serve(scripted(tokenizer), levels=list_levels())
    assert unknown(x_think={"mode": "no_think"}).json()["x_think"]["tokens_saved"] is None


# Budgets.


def test_a_thought_that_never_ends_is_closed_and_answered(serve, policy):
    """At a budget of 4 tokens the embedded model's thought is cut, and every response has an answer."""
    post = serve(NativeEngine(policy.model, policy.eos_ids))
    hard = [{"role": "user", "content": "17*23+4*(58-19)=?"}]
    body = {"messages": hard, "n": 8, "seed": 3, "temperature": 1.0}
    long = post(**body, model="tiny:think").json()["choices"]
    for budget in (1, 4, 12):
        answer = post(**body, x_think={"mode": "think", "thinking_budget": budget}).json()
        assert answer["x_think"]["thinking_budget"] == budget
        for choice in answer["choices"]:
            assert choice["message"]["content"].strip()
            assert len(choice["message"]["reasoning"] or "") <= 3 * budget + len("Alright")
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 8 * budget
    assert sum(len(choice["message"]["reasoning"]) for choice in long) > 8 * 20


@pytest.mark.parametrize("budget", [3, 200])
def test_an_engine_of_batches_closes_a_thought_in_two_rounds(serve, tokenizer, budget):
    engine = scripted(tokenizer, thought="1" * 20)
    post = serve(engine, max_think_tokens=300)
    answer = post(x_think={"mode": "think", "thinking_budget": budget}, stream=False).json()["choices"][0]
    first, *second = [request for request in engine.requests if request.max_tokens > 1]
    assert answer["message"]["content"] == "\\boxed{52}"
    if budget == 3:
        assert first.max_tokens == 3
        assert answer["message"]["reasoning"] == "Alright11"
        [follow] = second
        assert follow.prefix_ids[-1] == tokenizer.convert_tokens_to_ids("</think>")
    else:
        assert answer["message"]["reasoning"] == "Alright" + "1" * 20
        assert not second


def test_the_sentence_stands_before_the_close_token(serve, tokenizer, policy):
    served = Served("tiny", tokenizer, probe(tokenizer), 1024, None, closing_sentence="\nso:\n")
    assert tokenizer.decode(served.closing_ids) == "\nso:\n</think>"


@pytest.mark.parametrize(
    ("sent", "applied"),
    [
        ({"max_tokens": 20, "thinking_budget": 50}, 20 - 1 - 9),  # half of 19 tokens, rounded down, are the answer's
        ({"max_tokens": 60, "thinking_budget": 50}, 60 - 1 - 16),
        ({"max_tokens": 60, "thinking_budget": 10}, 10),
        ({"thinking_budget": 1000}, 128 - 1 - 16),
    ],
)
def test_a_budget_leaves_room_for_an_answer(serve, tokenizer, sent, applied):
    post = serve(scripted(tokenizer, thought="1" * 300))
    answer = post(model="tiny:think", **sent).json()
    assert answer["x_think"]["thinking_budget"] == applied
    assert answer["choices"][0]["message"]["content"]


def test_no_room_at_all_is_an_error(serve, tokenizer):
    answer = serve(scripted(tokenizer))(model="tiny:think", max_tokens=1, thinking_budget=5)
    assert answer.status_code == 400
    assert "leave no room for a thought that is closed and an answer" in answer.json()["error"]["message"]


# Second looks.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "again"),
    [
        ("\\boxed{52}", False),
        ("52", False),
        ("let me see", True),
        ("\\boxed{5} Wait, \\boxed{6}", True),
        ("1" * 30, True),
    ],
)
def test_a_doubtful_direct_answer_is_followed_by_a_thought(serve, tokenizer, answer, again, stream):
    """Doubtful: without an answer, with words of second thoughts, and cut at the limit of 16 tokens."""
    post = serve(scripted(tokenizer, answer=answer, no_think=0.9), threshold=0.5)
    reply = post(x_think={"second_look": True}, stream=stream)
    if stream:
        assert ("Alright" in reply.text) == again
        assert f'"second_looks":{int(again)}' in reply.text.replace(" ", "")
        return
    found = reply.json()
    direct, whole = post().json(), found["choices"][0]
    assert found["x_think"]["second_looks"] == int(again)
    assert whole["mode"] == ("think" if again else "no_think")
    assert (whole["message"]["reasoning"] == "Alright9") == again
    thought = post(model="tiny:think").json()["usage"]["completion_tokens"]
    tokens = direct["usage"]["completion_tokens"] + (thought if again else 0)
    assert found["usage"]["completion_tokens"] == tokens


@pytest.mark.parametrize("sent", [{"tolerance": 0.01}, {"thinking_budget": 0}])
def test_a_second_look_without_effect_is_refused(serve, tokenizer, sent):
    answer = serve(scripted(tokenizer))(x_think={"second_look": True} | sent)
    assert answer.status_code == 400
    assert "second look" in answer.json()["error"]["message"]


def test_a_body_that_is_nested_too_deeply_is_refused(serve, tokenizer):
    post = serve(scripted(tokenizer))
    for depth, status in ((90, 200), (150, 400)):
        nested = None
        for _ in range(depth):
            nested = {"a": nested}
        assert post(metadata=nested).status_code == status


def test_our_own_options_are_checked(serve, tokenizer):
    post = serve(scripted(tokenizer))
    for wrong in ({"mode": "perhaps"}, {"threshold": -1}, {"tolerance": 5}, {"unknown": 1}, 3):
        answer = post(x_think=wrong)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith("x_think")
    assert ThinkOptions(threshold=2.0).read() == {"x_think.threshold": Controls(threshold=2.0)}
