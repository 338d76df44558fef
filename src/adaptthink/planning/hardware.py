"""GPUs by their data sheets, and the notation of a cluster: 8xH100.

GB are 10⁹ bytes. A device reports a few percent more than its data sheet; that is left for the driver and for
fragmentation.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from adaptthink.errors import UserError

NODE_GPUS = 8  # in a node, connected by the fast link
NETWORK_GB = 50.0  # per second, GPU and direction between nodes: one 400 Gb/s port for each GPU, as in DGX H100


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its data sheet; the link connects those of a node, per second and in one direction."""

    name: str
    memory_gb: float
    bandwidth_gb: float
    teraflops: float  # dense bfloat16, accumulated in float32
    link_gb: float
    source: str


GPUS = (
    Gpu("H100", 80, 3350, 989, 450, "NVIDIA H100 data sheet, SXM; sparse figures halved"),
    Gpu("H800", 80, 3350, 989, 200, "as H100 with NVLink at 400 of 900 GB/s: arXiv 2505.09343, section 4"),
    Gpu("H200", 141, 4800, 989, 450, "NVIDIA H200 data sheet, SXM; sparse figures halved"),
    Gpu("B200", 180, 8000, 2250, 900, "NVIDIA HGX B200, an eighth of the board; sparse figures halved"),
    Gpu("A100", 80, 2039, 312, 300, "NVIDIA A100 80GB data sheet, SXM"),
    Gpu("A100-40", 40, 1555, 312, 300, "NVIDIA A100 40GB data sheet, SXM"),
    Gpu("L40S", 48, 864, 362, 32, "NVIDIA L40S data sheet; PCIe 4.0 x16; sparse figures halved"),
    Gpu("RTX4090", 24, 1008, 165, 32, "NVIDIA Ada GPU architecture white paper, appendix A; PCIe 4.0 x16"),
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A number of GPUs of one kind, in nodes of eight."""

    gpu: Gpu
    count: int

    @property
    def joined_gb(self) -> float:
        """GB per second and direction of the slowest link that a collective over all GPUs uses."""
        return self.gpu.link_gb if self.count <= NODE_GPUS else min(self.gpu.link_gb, NETWORK_GB)


def read_cluster(text: str) -> Cluster:
    """Return the cluster of a text like 8xH100, or H100 for one GPU.

    Raises UserError for another form, and for a GPU that is not in the table.
    """
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?([A-Za-z][\w -]*|4090)\s*", text)
    if not match or (match[1] and int(match[1]) == 0):
        raise UserError(f"--gpus '{text}' is not a number and a GPU; give it like 8xH100, or cpu for this machine")
    known = {_plain(gpu.name): gpu for gpu in GPUS} | {"a10080": GPUS[4], "a10080gb": GPUS[4], "4090": GPUS[7]}
    name = _plain(match[2])
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(dict.fromkeys(known[one].name for one in near))}; " if near else ""
        raise UserError(f"no data sheet for a GPU '{match[2].strip()}'; {hint}known: {', '.join(g.name for g in GPUS)}")
    return Cluster(known[name], int(match[1] or 1))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia")
