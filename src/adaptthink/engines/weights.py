"""Weights on their way to an engine in another process: a folder for a moment, in memory where there is room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel

RAM_DISK = Path("/dev/shm")  # containers often give it 64 MB only


@contextmanager
def write_weights_folder(model: PreTrainedModel) -> Iterator[Path]:
    """Write the model's weights (safetensors, tied ones once) to a folder that is gone afterwards."""
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with TemporaryDirectory(prefix="adaptthink-weights-", dir=find_ram_disk(num_bytes)) as folder:
        model.save_pretrained(folder)
        yield Path(folder)


def find_ram_disk(num_bytes: int) -> Path | None:
    """Return the RAM disk if it can take `num_bytes` with some to spare; None: use the usual temporary folder."""
    if not os.access(RAM_DISK, os.W_OK) or shutil.disk_usage(RAM_DISK).free < 1.1 * num_bytes:
        return None
    return RAM_DISK
