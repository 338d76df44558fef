"""The method's loss in the form that verl's engines call.

They average gradients over the D data-parallel ranks and add them up over micro-batches, so a micro-batch's part of the
loss is the sum over its sequences · D / (number of all samples of the step): exact for every split.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from adaptthink.config.schema import TrainConfig
from adaptthink.training.methods import load_method
from adaptthink.training.mismatch import BODY, gate_mismatch


def compute_verl_loss(
    model_output: dict[str, Tensor], data: Any, *, settings: TrainConfig, **_: Any
) -> tuple[Tensor, dict[str, Metric]]:
    """Return a micro-batch's part of the step's loss, and metrics.

    In `data`, `old_log_probs` are those of the policy that sampled and `advantages` each token's credit, as the trainer
    wrote them; rows are responses of any length, the decision in column 0.
    """
    logprob_BT = no_padding_2_padding(model_output["log_probs"], data)
    samples, ranks = data["global_batch_size"], data["dp_size"]
    columns = data.select("response_mask", "old_log_probs", "advantages").to_padded_tensor()
    behavior_BT, mask_BT = columns["old_log_probs"], columns["response_mask"].bool()
    # The decision's own log-probability was replaced by π_IS's in the agent loop, and modes are not known here.
    gated = gate_mismatch(logprob_BT, behavior_BT, mask_BT, None, None, settings.mismatch)
    result = load_method(settings.method).compute_loss(
        logprob_BT, gated.behavior_BT, columns["advantages"], gated.mask_BT, settings
    )
    loss = result.loss_B.sum() * ranks / samples
    with torch.no_grad():
        means = {
            "actor/clip_share": result.clipped_B.mean().item(),
            # of π_IS: 0.5 in the paper's setting if, and only if, the agent loop's value came all the way here
            "actor/behavior_decision": behavior_BT[:, 0].exp().mean().item(),
        }
    metrics = Metric.from_dict(means, aggregation=AggregationType.MEAN)
    body = gated.parts[BODY]
    sums = {"tokens": float(body.tokens), "error": body.error, "kl": body.kl}
    metrics |= {
        f"actor/mismatch_{name}": Metric(AggregationType.SUM, torch.tensor(value)) for name, value in sums.items()
    }
    metrics["actor/mismatch_largest"] = Metric(AggregationType.MAX, torch.tensor(body.largest))
    return loss, metrics | {"actor/pg_loss": Metric(AggregationType.SUM, loss.detach())}
