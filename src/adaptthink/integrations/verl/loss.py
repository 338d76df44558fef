"""AdaptThink's advantage and loss under verl's names; the mathematics is `objective.py`'s.

verl's engines average gradients over the D data-parallel ranks and add them up over micro-batches, so a micro-batch's
part of the loss is the sum over its sequences · D / (number of all samples of the step): exact for every split.
"""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est, register_policy_loss

from adaptthink.integrations.verl.settings import NAME, name_loss
from adaptthink.objective import policy_loss
from adaptthink.ratio import Ratio


@register_adv_est(NAME)
def spread_advantage(token_level_rewards: Tensor, response_mask: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """Give each token in the loss its sequence's advantage, which the agent loop returned as the reward (B, T)."""
    advantage_BT = token_level_rewards.sum(-1, keepdim=True) * response_mask
    return advantage_BT, advantage_BT


def compute_verl_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    config: Any,
    ratio: Ratio,
    **_: Any,
) -> tuple[Tensor, dict[str, float]]:
    """Return a micro-batch's part of the step's loss, and metrics; all tensors are (B, T), the decision in column 0.

    `old_log_prob` is log π_IS as the agent loop wrote it; verl's `loss_agg_mode` is not used. Raises ValueError without
    the size of the global batch, which verl's engines always give.
    """
    samples, ranks = config.global_batch_info.get("global_batch_size"), config.global_batch_info.get("dp_size")
    if not samples or not ranks:
        raise ValueError("AdaptThink's loss needs the size of the global batch, which this engine of verl lacks")
    mask_BT = response_mask.bool()
    result = policy_loss(log_prob, old_log_prob, advantages[:, 0], mask_BT, clip=config.clip_ratio, ratio=ratio)
    with torch.no_grad():
        metrics = {
            "actor/clip_share": result.clipped_B.mean().item(),
            # of π_IS: 0.5 in the paper's setting if, and only if, the agent loop's value came all the way here
            "actor/behavior_decision": old_log_prob[:, 0].exp().mean().item(),
        }
    return result.loss_B.sum() * ranks / samples, metrics


for form in get_args(Ratio):
    register_policy_loss(name_loss(form))(partial(compute_verl_loss, ratio=form))
