"""What answers requests: the engine of this process (`worker.py`), or a server behind this one (`upstream.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Protocol

from adaptthink.config.schema import ServeConfig
from adaptthink.serving.generation import Event, GenerationRequest
from adaptthink.serving.prepare import Served

Events = asyncio.Queue[Event | Exception]  # of one request: `Decided` first, an `Ended` for each choice, or an error


class Generation(Protocol):
    """One request that is ready to be answered. Both methods are called on the event loop."""

    def begin(self) -> None:
        """Begin to generate; its events go into the request's queue."""
        ...

    def cancel(self) -> None:
        """Give up what is not finished."""
        ...


class Backend(Protocol):
    """What answers requests."""

    @property
    def fault(self) -> str | None:
        """Why no request can be answered now, as /health says it."""
        ...

    def offer(self, served: Served) -> Served:
        """Return what is offered of a model."""
        ...

    def start(self) -> None:
        """Start, on the running event loop."""
        ...

    async def stop(self) -> None:
        """End every generation, and stop."""
        ...

    def prepare(
        self, served: Served, config: ServeConfig, request: GenerationRequest, events: Events, owner: Hashable
    ) -> Generation:
        """Encode a request; called on any thread, as it may take long. Raises UserError for one that is refused."""
        ...
