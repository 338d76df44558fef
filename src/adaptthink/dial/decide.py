"""The dial in use: which mode a model answers a prompt in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptthink.dial.stored import STORED, Dial, read_dial
from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import Policy, find_model
from adaptthink.modes import Mode, choose_mode, encode_prompt

PROMPTS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class ModeDecision:
    """The mode that the dial gives a prompt."""

    mode: Mode
    no_think_probability: float


def read_stored_dial(policy: Policy) -> Dial | None:
    """Return the certified dial in the adaptthink.json beside a model's weights, None if there is none.

    Raises UserError for a damaged file, and for one that was calibrated for other weights.
    """
    path = Path(find_model(policy.name)) / STORED
    dial = read_dial(path, policy.fingerprint) if path.is_file() else None
    return dial if dial and dial.threshold.certified else None


def read_stored_threshold(policy: Policy) -> float | None:
    """Return the threshold of the certified dial beside a model's weights; raises as `read_stored_dial`."""
    dial = read_stored_dial(policy)
    return dial.threshold.no_think_probability if dial else None


def decide(policy: Policy, prompts: Sequence[str], threshold: float) -> list[ModeDecision]:
    """Return the mode of each prompt: no_think where P(no_think), at temperature 1, is at least `threshold`.

    One prefill a prompt on the native engine, many together; prompts are what a user writes, without chat template.
    """
    engine = NativeEngine(policy.model, policy.eos_ids)
    decided = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        ids = [
            encode_prompt(policy.tokenizer, policy.template, text) for text in prompts[start : start + PROMPTS_AT_ONCE]
        ]
        for [logprob] in engine.next_token_logprobs(ids, (policy.template.no_think_id,)):
            probability = math.exp(logprob)
            decided.append(ModeDecision(choose_mode(probability, threshold), probability))
    return decided
