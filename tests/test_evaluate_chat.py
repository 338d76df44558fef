"""Evaluating a model behind a chat endpoint, from the command line, against a server that answers in its format."""

import json
import re

import pytest
from chat_server import claude, serving, stream, text, thinking

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


def test_what_came_before_a_failure_is_kept(run, server, tmp_path):
    server.default = qwen
    server.plans.extend([qwen] * 7 + [(401, {}, b'{"error": {"message": "key expired"}}')])
    status, _, err = evaluate(run, server, "--switch", "enable_thinking", "--modes", "think")
    assert status == 2
    assert "key expired" in err
    kept = (tmp_path / "e/samples.jsonl").read_text().splitlines()
    assert 5 <= len(kept) <= 7
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
