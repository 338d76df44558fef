"""The server's OpenAPI document, made of the schemas that read the calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from adaptthink import __version__
from adaptthink.serving.calls import Parameters

STATUSES = {
    400: "The call is refused; the message says what to change.",
    401: "No valid key.",
    404: "There is no such model or answer.",
    408: "The body did not come in time.",
    409: "There is feedback on this answer already.",
    413: "The body is too large.",
    429: "Too many requests; `Retry-After` says when to come back.",
    500: "The server failed.",
    503: "The server is shutting down.",
}
SUMMARIES = {
    "/health": "Whether it takes requests.",
    "/metrics": "Metrics for Prometheus.",
    "/openapi.json": "This document.",
    "/v1/dial": "What the online dial has seen.",
    "/v1/feedback": "Say whether an answer was right.",
    "/v1/models": "The model's names, one for each mode and effort.",
}
MEDIA_TYPES = {"/metrics": "text/plain"}  # others: JSON
SCHEMA_PATH = "#/components/schemas/{model}"


def make_document(routes: Sequence[Route], calls: Mapping[str, type[BaseModel]], *, keys: bool) -> dict[str, Any]:
    """Return the document (OpenAPI 3.1) of all routes; `keys`: whether clients need one.

    `calls` has the schemas of bodies, by path; a stream is what `stream` in a body asks for.
    """
    names, shared = models_json_schema([(one, "validation") for one in calls.values()], ref_template=SCHEMA_PATH)
    schemas = shared["$defs"]
    bodies = {path: names[call, "validation"] for path, call in calls.items()}
    for path, call in calls.items():
        if issubclass(call, Parameters):
            add_lenient_parameters(find_schema(schemas, bodies[path]), call)
    paths: dict[str, Any] = {}
    for route in routes:
        path = re.sub(r":\w+}", "}", route.path_format)
        for method in sorted((route.methods or {"POST"}) - {"HEAD"}):
            schema = bodies.get(route.path, {"type": "object"}) if method == "POST" else {}
            body = {"requestBody": describe_body(schema)} if method == "POST" else {}
            streams = "stream" in find_schema(schemas, schema).get("properties", ())
            paths.setdefault(path, {})[method.lower()] = describe(path, method, streams=streams) | body
    schemes = {
        "key": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "AdaptThink", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": schemes},
    } | ({"security": [{"key": []}, {"header": []}]} if keys else {})


def find_schema(schemas: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema that another refers to; an empty one, if it does not."""
    return dict(schemas).get(schema.get("$ref", "").rpartition("/")[2], {})


def describe(path: str, method: str, *, streams: bool) -> dict[str, Any]:
    """Return an operation without its body."""
    media_types = [MEDIA_TYPES.get(path, "application/json"), *(["text/event-stream"] if streams else [])]
    good = {"description": "Done.", "content": {media_type: {} for media_type in media_types}}
    bad = {
        str(status): {"description": meaning, "content": {"application/json": {}}}
        for status, meaning in STATUSES.items()
        if method == "POST" or status in (401, 404, 500, 503)
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    return {
        "summary": SUMMARIES.get(path, "Answer." if streams else path),
        "operationId": f"{method.lower()}{re.sub(r'[^a-z0-9]+', '_', path)}",
        "parameters": parameters,
        "responses": {"200": good} | bad,
    }


def describe_body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a request's body."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def add_lenient_parameters(schema: dict[str, Any], call: type[Parameters]) -> None:
    """Add what is ignored, and what is accepted with a value that changes nothing."""
    properties = schema["properties"]
    for name in sorted(call.harmless - properties.keys()):
        properties[name] = {"description": "Ignored: it changes no answer."}
    for name in sorted(call.neutral.keys() - properties.keys()):
        properties[name] = {"enum": [*call.neutral[name], None], "description": "Other values are not supported."}
