"""Evaluating a model behind a chat endpoint, from the command line, against a server that answers in its format."""

import json
import re
from itertools import count
from types import SimpleNamespace

import pytest
from chat_server import DONE, claude, delta, event, serving, stream, text, thinking, total

from adaptthink.chat import client
from adaptthink.cli import app as cli

SMALL = ("--problems-per-level", "2", "--max-think-tokens", "64", "--max-no-think-tokens", "16", "--concurrency", "2")


@pytest.fixture
def server(monkeypatch):
    yield from serving(monkeypatch)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the command line in an empty folder; returns status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr("sys.argv", ["adaptthink", *map(str, args)])
        try:
            cli.main()
            status = 0
        except SystemExit as error:
            status = error.code or 0
        out, err = capsys.readouterr()
        return status, " ".join(out.split()), err

    return call


def solve(prompt):
    return str(eval(re.sub(r"=\\?.*", "", prompt)))  # our own problems: digits and signs


def qwen(body):
    """Qwen3-like: right with thinking, off by one without; it thinks unless that is switched off."""
    prompt = body["messages"][0]["content"]
    value = int(solve(prompt))
    if body.get("chat_template_kwargs", {}).get("enable_thinking", True):
        return stream({"reasoning_content": f"{value}..."}, {"content": f"\\boxed{{{value}}}"})
    return stream({"content": f"\\boxed{{{value + 1}}}"}, usage={"prompt_tokens": 11, "completion_tokens": 3})


def evaluate(run, server, *flags):
    status, out, err = run(
        "evaluate", "qwen", "--chat", server.url, *SMALL, *flags, "--output", "e", "--json", "e.json"
    )
    return status, out, err


def test_a_switched_model_stands_in_the_same_table(run, server, tmp_path):
    server.default = qwen
    prices = ("--price-input", "1000", "--price-output", "10000")
    status, out, err = evaluate(run, server, "--switch", "enable_thinking", *prices)
    assert (status, err) == (0, "")
    modes = json.loads((tmp_path / "e.json").read_text())["modes"]
    assert {name: modes[name]["overall"]["accuracy"] for name in modes} == {"auto": 1, "think": 1, "no_think": 0}
    assert {name: modes[name]["overall"]["no_think_share"] for name in modes} == {"auto": 0, "think": 0, "no_think": 1}
    assert {name: modes[name]["overall"]["mean_tokens"] for name in modes} == {"auto": 7, "think": 7, "no_think": 3}
    # 30 prompts of 11 tokens at 0.001, 20 responses of 7 and 10 of 3 tokens at 0.01
    assert f"cost of all samples in e: {30 * 11 / 1000 + (20 * 7 + 10 * 3) / 100:.2f}, of 0 not known" in out
    requested = [call.body.get("chat_template_kwargs") for call in server.calls]
    assert sorted(map(str, requested)) == sorted(
        map(str, [None] * 10 + [{"enable_thinking": True}] * 10 + [{"enable_thinking": False}] * 10)
    )
    assert len({call.body["seed"] for call in server.calls}) == 30
    calls = len(server.calls)
    assert evaluate(run, server, "--switch", "enable_thinking", *prices)[0] == 0
    assert len(server.calls) == calls  # nothing is requested twice


def test_each_request_is_timed(run, server, tmp_path, monkeypatch):
    """By a clock that the test moves: a second between two looks, one of which failed attempts get too."""
    monkeypatch.setattr(client, "time", SimpleNamespace(perf_counter=count().__next__))
    server.default = qwen
    server.plans.extend([(503, {}, b"{}")])
    flags = ("--switch", "enable_thinking", *SMALL[:-2], "--concurrency", "1", "--output", "e", "--json", "e.json")
    status, out, err = run("evaluate", "qwen", "--chat", server.url, *flags)
    assert (status, err) == (0, "")
    samples = [json.loads(line) for line in (tmp_path / "e" / "samples.jsonl").read_text().splitlines()]
    assert [one["seconds"] for one in samples] == [1.0] * 30
    modes = json.loads((tmp_path / "e.json").read_text())["modes"]
    assert [one["speed"] for one in modes.values()] == [
        {"median_seconds": 1.0, "p95_seconds": 1.0, "tokens_per_second": None}
    ] * 3
    assert "speed of the responses" in out
    assert "tokens per second" not in out.partition("seconds: of a request")[0]


def test_what_came_before_a_failure_is_kept(run, server, tmp_path):
    server.default = qwen
    server.plans.extend([qwen] * 7 + [(401, {}, b'{"error": {"message": "key expired"}}')])
    status, _, err = evaluate(run, server, "--switch", "enable_thinking", "--modes", "think")
    assert status == 2
    assert "key expired" in err
    kept = (tmp_path / "e/samples.jsonl").read_text().splitlines()
    assert 5 <= len(kept) <= 8  # two questions are in flight: the other one may still be answered
    server.calls.clear()
    assert evaluate(run, server, "--switch", "enable_thinking", "--modes", "think")[0] == 0
    assert len(server.calls) == 10 - len(kept)


def test_without_a_switch_only_the_models_own_choice_is_asked(run, server):
    server.default = qwen
    status, out, _ = evaluate(run, server)
    assert status == 0
    assert "think and no_think left out: without a --switch no mode can be requested" in out
    assert len(server.calls) == 10
    status, _, err = evaluate(run, server, "--modes", "think")
    assert status == 2
    assert "give the --switch" in err


def test_another_switch_is_another_evaluation(run, server):
    server.default = qwen
    evaluate(run, server, "--switch", "enable_thinking", "--modes", "auto")
    status, _, err = evaluate(run, server, "--switch", "reasoning_effort", "--modes", "auto")
    assert status == 2
    assert "switch was 'enable_thinking' and is now 'reasoning_effort'" in err


def test_the_address_is_no_part_of_an_evaluation_but_the_model_is(run, server, tmp_path, monkeypatch):
    """A server that was started again on another port completes its folder, also one of an older version."""
    server.default = qwen
    evaluate(run, server, "--modes", "auto")
    stored = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert stored["fingerprint"] == "qwen"
    older = stored | {"fingerprint": "qwen at http://127.0.0.1:1"}
    for content in (stored, older):
        (tmp_path / "e/evaluation.json").write_text(json.dumps(content))
        server.calls.clear()
        server.url = f"http://localhost:{server.server_port}"
        status, _, err = evaluate(run, server, "--modes", "auto", "--samples-per-problem", "2")
        assert (status, err) == (0, "")
        assert len(server.calls) == (10 if content is stored else 0)
    command = ("--chat", server.url, *SMALL, "--modes", "auto", "--output", "e")
    status, _, err = run("evaluate", "qwen-large", *command)
    assert status == 2
    assert "fingerprint was 'qwen' and is now 'qwen-large'" in err


def test_refusals_for_too_many_calls_are_waited_for_and_shown(run, server, tmp_path):
    server.default = qwen
    server.plans += [(429, {"Retry-After": "30"}, b"slow down")] * 10
    status, out, err = evaluate(run, server, "--modes", "auto")
    assert (status, err) == (0, "")
    assert f"{server.url}/v1/chat/completions refuses, for too many calls: waiting 30 s" in out
    assert len((tmp_path / "e/samples.jsonl").read_text().splitlines()) == 10


def test_one_page_of_a_proxy_does_not_end_an_evaluation_and_a_lasting_one_is_one_line(run, server, tmp_path):
    page = (200, {"Content-Type": "text/html"}, b"<html>\nBad gateway")
    server.default = qwen
    server.plans.append(page)
    assert evaluate(run, server, "--modes", "auto")[0] == 0
    server.default = page
    status, _, err = evaluate(run, server, "--modes", "auto", "--samples-per-problem", "2")
    assert (status, err.count("\n")) == (2, 1)
    assert "a page (text/html) came with status 200 in place of an answer: <html> Bad gateway; try again later" in err
    assert len((tmp_path / "e/samples.jsonl").read_text().splitlines()) == 10


def ours(body):
    """A server of this package: P(no_think) is high for short prompts, and no_think is right on these alone."""
    prompt = body["messages"][0]["content"]
    value, short = int(solve(prompt)), len(prompt) < 8
    switched = body.get("chat_template_kwargs", {}).get("enable_thinking")
    thinks = switched if switched is not None else not short
    mode = "think" if thinks else "no_think"
    decision = {"mode": mode, "no_think_probability": 0.9 if short else 0.1, "threshold": 0.5}
    if switched is not None:
        decision |= {"no_think_probability": None, "threshold": None}
    answer = value if thinks or short else value + 1
    deltas = [{"reasoning_content": "Hm"}] if thinks else []
    chunks = [delta(**fields) for fields in (*deltas, {"content": f"\\boxed{{{answer}}}"})]
    last = delta("stop")
    last["choices"][0]["mode"] = mode
    return [*(event(chunk | {"x_think": decision}) for chunk in (*chunks, last, total())), DONE]


def test_the_decisions_of_our_own_server_are_stored_and_calibrate_its_model(run, server, tmp_path):
    server.default = ours
    status, _, err = evaluate(run, server, "--switch", "enable_thinking", "--samples-per-problem", "2")
    assert (status, err) == (0, "")
    prompts = {row["id"]: row["prompt"] for row in read_lines(tmp_path / "e/problems.jsonl")}
    decisions = read_lines(tmp_path / "e/decisions.jsonl")
    assert {row["problem_id"]: row["no_think_probability"] for row in decisions} == {
        name: 0.9 if len(prompt) < 8 else 0.1 for name, prompt in prompts.items()
    }
    assert len(decisions) == 10  # once each
    quality = json.loads((tmp_path / "e/quality.json").read_text())
    assert quality["calibration"] is not None
    assert quality["mass"] is None  # P(think start) is not known
    assert not any("shows no probabilities" in note for note in quality["notes"])
    samples = [row for row in read_lines(tmp_path / "e/samples.jsonl") if row["requested"] == "auto"]
    assert {row["mode"] for row in samples} == {"think", "no_think"}
    before = (tmp_path / "e/decisions.jsonl").read_bytes()
    assert evaluate(run, server, "--switch", "enable_thinking", "--samples-per-problem", "3")[0] == 0
    assert (tmp_path / "e/decisions.jsonl").read_bytes() == before


def test_other_servers_leave_no_decisions(run, server, tmp_path):
    server.default = qwen
    evaluate(run, server, "--modes", "auto")
    assert not (tmp_path / "e/decisions.jsonl").exists()


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_claude_is_asked_in_its_own_dialect(run, server, tmp_path):
    def answer(body):
        value = solve(body["messages"][0]["content"])
        blocks = [thinking("hm")] if body.get("thinking", {}).get("type") == "adaptive" else []
        return list(claude(*blocks, text(f"\\boxed{{{value}}}")))

    server.default = answer
    flags = ("--dialect", "anthropic", "--switch", "adaptive", "--server-sampling", "--modes", "think", "no_think")
    status, _, err = evaluate(run, server, *flags)
    assert (status, err) == (0, "")
    assert {call.path for call in server.calls} == {"/v1/messages"}
    assert not any("temperature" in call.body for call in server.calls)
    modes = json.loads((tmp_path / "e.json").read_text())["modes"]
    assert {name: modes[name]["overall"]["no_think_share"] for name in modes} == {"think": 0, "no_think": 1}
    assert "the server's sampling" in json.loads((tmp_path / "e/evaluation.json").read_text())["switch"]
