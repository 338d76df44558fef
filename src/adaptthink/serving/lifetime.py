"""uvicorn with two habits of its own: it drains at the first SIGTERM, and closes connections that send nothing."""

from __future__ import annotations

import asyncio
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from adaptthink.serving.app import State

DRAIN_SECONDS = 30.0  # for requests that are being answered when SIGTERM comes
CLOSE_SECONDS = 2  # for what is left after that, half-sent requests for example
HEAD_SECONDS = 15.0  # for the head of a request to come


class DrainingServer(uvicorn.Server):
    """At the first signal it refuses newcomers with 503, answers what it has begun, and ends; at a second it ends."""

    def __init__(self, config: uvicorn.Config, load: State) -> None:
        super().__init__(config)
        self.load, self.deadline = load, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or end."""
        if self.load.draining:
            super().handle_exit(sig, frame)
        self.load.draining = True
        self.deadline = time.monotonic() + DRAIN_SECONDS

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end."""
        if self.load.draining and (not self.load.open or time.monotonic() > self.deadline):
            self.should_exit = True
        return await super().on_tick(counter)


class TimedProtocol(H11Protocol):
    """Closes a connection where a request's head does not come; between requests uvicorn's own limit holds."""

    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self.wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Go on waiting as long as the head is not complete: more of it gives no more time."""
        super().data_received(data)
        self.wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        self.stop_waiting()

    def wait_for_head(self) -> None:
        """Set the time limit if a head is awaited and there is none yet."""
        if self.conn.their_state is not h11.IDLE:
            self.stop_waiting()
        elif self.waiting is None:
            self.waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def stop_waiting(self) -> None:
        """Drop the time limit."""
        if self.waiting:
            self.waiting.cancel()
            self.waiting = None


def make_server(app: Starlette) -> DrainingServer:
    """Return the server of an application."""
    config = uvicorn.Config(
        app, http=TimedProtocol, ws="none", log_level="warning", timeout_graceful_shutdown=CLOSE_SECONDS
    )
    return DrainingServer(config, app.state.load)
