"""Starting the engine of a config: in this program, vLLM beside it, or servers that are already running."""

from __future__ import annotations

from collections.abc import Callable

from adaptthink.config.schema import EngineConfig, PresampleConfig
from adaptthink.engines.base import Engine
from adaptthink.engines.fleet import open_fleet
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.openai import check_server, connect, make_probe
from adaptthink.engines.vllm import start_vllm
from adaptthink.models.loading import Policy, choose_dtype, find_model
from adaptthink.modes import encode_prompt

PROBE_QUESTION = "47+8=?"


def make_engine(policy: Policy, config: EngineConfig, *, say: Callable[[str], None] = lambda text: None) -> Engine:
    """Start the engine of a config with the policy's weights; a job needs only one.

    Several servers form a fleet, which waits for servers that fail. Pre-sampling uses a fleet for one server too. `say`
    is called with a one-line message when a server becomes unhealthy or healthy again.
    """
    dtype = choose_dtype(policy.model, config)
    if config.engine == "vllm":
        return start_vllm(
            find_model(policy.name),
            policy.eos_ids,
            dtype=dtype,
            max_concurrent_sequences=config.max_concurrent_sequences,
            memory_share=config.engine_memory,
        )
    native = NativeEngine(
        policy.plain(), policy.eos_ids, max_concurrent_sequences=config.max_concurrent_sequences, dtype=dtype
    )
    if config.engine == "native":
        return native
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
        on_message=say,
    )
