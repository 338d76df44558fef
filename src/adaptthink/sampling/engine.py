"""Starting the engine of a config: in this program, vLLM beside it, or servers that are already running.

A new engine is a module in `engines`, a name in `config.schema.EngineName`, and a line in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable

from adaptthink.config.schema import EngineConfig, EngineName, PresampleConfig
from adaptthink.engines.base import Engine
from adaptthink.engines.fleet import open_fleet
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.openai import check_server, connect, make_probe
from adaptthink.engines.vllm import start_vllm
from adaptthink.models.loading import Policy, choose_dtype, find_model
from adaptthink.modes import encode_prompt

PROBE_QUESTION = "47+8=?"

OnMessage = Callable[[str], None]  # takes messages for a person


def make_engine(policy: Policy, config: EngineConfig, *, on_message: OnMessage = lambda message: None) -> Engine:
    """Start the engine of a config with the policy's weights; a job needs only one.

    `on_message` is called with one line when a server becomes unhealthy or healthy again.
    """
    return ENGINES[config.engine](policy, config, on_message)


def start_native(policy: Policy, config: EngineConfig, _: OnMessage) -> NativeEngine:
    """Start the engine in this program."""
    return NativeEngine(
        policy.plain(),
        policy.eos_ids,
        max_concurrent_sequences=config.max_concurrent_sequences,
        dtype=choose_dtype(policy.model, config),
    )


def start_vllm_beside(policy: Policy, config: EngineConfig, _: OnMessage) -> Engine:
    """Start vLLM on the same device, which it takes a share of."""
    return start_vllm(
        find_model(policy.name),
        policy.eos_ids,
        dtype=choose_dtype(policy.model, config),
        max_concurrent_sequences=config.max_concurrent_sequences,
        memory_share=config.engine_memory,
    )


def connect_servers(policy: Policy, config: EngineConfig, on_message: OnMessage) -> Engine:
    """Connect to servers that are running, after checking that they have the policy's weights.

    One server is an engine by itself. Several are a fleet, and so is the one of a pre-sampling, which may take days: a
    fleet waits for servers that fail.
    """
    native = start_native(policy, config, on_message)
    prompt = encode_prompt(policy.tokenizer, policy.template, PROBE_QUESTION)
    ids = (policy.template.no_think_id, policy.template.think_id, *policy.eos_ids)
    if len(config.endpoint) == 1 and type(config) is not PresampleConfig:
        server = connect(
            config.endpoint[0],
            policy.eos_ids,
            name=config.model,
            max_concurrent_sequences=config.max_concurrent_sequences,
        )
        check_server(server, native, prompt, ids)
        return server
    return open_fleet(
        config.endpoint,
        policy.eos_ids,
        name=config.model,
        max_concurrent_sequences=config.max_concurrent_sequences,
        probe=make_probe(native, prompt, ids),
        on_message=on_message,
    )


ENGINES: dict[EngineName, Callable[[Policy, EngineConfig, OnMessage], Engine]] = {
    EngineName.NATIVE: start_native,
    EngineName.VLLM: start_vllm_beside,
    EngineName.OPENAI: connect_servers,
}
