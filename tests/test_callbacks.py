"""What callbacks receive, in which order, and what their own failures do to a job."""

import pytest

from adaptthink.callbacks import Callback, Callbacks, Progress


class Recorder(Callback):
    """Notes each call; raises in the methods named."""

    def __init__(self, name, calls, *faulty):
        self.name, self.calls, self.faulty = name, calls, faulty

    def note(self, method, *arguments):
        self.calls.append((self.name, method, *arguments))
        if method in self.faulty:
            raise RuntimeError(f"{self.name} cannot {method}")

    def on_start(self, command, settings, output):
        self.note("start", command, dict(settings), output)

    def on_progress(self, progress):
        self.note("progress", progress)

    def on_step(self, metrics):
        self.note("step", metrics["step"])

    def on_message(self, message):
        self.note("message", message)

    def on_end(self, result):
        self.note("end", result)


def run_job(callbacks, *, interrupted=False):
    """A job of one step that sends one message."""
    with callbacks.reporting("train", {}, None) as result:
        callbacks.on_step({"step": 1})
        callbacks.on_message("a line")
        result |= {"steps": 1}
        if interrupted:
            raise KeyboardInterrupt


def test_each_call_reaches_each_callback_in_turn():
    calls = []
    progress = Progress("reference", 3, None, 40)
    both = Callbacks([Recorder("a", calls), Recorder("b", calls)])
    with both.reporting("train", {"delta": 0.05}, None) as result:
        both.on_progress(progress)
        both.on_step({"step": 1})
        both.on_message("a line")
        result |= {"steps": 1}
    expected = [
        ("start", "train", {"delta": 0.05}, None),
        ("progress", progress),
        ("step", 1),
        ("message", "a line"),
        ("end", {"steps": 1}),
    ]
    assert calls == [(name, *call) for call in expected for name in "ab"]


def test_a_callback_that_overrides_nothing_takes_everything():
    plain = Callbacks([Callback()])
    with plain.reporting("evaluate", {}, None):
        plain.on_progress(Progress("responses", 1, 2, 3))
        plain.on_step({"step": 1})
        plain.on_message("a line")


@pytest.mark.parametrize("method", ["start", "step", "message"])
def test_an_exception_of_a_callback_ends_the_job_and_all_are_told(method):
    calls = []
    with pytest.raises(RuntimeError, match=f"b cannot {method}"):
        run_job(Callbacks([Recorder("a", calls), Recorder("b", calls, method)]))
    assert calls[-2:] == [("a", "end", None), ("b", "end", None)]


def test_all_are_told_of_the_end_where_one_raises():
    calls = []
    with pytest.raises(RuntimeError, match="a cannot end"):
        run_job(Callbacks([Recorder("a", calls, "end"), Recorder("b", calls)]))
    assert calls[-2:] == [("a", "end", {"steps": 1}), ("b", "end", {"steps": 1})]


def test_an_interruption_is_an_end_without_a_result():
    calls = []
    with pytest.raises(KeyboardInterrupt):
        run_job(Callbacks([Recorder("a", calls)]), interrupted=True)
    assert calls[-1] == ("a", "end", None)


def test_what_a_callback_reports_reaches_the_others():
    class Chatty(Callback):
        def attach(self, report):
            self.report = report

        def on_step(self, metrics):
            self.report("chatty: seen")

    calls = []
    nested = Callbacks([Recorder("a", calls), Callbacks([Chatty(), Recorder("b", calls)])])
    nested.on_step({"step": 1})
    assert [call for call in calls if call[1] == "message"] == [
        ("a", "message", "chatty: seen"),
        ("b", "message", "chatty: seen"),
    ]
