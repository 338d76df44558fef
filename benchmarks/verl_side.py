"""What `step_verl.py` adds to verl by verl's own registries: forced modes, the reward, and a step per turn.

verl imports this module in each of its processes (`VERL_USE_EXTERNAL_MODULES`); it runs in .venv-verl only.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from adaptthink.grading import compute_reward, grade
from adaptthink.modes import Mode, ThinkTemplate, probe

TURNS = "STEP_VERL_TURNS"  # names the folder where turns are given and reported
MAX_NO_THINK_TOKENS = "STEP_VERL_MAX_NO_THINK_TOKENS"
POLL_SECONDS = 0.02
# It would warn at each response that it knows no chat tokens of the model's type.
logging.getLogger("verl.utils.tokenizer.continuous_token_wiring").setLevel(logging.ERROR)


@cache
def template_of(tokenizer: Any) -> ThinkTemplate:
    """Probe a tokenizer once for all responses."""
    return probe(tokenizer)


@register("half_forced")
class HalfForced(AgentLoopBase):
    """One response: the first half of a problem's is forced not to think, the others to think, each with its cap."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # By its model type verl would take the model for a Qwen2 with that family's chat tokens, which it lacks.
        super().__init__(*args, **(kwargs | {"hf_model_type": None}))

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Generate behind the forced prefix; the decision token's behaviour is one half, as the paper's π_IS."""
        template = template_of(self.tokenizer)
        prompt_ids = await self.ct_build_initial_tokens(list(kwargs["raw_prompt"]))
        no_think = kwargs["session_id"] < self.rollout_config.n // 2
        prefix = list(template.prefix_ids(Mode.NO_THINK if no_think else Mode.THINK))
        cap = int(os.environ[MAX_NO_THINK_TOKENS]) if no_think else self.rollout_config.response_length
        started = time.perf_counter()
        sampled = await self.server_manager.generate(
            request_id=uuid4().hex,
            prompt_ids=prompt_ids + prefix,
            sampling_params=sampling_params | {"max_tokens": cap - len(prefix)},
        )
        not_in_loss = len(prefix) - 1  # forced too, but no decision
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=prefix + sampled.token_ids,
            response_mask=[1] + [0] * not_in_loss + [1] * len(sampled.token_ids),
            response_logprobs=[math.log(0.5)] + [0.0] * not_in_loss + sampled.log_probs,
            num_turns=2,
            metrics={"generate_sequences": time.perf_counter() - started},
            extra_fields=sampled.extra_fields | {"turn_scores": [], "tool_rewards": []},
        )


def compute_score(*, solution_str: str, ground_truth: str, **_: Any) -> float:
    """Grade as our trainer does; verl hands over the text without `</think>`, which is a special token here."""
    return compute_reward(grade(solution_str, ground_truth).verdict)


class QuickReplayBuffer(ReplayBuffer):
    """verl's own, but it looks for finished responses every 20 ms; verl's two seconds exceed the whole step here."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, poll_interval=POLL_SECONDS)


@register_trainer("turns")
class Turns(PPOTrainerSync):
    """verl's synchronous trainer; before each step it waits for its turn, after it says how long the step took."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.trainer_mode = "sync"  # what verl's code asks for; only the registry knows it as "turns"
        self.folder = Path(os.environ[TURNS])

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        """Rollout, reward and update; timed with what follows until the rollout has the new weights."""
        go = self.folder / f"go-{self.global_steps}"
        while not go.exists():
            time.sleep(POLL_SECONDS)
        self.started = time.perf_counter()
        batch = super().step(metrics, timing_raw)
        self.tokens = sum(tag["response_len"] for tag in batch.tags if not tag.get("is_padding"))
        self.num_responses = sum(not tag.get("is_padding") for tag in batch.tags)
        self.score = metrics.get("critic/score/mean")
        return batch

    def on_step_end(self) -> None:
        """Send the weights, then report."""
        super().on_step_end()
        row = {"seconds": time.perf_counter() - self.started, "tokens": self.tokens, "responses": self.num_responses}
        parts = {name: self.timing_raw[name] for name in ("gen", "update_actor", "update_weights")}
        part = self.folder / f"step-{self.global_steps}.part"
        part.write_text(json.dumps(row | {"parts": parts}), encoding="utf-8")
        part.rename(part.with_suffix(".json"))  # whole or not there
