r"""The paper's mathematics: advantage, importance ratio, clipped loss. Tensors in, tensors out.

| symbol  | here               | meaning                                                              |
|---------|--------------------|----------------------------------------------------------------------|
| δ       | `delta`            | accuracy that a no_think answer may cost                             |
| R       | `reward`           | 1 if the answer is correct, else 0                                   |
| R̄_ref   | `reference_reward` | mean reward of the reference model on the same problem, pre-sampled  |
| π_θ     | `logprob`          | the policy that is trained                                           |
| π_IS    | `behavior`         | the policy that sampled the tokens; its log-probability is data      |
| ε       | `clip`             | half-width of the interval in which the ratio still counts           |

Shapes: B sequences, T response tokens (padded). `mask_BT` is True where a token takes part in the loss: padding and
forced tokens other than the decision are False. Equation numbers are those of arXiv 2505.13417.

**The ratio at cold start.** Before training, P(no_think) is tiny, say p = 1e-6, while π_IS gives it 1/2. What the
first gradient on a no_think sample of T tokens is multiplied with depends on the form of the ratio:

* `sequence` (Eq. 8-9 literally): r = 2p = 2e-6. The gradient r·A·∇log π vanishes; nothing is ever learned.
* `token` (PPO's usual form): the decision token's own ratio is 2p, so its gradient vanishes just the same.
* `sequence_mean` (the official code): r = (2p)^(1/T), 0.957 at T = 300 and 0.07 at T = 5. The decision token is
  learned, with a gradient scaled by 1/T: a flat start, then a rise. Shorter answers start slower and rise faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptthink.ratio import Ratio

LOG_RATIO_LIMIT = 20.0  # exp(20) is far outside every clipping interval, and still finite in float32


def advantage(no_think: Tensor, reward: Tensor, reference_reward: Tensor, delta: float) -> Tensor:
    """A(x, y) = δ·1(y₁ = </think>) + R(x, y) − R̄_ref(x): Eq. 5's summand, one value for each sample.

    `no_think` is boolean; all three have the same shape (B,), which is the result's. No group mean, no standard
    deviation, no KL term.
    """
    return delta * no_think.to(reward.dtype) + reward - reference_reward  # Eq. 5


def group_advantage(no_think_GK: Tensor, reward_GK: Tensor, delta: float) -> Tensor:
    """GRPO's advantage (arXiv 2402.03300, Eq. of its outcome supervision), the baseline that the paper compares with.

    (r − mean)/(std + 1e-6) within each of G groups of K samples, where r = δ·1(y₁ = </think>) + R; shape (G, K), and
    0 for a group whose samples are all alike. The deviation is that of K samples (divided by K − 1).
    """
    value_GK = delta * no_think_GK.to(reward_GK.dtype) + reward_GK
    return (value_GK - value_GK.mean(1, keepdim=True)) / (value_GK.std(1, keepdim=True) + 1e-6)


def decision_logprob(no_think: bool, share: float, within_mode: float = 0.0) -> float:
    """Log-probability of the decision token under π_IS (Eq. 7): log of its mode's share.

    `share` is the share of no_think samples, in [0, 1]. `within_mode` is the token's log-probability among those of
    its mode: 0 where the mode has one token, as in the paper; where thinking begins with any token but the
    no_think one, the policy's own log π(y₁) − log(1 − π(no_think)). Raises ValueError for a share outside [0, 1] and
    for a mode that is never sampled at that share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the no_think share must lie in [0, 1], got {share}")
    own_share = share if no_think else 1 - share
    if own_share == 0:
        mode = "no_think" if no_think else "think"
        raise ValueError(f"no {mode} response is ever sampled at a no_think share of {share}")
    return math.log(own_share) + within_mode  # Eq. 7


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """`loss_B`: one loss per sequence. `clipped_B`: the part of it (0 to 1) whose gradient the clip removed."""

    loss_B: Tensor
    clipped_B: Tensor


def policy_loss(
    logprob_BT: Tensor, behavior_BT: Tensor, advantage_B: Tensor, mask_BT: Tensor, *, clip: float, ratio: Ratio
) -> PolicyLoss:
    """−min(r·A, clip(r, 1−ε, 1+ε)·A) for each sequence (Eq. 9), with the named form of the ratio r = π_θ/π_IS.

    * `sequence_mean`: r = exp(mean over the sequence's tokens of log π_θ − log π_IS), one ratio per sequence;
    * `sequence`: r = exp(sum of the same);
    * `token`: r_t = exp(log π_θ − log π_IS) at each token; the sequence's loss is the mean over its tokens.

    See the module's docstring for what each does at cold start. A sequence without a token in the loss (all masked)
    has loss 0 and gradient 0; an empty batch gives empty results. The caller reduces: dividing the sum by the number
    of *all* samples of the step makes gradient accumulation exact. Values under the mask are never read, so they may
    be anything, NaN included. Inputs are not modified.
    """
    log_ratio_BT = torch.where(mask_BT, logprob_BT - behavior_BT, 0.0)
    tokens_B = mask_BT.sum(-1).clamp(min=1).to(log_ratio_BT.dtype)
    if ratio == "token":
        loss_BT, clipped_BT = _clipped(log_ratio_BT, advantage_B.unsqueeze(-1), clip)
        return PolicyLoss((loss_BT * mask_BT).sum(-1) / tokens_B, (clipped_BT * mask_BT).sum(-1) / tokens_B)
    log_ratio_B = log_ratio_BT.sum(-1)
    if ratio == "sequence_mean":
        log_ratio_B = log_ratio_B / tokens_B
    loss_B, clipped_B = _clipped(log_ratio_B, advantage_B, clip)
    present_B = mask_BT.any(-1)
    return PolicyLoss(loss_B * present_B, (clipped_B & present_B).to(loss_B.dtype))


def token_loss(
    logprob_BT: Tensor,
    behavior_BT: Tensor,
    credit_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    clip_high: float | None = None,
) -> PolicyLoss:
    """The sum over a sequence's tokens of −min(r_t·c_t, clip(r_t)·c_t), with r_t = π_θ/π and each token's credit c_t.

    r_t counts between 1 − `clip` and 1 + `clip_high`, which is `clip` where it is not given. What `policy_loss` says of
    masks, empty sequences and reduction holds here too; `clipped_B` is the share of tokens.
    """
    log_ratio_BT = torch.where(mask_BT, logprob_BT - behavior_BT, 0.0)
    loss_BT, clipped_BT = _clipped(log_ratio_BT, torch.where(mask_BT, credit_BT, 0.0), clip, clip_high)
    tokens_B = mask_BT.sum(-1).clamp(min=1)
    return PolicyLoss(loss_BT.sum(-1), (clipped_BT & mask_BT).sum(-1) / tokens_B)


def decision_loss(
    logprob_BT: Tensor,
    behavior_BT: Tensor,
    credit_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    clip_high: float | None = None,
    cispo: bool = False,
) -> PolicyLoss:
    """−w·c·log π_θ of the decision token, and `token_loss` of the others.

    Unlike a ratio, which is 2p at cold start, w leaves the decision its gradient: it is 1, or with `cispo` the ratio
    clipped at both ends and without a gradient of its own (arXiv 2506.13585), so never below 1 − `clip`. The value of
    the decision's part is w·c·(log π − log π_θ): 0 where the policy is the one that sampled.
    """
    log_ratio_B = torch.where(mask_BT[:, 0], (logprob_BT - behavior_BT)[:, 0], 0.0)
    ratio_B = log_ratio_B.detach().clamp(max=LOG_RATIO_LIMIT).exp()
    high = clip if clip_high is None else clip_high
    weight_B = ratio_B.clamp(1 - clip, 1 + high) if cispo else 1.0
    decision_B = -weight_B * torch.where(mask_BT[:, 0], credit_BT[:, 0], 0.0) * log_ratio_B
    body = (one[:, 1:] for one in (logprob_BT, behavior_BT, credit_BT, mask_BT))
    result = token_loss(*body, clip=clip, clip_high=clip_high)
    return PolicyLoss(decision_B + result.loss_B, result.clipped_B)


def _clipped(
    log_ratio: Tensor, advantage_: Tensor, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return −min(r·A, clip(r)·A), and where its gradient is cut; any shape."""
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    unclipped = ratio * advantage_
    clipped = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high)) * advantage_
    return -torch.minimum(unclipped, clipped), clipped < unclipped  # Eq. 8-9


def policy_logprobs(logits_BTV: Tensor, token_ids_BT: Tensor, temperature: float) -> Tensor:
    """Log-probability of each token at the sampling temperature: log softmax(logits / T), shape (B, T).

    `logits_BTV[:, t]` must be the prediction *of* token t. Behaviour log-probabilities are taken at the same
    temperature, so that the ratio is 1 where the policy has not moved. Computed in float32 at least.
    """
    scaled_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32)) / temperature
    chosen_BT = scaled_BTV.gather(-1, token_ids_BT.unsqueeze(-1)).squeeze(-1)
    return chosen_BT - scaled_BTV.logsumexp(-1)
