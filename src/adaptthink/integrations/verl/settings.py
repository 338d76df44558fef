"""Our configuration → verl's settings, as one pure function. Needs nothing of verl.

Every key of `VerlConfig` becomes a setting here, is refused where verl has nothing for it, or is read elsewhere; a test
walks through all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from adaptthink.config.schema import DEFAULT_METHOD, VerlConfig, name_endpoint_variable
from adaptthink.errors import UserError

NAME = "adaptthink"  # of the agent loop and the trainer in verl's registries
PLUGIN = "adaptthink.integrations.verl.plugin"
TRAIN_FILE, HELD_OUT_FILE = "train.parquet", "held_out.parquet"
Value = str | int | float | bool | tuple[str, ...] | None
PLAIN = re.compile(r"(?!(?i:true|false|null|nan|inf)$)[A-Za-z_./][\w./:-]*")  # a text that needs no quotes in Hydra

REFUSED = {  # each with the only value that verl can do
    "token_share": (1.0, "verl takes the same number of samples for every problem"),
    "schedule": ("constant", "verl has no schedule that falls at the end alone"),
    "implicit_thinking": ("allowed", "it compares all answers of a step, which verl's agent loops see one by one"),
    "max_skipped_steps": (3, "its workers take the step themselves; one that is not finite ends the training"),
    "rehearsal_problems": (4, "its engines start with the first step, so there is no rehearsal"),
    "device": ("auto", "it trains on the GPUs that Ray gives it"),
    "lora_rank": (0, "verl exports the adapter apart from its model, and the model untrained; train all weights"),
}
OURS = (  # settings that AdaptThink stands on: to change one here would quietly make another method of it
    "algorithm.adv_estimator",
    "algorithm.rollout_correction.bypass_mode",
    "actor_rollout_ref.actor.policy_loss.loss_mode",
    "actor_rollout_ref.actor.ppo_epochs",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.clip_ratio",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.entropy_coeff",
    "algorithm.use_kl_in_reward",
    "data.train_files",
    "data.train_batch_size",
    "data.shuffle",
    "actor_rollout_ref.rollout.agent.default_agent_loop",
    "actor_rollout_ref.rollout.calculate_log_probs",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.rollout.top_p",
    "actor_rollout_ref.rollout.top_k",
    "actor_rollout_ref.rollout.logprobs_mode",
    "actor_rollout_ref.rollout.full_determinism",  # one seed for all of a replica's responses
    "actor_rollout_ref.rollout.val_kwargs.n",
    "trainer.v1.trainer_mode",
    # and those by which the launcher finds what verl makes
    "adaptthink.run",
    "data.val_files",
    "trainer.default_local_dir",
    "trainer.resume_mode",
    "trainer.total_epochs",
    "trainer.total_training_steps",
)


def check_config(config: VerlConfig) -> None:
    """Raise UserError for settings that verl cannot do, or not with so many GPUs."""
    if config.method != DEFAULT_METHOD:
        from adaptthink.training.methods import check_method, refuse_stored  # noqa: PLC0415  (imports torch)

        refuse_stored(config.method, "verl")
        check_method(config)
    for key, (only, reason) in REFUSED.items():
        value = getattr(config, key)
        if value != only:
            raise UserError(
                f"{key} = {value!r} is not for --backend verl: {reason}; give {key} = {only!r}, or use --backend native"
            )
    if config.engine.has_endpoints:
        raise UserError(
            f"engine = 'openai' and its endpoint are not for --backend verl{name_endpoint_variable()}, which "
            "generates with a vLLM of its own; leave both out"
        )
    if config.nodes > 1 and config.ray_address is None:
        raise UserError(
            f"nodes = {config.nodes} needs a running Ray cluster: start it (ray start --head; ray start --address) and "
            "give --ray-address auto"
        )
    ranks, samples = config.nodes * config.gpus_per_node, config.problems_per_step * config.samples_per_problem
    if samples % ranks:
        raise UserError(
            f"{samples} samples a step cannot be shared out evenly among {ranks} GPUs; choose problems_per_step x "
            f"samples_per_problem as a multiple of {ranks}"
        )
    if config.gpus_per_node % config.tensor_parallel:
        raise UserError(
            f"tensor_parallel = {config.tensor_parallel} does not divide gpus_per_node = {config.gpus_per_node}; "
            "choose a divisor"
        )
    for override in config.overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise UserError(f"overrides: '{override}' is not of the form key=value, such as trainer.logger=[console]")
        name = key.lstrip("+~")
        if any(ours == name or ours.startswith(f"{name}.") for ours in OURS):  # a whole section too
            raise UserError(f"overrides: {name} follows from the recipe's own keys; set those instead")


def make_verl_settings(config: VerlConfig, model: str, run: Path, *, plain_logits: bool = True) -> dict[str, Value]:
    """Return verl's settings for a training of `model` (a folder or a hub id) in the run folder `run`.

    The overrides are not among them. `plain_logits`: whether the model's logits are its last layer's output, neither
    scaled nor capped. Raises UserError for what verl cannot do.
    """
    from adaptthink.training.methods import load_method  # noqa: PLC0415  (imports torch)

    check_config(config)
    run = run.absolute()  # verl's processes may stand in other folders
    response_tokens = max(config.max_think_tokens, config.max_no_think_tokens)
    longest = config.max_prompt_tokens + response_tokens
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    policy, reference = "actor_rollout_ref.model", "actor_rollout_ref.ref"
    precision = "float32" if config.dtype == "float32" else "bfloat16"
    settings: dict[str, Value] = {
        "+adaptthink.run": str(run),
        # What is trained on, in the order of the native trainer; one epoch of it is the whole training.
        "data.train_files": str(run / "verl" / TRAIN_FILE),
        "data.val_files": str(run / "verl" / HELD_OUT_FILE),
        "data.shuffle": False,
        "data.train_batch_size": config.problems_per_step,
        "data.max_prompt_length": config.max_prompt_tokens,
        "data.max_response_length": response_tokens,
        "data.seed": config.seed,
        "trainer.total_epochs": 1,
        "trainer.total_training_steps": config.steps,
        # π_IS is data: verl takes the log-probabilities that came with the responses for the old policy's, instead of
        # computing them again from the model that is trained, which would throw the decision's share away.
        "algorithm.rollout_correction.bypass_mode": True,
        f"{rollout}.calculate_log_probs": True,
        # The trainer puts the method's credit and loss in the place of verl's, which by this name has none: without
        # ours it would stop.
        "algorithm.adv_estimator": NAME,
        f"{actor}.policy_loss.loss_mode": NAME,
        f"{actor}.clip_ratio": config.clip,
        "algorithm.use_kl_in_reward": False,
        f"{actor}.use_kl_loss": bool(load_method(config.method).initial_modes),  # brings that model along
        f"{actor}.entropy_coeff": 0,
        f"{actor}.ppo_epochs": 1,  # one update per batch
        f"{actor}.ppo_mini_batch_size": config.problems_per_step,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": max(config.micro_batch_tokens, longest),
        f"{actor}.data_loader_seed": config.seed,
        f"{actor}.optim.lr": config.learning_rate,
        f"{actor}.optim.lr_warmup_steps": config.warmup_steps,  # verl counts from 0: its first step has rate 0
        f"{actor}.optim.lr_scheduler_type": "constant",
        f"{actor}.optim.weight_decay": 0.0,
        f"{actor}.optim.clip_grad": config.max_grad_norm,
        f"{actor}.strategy": "fsdp2",
        f"{actor}.fsdp_config.param_offload": config.offload,
        f"{actor}.fsdp_config.optimizer_offload": config.offload,
        f"+{actor}.fsdp_config.mixed_precision.param_dtype": "fp32" if precision == "float32" else "bf16",
        f"{actor}.fsdp_config.dtype": precision,
        f"+{reference}.fsdp_config.mixed_precision.param_dtype": "fp32" if precision == "float32" else "bf16",
        f"{reference}.fsdp_config.dtype": precision,
        f"{policy}.path": model,
        # Log-probabilities in pieces of 512 tokens: the logits of a micro-batch, 8 bytes a word of the vocabulary and
        # token, never exist at once. The pieces know no scaled or capped logits.
        f"{policy}.use_fused_kernels": plain_logits,
        f"{policy}.fused_kernel_options.impl_backend": "torch",
        f"{policy}.enable_gradient_checkpointing": config.gradient_checkpointing,
        f"{rollout}.name": "vllm",
        f"{rollout}.dtype": precision,
        f"{rollout}.n": config.samples_per_problem,
        f"{rollout}.temperature": config.temperature,
        f"{rollout}.top_p": 1.0,
        f"{rollout}.top_k": -1,
        f"{rollout}.logprobs_mode": "processed_logprobs",  # of the sampling distribution, temperature included
        f"{rollout}.seed": config.seed,
        f"{rollout}.full_determinism": False,
        f"{rollout}.max_model_len": longest,
        f"{rollout}.max_num_seqs": config.max_concurrent_sequences,
        f"{rollout}.gpu_memory_utilization": config.engine_memory,
        f"{rollout}.tensor_model_parallel_size": config.tensor_parallel,
        f"{rollout}.agent.default_agent_loop": NAME,
        f"{rollout}.val_kwargs.n": max(1, config.probe_samples),
        f"{rollout}.val_kwargs.temperature": config.temperature,
        f"{rollout}.val_kwargs.top_p": 1.0,
        f"{rollout}.val_kwargs.do_sample": True,
        "reward.num_workers": 1,  # idle: the agent loop grades
        "trainer.v1.trainer_mode": NAME,
        "trainer.nnodes": config.nodes,
        "trainer.n_gpus_per_node": config.gpus_per_node,
        "trainer.default_local_dir": str(run / "checkpoints"),
        "trainer.save_freq": config.checkpoint_every,
        "trainer.max_actor_ckpt_to_keep": config.keep_checkpoints,
        "trainer.resume_mode": "auto",
        "trainer.val_before_train": False,
        "trainer.test_freq": config.probe_every if config.probe_samples else -1,
        "trainer.logger": ("console",),
        "trainer.project_name": NAME,
        "trainer.experiment_name": run.name,
        "hydra.run.dir": str(run / "verl" / "hydra"),
        "hydra.output_subdir": None,
        # Without an address Ray would join any cluster that runs on this machine.
        "+ray_kwargs.ray_init.address": config.ray_address or "local",
    }
    return settings


def make_environment_settings(variables: Mapping[str, str]) -> dict[str, Value]:
    """Return the settings by which Ray hands environment variables to each of verl's processes, on all machines."""
    return {f"+ray_kwargs.ray_init.runtime_env.env_vars.{name}": value for name, value in variables.items()}


def make_arguments(settings: Mapping[str, Value], overrides: Iterable[str] = ()) -> list[str]:
    """Return settings as arguments of `python -m verl.trainer.main_ppo`; an override takes the place of its setting."""
    written = dict(override.split("=", 1) for override in overrides)
    replaced = {key.lstrip("+") for key in written}
    kept = {key: value for key, value in settings.items() if key.lstrip("+") not in replaced}
    return [f"{key}={quote(value)}" for key, value in kept.items()] + [f"{key}={text}" for key, text in written.items()]


def quote(value: Value) -> str:
    """Write a value as Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"[{','.join(map(quote, value))}]"
    if not isinstance(value, str) or PLAIN.fullmatch(value):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
