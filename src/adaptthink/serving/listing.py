"""The lists of models: one model under several names, that of each mode and each effort."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from adaptthink.serving.generation import CallError
from adaptthink.serving.prepare import Served


def list_names(served: Served) -> list[str]:
    """Return the names that requests may use, the model's own first."""
    endings = [*served.modes, *(level.name for level in served.levels[1:-1])]  # the ends are the modes
    return [served.name, *(f"{served.name}:{ending}" for ending in endings)]


def describe_dial(served: Served) -> dict[str, Any]:
    """Return what mode auto does, and the efforts that there are."""
    return {
        "threshold": served.threshold,
        "certified": served.certified,
        "think_tokens": served.think_tokens,
        "efforts": [asdict(level) for level in served.levels],
    }


def list_models(served: Served, created: int) -> dict[str, Any]:
    """Return the list of /v1/models, which has the fields of OpenAI's and those of Anthropic's."""
    listed: list[dict[str, Any]] = [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "adaptthink",
            "type": "model",
            "display_name": name,
            "created_at": write_time(created),
        }
        for name in list_names(served)
    ]
    listed[0]["x_think"] = describe_dial(served)
    return {
        "object": "list",
        "data": listed,
        "has_more": False,
        "first_id": listed[0]["id"],
        "last_id": listed[-1]["id"],
    }


def find_model(served: Served, created: int, name: str) -> dict[str, Any]:
    """Return one entry of the list; raises CallError where there is none."""
    entries: dict[str, dict[str, Any]] = {one["id"]: one for one in list_models(served, created)["data"]}
    if name not in entries:
        raise CallError(
            f"no model '{name}'; available: {', '.join(entries)}", param="model", code="model_not_found", status=404
        )
    return entries[name]


def list_tags(served: Served, created: int) -> dict[str, Any]:
    """Return Ollama's list. Sizes are not known here, and a digest is of the name only."""
    return {
        "models": [
            {
                "name": name,
                "model": name,
                "modified_at": write_time(created),
                "size": 0,
                "digest": sha256(name.encode()).hexdigest(),
                "details": describe_details(),
            }
            for name in list_names(served)
        ]
    }


def show_model(served: Served, created: int, name: str) -> dict[str, Any]:
    """Return Ollama's description of a model; raises CallError where there is none of that name."""
    find_model(served, created, name)
    length = {"adaptthink.context_length": served.context_tokens} if served.context_tokens else {}
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": describe_details(),
        "model_info": {"general.architecture": "adaptthink", "general.basename": served.name} | length,
        "capabilities": ["completion", "thinking"],
        "thinking": {"values": [True, False, *(level.name for level in served.levels)]},
        "modified_at": write_time(created),
        "x_think": describe_dial(served),
    }


def describe_details() -> dict[str, Any]:
    """Return what Ollama says about a model's file."""
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": "adaptthink",
        "families": ["adaptthink"],
        "parameter_size": "",
        "quantization_level": "",
    }


def write_time(seconds: int) -> str:
    """Return a time in seconds since 1970 as RFC 3339 writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
