"""One response for verl: its mode forced by π_IS, limited by its mode, graded, with π_IS recorded as data.

The rules are those of `training/rollout.py`; what differs is that verl's servers generate, one request at a time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from transformers import GenerationConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register

from adaptthink.config.schema import VerlConfig
from adaptthink.engines.base import Completion, Finish, Request
from adaptthink.errors import UserError
from adaptthink.grading import Verdict
from adaptthink.integrations.verl.data import TRAIN, read_row
from adaptthink.integrations.verl.settings import NAME
from adaptthink.models.loading import read_eos_ids
from adaptthink.models.think_starts import probe_configured
from adaptthink.modes import Mode, ThinkTemplate
from adaptthink.sampling.grader import make_grader
from adaptthink.sampling.requests import MaxTokens, derive_stream, make_request
from adaptthink.sampling.sampler import Pending, Sampler
from adaptthink.training.batch import RolloutSummary, summarise_rollout
from adaptthink.training.methods import load_method
from adaptthink.training.rollout import make_loss_mask, replace_decision_logprob

BAN = -100.0  # added to a logit: the token is never sampled
GRADING_WORKERS = 2  # of each of verl's agent loop processes
# It would warn at each response that it knows no chat tokens of the model's type.
logging.getLogger("verl.utils.tokenizer.continuous_token_wiring").setLevel(logging.ERROR)


@lru_cache
def read_config(run: str) -> VerlConfig:
    """Read the settings of a run; its folder is shared by all machines."""
    return VerlConfig.model_validate(json.loads((Path(run) / "config.json").read_text(encoding="utf-8")))


@lru_cache
def make_sampler(tokenizer: Any, run: str) -> Sampler:
    """Return the sampler of a run, once for all responses; verl generates in place of its engine."""
    config = read_config(run)
    return Sampler(
        engine=None,  # type: ignore[arg-type]  # verl generates
        tokenizer=tokenizer,
        template=probe_configured(tokenizer, config.think_start, config.prompt_date),
        grader=make_grader(config, workers=GRADING_WORKERS),
    )


@lru_cache
def read_end_tokens(model: str, tokenizer: Any, template: ThinkTemplate) -> frozenset[int]:
    """Return every token that ends a response of a model."""
    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:  # it has no such file
        generation = GenerationConfig()
    return frozenset(read_eos_ids(generation, tokenizer, template))


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the trainer needs of a response beside verl's own columns.

    `index` is the row of its problem and `sample` which of that one's responses it is: sorted by them, a step's
    responses stand as the native trainer has them. `reference` is R̄_ref.
    """

    index: int
    sample: int
    reference: float | None
    num_forced: int  # of the response's first tokens; verl's servers tell no log-probability of them
    within_mode: float  # log-probability of the forced prefix among those of its mode
    summary: RolloutSummary


def read_sampled(fields: Mapping[str, Any]) -> Sampled:
    """Read what was a `Sampled` before verl's queue took it."""
    own = dict(fields["summary"])
    summary = RolloutSummary(**own | {"mode": Mode(own["mode"]), "verdict": Verdict(own["verdict"])})
    return Sampled(**dict(fields) | {"summary": summary})


@register(NAME)
class AdaptThinkLoop(AgentLoopBase):
    """Generates and grades one response; held-out problems are answered in the mode that the model chooses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # By its type verl might take a model for one whose family's chat tokens it lacks.
        super().__init__(*args, **(kwargs | {"hf_model_type": None}))
        run = self.config.adaptthink.run
        self.settings = read_config(run)
        self.sampler = make_sampler(self.tokenizer, run)
        self.ends = read_end_tokens(self.config.actor_rollout_ref.model.path, self.tokenizer, self.sampler.template)

    async def run(self, sampling_params: dict[str, Any], *, session_id: int = 0, **columns: Any) -> AgentLoopOutput:
        """Answer one problem once; `columns` are those of its row."""
        config, sampler = self.settings, self.sampler
        method = load_method(config.method)
        problem, extra = read_row(columns)
        learning = extra.split == TRAIN
        if learning and extra.reference_reward is None:
            raise UserError(f"problem {extra.id} has no reference; run the training from the beginning with --clean")
        mode = method.assign_modes(config)[session_id] if learning else None
        prompt = sampler.encode_prompt(problem)
        if len(prompt) > config.max_prompt_tokens:
            raise UserError(
                f"the prompt of problem {problem.id} has {len(prompt)} tokens, more than max_prompt_tokens = "
                f"{config.max_prompt_tokens}; give a larger one"
            )
        max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)
        stream = derive_stream(problem, session_id)
        request = make_request(
            sampler.template, prompt, mode, stream, max_tokens, force_think=config.force_think, seed=config.seed
        )
        started = time.perf_counter()
        completion, fields = await self.complete(request, sampling_params)
        seconds = time.perf_counter() - started
        response = sampler.read(completion)
        [grade] = await asyncio.to_thread(sampler.grader.grade, [(problem, response)])
        pending = Pending(problem, prompt, len(request.prefix_ids), weight=1.0)
        rollout = sampler.make_rollout(pending, completion, response, grade)
        if mode is not None and method.samples_from_is:
            rollout = replace_decision_logprob(rollout, config.no_think_share, config.force_think)
        summary = summarise_rollout(rollout)
        reference, forced = extra.reference_reward, rollout.num_forced
        sampled = Sampled(extra.index, session_id, reference, forced, rollout.within_mode, summary)
        return AgentLoopOutput(
            prompt_ids=list(rollout.prompt_ids),
            response_ids=list(rollout.response_ids),
            response_mask=[int(inside) for inside in make_loss_mask(rollout)],
            response_logprobs=list(rollout.behavior_logprobs),
            reward_score=summary.reward or 0.0,  # for verl's own metrics; what is learned follows in the trainer
            num_turns=2,
            metrics={"generate_sequences": seconds},
            extra_fields=fields
            | {
                "turn_scores": [],
                "tool_rewards": [],
                NAME: asdict(sampled),
                "reward_extra_info": {
                    "acc": float(rollout.verdict is Verdict.CORRECT),
                    "no_think": float(rollout.mode is Mode.NO_THINK),
                    "tokens": float(len(rollout.response_ids)),
                },
            },
        )

    async def complete(self, request: Request, sampling_params: dict[str, Any]) -> tuple[Completion, dict[str, Any]]:
        """Complete one request; also return what verl wants to know of it, such as the step of the weights.

        A token that may not come first is banned in a request of its own for that token: a server's ban holds for a
        whole response, and thinking that cannot be closed never ends.
        """
        forced = request.prefix_ids[: request.max_tokens]
        ids, logprobs = list(forced), [0.0] * len(forced)
        if request.banned_first_ids:
            bans = dict.fromkeys(request.banned_first_ids, BAN)
            output = await self.generate_tokens(
                request.prompt_ids, sampling_params | {"max_tokens": 1, "logit_bias": bans}
            )
            ids, logprobs = list(output.token_ids), list(output.log_probs)
            if set(ids) & set(request.banned_first_ids):
                raise UserError(
                    "the rollout sampled a token that was banned; use one that honours logit_bias, such as vLLM"
                )
        if len(ids) == request.max_tokens and not request.banned_first_ids:
            raise UserError(
                f"the limit of {request.max_tokens} tokens leaves none after the forced {len(ids)}; raise it"
            )
        if not (len(ids) == request.max_tokens or self.is_end(ids, forced)):
            left = request.max_tokens - len(ids)
            output = await self.generate_tokens([*request.prompt_ids, *ids], sampling_params | {"max_tokens": left})
            ids += output.token_ids
            logprobs += output.log_probs
        finish = Finish.STOP if self.is_end(ids, forced) else Finish.LENGTH
        return Completion(tuple(ids), tuple(logprobs), finish), output.extra_fields

    def is_end(self, ids: Sequence[int], forced: Sequence[int]) -> bool:
        """Return whether a sampled end token ended a response; a forced one does not end it."""
        return len(ids) > len(forced) and ids[-1] in self.ends

    async def generate_tokens(self, prompt_ids: Sequence[int], sampling_params: dict[str, Any]) -> Any:
        """Generate on one of verl's servers; raises UserError if it returns no log-probabilities."""
        output = await self.server_manager.generate(
            request_id=uuid4().hex,
            prompt_ids=list(prompt_ids),
            sampling_params=sampling_params | {"stop_token_ids": sorted(self.ends)},
        )
        if output.log_probs is None or len(output.log_probs) != len(output.token_ids):
            raise UserError("the rollout returned no log-probability for each token; π_IS cannot be known without them")
        return output
