"""The online dial behind the server: feedback over HTTP moves its threshold, and its state outlives the process."""

import json
import math
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx2 as httpx
import pytest
from server import running
from waiting import WAIT_SECONDS, wait_until

from adaptthink.config.resolve import resolve
from adaptthink.config.schema import ServeConfig
from adaptthink.dial.curve import ALWAYS_THINK
from adaptthink.dial.online import OnlineDial
from adaptthink.engines.base import ScriptedEngine
from adaptthink.errors import UserError
from adaptthink.models.loading import load_policy
from adaptthink.modes import Message, Mode, probe
from adaptthink.serving import feedback
from adaptthink.serving.app import make_app
from adaptthink.serving.feedback import FeedbackCall, SharedDial, open_dial
from adaptthink.serving.generation import CallError, Decided, GenerationRequest
from adaptthink.serving.prepare import Served, make_job
from adaptthink.serving.worker import Worker

CHAT = "/v1/chat/completions"
EASY, HARD = "1+1=?", "97-8+9=?"  # the scripted model answers EASY without thinking rightly, HARD wrongly
PROBABILITY = {EASY: 0.95, HARD: 0.6}


def make_dial(**more):
    quick = {"tolerance": 0.2, "thresholds": (0.9, 0.5), "explore_think": 0.2, "explore_direct": 0.2, "seed": 1}
    return OnlineDial(**quick | more)


def give(shared, name, correct, **more):
    shared.give_feedback(FeedbackCall(id=name, correct=correct, **more))


# ---- the shared object ----------------------------------------------------------------------------------------------


def test_feedback_reaches_its_request(tmp_path):
    shared = SharedDial(make_dial(), tmp_path / "state.json")
    for name in ("a", "b", "c"):
        shared.decide(name, 0.95)
    give(shared, "chatcmpl-b", True)
    give(shared, "msg_c", None)
    one, two, three = shared.dial.waiting
    assert (one.closed, two.closed, two.correct, three.closed, three.correct) == (False, True, 1.0, True, None)
    give(shared, "a", 0.25)
    assert shared.dial.waiting == []
    assert shared.report().with_feedback == 2
    assert sum(count.correct for _, bins in shared.report().bins for count in (bins.think, bins.no_think)) == 1.25


@pytest.mark.parametrize("correct", [True, False, None])
def test_unknown_and_repeated_feedback_is_refused(tmp_path, correct):
    shared = SharedDial(make_dial(), tmp_path / "state.json")
    shared.decide("a", 0.95)
    give(shared, "a", True)
    for name, status in (("a", 409), ("chatcmpl-a", 409), ("b", 404), ("", 404), ("a-", 404)):
        with pytest.raises(CallError) as caught:
            give(shared, name, correct)
        assert caught.value.status == status
    assert shared.report().with_feedback == 1


def test_feedback_after_the_window_is_refused_and_ids_are_forgotten(tmp_path):
    shared = SharedDial(make_dial(window=3), tmp_path / "state.json")
    for name in "abcd":
        shared.decide(name, 0.95)
    assert list(shared.answers) == ["b", "c", "d"]
    with pytest.raises(CallError, match="older than the last 3"):
        give(shared, "a", True)
    give(shared, "b", True)
    assert shared.report().with_feedback == 1


def test_the_state_outlives_the_process_with_the_ids(tmp_path):
    path = tmp_path / "state.json"
    with open_dial(path, 0.2, "model") as shared:
        for name in "abc":
            shared.decide(name, 0.95)
        give(shared, "b", True)
    with open_dial(path, None, "model") as again:
        assert again.dial == shared.dial
        with pytest.raises(CallError) as caught:
            give(again, "b", True)
        assert caught.value.status == 409
        give(again, "a", False)
        assert again.report().with_feedback == 2
        assert again.decide("d", 0.5).number == 4


def test_what_was_lost_in_a_crash_is_unknown(tmp_path):
    """Feedback on a request that is not in the stored state must not be taken for another request's."""
    path = tmp_path / "state.json"
    shared = SharedDial(make_dial(), path)
    shared.decide("a", 0.95)
    shared.write()
    shared.decide("lost", 0.95)
    again = SharedDial(OnlineDial.read(path), path)
    assert again.decide("new", 0.95).number == 2
    with pytest.raises(CallError, match="no answer 'lost'"):
        give(again, "lost", False)


def test_nothing_new_is_not_written_and_a_full_disk_is_survived(tmp_path, monkeypatch, caplog):
    written = []
    monkeypatch.setattr(feedback, "write_json", lambda path, state: written.append(json.dumps(state)))
    shared = SharedDial(make_dial(), tmp_path / "state.json")
    shared.write()
    shared.write()
    assert len(written) == 1
    shared.decide("a", 0.5)

    def fail(path, state):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(feedback, "write_json", fail)
        shared.write()
    assert "cannot be stored" in caplog.text
    shared.write()
    assert len(written) == 2


def test_other_tolerances_models_and_servers_are_refused(tmp_path):
    path = tmp_path / "state.json"
    with open_dial(path, None, "model") as shared:
        assert shared.dial.tolerance == 0.05
        with pytest.raises(UserError, match="in use by another process"), open_dial(path, None, "model"):
            pass
    with pytest.raises(UserError, match="another model"), open_dial(path, None, "other"):
        pass
    with pytest.raises(UserError, match="tolerance of 5 points, not 2"), open_dial(path, 0.02, "model"):
        pass
    path.write_text("{}x")
    with pytest.raises(UserError, match="damaged"), open_dial(path, None, "model"):
        pass
    (tmp_path / "file").touch()
    for bad in (tmp_path, tmp_path / "file" / "state.json"):
        with pytest.raises(UserError, match=r"cannot be (stored|read)"), open_dial(bad, None, "model"):
            pass


def test_a_prepared_dial_is_taken_up(tmp_path):
    path = tmp_path / "state.json"
    make_dial(allowance=7).write(path)
    with open_dial(path, 0.2, "model") as shared:
        assert (shared.dial.allowance, shared.dial.thresholds) == (7, (0.9, 0.5))


def test_draws_cannot_be_foreseen(tmp_path):
    seeds = set()
    for name in "ab":
        with open_dial(tmp_path / name, None, "model") as shared:
            seeds.add(shared.dial.seed)
    assert len(seeds) == 2
    assert 0 not in seeds


def test_threads_do_not_disturb_each_other(tmp_path):
    shared = SharedDial(make_dial(window=10_000), tmp_path / "state.json")

    def work(number):
        for index in range(100):
            name = f"{number}x{index}"
            shared.decide(name, 0.95)
            give(shared, name, True)
            if index % 20 == 0:
                shared.write()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = shared.report()
    assert (report.requests, report.with_feedback, report.waiting) == (600, 600, 0)
    shared.write()
    assert OnlineDial.read(shared.path) == shared.dial


# ---- over HTTP ------------------------------------------------------------------------------------------------------


class Service:
    """A server on a scripted model that is always right with thinking, and without it on some questions."""

    def __init__(self, tokenizer, shared):
        self.tokenizer = tokenizer
        self.right_directly = {EASY}
        engine = ScriptedEngine(self.script, next_token=self.score)
        served = Served("tiny", tokenizer, probe(tokenizer), 1024, None, online=shared)
        self.app = make_app(served, Worker(engine), ServeConfig(max_think_tokens=64, max_no_think_tokens=16))
        self.url = ""
        self.client = httpx.Client(timeout=WAIT_SECONDS)

    def question(self, prompt):
        return next(one for one in PROBABILITY if one in self.tokenizer.decode(prompt))

    def script(self, prompt, prefix):
        direct = self.tokenizer.convert_tokens_to_ids("</think>") in prefix
        right = not direct or self.question(prompt) in self.right_directly
        text = ("" if direct else "\n1\n</think>") + ("7" if right else "0") + "<|eos|>"
        return self.tokenizer.encode(text, add_special_tokens=False)

    def score(self, prompt, token):
        return math.log(PROBABILITY[self.question(prompt)])

    def ask(self, question, **more):
        body = {"model": "tiny", "messages": [{"role": "user", "content": question}]} | more
        return self.client.post(self.url + CHAT, json=body).json()

    def tell(self, **body):
        return self.client.post(f"{self.url}/v1/feedback", json=body)

    def ask_and_tell(self, question):
        answer = self.ask(question)
        right = answer["choices"][0]["message"]["content"] == "7"
        assert self.tell(id=answer["id"], correct=right).json() == {"object": "feedback"}
        return answer["x_think"]

    def dial(self):
        return self.client.get(f"{self.url}/v1/dial").json()

    def metric(self, name):
        lines = self.client.get(f"{self.url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"adaptthink_{name} ")).split()[-1])


@contextmanager
def service(tokenizer, path):
    with open_dial(path, None, "model") as shared:
        one = Service(tokenizer, shared)
        with one.client, running(one.app) as one.url:
            yield one


def ask_until(dial, reached, right_directly):
    """Let a dial decide, and tell it whether the answers were right, until something of its report is reached."""
    for number in range(5000):
        question = (EASY, HARD)[number % 2]
        decision = dial.decide(PROBABILITY[question])
        correct = decision.mode is Mode.THINK or question in right_directly
        dial.give_feedback(decision.number, correct=float(correct))
        if number % 20 == 19 and reached(dial.report().steps[0]):
            return
    pytest.fail("not reached")


def test_feedback_moves_the_threshold_and_drift_takes_it_back(tokenizer, tmp_path):
    """Of the easy questions direct answers are right, of the others never: the first threshold alone is within 0.2.

    Most of the evidence, log(20) to certify and log(200) to withdraw, is given to the dial before it is served.
    """
    path = tmp_path / "online.json"
    dial = make_dial(allowance=60, patience=200)
    ask_until(dial, lambda step: step.evidence > 0.7 * math.log(20), {EASY})
    dial.write(path)
    before = dial.report().with_feedback
    with service(tokenizer, path) as one:
        first = one.ask_and_tell(EASY)
        assert (first["threshold"], first["no_think_probability"]) == (ALWAYS_THINK, pytest.approx(0.95))
        asked = next(n for n in range(2000) if one.ask_and_tell((EASY, HARD)[n % 2])["threshold"] == 0.9)
        assert asked > 2
        dial = one.dial()
        assert (dial["threshold"], dial["tolerance"], dial["steps"][1]["certified"]) == (0.9, 0.2, False)
        assert (one.metric("online_threshold"), one.metric("online_feedback_total")) == (0.9, before + asked + 2)
        later = [one.ask_and_tell(question) for question in (EASY, HARD) * 40]
        assert {(x_think["mode"], x_think["reason"]) for x_think in later[::2]} == {
            ("no_think", "online"),
            ("think", "exploration"),
        }
        assert {(x_think["mode"], x_think["reason"]) for x_think in later[1::2]} == {
            ("think", "online"),
            ("no_think", "exploration"),
        }
        direct = [sum(x_think["mode"] == "no_think" for x_think in later[half::2]) for half in (0, 1)]
        assert direct[0] > 24  # of 40, at a rate of 0.8
        assert direct[1] < 16  # at 0.2
        last = one.ask(EASY)["id"]
    with service(tokenizer, path) as one:
        assert one.dial()["threshold"] == 0.9
        assert one.tell(id=last, correct=True).status_code == 200
    dial = OnlineDial.read(path)
    ask_until(dial, lambda step: step.alarm > 0.7 * math.log(200), set())
    dial.write(path)
    with service(tokenizer, path) as one:
        assert one.dial()["threshold"] == 0.9
        one.right_directly = set()
        assert any(one.ask_and_tell(EASY)["threshold"] == ALWAYS_THINK for _ in range(2000))
        dial = one.dial()
        assert dial["withdrawals"] == 1 or dial["held_back"]
        assert dial["loss"] > 0


def test_only_what_it_decided_can_get_feedback(tokenizer, tmp_path):
    with service(tokenizer, tmp_path / "online.json") as one:
        for more in ({"model": "tiny:think"}, {"x_think": {"threshold": 0.5}}, {"reasoning_effort": "max"}):
            answer = one.ask(EASY, **more)
            assert answer["x_think"]["reason"] in ("request", "threshold", "effort")
            refused = one.tell(id=answer["id"], correct=True)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "answer_not_found")
        answer = one.ask(EASY, n=2)
        assert one.tell(id=answer["id"], correct=0.5, choice=1).status_code == 200
        assert one.tell(id=answer["id"], correct=0.5).status_code == 409
        assert one.dial()["requests"] == 1


def test_a_second_look_would_deceive_the_dial_and_is_refused(tokenizer, tmp_path):
    with service(tokenizer, tmp_path / "online.json") as one:
        body = {"model": "tiny", "messages": [{"role": "user", "content": EASY}]}
        refused = one.client.post(one.url + CHAT, json=body | {"x_think": {"second_look": True}})
        assert refused.status_code == 400
        assert "where an online dial decides" in refused.json()["error"]["message"]
        allowed = one.client.post(one.url + CHAT, json=body | {"x_think": {"second_look": True, "threshold": 0.5}})
        assert allowed.status_code == 200


def test_a_stream_has_the_id_too(tokenizer, tmp_path):
    with service(tokenizer, tmp_path / "online.json") as one:
        body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": EASY}]}
        answer = one.client.post(one.url + CHAT, json=body)
        [name] = {json.loads(line[6:])["id"] for line in answer.text.splitlines() if line.startswith("data: {")}
        assert name.endswith(answer.headers["x-request-id"])
        assert one.tell(id=answer.headers["x-request-id"], correct=True).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"id": "a"}', "'correct' is missing"),
        (b'{"correct": true}', "'id' is missing"),
        (b'{"id": "a", "correct": 1.5}', "correct"),
        (b'{"id": "a", "correct": -1}', "correct"),
        (b'{"id": "a", "correct": NaN}', "correct"),
        (b'{"id": "a", "correct": "yes"}', "a verdict is true, false, null, or a share from 0 to 1, not 'yes'"),
        (b'{"id": "a", "correct": 2}', "a share from 0 to 1, not 2"),
        (b'{"id": "a", "correct": true, "choice": -1}', "choice"),
        (b'{"id": "a", "correct": true, "note": "x"}', "note"),
        (b'{"id": "\\ud800", "correct": true}', "half a character"),
    ],
)
def test_bad_feedback_is_refused(tokenizer, tmp_path, body, message):
    with service(tokenizer, tmp_path / "online.json") as one:
        refused = one.client.post(f"{one.url}/v1/feedback", content=body)
        assert refused.status_code == 400
        assert message in refused.json()["error"]["message"]


def test_feedback_on_a_choice_that_an_answer_does_not_have_is_refused_and_changes_nothing(tokenizer, tmp_path):
    with service(tokenizer, tmp_path / "online.json") as one:
        body = {"model": "tiny", "messages": [{"role": "user", "content": EASY}], "n": 2}
        answer_id = one.client.post(one.url + CHAT, json=body).json()["id"]
        refused = one.tell(id=answer_id, correct=True, choice=2)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "choice")
        assert "has no choice 2: it has 2, counted from 0" in refused.json()["error"]["message"]
        assert one.tell(id=answer_id, correct=True, choice=1).status_code == 200


def test_a_request_that_is_tried_again_is_decided_once(tokenizer, tmp_path):
    """As an engine of batches does, where another request in the batch failed."""
    with open_dial(tmp_path / "online.json", None, "model") as shared:
        served = Served("tiny", tokenizer, probe(tokenizer), 1024, None, online=shared)
        request = GenerationRequest((Message("user", EASY),))
        events = []
        job = make_job(served, ServeConfig(), request, events.append, lambda job: None)
        first, again = job.begin([math.log(0.95)]), job.begin([math.log(0.95)])
        assert first == again
        assert [type(event) for event in events] == [Decided]
        assert shared.report().requests == 1


def test_the_state_is_stored_while_it_serves(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(feedback, "WRITE_SECONDS", 0.01)
    path = tmp_path / "online.json"
    with service(tokenizer, path) as one:
        one.ask(EASY)
        wait_until(lambda: OnlineDial.read(path).number == 1)


def test_without_an_online_dial_its_routes_say_how_to_have_one(tokenizer):
    served = Served("tiny", tokenizer, probe(tokenizer), 1024, None)
    with running(make_app(served, Worker(ScriptedEngine(lambda *_: ())), ServeConfig())) as url:
        for answer in (
            httpx.get(f"{url}/v1/dial", timeout=WAIT_SECONDS),
            httpx.post(f"{url}/v1/feedback", json={"id": "a", "correct": True}, timeout=WAIT_SECONDS),
        ):
            assert answer.status_code == 404
            assert "--online-state" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"online_state": "a.json", "threshold": 0.5}, "threshold has no effect: the online dial decides"),
        ({"online_tolerance": 5.0}, "online_tolerance has no effect: there is no online dial"),
        ({"online_state": "a.json", "online_tolerance": 0.0}, "online_tolerance"),
        ({"online_state": "a.json", "online_tolerance": 100.0}, "online_tolerance"),
    ],
)
def test_settings_that_do_not_go_together(flags, line):
    with pytest.raises(UserError, match=line):
        resolve("serve", ServeConfig, flags={"model": "tiny", **flags})


@pytest.mark.slow
def test_a_server_keeps_its_state_to_the_end(tmp_path):
    """The program itself: a dial is made, decides, gets feedback, and is there after SIGTERM."""
    path = tmp_path / "online.json"
    command = [sys.executable, "-m", "adaptthink", "serve", "--port", "0", "--threads", "1"]
    for number in (1, 2):
        process = subprocess.Popen(
            [*command, "--online-state", str(path), "--online-tolerance", "3"], stdout=subprocess.PIPE, text=True
        )
        try:
            url = next(line for line in process.stdout if "http://" in line).split(" at ")[1].strip()
            assert "by the online dial, at most 3 points" in process.stdout.readline()
            body = {"model": "tiny", "messages": [{"role": "user", "content": "1+1=?"}]}
            answer = httpx.post(f"{url}/chat/completions", json=body, timeout=WAIT_SECONDS).json()
            told = httpx.post(f"{url}/feedback", json={"id": answer["id"], "correct": True}, timeout=WAIT_SECONDS)
            assert told.status_code == 200
            process.terminate()
            assert process.wait(WAIT_SECONDS) == 0
        finally:
            process.kill()
            process.stdout.close()
        dial = OnlineDial.read(path)
        assert (dial.number, dial.use.number, dial.tolerance) == (number, number, 0.03)
        assert dial.fingerprint == load_policy("tiny").fingerprint
