"""A linear probe on the prefill: does the original's last hidden state tell where no_think costs nothing?

After ThinkSwitcher (arXiv 2505.14183), which trains a small network. Ridge regression of the gap between the modes,
reward of no_think less that of think, measured on the training's problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from adaptthink.models.loading import Policy
from adaptthink.models.scoring import compute_hidden

Array = NDArray[np.float64]
PROMPTS_AT_ONCE = 256
PENALTY = 1.0  # of the squared weights, of features with unit variance


@torch.no_grad()
def compute_features(policy: Policy, prompts: Sequence[tuple[int, ...]]) -> Array:
    """Return the last hidden state of each prompt's last token, from which the decision is sampled, (P, D)."""
    rows = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        part = prompts[start : start + PROMPTS_AT_ONCE]
        first = [(0,)] * len(part)  # a token that is not run: the state that would predict it is what is wanted
        hidden_B1D = compute_hidden(policy.model.base_model, part, first, policy.model.device)
        rows.append(hidden_B1D[:, 0].float().cpu().numpy())
    return np.concatenate(rows).astype(float)


def fit_ridge(features_PD: Array, target_P: Array, penalty: float = PENALTY) -> Callable[[Array], Array]:
    """Return the function of features that predicts the target: least squares with a penalty, features standardised."""
    mean_D, spread_D = features_PD.mean(0), features_PD.std(0) + 1e-9
    scaled_PD = (features_PD - mean_D) / spread_D
    level = target_P.mean()
    gram_DD = scaled_PD.T @ scaled_PD + penalty * np.eye(len(mean_D))
    weight_D = np.linalg.solve(gram_DD, scaled_PD.T @ (target_P - level))
    return lambda given_PD: np.asarray(level + (given_PD - mean_D) / spread_D @ weight_D)
