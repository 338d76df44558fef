"""What verl lacks to run on a CPU (test support), registered when verl imports this module in each of its processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry
from verl.utils import distributed
from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

from verl_cpu.launch import ROLLOUT


def nothing(*_: Any, **__: Any) -> None:
    """Do what a CPU has to do for a device: nothing."""


def zero(*_: Any, **__: Any) -> int:
    """Say that no memory of a device is taken."""
    return 0


DEVICE = SimpleNamespace(  # replaces torch.cuda for verl
    __name__="torch.cpu",
    is_available=lambda: True,
    device_count=lambda: 1,
    current_device=lambda: "cpu",
    get_device_name=lambda *_: "cpu",
    set_device=nothing,
    synchronize=nothing,
    empty_cache=nothing,
    ipc_collect=nothing,
    reset_peak_memory_stats=nothing,
    set_per_process_memory_fraction=nothing,
    memory_allocated=zero,
    memory_reserved=zero,
    max_memory_allocated=zero,
    max_memory_reserved=zero,
    mem_get_info=lambda *_: (1, 1),
    manual_seed=torch.manual_seed,
    manual_seed_all=torch.manual_seed,
    get_rng_state=lambda *_: torch.get_rng_state(),
    set_rng_state=lambda state, *_: torch.set_rng_state(state),
)


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """A CPU, for verl a device like another one."""

    device_name = "cpu"  # type: ignore[assignment]  # verl declares properties; constants do
    vendor_name = "generic"  # type: ignore[assignment]
    device_module: ModuleType = DEVICE  # type: ignore[assignment]

    is_available = staticmethod(DEVICE.is_available)
    current_device = staticmethod(DEVICE.current_device)
    device_count = staticmethod(DEVICE.device_count)
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)
    set_device = synchronize = set_allocator_settings = empty_cache = nothing
    profiler_start = profiler_stop = cudart = nothing

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """There is none."""
        return None, None

    def communication_backend_name(self) -> str:
        """Collectives go over gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Nobody sets or reads this one."""
        return "VERL_CPU_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        """Of a node's resources verl counts "GPU" and "NPU" only, so a rank on a CPU is an NPU to Ray."""
        return "NPU"

    def ray_noset_envvars(self) -> list[str]:
        """Ray hides no device from a worker."""
        return []

    def is_ipc_supported(self) -> bool:
        """No memory of a device can be shared."""
        return False

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """Mark nothing for a profiler."""
        yield


def initialize_over_gloo(timeout_second: int | None = None, backend: str | None = None) -> None:
    """Start the process group with one backend; verl's "cpu:gloo,cpu:gloo" names the CPU twice, which torch refuses."""
    initialize_with(timeout_second, backend="gloo")


initialize_with = distributed.initialize_global_process_group_ray
distributed.initialize_global_process_group_ray = initialize_over_gloo


def pin_nothing(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Return the tensor: verl keeps a reference policy in pinned memory, which only an accelerator has."""
    return tensor


torch.Tensor.pin_memory = pin_nothing  # type: ignore[method-assign]


def load_replica() -> type[RolloutReplica]:
    """Import the rollout in the processes that use it."""
    from verl_cpu.rollout import Replica

    return Replica


RolloutReplicaRegistry.register(ROLLOUT, load_replica)
base._ROLLOUT_REGISTRY[(ROLLOUT, "async")] = "verl_cpu.rollout.WeightSender"  # verl has no public way to add one
