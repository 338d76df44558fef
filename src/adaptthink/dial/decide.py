"""The dial in use: which mode a model answers a prompt in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptthink.config.schema import ServeConfig
from adaptthink.dial.stored import STORED, Dial, read_dial
from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import Policy, find_model
from adaptthink.modes import Mode, choose_mode, encode_prompt

PROMPTS_AT_ONCE = 512
CERTIFIED_AT = ("max_think_tokens", "max_no_think_tokens", "temperature", "top_p")  # what a dial's promise rests on


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


def adopt_setting(config: ServeConfig, dial: Dial) -> tuple[ServeConfig, str]:
    """Return the settings of a server with those that its dial was certified at in place of defaults, and what to say.

    A setting that was given stays, and the message names it where it differs.
    """
    certified = {key: getattr(dial.setting, key) for key in CERTIFIED_AT}
    adopted = {key: value for key, value in certified.items() if key not in config.model_fields_set}
    parts = [f"from the dial: {', '.join(f'{key} = {value:g}' for key, value in adopted.items())}"] if adopted else []
    others = [
        f"{key} = {getattr(config, key):g}, certified at {value:g}"
        for key, value in certified.items()
        if key not in adopted and getattr(config, key) != value
    ]
    if others:
        parts.append(f"not as the dial was certified, so what it promises may not hold: {'; '.join(others)}")
    return config.model_copy(update=adopted), "\n".join(parts)


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
