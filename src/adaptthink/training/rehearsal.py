"""A rehearsal before the first step: a few problems in both modes show what hours of training would suffer from.

Its samples are of random streams of their own; the training that follows is the same with it and without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from adaptthink.config.schema import TrainConfig
from adaptthink.grading import Verdict
from adaptthink.modes import Mode
from adaptthink.problems import Problem
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.sampler import Rollout, Sampler, Sampling, sample_rollouts
from adaptthink.training.methods import load_method


def rehearse(sampler: Sampler, problems: Sequence[Problem], config: TrainConfig) -> Iterator[str]:
    """Answer `rehearsal_problems` of the problems, evenly spread, in each mode that the steps will sample.

    Yields what a person should know.
    """
    step = max(1, len(problems) // config.rehearsal_problems)
    chosen = problems[::step][: config.rehearsal_problems]
    sampling = Sampling(
        MaxTokens(config.max_think_tokens, config.max_no_think_tokens),
        config.temperature,
        seed=make_seed(config.seed, "rehearsal"),
    )
    modes = [*dict.fromkeys(load_method(config.method).assign_modes(config))]
    groups = sample_rollouts(sampler, chosen, modes, sampling, force_think=config.force_think)
    by_mode = {mode: [one for group in groups for one in group if one.mode is mode] for mode in Mode}
    parts = [describe_mode(mode, found) for mode, found in by_mode.items() if found]
    yield f"rehearsal on {len(chosen)} problems: {'; '.join(parts)}"
    for warning in find_faults(by_mode, config):
        yield f"warning: {warning}"


def describe_mode(mode: Mode, found: Sequence[Rollout]) -> str:
    """Return what the responses of one mode came to."""
    right = sum(one.verdict is Verdict.CORRECT for one in found)
    cut = sum(one.verdict is Verdict.TRUNCATED for one in found)
    tokens = fmean(len(one.response_ids) for one in found)
    return f"{mode} {right} of {len(found)} right at {tokens:.0f} tokens{f', {cut} cut' if cut else ''}"


def find_faults(by_mode: dict[Mode, list[Rollout]], config: TrainConfig) -> Iterator[str]:
    """Yield what would make the training worthless."""
    limits = {Mode.THINK: "max_think_tokens", Mode.NO_THINK: "max_no_think_tokens"}
    for mode, found in by_mode.items():
        if found and all(one.verdict is Verdict.TRUNCATED for one in found):
            yield (
                f"no {mode} response of the rehearsal ended within {limits[mode]} = {getattr(config, limits[mode])}; "
                "raise it, or check the model's end token with adaptthink doctor"
            )
    everything = [one for found in by_mode.values() for one in found]
    ended = [one for one in everything if one.verdict is not Verdict.TRUNCATED]
    if ended and all(one.verdict is Verdict.UNPARSED for one in ended):
        example = (ended[0].response.answer or "").strip()[:80]
        yield f"no answer was found in the rehearsal's responses, such as {example!r}; see the prompt's instruction"
    elif ended and not any(one.verdict is Verdict.CORRECT for one in everything):
        yield "no response of the rehearsal was right, and training learns from those that are; take easier problems"
