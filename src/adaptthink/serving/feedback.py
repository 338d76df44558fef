"""The online dial of a server: one thread decides with it, others bring feedback and store its state.

docs/explanation/dial_online.md has the dial, docs/how-to/serving.md its routes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from adaptthink.dial.online import OnlineDecision, OnlineDial, OnlineReport
from adaptthink.errors import UserError
from adaptthink.serving.generation import CallError
from adaptthink.storage.locks import locked
from adaptthink.storage.records import to_json
from adaptthink.storage.runs import write_json

logger = logging.getLogger(__name__)

TOLERANCE = 0.05  # of a new dial
WRITE_SECONDS = 1.0  # between two writes of the state, where there is something new


def read_verdict(value: object) -> float | None:
    """Return a verdict as a share; raises ValueError for what is none."""
    if value is None:
        return None
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"a verdict is true, false, null, or a share from 0 to 1, not {value!r}")


class FeedbackCall(BaseModel):
    """The body of POST /v1/feedback: whether an answer was right."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    id: Annotated[str, Field(max_length=200, description="The answer's id.")]
    correct: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        BeforeValidator(read_verdict),
        Field(description="Whether it was right, or a share; null: that will not become known."),
    ]
    choice: Annotated[int, Field(ge=0, le=127)] = 0  # of several choices; an answer has one verdict all the same


@dataclass(slots=True)
class Answer:
    """An answer whose mode the dial decided, as long as feedback on it would count."""

    number: int  # of the request, at the dial
    closed: bool = False
    choices: int | None = None  # how many it has; None: decided before this server started


class SharedDial:
    """An online dial for several threads, the answers that feedback may name, and the file of its state."""

    def __init__(self, dial: OnlineDial, path: Path) -> None:
        self.dial, self.path = dial, path
        self.answers = {one.name: Answer(one.number, one.closed) for one in dial.waiting if one.name}  # oldest first
        self.changed = True
        self.lock, self.writing = Lock(), Lock()

    def decide(self, answer_id: str, no_think_probability: float, choices: int = 1) -> OnlineDecision:
        """Sample the mode of a request, and keep it by the id of its answer, which has so many choices."""
        with self.lock:
            decision = self.dial.decide(min(no_think_probability, 1.0), name=answer_id)
            self.answers[answer_id] = Answer(decision.number, choices=choices)
            while next(iter(self.answers.values())).number <= decision.number - self.dial.window:
                del self.answers[next(iter(self.answers))]  # feedback on it would not count any more
            self.changed = True
        return decision

    def give_feedback(self, call: FeedbackCall) -> None:
        """Learn whether an answer was right.

        Raises CallError for an id that is unknown or has its feedback, and for a choice that the answer does not have.
        """
        name = re.split("[-_]", call.id)[-1]  # dialects write something before it
        with self.lock:
            answer = self.answers.get(name)
            if answer is None:
                raise CallError(
                    f"no answer '{call.id}' waits for feedback: the online dial did not decide its mode, or it is "
                    f"older than the last {self.dial.window} that it decided",
                    param="id",
                    code="answer_not_found",
                    status=404,
                )
            if answer.closed:
                raise CallError(
                    f"the answer '{call.id}' has its feedback already; it is given once",
                    param="id",
                    code="feedback_given",
                    status=409,
                )
            if answer.choices is not None and call.choice >= answer.choices:
                raise CallError(
                    f"the answer '{call.id}' has no choice {call.choice}: it has {answer.choices}, counted from 0",
                    param="choice",
                    code="invalid_value",
                )
            answer.closed = self.changed = True
            self.dial.give_feedback(answer.number, correct=call.correct)

    def report(self) -> OnlineReport:
        """Return what the dial has seen."""
        with self.lock:
            return self.dial.report()

    def describe(self) -> dict[str, Any]:
        """Return settings and report, for GET /v1/dial."""
        settings = ("tolerance", "confidence", "explore_think", "explore_direct", "window", "patience", "allowance")
        return {name: getattr(self.dial, name) for name in settings} | to_json(self.report())

    def write(self) -> None:
        """Store the state if it has changed; what cannot be stored is logged, and tried again at the next call."""
        with self.writing:
            with self.lock:
                if not self.changed:
                    return
                state, self.changed = to_json(self.dial), False
            try:
                write_json(self.path, state)
            except OSError as error:
                self.changed = True
                logger.error("the online dial's state cannot be stored: %s", error)


async def keep_stored(shared: SharedDial) -> None:
    """Store what is new every second, until cancelled; on another thread, as disks may be slow."""
    while True:
        await asyncio.sleep(WRITE_SECONDS)
        await asyncio.to_thread(shared.write)


@contextmanager
def open_dial(path: Path, tolerance: float | None, fingerprint: str) -> Iterator[SharedDial]:
    """Yield the dial of a file, or a new one; no other process may use the file meanwhile.

    `tolerance` is a share; None: the file's, and TOLERANCE for a new one. Raises UserError for another tolerance or
    another model than the file's, and for a file that cannot be read or written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, f"the online dial '{path}'"))
            dial = read_or_begin(path, tolerance)
            if dial.fingerprint not in ("", fingerprint):
                raise UserError(
                    f"{path} learned from another model (fingerprint {dial.fingerprint}, this one's is {fingerprint}), "
                    "so what it knows does not hold; give another file"
                )
            dial.fingerprint = fingerprint
            dial.write(path)
        except OSError as error:
            raise UserError(f"the online dial cannot be stored: {error}; give another --online-state") from None
        shared = SharedDial(dial, path)
        try:
            yield shared
        finally:
            shared.write()


def read_or_begin(path: Path, tolerance: float | None) -> OnlineDial:
    """Return the dial of a file; a new one, with draws that nobody can foresee, if there is no such file."""
    if not path.exists():
        return OnlineDial(tolerance=TOLERANCE if tolerance is None else tolerance, seed=secrets.randbits(63))
    dial = OnlineDial.read(path)
    if tolerance is not None and abs(tolerance - dial.tolerance) > 1e-9:
        raise UserError(
            f"{path} was begun with a tolerance of {100 * dial.tolerance:g} points, not {100 * tolerance:g}; leave "
            "--online-tolerance out, or give another file"
        )
    return dial
