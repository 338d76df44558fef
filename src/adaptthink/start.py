"""Starting the engine that a config names: in this program, vLLM beside it, or a server that is already running."""

from __future__ import annotations

from adaptthink.config import EngineConfig
from adaptthink.engines.base import Engine
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.openai import check_server, connect
from adaptthink.engines.vllm import start_vllm
from adaptthink.models import Policy, arithmetic_dtype, model_path
from adaptthink.modes import prompt_ids

PROBE_QUESTION = "47+8=?"


def make_engine(policy: Policy, config: EngineConfig) -> Engine:
    """Start the engine that a config names with the policy's weights; one is enough for a job."""
    dtype = arithmetic_dtype(policy.model, config)
    if config.engine == "vllm":
        return start_vllm(
            model_path(policy.name),
            policy.eos_ids,
            dtype=dtype,
            device=policy.model.device,
            max_rows=config.max_rows,
            memory_share=config.engine_memory,
        )
    native = NativeEngine(policy.plain(), policy.eos_ids, max_rows=config.max_rows, dtype=dtype)
    if config.engine == "native":
        return native
    assert config.endpoint is not None  # as the config was checked
    server = connect(config.endpoint, policy.eos_ids, name=config.model, max_rows=config.max_rows)
    prompt = prompt_ids(policy.tokenizer, policy.template, PROBE_QUESTION)
    check_server(server, native, prompt, (policy.template.no_think_id, policy.template.think_id, *policy.eos_ids))
    return server
