"""The online dial behind the server: feedback over HTTP moves its threshold, and its state outlives the process."""

import json
import threading

import pytest

from adaptthink.dial.online import OnlineDial
from adaptthink.errors import UserError
from adaptthink.serving import feedback
from adaptthink.serving.feedback import FeedbackCall, SharedDial, open_dial
from adaptthink.serving.generation import CallError

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
    with pytest.raises(UserError, match="holds no online dial"), open_dial(path, None, "model"):
        pass
    with pytest.raises(UserError, match="cannot be stored"), open_dial(tmp_path, None, "model"):
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
