"""Log-probabilities of given tokens, by a forward pass of verl's engines: of the policy, or of the model before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, cycle, islice
from typing import Any

import torch
import transfer_queue
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.utils.padding import response_from_nested

PARTITION = "scored"  # of verl's queue, beside "train" and "val"
Row = tuple[Sequence[int], Sequence[int]]  # a prompt and a response


def score_responses(
    compute: Callable[[KVBatchMeta], Any], rows: Sequence[Row], temperature: float, *, ranks: int
) -> list[list[float]]:
    """Return the log-probability of each token of every response, given its prompt.

    `compute` is `compute_log_prob` or `compute_ref_log_prob` of verl's workers, which take a multiple of `ranks` rows.
    """
    padded = math.ceil(len(rows) / ranks) * ranks
    keys = [f"{index}_0_0" for index in range(padded)]
    columns = [make_columns(*row) for row in islice(chain(rows, cycle(rows)), padded)]
    tags = [{"seq_len": len(row["input_ids"])} for row in columns]
    fields = list_of_dict_to_tensordict(columns)
    transfer_queue.kv_batch_put(keys=keys, partition_id=PARTITION, fields=fields, tags=tags)
    try:
        batch = KVBatchMeta(partition_id=PARTITION, keys=keys, tags=tags)
        batch.extra_info.update({"calculate_entropy": False, "compute_loss": False, "temperature": temperature})
        compute(batch)
        found = transfer_queue.kv_batch_get(
            keys=keys, partition_id=PARTITION, select_fields=["log_probs", "response_mask"]
        )
        scored = response_from_nested(found["log_probs"], found["response_mask"])
    finally:
        transfer_queue.kv_clear(keys=keys, partition_id=PARTITION)
    return [row.tolist() for row in scored.unbind()[: len(rows)]]


def make_columns(prompt: Sequence[int], response: Sequence[int]) -> dict[str, Any]:
    """Return a prompt and a response in the columns that verl's engines read."""
    input_ids = torch.tensor([*prompt, *response])
    mask = torch.ones(len(response), dtype=torch.int64)
    return {
        "prompts": input_ids[: len(prompt)],
        "responses": input_ids[len(prompt) :],
        "input_ids": input_ids,
        "position_ids": torch.arange(len(input_ids)),
        "response_mask": mask,
        "loss_mask": mask,
        "multi_modal_inputs": {},
    }
