"""The page of `adaptthink serve` in a real browser: on the embedded model, and before a server that follows a script.

Needs playwright and a Chromium (scripts/setup_browser.sh brings both); without them these tests skip.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from browsing import DESK, FAINT_TEXT, PHONE, TOO_WIDE, api, chromium
from server import running
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from waiting import WAIT_SECONDS, wait_until

from adaptthink.config.schema import ServeConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import load_policy
from adaptthink.serving.app import make_app
from adaptthink.serving.prepare import Served
from adaptthink.serving.static import make_page_routes
from adaptthink.serving.worker import Worker

PLAIN = "<script>window.struck = 1</script><img src=x onerror='window.struck = 2'><b>bold</b> &amp; "
HOSTILE = PLAIN + r"$\text{<img src=x>}$"
EFFORTS = [
    {"name": "none", "threshold": 0.0, "tolerance": None, "accuracy": 0.61, "mean_tokens": 9.2, "no_think_share": 1.0},
    {"name": "low", "threshold": 0.3, "tolerance": 0.05, "accuracy": 0.9, "mean_tokens": 41.0, "no_think_share": 0.55},
    {"name": "max", "threshold": 2.0, "tolerance": 0.0, "accuracy": 0.91, "mean_tokens": 88.0, "no_think_share": 0.0},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture(scope="module")
def tiny(policy) -> Iterator[str]:
    """The address of a real server on the embedded model."""
    served = Served("tiny", policy.tokenizer, policy.template, 1024, None)
    with running(make_app(served, Worker(NativeEngine(policy.model, policy.eos_ids)), ServeConfig())) as url:
        yield url


class Script:
    """A server with our page that answers as a test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.thinking, self.answer = "First 6 times 7.\nThat is 42.", "It is \\boxed{42}."
        self.probability = 0.4
        self.extension: dict[str, Any] | None = {
            "threshold": None,
            "certified": False,
            "efforts": [],
            "think_tokens": None,
        }
        self.saved: int | None = None  # tokens, by a direct answer
        self.key: str | None = None
        self.asked: list[dict[str, Any]] = []
        self.error: str | None = None  # instead of the answer's second half
        self.held = False  # whether streams wait before their end
        self.go_on = threading.Event()
        self.left = 0  # clients that did not wait for the end
        self.url = ""

    def make_app(self, tokenizer: Any) -> Starlette:
        routes = [Route("/v1/models", self.list_models), Route("/v1/chat/completions", self.complete, methods=["POST"])]
        return Starlette(routes=[*make_page_routes(tokenizer), *routes])

    def refuse(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no valid API key"}}, 401)
        return None

    async def list_models(self, request: Request) -> Response:
        entry = {"id": "scripted"} | ({"x_think": self.extension} if self.extension else {})
        return self.refuse(request) or JSONResponse({"data": [entry, {"id": "scripted:think"}]})

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        return self.refuse(request) or StreamingResponse(self.stream(body), media_type="text/event-stream")

    def decide(self, body: dict[str, Any]) -> dict[str, Any]:
        mode = body["model"].partition(":")[2]
        wanted = body.get("x_think", {})
        cut = wanted.get("threshold", (self.extension or {}).get("threshold"))
        if mode:
            decision = {"mode": mode, "reason": "request", "no_think_probability": None, "threshold": None}
        elif wanted.get("effort") in ("none", "max"):
            mode = "no_think" if wanted["effort"] == "none" else "think"
            decision = {"mode": mode, "reason": "effort", "no_think_probability": None, "threshold": None}
        elif "effort" in wanted:
            cut = next(one["threshold"] for one in EFFORTS if one["name"] == wanted["effort"])
            mode = "no_think" if self.probability >= cut else "think"
            decision = {"mode": mode, "reason": "effort", "no_think_probability": self.probability, "threshold": cut}
        elif cut is None:
            decision = {"mode": "auto", "reason": "model", "no_think_probability": None, "threshold": None}
        else:
            mode = "no_think" if self.probability >= cut else "think"
            decision = {"mode": mode, "reason": "threshold", "no_think_probability": self.probability, "threshold": cut}
        return decision | {"effort": wanted.get("effort"), "tokens_saved": self.saved if mode == "no_think" else 0}

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        decision = self.decide(body)
        directly = decision["mode"] == "no_think"

        def chunk(delta: dict[str, Any], **others: Any) -> str:
            whole = {"choices": [{"index": 0, "delta": delta, "finish_reason": None} | others], "x_think": decision}
            return f"data: {json.dumps(whole)}\n\n"

        done = False
        try:
            yield chunk({"role": "assistant", "content": ""})
            yield ": a comment that keeps the connection\n\n"
            pieces = (
                [] if directly else [{"reasoning_content": text, "reasoning": text} for text in halve(self.thinking)]
            )
            if self.held:
                for piece in pieces[:1] or [{"content": halve(self.answer)[0]}]:
                    yield chunk(piece)
                while not self.go_on.is_set():
                    await asyncio.sleep(0.01)
                pieces = pieces[1:] or pieces
            for piece in pieces:
                yield chunk(piece)
            if self.error:
                yield f"data: {json.dumps({'error': {'message': self.error}})}\n\n"
            else:
                for text in halve(self.answer)[int(self.held and directly) :]:
                    yield chunk({"content": text})
                yield chunk({}, finish_reason="stop", mode="no_think" if directly else "think")
                counts = {"completion_tokens": 6 if directly else 30}
                counts |= {"completion_tokens_details": {"reasoning_tokens": 0 if directly else 24}}
                yield f"data: {json.dumps({'choices': [], 'usage': counts, 'x_think': decision})}\n\n"
                yield "data: [DONE]\n\n"
            done = True
        finally:
            self.left += not done


def halve(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]


@pytest.fixture
def script(policy) -> Iterator[Script]:
    one = Script()
    with running(one.make_app(policy.tokenizer)) as url:
        one.url = url
        yield one
        one.go_on.set()


@pytest.fixture
def visit(browser):
    """Open a page, which must neither complain on its console nor ask anybody but its own server."""
    opened, complaints = [], []

    def open_page(url: str, viewport: dict[str, int] = DESK, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=scheme, **options)
        context.set_default_timeout(WAIT_SECONDS * 1000)
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(url + "/") or complaints.append(request.url))
        page.goto(url)
        page.locator(".effort, #key-form:visible").first.wait_for(state="attached")
        page.complaints = complaints
        return page

    yield open_page
    for context in opened:
        context.close()
    assert complaints == []


def ask(page: Any, text: str, *, wait: bool = True) -> Any:
    """Ask a question by keyboard, and return its turn."""
    number = page.locator(".turn").count()
    page.locator("#question").fill(text)
    page.locator("#question").press("Enter")
    if wait:
        wait_idle(page)
    return page.locator(".turn").nth(number)


def wait_idle(page: Any) -> None:
    page.locator("#send").wait_for()


def set_slider(page: Any, value: float) -> None:
    page.locator("#threshold").evaluate(
        "(one, value) => { one.value = value; one.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def read_names(page: Any) -> dict[str, list[str]]:
    """The accessible names of everything that can be operated, by role, as the browser tells them a screen reader."""
    roles = {"button", "checkbox", "radio", "slider", "spinbutton", "textbox", "DisclosureTriangle", "meter"}
    session = page.context.new_cdp_session(page)
    names: dict[str, list[str]] = {}
    for node in session.send("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if role in roles and not node["ignored"]:
            names.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    return names


# ---- on the embedded model ------------------------------------------------------------------------------------------


def test_a_newcomer_clicks_an_example_and_sees_a_thought_and_an_answer(visit, tiny):
    page = visit(tiny)
    examples = page.locator("#examples button")
    assert [text.split("\n")[0] for text in examples.all_inner_texts()] == [f"Level {level}" for level in range(1, 6)]
    question = examples.nth(0).locator("span").inner_text()
    examples.nth(0).click()
    wait_idle(page)
    turn = page.locator(".turn")
    assert turn.locator(".question").inner_text() == question
    api.expect(turn.locator("summary")).to_have_text(re.compile(r"Thought for (< )?[\d.]+ s · \d+ tokens"))
    assert not turn.locator(".thinking").is_visible()
    turn.locator("summary").click()
    assert turn.locator(".thinking").inner_text().startswith(("Alright", "Okay"))
    assert turn.locator(".content math .boxed mn").text_content().isdigit()
    api.expect(turn.locator(".verdict")).to_have_text(re.compile("correct"))
    assert not page.locator("#welcome").is_visible()


def test_the_embedded_model_answers_both_ways_side_by_side(visit, tiny):
    page = visit(tiny)
    page.get_by_label("Both ways, side by side").check()
    turn = ask(page, "47+8-3=?")
    left, right = (turn.locator(".answer").nth(index) for index in range(2))
    assert left.locator(".badge").inner_text() == "Answered directly"
    assert right.locator("summary").inner_text().startswith("Thought for")
    boxes = [one.bounding_box() for one in (left, right)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]


def test_the_slider_decides_for_the_embedded_model(visit, tiny):
    page = visit(tiny)  # before it is trained its P(no_think) is about 0.0001
    turn = ask(page, "8+1=?")
    assert turn.locator(".thought").is_visible()
    assert re.fullmatch(r"P\(no_think\) 0\.0\d+ < 0\.5", turn.locator(".why").inner_text())
    set_slider(page, -6)
    page.get_by_role("button", name="Answer again", exact=True).click()
    wait_idle(page)
    assert turn.locator(".badge:visible").count() == 1


def test_an_example_is_answered_again_in_the_other_mode(visit, tiny):
    page = visit(tiny)
    turn = ask(page, "8+1=?")
    page.get_by_role("button", name="Answer again, directly").click()
    wait_idle(page)
    assert turn.locator(".badge:visible").count() == 1
    page.get_by_role("button", name="Answer again, thinking").click()
    wait_idle(page)
    assert turn.locator(".answer").count() == 3
    assert turn.locator(".thought:visible").count() == 2
    page.get_by_role("button", name="Another example").click()
    wait_idle(page)
    assert page.locator(".turn").nth(1).locator(".verdict").is_visible()


# ---- a scripted server ----------------------------------------------------------------------------------------------


def test_a_thought_streams_open_and_folds_when_the_answer_begins(visit, script):
    page = visit(script.url)
    script.held = True
    turn = ask(page, "6*7=?", wait=False)
    thinking = turn.locator(".thinking")
    api.expect(thinking).to_have_text(halve(script.thinking)[0])
    assert thinking.is_visible()
    api.expect(turn.locator("summary")).to_have_text(re.compile(r"Thinking … [\d.<]+"))
    assert page.locator("#stop").is_visible()
    api.expect(page.locator("#status")).to_have_text("Thinking")
    script.go_on.set()
    wait_idle(page)
    assert not thinking.is_visible()
    assert re.fullmatch(r"Thought for (< )?[\d.]+ s · 24 tokens", turn.locator("summary").inner_text())
    assert turn.locator(".content").inner_text().startswith("It is")
    assert "30 tokens" in turn.locator(".cost").inner_text()
    assert re.fullmatch(r"Thought for .*: It is 42\.", page.locator("#status").inner_text())


def test_who_unfolds_a_thought_keeps_it_unfolded(visit, script):
    page = visit(script.url)
    script.held = True
    turn = ask(page, "6*7=?", wait=False)
    summary = turn.locator("summary")
    summary.click()
    summary.click()
    script.go_on.set()
    wait_idle(page)
    assert turn.locator(".thinking").is_visible()


def test_the_slider_decides(visit, script):
    page = visit(script.url)  # the model has no threshold of its own: the page begins with 0.5
    assert page.locator("#uncertified").is_visible()
    turn = ask(page, "6*7=?")
    assert turn.locator(".thought").is_visible()
    assert turn.locator(".why").inner_text() == "P(no_think) 0.4 < 0.5"
    assert page.locator("#split").inner_text() == "With this threshold, 0 of 1 question would be answered directly."
    set_slider(page, -1)
    assert page.locator("#split").inner_text() == "With this threshold, 1 of 1 question would be answered directly."
    turn = ask(page, "6*7=?")
    assert turn.locator(".badge").is_visible()
    assert not turn.locator(".thought").is_visible()
    assert turn.locator(".why").inner_text() == "P(no_think) 0.4 ≥ 0.091"
    page.get_by_role("spinbutton", name="Threshold").fill("0.40001")
    assert ask(page, "6*7=?").locator(".thought").is_visible()
    sent = [body["x_think"]["threshold"] for body in script.asked]
    assert sent == [0.5, pytest.approx(1 / 11, abs=1e-5), 0.40001]
    set_slider(page, -6)
    assert ask(page, "6*7=?").locator(".badge").is_visible()
    assert script.asked[-1]["x_think"] == {"threshold": 0}


def test_a_models_own_threshold_need_not_be_sent_and_comes_back(visit, script):
    script.extension = {"threshold": 0.3, "certified": True, "efforts": []}
    page = visit(script.url)
    assert page.get_by_role("spinbutton", name="Threshold").input_value() == "0.3"
    assert not page.locator("#uncertified").is_visible()
    assert ask(page, "6*7=?").locator(".badge").is_visible()
    set_slider(page, 0)
    assert ask(page, "6*7=?").locator(".thought").is_visible()
    page.get_by_role("button", name="Reset").click()
    assert ask(page, "6*7=?").locator(".badge").is_visible()
    assert [body.get("x_think") for body in script.asked] == [None, {"threshold": 0.5}, None]


def test_efforts_of_the_model_are_offered_with_what_they_cost(visit, script):
    script.extension = {"threshold": 0.3, "certified": True, "efforts": EFFORTS}
    page = visit(script.url)
    shown = "label => [...label.children].map(child => child.textContent)"
    rows = page.evaluate(f"[...document.querySelectorAll('.effort')].map({shown})")
    assert [row[1:] for row in rows] == [
        ["Auto", "", "thinks below the threshold"],
        ["Never", "61% right · 9 tokens", "answers everything directly"],
        ["Low", "90% right · 41 tokens", "loses at most 5 points, 55% directly"],
        ["Always", "91% right · 88 tokens", "thinks about everything"],
    ]
    for name in ("Low", "Never", "Always"):
        page.get_by_role("radio", name=name).check()
        ask(page, "6*7=?")
    assert [body["x_think"] for body in script.asked] == [{"effort": name} for name in ("low", "none", "max")]
    assert page.locator(".badge:visible").count() == 2
    whys = ["P(no_think) 0.4 ≥ 0.3, effort low", "as requested", "as requested"]
    assert page.locator(".why").all_inner_texts() == whys
    set_slider(page, 1)  # which takes the effort back
    assert page.get_by_role("radio", name="Auto").is_checked()


def test_without_efforts_there_are_the_modes(visit, script):
    page = visit(script.url)
    for name in ("Never", "Always", "Auto"):
        page.get_by_role("radio", name=name).check()
        ask(page, "6*7=?")
    assert [body["model"] for body in script.asked] == ["scripted:no_think", "scripted:think", "scripted"]
    assert [body.get("x_think") for body in script.asked] == [None, None, {"threshold": 0.5}]


def test_a_server_without_the_extension_gets_no_parameter_of_it(visit, script):
    script.extension = None
    page = visit(script.url)
    assert not page.locator("#dial").is_visible()
    turn = ask(page, "6*7=?")
    assert turn.locator(".why").inner_text() == "the model's own choice"
    assert "x_think" not in script.asked[0]


@pytest.mark.parametrize("way", ["button", "key"])
def test_stopping_ends_the_call_and_keeps_what_came(visit, script, way):
    page = visit(script.url)
    script.held = True
    turn = ask(page, "6*7=?", wait=False)
    api.expect(turn.locator(".thinking")).to_have_text(halve(script.thinking)[0])
    if way == "key":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop").click()
    wait_idle(page)
    wait_until(lambda: script.left == 1)
    assert turn.locator(".cost").inner_text().endswith("stopped")
    assert page.evaluate("document.activeElement.id") == "question"
    script.held = False
    assert ask(page, "6*7=?").locator(".content").inner_text().startswith("It is")


def test_a_models_text_is_never_markup(visit, script):
    script.thinking = script.answer = HOSTILE
    page = visit(script.url)
    turn = ask(page, HOSTILE)
    turn.locator("summary").click()
    assert turn.locator("script, img, b, .content *:not(math, math *)").count() == 0
    for part in (".question", ".thinking", ".content"):
        assert PLAIN in turn.locator(part).inner_text()
    assert "<img src=x>" in turn.locator(".content mtext").text_content().replace("\u00a0", " ")
    page.wait_for_timeout(200)
    assert page.evaluate("window.struck") is None


def test_the_browser_itself_refuses_markup_and_other_servers(visit, script):
    page = visit(script.url)
    with pytest.raises(api.Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>x</b>'")
    assert page.evaluate("fetch('http://127.0.0.1:9').catch(error => error.name)") == "TypeError"
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('style'), {textContent: 'body {color: red}'}))"
    )
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    refused = [one for one in page.complaints if "Content Security Policy" in one or "TrustedHTML" in one]
    assert len(refused) >= 3
    page.complaints.clear()


def test_a_conversation_goes_along_and_another_begins(visit, script, monkeypatch):
    page = visit(script.url)
    remember = page.get_by_label("Send earlier turns along")
    assert not remember.is_checked()  # the embedded model's tokenizer: it reads one question at a time
    ask(page, "first")
    remember.check()
    ask(page, "second")
    expected = [("user", "first"), ("assistant", script.answer), ("user", "second")]
    assert [(one["role"], one["content"]) for one in script.asked[0]["messages"]] == [("user", "first")]
    assert [(one["role"], one["content"]) for one in script.asked[1]["messages"]] == expected
    page.get_by_role("button", name="New conversation").click()
    assert page.locator("#welcome").is_visible()
    ask(page, "third")
    assert [one["content"] for one in script.asked[2]["messages"]] == ["third"]
    assert page.locator("#saved-share").inner_text() == "0 of 1"


def test_savings_are_the_servers_else_a_thoughts_mean_length(visit, script):
    page = visit(script.url)
    script.probability = 0.9
    ask(page, "one")
    share, tokens = page.locator("#saved-share"), page.locator("#saved-tokens")
    assert (share.inner_text(), tokens.inner_text()) == ("1 of 1", "–")  # nobody knows yet how long a thought is
    script.probability = 0.1
    ask(page, "two")
    assert (share.inner_text(), tokens.inner_text()) == ("1 of 2", "24")
    script.probability = 0.9
    turn = ask(page, "three")
    assert (share.inner_text(), tokens.inner_text()) == ("2 of 3", "48")
    turn.get_by_role("button", name="Answer again, thinking").click()  # which saves nothing after all
    wait_idle(page)
    assert (share.inner_text(), tokens.inner_text()) == ("1 of 3", "24")
    script.saved = 1300
    ask(page, "four")
    assert (share.inner_text(), tokens.inner_text()) == ("2 of 4", "1,324")
    assert page.locator("#saved-seconds").inner_text() not in ("–", "0")


def test_a_key_is_asked_for(visit, script):
    script.key = "secret"
    page = visit(script.url)
    page.get_by_label("This server wants an API key").fill("wrong")
    page.get_by_role("button", name="Use it").click()
    api.expect(page.locator("#key-error")).to_have_text("The server does not know this key.")
    page.get_by_label("This server wants an API key").fill("secret")
    page.keyboard.press("Enter")
    api.expect(page.locator("#key-form")).to_be_hidden()
    assert ask(page, "6*7=?").locator(".content").inner_text().startswith("It is")
    page.reload()
    page.locator(".effort").first.wait_for()
    assert ask(page, "6*7=?").locator(".content").inner_text().startswith("It is")
    unauthorised = [one for one in page.complaints if "401" in one]
    assert len(unauthorised) == 2  # what the browser says of the two refused calls
    page.complaints[:] = [one for one in page.complaints if one not in unauthorised]


def test_an_error_within_a_stream_is_shown_beside_what_came(visit, script):
    page = visit(script.url)
    script.error = "the model's logits are <i>not finite</i>"
    turn = ask(page, "6*7=?")
    assert turn.get_by_role("alert").inner_text() == script.error
    assert turn.locator(".thought").is_visible()
    script.error = None
    page.get_by_role("button", name="Answer again", exact=True).click()
    wait_idle(page)
    assert turn.locator(".content").nth(1).inner_text().startswith("It is")


# ---- keyboard, screen reader, sizes, colours ------------------------------------------------------------------------


def test_everything_works_by_keyboard(visit, script):
    page = visit(script.url)
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    wait_idle(page)
    assert script.asked[0]["messages"][0]["content"] == "one\ntwo"
    assert page.evaluate("document.activeElement.id") == "question"
    wanted = {"question", "both", "send", "another", "threshold", "exact", "remember", "clear", "SUMMARY", "think"}
    wanted |= {"no_think", "set", "effort"}
    reached, faint = set(), []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, ring = page.evaluate("""() => {
          const one = document.activeElement, style = getComputedStyle(one.closest(".effort") ?? one);
          const name = one.id || one.dataset.again || one.name || one.tagName;
          return [name, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
        }""")
        reached.add(name)
        if not ring and name != "BODY":
            faint.append(name)
    assert wanted <= reached
    assert faint == []
    page.locator(".turn summary").focus()
    page.keyboard.press("Enter")
    assert page.locator(".thinking").is_visible()
    page.locator("#threshold").focus()
    for _ in range(12):
        page.keyboard.press("ArrowLeft")  # to log-odds of -0.6
    page.locator("[name=effort]").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.get_by_role("radio", name="Never").is_checked()
    page.keyboard.press("ArrowUp")
    page.get_by_role("button", name="Answer again", exact=True).focus()
    page.keyboard.press("Enter")
    wait_idle(page)
    assert script.asked[1]["x_think"]["threshold"] == pytest.approx(1 / (1 + 10**0.6), abs=1e-4)
    assert page.locator(".badge:visible").count() == 1


@pytest.mark.parametrize("width", ["desk", "phone"])
def test_everything_has_a_name(visit, script, width):
    script.extension = {"threshold": 0.3, "certified": True, "efforts": EFFORTS}
    page = visit(script.url, DESK if width == "desk" else PHONE)
    if width == "phone":
        page.get_by_role("button", name="When to think").click()
    ask(page, "6*7=?")
    script.probability = 0.1
    ask(page, "6*7=?")
    names = read_names(page)
    assert [one for found in names.values() for one in found if not one.strip()] == []
    assert len(names["button"]) >= 9
    assert names["slider"] == ["Threshold on P(no_think)"]
    assert names["textbox"] == ["Your question"]
    assert names["meter"] == ["P(no_think)"] * 2
    assert page.locator("#threshold").get_attribute("aria-valuetext") == "0.3"
    page.evaluate("document.querySelector('label[for=question]').remove()")  # the check can fail
    page.evaluate("document.querySelector('#question').placeholder = ''")
    assert read_names(page)["textbox"] == [""]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(visit, script, scheme):
    page = visit(script.url, scheme=scheme)

    def check(least: int) -> None:
        found = page.evaluate(FAINT_TEXT)
        assert found["faint"] == []
        assert found["count"] > least

    check(25)
    page.get_by_label("Both ways, side by side").check()
    ask(page, "6*7=?")
    page.locator("summary").last.click()
    script.error = "failed"
    ask(page, "again")
    check(40)
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert (max(red, green, blue) < 40) == (scheme == "dark")


def test_nothing_sticks_out_on_a_phone(visit, script):
    page = visit(script.url, PHONE, has_touch=True, is_mobile=True)
    wide = TOO_WIDE.replace(".scroll", "pre, math")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    script.answer = "a" * 200 + "\n```\n" + "b" * 200 + "\n```\n$$" + "+".join("x^2" for _ in range(60)) + "$$"
    script.thinking = script.answer
    page.locator("#both").check()
    turn = ask(page, "c" * 200)
    turn.locator("summary").last.click()
    page.get_by_role("button", name="When to think").click()
    assert page.locator("#threshold").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate(wide) == []
    small = page.evaluate("""() => [...document.querySelectorAll("button, input, summary")]
      .filter(one => one.checkVisibility() && (one.closest("label") ?? one).getBoundingClientRect().height < 24)
      .map(one => one.id || one.tagName)""")
    assert [one for one in small if one != "threshold"] == []


# ---- mathematics ----------------------------------------------------------------------------------------------------

# What stands in a text, and the text of the nodes that it becomes, elements in brackets.
FORMULAS = {
    r"\boxed{52}": "(math (mrow (mrow (mn 52))))",
    r"so $\frac{1}{2}$!": "so (math (mfrac (mrow (mn 1)) (mrow (mn 2))))!",
    r"\(\frac12\)": "(math (mfrac (mn 1) (mn 2)))",
    r"$x^2_{10}$": "(math (msubsup (mi x) (mrow (mn 10)) (mn 2)))",
    r"$f'(x)$": "(math (msup (mi f) (mo ′)) (mo () (mi x) (mo )))",
    r"$\sqrt[3]{x} \le \sqrt 2$": "(math (mroot (mrow (mi x)) (mn 3)) (mo ≤) (msqrt (mn 2)))",
    r"$$\sum_{k=1}^n k$$": "(math (munderover (mo ∑) (mrow (mi k) (mo =) (mn 1)) (mi n)) (mi k))",
    r"$1,000 \times 0.5$": "(math (mn 1,000) (mo ×) (mn 0.5))",
    r"$\text{a b} \mathbb{R}$": "(math (mtext a\u00a0b) (mi ℝ))",
    r"$\begin{matrix}1&2\\3&4\end{matrix}$": "(math (mrow (mtable (mtr (mtd (mn 1)) (mtd (mn 2))) "
    "(mtr (mtd (mn 3)) (mtd (mn 4))))))",
    r"$\left(\frac ab\right.$": "(math (mrow (mo () (mfrac (mi a) (mi b))))",
    r"$\binom{n}{2}$": "(math (mrow (mo () (mfrac (mrow (mi n)) (mrow (mn 2))) (mo ))))",
    r"$\unknown{x}$": r"(math (mtext \unknown) (mrow (mi x)))",
    r"$\constructor$": r"(math (mtext \constructor))",
    r"$\begin{constructor}1\end{constructor}$": "(math (mrow (mtable (mtr (mtd (mn 1))))))",
    r"\boxed{\frac{3}{4}} and": "(math (mrow (mrow (mfrac (mrow (mn 3)) (mrow (mn 4)))))) and",
    "$5 and $6": "$5 and $6",
    "it costs 5$": "it costs 5$",
    r"a \boxed{1": r"a \boxed{1",
    "`$x$` and **bold**": "(code $x$) and (strong bold)",
    "a\n```py\nx = $1$\n```\nb": "a(pre x = $1$)b",
    "a\n$$x$$\nb": "a(math (mi x))b",
    "2 * 3 ** 4": "2 * 3 ** 4",
    "<b>": "<b>",
}
WRITE = """async ([text, streaming]) => {
  const {renderText} = await import("/page/maths.js");
  const write = node => node.nodeType === 3 ? node.data
    : `(${node.localName} ${[...node.childNodes].map(write).join(node.namespaceURI.endsWith("MathML") ? " " : "")})`;
  return [...renderText(text, streaming).childNodes].map(write).join("");
}"""


def test_mathematics_becomes_mathml(visit, script):
    page = visit(script.url)
    written = {text: page.evaluate(WRITE, [text, False]) for text in FORMULAS}
    assert written == FORMULAS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a \box", "a "),
        (r"a \boxed{1", "a (math (mrow (mrow (mn 1))))"),
        ("a $", "a "),
        ("```py\nx", "(pre x)"),
    ],
)
def test_half_of_a_text_shows_no_half_commands(visit, script, text, expected):
    assert visit(script.url).evaluate(WRITE, [text, True]) == expected


HOSTILE_FORMULAS = {
    "groups": "{" * 50_000,
    "boxes": r"\boxed{" * 20_000,
    "fractions": r"\frac{" * 3_000,
    "dollars": "$$" * 50_001,
    "roots between dollars": r"$\sqrt" * 20_000,
    "roots": "$" + r"\sqrt" * 50_000 + "$",
    "closed groups": "$" + "{" * 50_000 + "}" * 50_000 + "$",
    "fences": "$" + r"\left(" * 10_000 + "$",
    "openings": "\\(" * 50_000,
    "powers": "$x^" * 30_000,
    "code": "`" * 100_001,
    "bold": "**a" * 50_000,
}


@pytest.mark.parametrize("text", HOSTILE_FORMULAS.values(), ids=HOSTILE_FORMULAS)
def test_hostile_mathematics_stays_text_and_ends(visit, script, text):
    page = visit(script.url)
    depth = page.evaluate(
        """async text => {
          const {renderText} = await import("/page/maths.js");
          const whole = renderText(text), depth = node => {
            let deepest = 0;
            const left = [[node, 0]];
            while (left.length) {
              const [one, level] = left.pop();
              deepest = Math.max(deepest, level);
              for (const child of one.childNodes) left.push([child, level + 1]);
            }
            return deepest;
          };
          return depth(whole);
        }""",
        text,
    )
    assert depth < 200


def test_no_text_makes_the_page_fail(visit, script):
    """Random sequences of what formulas are made of, whole and half."""
    pieces = [
        r"\boxed{",
        r"\frac",
        r"{",
        r"}",
        r"^",
        r"_",
        r"&",
        r"\\",
        r"$",
        r"$$",
        r"\(",
        r"\)",
        r"\[",
        r"\]",
        r"\sqrt",
        r"[",
        r"]",
        r"\left",
        r"(",
        r"\right",
        r")",
        r".",
        r"\begin{cases}",
        r"\end{cases}",
        r"\text",
        r"`",
        r"```",
        r"**",
        r"'",
        r"\sum",
        r"\lim",
        r"\vec",
        r"\toString",
        r"\begin",
        r"\end",
        r"x",
        r"12",
        r"1,000",
        r"é",
        r"😀",
    ]
    failed = visit(script.url).evaluate(
        """async pieces => {
          const {renderText, findResult} = await import("/page/maths.js");
          let state = 1;
          const random = below => (state = (state * 48271) % 2147483647) % below;
          for (let i = 0; i < 4000; i++) {
            const some = Array.from({length: 1 + random(25)}, () => pieces[random(pieces.length)]);
            const text = some.join(random(2) ? " " : "");
            try {
              findResult(text);
              renderText(text, random(2) === 0);
            } catch (error) {
              return `${text}: ${error}`;
            }
          }
          return null;
        }""",
        [*pieces, "\\", "\n", "\n\n"],
    )
    assert failed is None
