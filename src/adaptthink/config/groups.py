"""The groups in which `--help` shows settings: first what matters first, then by subject."""

GROUPS = {
    "Main settings": (
        "model", "problems", "reference_samples", "delta", "steps", "problems_per_step", "samples_per_problem",
        "learning_rate", "chat", "engine", "host", "port", "threshold", "seed",
    ),
    "Problems": ("data", "fields", "instruction", "max_problems", "problems_per_level", "all_problems", "kind"),
    "Traces": ("traces_per_step", "no_think_weight", "max_trace_tokens", "held_out_traces"),
    "Responses": (
        "max_think_tokens", "max_no_think_tokens", "temperature", "top_p", "reference_temperature", "reference_top_p",
        "think_start", "prompt_date", "reasoning_format", "closing_sentence",
        "samples_by_set", "keep_responses", "no_think_samples",
    ),
    "Method": (
        "method", "no_think_share", "force_think", "ratio", "clip", "token_share", "implicit_thinking",
    ),
    "Update": (
        "schedule", "warmup_steps", "max_grad_norm", "mismatch", "micro_batch_tokens", "gradient_checkpointing",
    ),
    "LoRA": ("lora_rank", "lora_alpha", "lora_targets"),
    "Device and engine": ("device", "dtype", "endpoint", "engine_memory", "max_concurrent_sequences"),
    "Grading": ("boxed_only", "grading_seconds", "reward", "reward_seconds", "max_failed_grades"),
    "Probes and checkpoints": (
        "probe_every", "probe_problems_per_level", "probe_samples", "rehearsal_problems", "max_idle_steps",
        "max_skipped_steps",
        "checkpoint_every", "keep_checkpoints",
    ),
    "verl": (
        "nodes", "gpus_per_node", "tensor_parallel", "ray_address", "max_prompt_tokens", "offload", "overrides",
    ),
    "Chat endpoint": (
        "dialect", "switch", "key_variable", "concurrency", "effort", "no_think_effort", "budget_tokens",
        "completion_cap", "inline_thinking", "server_sampling", "price_input", "price_output",
    ),
    "Server": (
        "upstream", "upstream_key", "name", "api_key", "max_requests", "requests_per_minute", "threads",
        "online_state", "online_tolerance", "log_format",
    ),
}  # fmt: skip
