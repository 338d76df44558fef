"""Weights for an engine in another process: a temporary folder, on the RAM disk if it is large enough."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RAM_DISK = Path("/dev/shm")  # containers often give it 64 MB only


@contextmanager
def write_weights_folder(model: PreTrainedModel) -> Iterator[Path]:
    """Write the model's weights (safetensors, tied ones once) to a temporary folder; yield its path."""
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with TemporaryDirectory(prefix="adaptthink-weights-", dir=find_ram_disk(num_bytes)) as folder:
        model.save_pretrained(folder)
        yield Path(folder)


def find_ram_disk(num_bytes: int) -> Path | None:
    """Return the RAM disk if it has 10% more than `num_bytes` free; None: use the usual temporary folder."""
    if not os.access(RAM_DISK, os.W_OK) or shutil.disk_usage(RAM_DISK).free < 1.1 * num_bytes:
        return None
    return RAM_DISK
