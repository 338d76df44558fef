"""Replay: a step's rollouts are stored responses of its problems, scored by the policy as it is; nothing is sampled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adaptthink.config.schema import TrainConfig
from adaptthink.engines.base import Completion, Finish
from adaptthink.errors import UserError
from adaptthink.grading import Grade, Rule
from adaptthink.models.loading import Policy
from adaptthink.problems import Problem
from adaptthink.sampling.sampler import Pending, Rollout, Sampler
from adaptthink.training.initial import score_rollouts
from adaptthink.training.methods import load_method, name_method
from adaptthink.training.offline import Offline, StoredRollouts
from adaptthink.training.reference import Reference, References, StoredResponse, read_settings


def replay(
    policy: Policy, sampler: Sampler, references: References, problems: Iterable[Problem], config: TrainConfig
) -> list[Rollout]:
    """Return the rollouts that an offline method chooses of the problems' stored responses.

    Behavior log-probabilities are those of the policy, so that every ratio of the update is 1. No token counts as
    forced: what a template writes behind the decision is learned as well.
    """
    method = load_method(config.method)
    assert isinstance(method, Offline)
    groups = [read_rollouts(policy, sampler, problem, references) for problem in problems]
    chosen = method.choose_rollouts(groups, sampler, config)
    scored = score_rollouts(policy.model, chosen, config)
    return [replace(one, behavior_logprobs=logprobs) for one, logprobs in zip(chosen, scored, strict=True)]


def read_rollouts(policy: Policy, sampler: Sampler, problem: Problem, references: References) -> StoredRollouts:
    """Return the stored responses to a problem as rollouts, graded, with no log-probabilities yet."""
    pending = Pending(problem, sampler.encode_prompt(problem), 0, 1.0)

    def make(responses: Sequence[StoredResponse]) -> list[Rollout]:
        return [make_rollout(sampler, pending, stored, policy.eos_ids) for stored in responses]

    unconstrained, no_think = references.read_responses(problem.id)
    return StoredRollouts(make(unconstrained), make(no_think))


def make_rollout(sampler: Sampler, pending: Pending, stored: StoredResponse, eos_ids: Sequence[int]) -> Rollout:
    """Return one stored response as a rollout."""
    finish = Finish.STOP if stored.token_ids[-1] in eos_ids else Finish.LENGTH
    completion = Completion(stored.token_ids, (), finish)
    grade = Grade(stored.verdict, None, Rule.FORM, stored.reward)
    return sampler.make_rollout(pending, completion, sampler.read(completion), grade)


def open_stored(reference: Mapping[str, Reference], config: TrainConfig) -> References:
    """Return the references of an offline method's store; raises UserError as `check_store` does."""
    stored = reference if isinstance(reference, References) else None
    check_store(config, stored.path if stored else None)
    assert stored
    return stored


def check_store(config: TrainConfig, store: Path | None) -> None:
    """Raise UserError unless the store has what an offline method learns from; other methods need none."""
    method = load_method(config.method)
    if not isinstance(method, Offline):
        return
    flags = "--keep-responses" + (" --no-think-samples 8" if method.needs_no_think else "")
    command = f"adaptthink presample RECIPE {flags} --output FILE"
    learns = f"method = '{name_method(config)}' learns from stored responses"
    if store is None:
        raise UserError(
            f"{learns}, and no reference store is given; make one with: {command}, and give --reference FILE"
        )
    settings = read_settings(store)
    lacks = "responses" if not settings.get("keep_responses") else "no_think responses"
    if not settings.get("keep_responses") or (method.needs_no_think and not settings.get("no_think_samples")):
        raise UserError(f"{learns}, and reference store '{store}' has no {lacks}; make another with: {command}")
