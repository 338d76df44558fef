"""The dial in use: how difficult a model finds each prompt, and the mode that it answers the prompt in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from adaptthink.config.schema import ServeConfig
from adaptthink.dial.stored import STORED, Dial, read_dial
from adaptthink.engines.native import NativeEngine
from adaptthink.evaluation.run import compute_mode_logprobs, to_probability
from adaptthink.models.context import check_length, find_context_tokens
from adaptthink.models.loading import Policy, Tokenization, find_model
from adaptthink.modes import Mode, choose_mode
from adaptthink.problems import Problem, encode_problem
from adaptthink.problems.files import Fields
from adaptthink.problems.prompts import make_prompts
from adaptthink.storage.records import Count, Probability

PROMPTS_AT_ONCE = 512
CERTIFIED_AT = ("max_think_tokens", "max_no_think_tokens", "temperature", "top_p")  # what a dial's guarantee depends on


@dataclass(frozen=True, slots=True)
class Score:
    """How difficult a model finds a prompt: the probabilities of its first token, at temperature 1.

    >>> import adaptthink as at
    >>> [score.mode for score in at.score("tiny", ["2+3=?"], threshold=0.5)]
    [<Mode.THINK: 'think'>]
    """

    row: Count  # the number of the prompt, from 1
    id: str  # of the problem, as in evaluations
    prompt: str  # the question alone, without earlier turns
    no_think_probability: Probability
    think_probability: Probability  # of the think start's first token, of all where there are several
    z: float  # log P(no_think) - log P(think start), docs/explanation/gap.md: the smaller, the more difficult
    mode: Mode | None = None  # by a threshold; None without one


@dataclass(frozen=True, slots=True)
class ModeDecision:
    """The mode that the dial gives a prompt."""

    mode: Mode
    no_think_probability: float


ScoreBatch = Callable[[int, Sequence[Problem]], list[Score]]  # takes the number of the first prompt, and the prompts


def read_stored_dial(policy: Policy) -> Dial | None:
    """Return the certified dial in the adaptthink.json beside a model's weights, None if there is none.

    Raises UserError for a damaged file, and for one that was calibrated for other weights.
    """
    path = Path(find_model(policy.name)) / STORED
    dial = read_dial(path, policy.fingerprint) if path.exists() else None
    return dial if dial and dial.threshold.certified else None


def read_upstream_dial(text: Tokenization) -> Dial | None:
    """Return the certified dial beside a model whose weights another server has, and so cannot be checked here."""
    path = Path(find_model(text.name)) / STORED
    dial = read_dial(path) if path.exists() else None
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

    Prompts are what a user writes, without chat template. Raises UserError as `make_scorer` does.
    """
    score = make_scorer(policy)
    scores = (one for first, batch in split_batches(make_prompts(prompts, Fields())) for one in score(first, batch))
    return [ModeDecision(choose_mode(one.no_think_probability, threshold), one.no_think_probability) for one in scores]


def split_batches(prompts: Iterable[Problem]) -> Iterator[tuple[int, list[Problem]]]:
    """Yield prompts in batches, each with the number of its first prompt, from 1."""
    rest, first = iter(prompts), 1
    while batch := list(islice(rest, PROMPTS_AT_ONCE)):
        yield first, batch
        first += len(batch)


def make_scorer(policy: Policy, threshold: float | None = None) -> ScoreBatch:
    """Return a function that scores a batch of prompts on the native engine, with one prefill for each.

    It raises UserError for a prompt that leaves no room for a response in the model's context, named by its number.
    """
    engine, template = NativeEngine(policy.model, policy.eos_ids), policy.template
    context = find_context_tokens(policy.model.config)
    prefix = max(len(template.no_think_prefix_ids), len(template.think_prefix_ids))

    def score(first: int, batch: Sequence[Problem]) -> list[Score]:
        encoded = [
            encode_problem(policy.tokenizer, template, problem, where=f"row {number}")
            for number, problem in enumerate(batch, start=first)
        ]
        for number, (problem, ids) in enumerate(zip(batch, encoded, strict=True), start=first):
            if context is not None:
                check_length(context, len(ids), f"row {number}", problem.prompt, prefix, "", 0)
        rows = compute_mode_logprobs(engine, template, encoded)
        scores = []
        for number, (problem, (no_think, think)) in enumerate(zip(batch, rows, strict=True), start=first):
            probability = to_probability(no_think)
            mode = None if threshold is None else choose_mode(probability, threshold)
            scores.append(
                Score(number, problem.id, problem.prompt, probability, to_probability(think), no_think - think, mode)
            )
        return scores

    return score
