"""How verl is started on a CPU (test support): environment variables and settings. Needs nothing of verl itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

ROLLOUT = "transformers_cpu"  # the name that our rollout has in verl's settings
RAY_CPUS = 32  # what Ray gets: verl starts about a dozen actors that ask for a core each, and waits for ever if short


def environment(threads: int, plugins: Sequence[str] = (), paths: Sequence[Path] = ()) -> dict[str, str]:
    """Return the environment for verl's driver, which all its Ray processes inherit.

    `plugins` are further modules that verl is to import in each of its processes, `paths` where they are found.
    Through `VERL_USE_EXTERNAL_MODULES` a failing import is an error; through the entry points it would pass unseen.
    """
    folders = [Path(__file__).parent.parent, *paths]
    before = os.environ.get("PYTHONPATH")
    return dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join([*map(str, folders), *([before] if before else [])]),
        "VERL_USE_EXTERNAL_MODULES": ",".join(["verl_cpu.plugin", *plugins]),
        "VERL_PLATFORM": "cpu",
        "VERL_ENGINE_DEVICE": "cuda",  # verl's own way to take the FSDP engine that is registered for CUDA
        "OMP_NUM_THREADS": str(threads),  # unset, Ray gives each actor a single thread
        "TQ_NUM_THREADS": str(threads),  # of TransferQueue: eight, and a warning at each transfer where cores are fewer
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # by default 15: on a machine that does other work too, workers would hardly start
        "HYDRA_FULL_ERROR": "1",
    }


def settings(folder: Path, ranks: int = 1) -> dict[str, str | int | float | bool]:
    """Return verl's settings for `ranks` FSDP2 processes and as many rollout replicas, all in float32.

    Hydra and the checkpoints write into `folder`.
    """
    actor, rollout, model = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))
    return {
        "hydra.run.dir": str(folder / "hydra"),
        "hydra.output_subdir": "null",
        "trainer.default_local_dir": str(folder / "checkpoints"),
        "trainer.device": "cpu",
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": ranks,
        "trainer.resume_mode": "disable",
        "ray_kwargs.ray_init.num_cpus": RAY_CPUS,
        "+ray_kwargs.ray_init.resources": f"{{NPU: {ranks}}}",  # verl counts GPUs and NPUs only, see `plugin`
        "+ray_kwargs.ray_init.include_dashboard": False,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,  # each of eight would ask for a core
        "data.dataloader_num_workers": 0,
        f"{model}.use_remove_padding": False,  # packs sequences for flash-attn, which needs CUDA
        f"{model}.enable_gradient_checkpointing": False,
        f"+{model}.override_config.attn_implementation": "sdpa",
        f"{actor}.strategy": "fsdp2",
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.use_torch_compile": False,
        f"+{actor}.fsdp_config.mixed_precision.param_dtype": "fp32",
        f"{rollout}.name": ROLLOUT,
        f"{rollout}.dtype": "float32",
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.agent.num_workers": 1,
        "reward.num_workers": 1,
    }


def arguments(values: Mapping[str, str | int | float | bool]) -> list[str]:
    """Return settings as arguments of `python -m verl.trainer.main_ppo`."""
    return [f"{name}={value}" for name, value in values.items()]
