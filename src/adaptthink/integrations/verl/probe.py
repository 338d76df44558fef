"""The probe of the decision token on held-out problems, by one forward pass of the weights that are trained.

The native trainer's probe, with verl's engine: it shows a cold start move before any no_think response is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, cycle, islice
from typing import Any

import torch
import transfer_queue
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.utils.padding import response_from_nested

from adaptthink.problems import Problem
from adaptthink.sampling.sampler import Sampler
from adaptthink.training.metrics import describe_mode_choice

PARTITION = "probe"  # of verl's queue, beside "train" and "val"


def probe_mode_choice(
    workers: Any, sampler: Sampler, problems: Sequence[Problem], temperature: float, *, ranks: int
) -> dict[str, Any]:
    """Return the probe's metrics; `workers` are verl's actor group, which takes a multiple of `ranks` rows."""
    template = sampler.template
    tokens = (template.no_think_id, *template.think_ids)
    requested = [(problem, token) for problem in problems for token in tokens]
    padded = math.ceil(len(requested) / ranks) * ranks
    keys = [f"{index}_0_0" for index in range(padded)]
    rows = [
        make_one_token_row(sampler.encode_prompt(problem), token)
        for problem, token in islice(chain(requested, cycle(requested)), padded)
    ]
    tags = [{"seq_len": len(row["input_ids"])} for row in rows]
    transfer_queue.kv_batch_put(keys=keys, partition_id=PARTITION, fields=list_of_dict_to_tensordict(rows), tags=tags)
    try:
        batch = KVBatchMeta(partition_id=PARTITION, keys=keys, tags=tags)
        batch.extra_info.update({"calculate_entropy": False, "compute_loss": False, "temperature": temperature})
        workers.compute_log_prob(batch)
        found = transfer_queue.kv_batch_get(
            keys=keys, partition_id=PARTITION, select_fields=["log_probs", "response_mask"]
        )
        logprob_N1 = response_from_nested(found["log_probs"], found["response_mask"]).to_padded_tensor(0.0)
    finally:
        transfer_queue.kv_clear(keys=keys, partition_id=PARTITION)
    return describe_mode_choice(problems, logprob_N1[: len(requested), 0].view(-1, len(tokens)).tolist())


def make_one_token_row(prompt: Sequence[int], token: int) -> dict[str, Any]:
    """Return a prompt and a response of one token in the columns that verl's engines read."""
    input_ids = torch.tensor([*prompt, token])
    mask = torch.ones(1, dtype=torch.int64)
    return {
        "prompts": input_ids[:-1],
        "responses": input_ids[-1:],
        "input_ids": input_ids,
        "position_ids": torch.arange(len(input_ids)),
        "response_mask": mask,
        "loss_mask": mask,
        "multi_modal_inputs": {},
    }
