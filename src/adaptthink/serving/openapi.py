"""The server's OpenAPI document, made of the schemas that read the calls."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from adaptthink.serving.calls import HARMLESS, NEUTRAL, Call
from adaptthink.serving.feedback import FeedbackCall
from adaptthink.serving.generation import Dialect

STATUSES = {
    400: "The call is refused; the message says what to change.",
    401: "No valid key.",
    404: "There is no such model, answer or route.",
    408: "The body did not come in time.",
    409: "There is feedback on this answer already.",
    413: "The body is too large.",
    429: "Too many requests; `Retry-After` says when to come back.",
    500: "The server failed.",
    503: "The server is shutting down.",
}
ANSWERED = (400, 401, 404, 408, 413, 429, 500, 503)  # other than by 200, by routes that generate
SCHEMA_PATH = "#/components/schemas/{model}"


def make_document(dialects: Sequence[Dialect], *, keys: bool) -> dict[str, Any]:
    """Return the document (OpenAPI 3.1); `keys`: whether clients need one."""
    calls: list[type[BaseModel]] = [FeedbackCall, *(one.call for one in dialects if one.call)]
    names, shared = models_json_schema([(call, "validation") for call in calls], ref_template=SCHEMA_PATH)
    schemas = shared["$defs"]
    for call in calls:
        if issubclass(call, Call):
            add_lenient_parameters(schemas[call.__name__])
    body = {call: names[call, "validation"] for call in calls}
    generated = ("application/json", "text/event-stream")
    paths = {
        "/health": {"get": describe("Whether it takes requests", "health", statuses=(503,))},
        "/metrics": {"get": describe("Metrics for Prometheus", "metrics", ("text/plain",), (401,))},
        "/openapi.json": {"get": describe("This document", "openapi", statuses=(401,))},
        "/v1/models": {"get": describe("The model's names, one for each mode and effort", "models", statuses=(401,))},
        "/v1/dial": {"get": describe("What the online dial has seen", "dial", statuses=(401, 404))},
        "/v1/feedback": {
            "post": describe("Whether an answer was right", "feedback", statuses=(400, 401, 404, 408, 409, 413))
            | {"requestBody": describe_body(body[FeedbackCall])}
        },
    } | {
        dialect.path: {
            "post": describe("Answer", dialect.path.strip("/").replace("/", "_"), generated, ANSWERED)
            | {"requestBody": describe_body(body[dialect.call] if dialect.call else {"type": "object"})}
        }
        for dialect in dialects
    }
    secured: dict[str, Any] = {"security": [{"key": []}, {"header": []}]} if keys else {}
    schemes = {
        "key": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "AdaptThink", "version": version("adaptthink")},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": schemes},
    } | secured


def describe(
    summary: str, name: str, media_types: Sequence[str] = ("application/json",), statuses: Sequence[int] = ()
) -> dict[str, Any]:
    """Return an operation without parameters."""
    good = {"description": "Done.", "content": {media_type: {} for media_type in media_types}}
    bad = {str(one): {"description": STATUSES[one], "content": {"application/json": {}}} for one in statuses}
    return {"summary": summary, "operationId": name, "responses": {"200": good} | bad}


def describe_body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a request's body."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def add_lenient_parameters(schema: dict[str, Any]) -> None:
    """Add what is ignored, and what is accepted with a value that changes nothing."""
    properties = schema["properties"]
    for name in sorted(HARMLESS - properties.keys()):
        properties[name] = {"description": "Ignored: it changes no answer."}
    for name in sorted(NEUTRAL.keys() - properties.keys()):
        properties[name] = {"enum": [*NEUTRAL[name], None], "description": "Other values are not supported."}
