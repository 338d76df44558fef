"""Listening and serving: the port is taken before a model is loaded, and the server runs until it is interrupted."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import PurePath

from adaptthink.config.schema import ServeConfig
from adaptthink.dial.efforts import list_levels
from adaptthink.dial.stored import Dial
from adaptthink.errors import UserError
from adaptthink.models.context import find_context_tokens
from adaptthink.models.loading import Policy, Tokenization
from adaptthink.serving.backend import Backend

CLOSING_SENTENCE = "\n\nThis is enough thinking; I answer now.\n"
WITH_WORDS = 1000  # tokens; the embedded models have 300, and know no words


def serve_forever(
    policy: Policy | Tokenization,
    backend: Backend,
    threshold: float | None,
    dial: Dial | None,
    config: ServeConfig,
    listening: socket.socket,
    on_message: Callable[[str], None],
) -> None:
    """Serve a model on a listening socket until interrupted; `on_message` gets the address and the rule.

    `dial` is the certified one that the threshold is of, if it is.

    Raises UserError where starlette or uvicorn is not installed.
    """
    try:
        import uvicorn  # noqa: F401, PLC0415  (not installed everywhere)

        from adaptthink.serving.app import make_app  # noqa: PLC0415
        from adaptthink.serving.lifetime import make_server  # noqa: PLC0415
        from adaptthink.serving.prepare import Served  # noqa: PLC0415
    except ModuleNotFoundError as error:
        advice = "install it with: pip install '.[serve]' in the project's folder"
        raise UserError(f"serving needs {error.name}; {advice}") from None
    context = find_context_tokens(policy.model.config) if isinstance(policy, Policy) else policy.context_tokens
    name = config.name or PurePath(policy.name).name
    levels = list_levels(dial.efforts, dial.curve) if dial else list_levels()
    served = Served(
        name,
        policy.tokenizer,
        policy.template,
        context,
        threshold,
        certified=dial is not None,
        levels=levels,
        closing_sentence=choose_closing_sentence(len(policy.tokenizer), config),
    )
    app = make_app(served, backend, config)
    host = f"[{config.host}]" if ":" in config.host else config.host
    rule = "sampled by the model" if threshold is None else f"no_think from P(no_think) = {threshold:g} on"
    if threshold is not None and threshold > 1:  # a dial's that no probability reaches
        rule = "always thinks"
    address = f"http://{host}:{listening.getsockname()[1]}"
    on_message(f"serving '{name}' at {address}/v1\nmode auto: {rule}\nopen {address}/ to try it in a browser")
    with contextlib.suppress(KeyboardInterrupt):  # how a server is meant to end
        make_server(app).run(sockets=[listening])


def choose_closing_sentence(num_tokens: int, config: ServeConfig) -> str:
    """Return the sentence that ends a thought at its budget, for a vocabulary of so many tokens."""
    if config.closing_sentence is not None:
        return config.closing_sentence
    return CLOSING_SENTENCE if num_tokens >= WITH_WORDS else ""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises UserError if it cannot be had."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}; give another --host or --port") from None
    # Connections inherit it. Without it, small pieces wait for the acknowledgement of earlier ones, some 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
