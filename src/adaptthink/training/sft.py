"""The cold start: supervised training on traces, each in both forms of a response.

* With its thought: loss on every token, so the first one, too: left free, the model thinks.
* Answered at once, behind the forced beginning of a no_think response: loss on the answer alone. The decision token has
  none, so that the model learns to answer at once and not to choose to: as reasoning models are before AdaptThink.

Both forms of a trace are in the same step: their prompt is run once. The loss is the mean over the step's tokens, where
a token of an answer at once weighs `no_think_weight`, because such answers are short.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adaptthink.callbacks import make_counter
from adaptthink.config.schema import SftConfig
from adaptthink.errors import UserError
from adaptthink.models.batches import make_micro_batches
from adaptthink.models.context import find_context_tokens
from adaptthink.models.loading import Policy, choose_dtype
from adaptthink.models.scoring import can_share, compute_response_logprobs, pad, score_responses
from adaptthink.modes import Mode, encode, encode_rendered, render
from adaptthink.problems.traces import Trace
from adaptthink.storage.runs import MetricsLog, read_metrics
from adaptthink.timing import Clock
from adaptthink.training.checkpoint import Checkpoints, find_checkpoint, load_checkpoint, read_metrics_digests
from adaptthink.training.data import choose_problems
from adaptthink.training.metrics import Metrics, check_finite
from adaptthink.training.train import Reporting
from adaptthink.training.update import apply_gradient, compute_learning_rate, make_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HELD_OUT_SHARE = 0.1  # at most
HELD_OUT = "held_out_loss_think"  # the metric that shows that a step was measured
COMMON_START = 0.5  # share of the thoughts below which another think start is advised


@dataclass(frozen=True, slots=True)
class Example:
    """One form of a trace in tokens; the first `forced` of the response carry no loss."""

    mode: Mode
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    forced: int

    @property
    def num_tokens(self) -> int:
        """Tokens of question and response."""
        return len(self.prompt_ids) + len(self.response_ids)

    @property
    def num_learned(self) -> int:
        """Tokens that carry loss."""
        return len(self.response_ids) - self.forced


Lesson = tuple[Example, ...]  # both forms of a trace, or without a thought the one


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is learned from and what is only measured; `notes` are what a user should know, a line each."""

    training: Sequence[Lesson]
    held_out: Sequence[Lesson]
    notes: tuple[str, ...]


# ---- from traces to tokens ------------------------------------------------------------------------------------------


def prepare_lessons(policy: Policy, traces: Sequence[Trace], config: SftConfig) -> Lessons:
    """Return the traces in tokens; those of the same question are held out together.

    Raises UserError for a trace that cannot be written in the template, and if too few are left.
    """
    limit = min(config.max_trace_tokens, find_context_tokens(policy.model.config) or config.max_trace_tokens)
    made = [(trace, make_lesson(policy, trace, config)) for trace in traces]
    fitting = [(trace, lesson) for trace, lesson in made if max(one.num_tokens for one in lesson) <= limit]
    if not any(example.mode is Mode.THINK for _, lesson in fitting for example in lesson):
        raise UserError("no trace has a thought, and a cold start teaches to think; give traces with thinking")
    by_question: dict[str, list[Lesson]] = {}
    for trace, lesson in sorted(fitting, key=lambda pair: hash_question(pair[0])):
        by_question.setdefault(hash_question(trace), []).append(lesson)
    wanted = min(config.held_out_traces, int(HELD_OUT_SHARE * len(fitting)))
    held_out: list[Lesson] = []
    for lessons in by_question.values():
        if len(held_out) < wanted:
            held_out += lessons
    kept = {id(lesson) for lesson in held_out}
    training = [lesson for _, lesson in fitting if id(lesson) not in kept]
    if not held_out or len(training) < config.traces_per_step:
        raise UserError(
            f"{len(training)} traces to train on and {len(held_out)} held out are too few: a step takes "
            f"{config.traces_per_step}, and at least one is held out; give more traces, or a smaller traces_per_step"
        )
    return Lessons(training, held_out, tuple(describe_lessons(policy, training, len(made) - len(fitting), limit)))


def describe_lessons(policy: Policy, training: Sequence[Lesson], num_long: int, limit: int) -> Iterable[str]:
    """Yield what a user should know of traces, a line each."""
    if num_long:
        yield f"{num_long} traces left out, of more than {limit} tokens (max_trace_tokens, or the model's context)"
    starts = Counter(one.response_ids[0] for lesson in training for one in lesson if one.mode is Mode.THINK)
    [(token, count)] = starts.most_common(1)
    share, word = count / starts.total(), policy.tokenizer.decode([token])
    if token not in policy.template.think_ids:
        yield (
            f"{share:.0%} of the thoughts begin with {word!r}, which think_start does not: give it the words that they "
            "begin with, here and in all commands that follow"
        )
    elif share < COMMON_START:
        yield f"only {share:.0%} of the thoughts begin with {word!r}; a cold start is clearer where all begin alike"


def hash_question(trace: Trace) -> str:
    """Return 64 hex digits that order questions at random, the same ones always alike."""
    return hashlib.sha256(repr(trace.messages).encode()).hexdigest()


def make_lesson(policy: Policy, trace: Trace, config: SftConfig) -> Lesson:
    """Return both forms of a trace in tokens, as the policy's template writes them."""
    tokenizer, template = policy.tokenizer, policy.template
    question = trace.messages[-1].content[:60]
    try:
        prompt = render(tokenizer, template, trace.messages).removesuffix(template.cut)
    except UserError as error:
        raise UserError(f"the trace of {question!r}: {error}") from None
    prompt_ids = encode_rendered(tokenizer, template, prompt)
    lead = template.think_text.removesuffix(config.think_start)  # what precedes the words of a thought
    after = template.no_think_text.rpartition(template.close)[2] or "\n\n"  # what follows its end
    thought = f"{lead}{trace.thinking}\n{template.close}{after}{trace.answer}"
    answer = f"{template.no_think_text.removesuffix(after)}{after}{trace.answer}"
    forms = [(Mode.NO_THINK, answer, len(template.no_think_prefix_ids))]
    if trace.thinking:
        forms.insert(0, (Mode.THINK, thought, 0))
    end = template.turn_end_ids[:1] or (tokenizer.eos_token_id or policy.eos_ids[0],)
    lesson = []
    for mode, text, forced in forms:
        ids = encode(tokenizer, prompt + text)
        response_ids = (*ids[len(prompt_ids) :], *end)
        if ids[: len(prompt_ids)] != prompt_ids or response_ids.count(template.close_id) != 1:
            raise UserError(
                f"the trace of {question!r} cannot be written in the chat template: its thinking or its answer holds "
                f"{template.close}; repair it, or leave it out"
            )
        lesson.append(Example(mode, prompt_ids, response_ids, forced))
    return tuple(lesson)


# ---- training -------------------------------------------------------------------------------------------------------


def fit(policy: Policy, lessons: Lessons, config: SftConfig, run: Path, reporting: Reporting) -> None:
    """Train `policy.model` in place for `config.steps` steps, from the newest checkpoint in `run` if there is one.

    Each step is a line of `metrics.jsonl`. Raises DivergedError if loss or gradient are not finite; the last checkpoint
    stays. An Interruption saves one of the last step before it is raised.
    """
    folder, path, clock = run / "checkpoints", run / "metrics.jsonl", Clock()
    done = find_checkpoint(folder, warn=reporting.warn)
    log = MetricsLog(path, keep_steps=done)
    log.check(read_metrics_digests(folder, done))
    rows = read_metrics(path)
    optimizer = make_optimizer(policy.model, config)
    if done:
        load_checkpoint(folder, done, policy.model, optimizer)
    checkpoints = Checkpoints(folder, policy.model, optimizer, log, config.keep_checkpoints, done)
    measure = Measure(policy, lessons.held_out, config, log, reporting.warn)
    with checkpoints.save_when_interrupted():
        measure.complete(rows)
        for step in range(done + 1, config.steps + 1):
            with clock.phase("update"):
                chosen = choose_problems(lessons.training, config.traces_per_step, config.seed, step)
                total = sum(map(len, chosen))
                advance = make_counter(reporting.on_progress, f"step {step} of {config.steps}", total, step)
                metrics = compute_gradient(policy.model, chosen, config, step, advance)
            with checkpoints.change_weights(step):
                apply_gradient(optimizer, config, step)
                rows.append({"step": step} | metrics | clock.take())
                log.write(rows[-1])
            measure.complete(rows)
            reporting.on_step(rows[-1])
            checkpoints.save_if_due(config.checkpoint_every, config.steps, reporting.warn)
    log.close()


def compute_gradient(
    model: PreTrainedModel,
    lessons: Sequence[Lesson],
    config: SftConfig,
    step: int,
    on_finish: Callable[[int, int], None] = lambda examples, tokens: None,
) -> Metrics:
    """Leave the clipped gradient of a step's loss with the parameters; exact for every micro-batch size.

    `on_finish` is called with numbers of examples whose gradient is done, and of their tokens.

    Raises NonFiniteStepError if loss or gradient is not finite.
    """
    weight_of = {Mode.THINK: 1.0, Mode.NO_THINK: config.no_think_weight}
    examples = [one for lesson in lessons for one in lesson if weight_of[one.mode]]
    prompts, responses = [one.prompt_ids for one in examples], [one.response_ids for one in examples]
    counts = Counter({mode: sum(one.num_learned for one in examples if one.mode is mode) for mode in Mode})
    total = sum(weight_of[mode] * count for mode, count in counts.items())
    device, sums = next(model.parameters()).device, dict.fromkeys(Mode, 0.0)
    model.train()
    for batch in make_micro_batches(prompts, responses, config.micro_batch_tokens, sharing=can_share(model)):
        own = [examples[index] for index in batch.indices]
        with torch.autocast(device.type, torch.bfloat16, enabled=choose_dtype(model, config) == torch.bfloat16):
            logprob_BT = compute_response_logprobs(
                model, [one.prompt_ids for one in own], [one.response_ids for one in own], 1.0, shared=batch.shared
            )
        learned_BT = pad([make_mask(one) for one in own], device, np.float32)
        loss_B = -(logprob_BT * learned_BT).sum(-1)
        weight_B = torch.tensor([weight_of[one.mode] for one in own], device=device)
        ((loss_B * weight_B).sum() / total).backward()
        for one, loss in zip(own, loss_B.tolist(), strict=True):
            sums[one.mode] += loss
        on_finish(len(own), sum(one.num_tokens for one in own))
    loss = sum(weight_of[mode] * sums[mode] for mode in Mode) / total
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
    check_finite(loss, grad_norm, step)
    by_mode = {f"loss_{mode}": sums[mode] / counts[mode] if counts[mode] else None for mode in Mode}
    return {
        "loss": loss,
        **by_mode,
        "grad_norm": grad_norm,
        "learning_rate": compute_learning_rate(config, step),
        "tokens": sum(one.num_tokens for one in examples),
        "learned_tokens": counts.total(),
    }


def make_mask(example: Example) -> np.ndarray:
    """Return 1 for each token of a response that carries loss, 0 for the forced ones before them."""
    mask = np.ones(len(example.response_ids), np.float32)
    mask[: example.forced] = 0.0
    return mask


# ---- held-out traces ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Of held-out traces: the mean loss of a token by mode, in nats, and how a response begins.

    The probabilities are those of the first token of a trace's thought, and of the no_think decision token. None where
    no trace has a thought.
    """

    held_out_loss_think: float | None
    held_out_loss_no_think: float | None
    held_out_think_start_probability: float | None
    held_out_no_think_probability: float | None


@dataclass(frozen=True, slots=True)
class Measure:
    """Measures held-out traces every so many steps, and adds that to the step's metrics."""

    policy: Policy
    held_out: Sequence[Lesson]
    config: SftConfig
    log: MetricsLog
    say: Callable[[str], None]

    def complete(self, rows: list[Metrics]) -> None:
        """Measure after the last step if that is due and was not done, and before the first."""
        step = rows[-1]["step"] if rows else 0
        due = step in (0, self.config.steps) or step % self.config.probe_every == 0
        if not due or (rows and HELD_OUT in rows[-1]):
            return
        found = measure_held_out(self.policy, self.held_out, self.config)
        if rows:
            rows[-1].update(asdict(found))
            self.log.replace_last(rows[-1])
        self.say(f"step {step} of {self.config.steps}: {describe_held_out(asdict(found))}")


def measure_held_out(policy: Policy, lessons: Sequence[Lesson], config: SftConfig) -> HeldOut:
    """Score held-out traces in both forms."""
    model = policy.model.eval()
    examples = [one for lesson in lessons for one in lesson]
    scored = score_responses(
        model,
        [one.prompt_ids for one in examples],
        [one.response_ids for one in examples],
        1.0,
        limit=config.micro_batch_tokens,
        dtype=choose_dtype(model, config),
    )
    rows = list(zip(examples, scored, strict=True))

    losses = {mode: [-p for one, row in rows if one.mode is mode for p in row[one.forced :]] for mode in Mode}
    firsts = {mode: [math.exp(row[0]) for one, row in rows if one.mode is mode] for mode in Mode}
    return HeldOut(*(fmean(values[mode]) if values[mode] else None for values in (losses, firsts) for mode in Mode))


def describe_held_out(row: Mapping[str, Any]) -> str:
    """Return the measures of held-out traces in a row of metrics as one line."""
    think, no_think, start, at_once = (math.nan if row[name] is None else row[name] for name in HeldOut.__slots__)
    return (
        f"held-out loss of a token {think:.3f} with its thought and {no_think:.3f} at once; P(think start) "
        f"{start:.3f}, P(no_think) {at_once:.1e}"
    )
