"""The server's log: one line for each request, as text or as JSON. It has no prompts and no answers."""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptthink.config.schema import LogFormat
from adaptthink.errors import redact

ROOT = "adaptthink.serving"  # of all loggers here
QUIET = ("/health", "/metrics")  # routes that are called all the time
MOST_PATH = 200  # bytes of a path that are logged
requests = logging.getLogger(f"{ROOT}.requests")


@dataclass(slots=True)
class RequestLine:
    """One request, noted as it goes on. What one that was refused or failed has not got is None, or 0 tokens."""

    route: str  # with its method
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # of the answer, without what dialects write before it
    status: int | None = None  # 499: the client left
    mode: str | None = None  # auto: the model sampled it
    reason: str | None = None  # what decided the mode
    prompt_tokens: int = 0
    thinking_tokens: int = 0  # of the choices that ended
    answer_tokens: int = 0
    seconds: float = 0.0  # from the request's head to the end
    first_token_seconds: float | None = None
    key: int | None = None  # the number of the client's key, from 1; None: no keys
    error: str | None = None  # a code; never a message, which may quote the request


class RequestLog:
    """Middleware that logs a line for each request, and names the request in the answer's header x-request-id.

    What it wraps finds the line in the scope.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when it has been answered."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope.get("raw_path") or b""  # as it was sent, so without line breaks, and without a query
        line = scope["line"] = RequestLine(f"{scope['method']} {path[:MOST_PATH].decode('latin-1')}")
        began = time.monotonic()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                line.status = line.status or message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", line.id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        finally:
            line.seconds = round(time.monotonic() - began, 6)
            if scope["path"] not in QUIET:
                requests.info("request", extra={"line": line})


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a request as one line, anything else with time and level."""
        line: RequestLine | None = getattr(record, "line", None)
        if line is None:
            return f"{write_time(record)} {record.levelname.lower()}: {redact(super().format(record))}"
        mode = f" {line.mode} by {line.reason}" if line.mode else ""
        tokens = (
            f" {line.prompt_tokens}+{line.thinking_tokens}+{line.answer_tokens} tokens" if line.prompt_tokens else ""
        )
        key = f" key {line.key}" if line.key else ""
        error = f" {line.error}" if line.error else ""
        return (
            f"{write_time(record)} {line.route} {line.status}{mode}{tokens} {line.seconds:.3f} s{key}{error} {line.id}"
        )


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a request's fields, or any other message with its traceback in one field."""
        line: RequestLine | None = getattr(record, "line", None)
        known = {"time": write_time(record), "level": record.levelname.lower()}
        if line:
            return json.dumps(known | asdict(line))
        return json.dumps(known | {"message": redact(super().format(record))})


def write_time(record: logging.LogRecord) -> str:
    """Return when it was logged: ISO 8601, UTC, milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def start_log(log_format: LogFormat | None) -> None:
    """Write the server's log to standard error in a format; None: as the program's logging is set up."""
    if log_format is None:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logger = logging.getLogger(ROOT)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
