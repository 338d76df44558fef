"""The serving job: load the model, listen, say where."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import PurePath

from adaptthink.cli.console import console
from adaptthink.config.schema import ServeConfig
from adaptthink.dial.decide import read_stored_threshold
from adaptthink.errors import UserError
from adaptthink.models.loading import load_configured
from adaptthink.sampling.engine import make_engine


def serve_job(config: ServeConfig) -> None:
    """Serve a model until interrupted. Raises UserError for a port that is taken, or without starlette and uvicorn."""
    try:
        import uvicorn  # noqa: PLC0415  (not installed everywhere)

        from adaptthink.serve.app import Served, make_app  # noqa: PLC0415
        from adaptthink.serve.worker import Worker  # noqa: PLC0415
    except ModuleNotFoundError as error:
        advice = "install it with: pip install '.[serve]' in the project's folder"
        raise UserError(f"serving needs {error.name}; {advice}") from None
    with listen(config.host, config.port) as listening:
        policy = load_configured(config)
        threshold = read_stored_threshold(policy) if config.threshold is None else config.threshold
        context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
        name = config.name or PurePath(config.model).name
        served = Served(name, policy.tokenizer, policy.template, context, threshold)
        worker = Worker(make_engine(policy, config), policy.template, seed=config.seed)
        server = uvicorn.Server(uvicorn.Config(make_app(served, worker, config), log_level="warning"))
        host = f"[{config.host}]" if ":" in config.host else config.host
        rule = "drawn by the model" if threshold is None else f"no_think from P(no_think) = {threshold:g} on"
        console.print(
            f"serving '{name}' at http://{host}:{listening.getsockname()[1]}/v1", f"mode auto: {rule}", sep="\n"
        )
        with contextlib.suppress(KeyboardInterrupt):  # how a server is meant to end
            server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, taken before the model is loaded; raises UserError if it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}; give another --host or --port") from None
