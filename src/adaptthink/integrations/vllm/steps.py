"""What one request of vLLM's does to the logits of its next token: tokens in, a step out.

A mode is forced by its whole prefix, from the decision token on, as everywhere in this package. The decision token is
not always the first one that vLLM generates: some chat templates leave it to the model to open its thought. What
precedes the decision, the lead, is forced too.

A thinking budget counts the tokens behind the decision's position. From `RAMP_SHARE` of it on, the close token's logit
is raised to within a distance of the largest one, as in `adaptthink serve` (`engines/jobs.py`), so a sampled thought
ends where it comes to rest. At the budget the close token is forced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from adaptthink.config.resolve import describe_faults, make_unknown_key_error
from adaptthink.config.schema import ForceThink, Positive, RequestedMode, Share
from adaptthink.engines.jobs import compute_distance
from adaptthink.errors import UserError
from adaptthink.models.think_starts import probe_configured
from adaptthink.modes import ANSWER, QUESTION, Message, Mode, ThinkTemplate, count_shared, encode, encode_prompt, render

PREFIX = "x_think_"  # of our keys in vllm_xargs
RAMP_SHARE = 0.8  # of the budget, after which the close token is raised
UNKNOWN = -1  # what vLLM has in place of a token that it has not copied from the device yet


class ThinkArgs(BaseModel):
    """What a request may say; in `vllm_xargs` each key begins with `x_think_`."""

    model_config = ConfigDict(strict=True, frozen=True, alias_generator=PREFIX.__add__, populate_by_name=True)

    mode: RequestedMode = "auto"
    threshold: Share | None = None  # on P(no_think), at temperature 1
    budget: Positive | None = None  # tokens of thinking


class ServerSettings(BaseModel):
    """The settings of a server, in vLLM's `--additional-config '{"adaptthink": {…}}'`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    think_start: str = "Alright"
    force_think: ForceThink = ForceThink.START
    mode: RequestedMode | None = None  # of requests that say nothing; None: they are left as they are


def read_args(extra_args: Mapping[str, Any] | None) -> ThinkArgs | None:
    """Return what a request says about its thinking, None if nothing. Raises UserError with every fault in one line."""
    given = {key: value for key, value in (extra_args or {}).items() if key.startswith("x_think")}
    if not given:
        return None
    known = [PREFIX + name for name in ThinkArgs.model_fields]
    for key in given:
        if key not in known:
            raise make_unknown_key_error("vllm_xargs", key, known)
    try:
        args = ThinkArgs.model_validate(given)
    except ValidationError as error:
        raise UserError(f"vllm_xargs: {describe_faults(error)}") from None
    if args.mode != "auto" and args.threshold is not None:
        raise UserError(
            f"x_think_threshold = {args.threshold:g} has no effect where x_think_mode is '{args.mode}'; give either"
        )
    if args.mode == "no_think" and args.budget is not None:
        raise UserError(f"x_think_budget = {args.budget} has no effect where x_think_mode is 'no_think'; leave it out")
    return args


def read_settings(additional: Any) -> ServerSettings:
    """Return a server's settings; raises UserError with every fault in one line."""
    given = additional.get("adaptthink", {}) if isinstance(additional, dict) else {}
    try:
        return ServerSettings.model_validate(given)
    except ValidationError as error:
        raise UserError(f"--additional-config, adaptthink: {describe_faults(error)}") from None


# ---- the model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServedTemplate:
    """How a served model's prompts lead to the decision: `ending` is what its chat prompts end in, then `lead`."""

    template: ThinkTemplate
    ending: tuple[int, ...]
    lead: tuple[int, ...]
    force_think: ForceThink = ForceThink.START
    threshold: float | None = None  # the dial's


def find_template(tokenizer: Any, settings: ServerSettings, threshold: float | None = None) -> ServedTemplate:
    """Return how the chat template's prompts end, before the decision; raises UserError as `modes.probe` does."""
    template = probe_configured(tokenizer, settings.think_start)
    decided = [encode_prompt(tokenizer, template, text) for text in (QUESTION, ANSWER)]
    rendered = encode(tokenizer, render(tokenizer, template, [Message("user", QUESTION)]))
    shared = count_shared(rendered, decided[0])
    lead = decided[0][shared:]
    # What the prompts of two questions that end differently have in common at their ends.
    common = count_shared(decided[0][::-1], decided[1][::-1])
    ending = decided[0][len(decided[0]) - common : len(decided[0]) - len(lead)]
    if not ending:
        raise UserError("the chat template writes nothing between the question and the decision; choose another model")
    return ServedTemplate(template, ending, lead, settings.force_think, threshold)


def read_threshold(folder: Path) -> tuple[float | None, str]:
    """Return the certified threshold of the dial beside a model's weights, if any, and what to say of it.

    The fingerprint is not compared: it takes every weight as it was saved, and vLLM has them in its own layout.
    """
    # Imported here: every vLLM beside this package loads the module, and few need the grader and SciPy behind the dial.
    from adaptthink.dial.guarantee import describe_limit, describe_rule  # noqa: PLC0415
    from adaptthink.dial.stored import STORED, read_dial  # noqa: PLC0415

    path = folder / STORED
    if not path.is_file():
        return None, ""
    dial = read_dial(path)
    choice = dial.threshold
    if not choice.certified:
        return None, f"{path}: no threshold is certified, so auto is the model's own choice"
    return choice.no_think_probability, (
        f"auto: {describe_rule(choice.no_think_probability)}, certified by {path}: {describe_limit(choice)}. Not "
        f"checked: that these are the weights it was calibrated for (fingerprint {dial.fingerprint}; adaptthink serve "
        f"checks it), and that requests have its temperature ({dial.setting.temperature:g}), top_p "
        f"({dial.setting.top_p:g}) and token limits (think {dial.setting.max_think_tokens}, no_think "
        f"{dial.setting.max_no_think_tokens})"
    )


# ---- the steps ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Force:
    """The next token is this one."""

    token: int


@dataclass(frozen=True, slots=True)
class Ban:
    """The next token is any but this one."""

    token: int


@dataclass(frozen=True, slots=True)
class Choose:
    """The next token is `no_think` where its probability at temperature 1 reaches the threshold, else by `think`."""

    no_think: int
    threshold: float
    think: Force | Ban


@dataclass(frozen=True, slots=True)
class Raise:
    """A token's logit is at most so far below the largest one."""

    token: int
    distance: float


Step = Force | Ban | Choose | Raise


def apply_step(logits_V: torch.Tensor, step: Step) -> None:
    """Change the logits of one next token, in place; a step that is taken twice does what it does once."""
    match step:
        case Force(token):
            logits_V.fill_(-torch.inf)
            logits_V[token] = 0.0
        case Ban(token):
            logits_V[token] = -torch.inf
        case Raise(token, distance):
            logits_V[token] = torch.maximum(logits_V[token], logits_V.max() - distance)
        case Choose(no_think, threshold, think):
            direct_V, thinking_V = logits_V.clone(), logits_V.clone()
            apply_step(direct_V, Force(no_think))
            apply_step(thinking_V, think)
            # As modes.choose_mode, without waiting for the device.
            chosen = logits_V.softmax(-1, dtype=torch.float32)[no_think] >= threshold
            logits_V.copy_(torch.where(chosen, direct_V, thinking_V))


@dataclass(slots=True)
class ThinkState:
    """One request on its way: `offset` tokens of lead are generated first, then the decision.

    `begun`: the prompt's end has opened the thought already, and only the budget is left to keep. `start_ids`: what a
    requested thought begins with; none where it begins with any token but the no_think one.
    """

    served: ServedTemplate
    mode: Mode | None
    threshold: float | None
    budget: int | None
    offset: int
    start_ids: tuple[int, ...]
    begun: bool = False
    done: bool = False
    num_read: int = 0  # generated tokens among which the close token was looked for

    def take_step(self, generated: Sequence[int]) -> Step | None:
        """Return what to do about the next token, behind those generated so far; None: nothing.

        `done` is set once nothing will be done any more. Raises UserError if a token that it depends on is unknown.
        """
        if self.done:
            return None
        template, count = self.served.template, len(generated) - self.offset
        if count < 0:
            return Force(self.served.lead[count + len(self.served.lead)])
        if self.begun:
            return self._limit(generated, count)
        think: Force | Ban = Force(self.start_ids[0]) if self.start_ids else Ban(template.no_think_id)
        if count == 0:
            if self.mode:
                return Force(template.no_think_id) if self.mode is Mode.NO_THINK else think
            return None if self.threshold is None else Choose(template.no_think_id, self.threshold, think)
        mode = self.mode or template.mode_of(require_known(generated[self.offset : self.offset + 1]))
        if self.mode or self.threshold is not None:
            forced_ids = template.no_think_prefix_ids if mode is Mode.NO_THINK else self.start_ids
            if count < len(forced_ids):
                return Force(forced_ids[count])
        if mode is Mode.NO_THINK:
            self.done = True
            return None
        return self._limit(generated, count)

    def _limit(self, generated: Sequence[int], count: int) -> Step | None:
        """Return what keeps a thought of `count` tokens within its budget."""
        close = self.served.template.close_id
        if self.budget is None or close in require_known(generated[max(self.num_read, self.offset) :]):
            self.done = True
            return None
        self.num_read = len(generated)
        if count >= self.budget:
            return Force(close)
        distance = compute_distance(count, self.budget, self.budget - math.ceil(RAMP_SHARE * self.budget))
        return None if distance is None else Raise(close, distance)


def require_known(tokens: Sequence[int]) -> Sequence[int]:
    """Return tokens; raises UserError if one of them has not been copied from the device."""
    if UNKNOWN in tokens:
        raise UserError(
            "vLLM schedules ahead and tells processors that an entry point names nothing of the tokens; start it with "
            "--logits-processors adaptthink.integrations.vllm.processor:ThinkProcessor, or --no-async-scheduling"
        )
    return tokens


def begin(served: ServedTemplate, args: ThinkArgs, prompt_ids: Sequence[int], seed: int) -> ThinkState | None:
    """Return the state of a request at its prompt's end; None where nothing is left to do.

    `seed` chooses among several think starts. Raises UserError where the prompt does not end as the chat template's own
    prompts do, so that it is not known where the mode is decided, or where it has decided otherwise.
    """
    template = served.template
    mode = None if args.mode == "auto" else Mode(args.mode)
    threshold = None if mode else served.threshold if args.threshold is None else args.threshold
    start_ids = template.sample_think_prefix(seed) if served.force_think is ForceThink.START else ()
    state = ThinkState(served, mode, threshold, args.budget, 0, start_ids)
    decided = served.ending + served.lead
    if ends_with(prompt_ids, decided):
        return state
    if served.lead and ends_with(prompt_ids, served.ending):
        state.offset = len(served.lead)
        return state
    found = None
    if ends_with(prompt_ids, template.no_think_prefix_ids[template.no_think_prefix_ids.index(template.close_id) :]):
        found = Mode.NO_THINK
    elif ends_with(prompt_ids, decided + template.think_prefix_ids):
        found = Mode.THINK
    if found is None:
        raise UserError(
            "the prompt does not end as the chat template's own prompts do, so it is not known where the mode is "
            "decided; leave the x_think_ keys out, or send a conversation that ends in a question"
        )
    if args.threshold is not None or ("mode" in args.model_fields_set and mode is not found):
        given = f"x_think_mode = '{args.mode}'" if args.threshold is None else f"x_think_threshold = {args.threshold:g}"
        raise UserError(f"{given}, but the prompt has decided for {found} already; leave one of them out")
    state.begun = True
    return state if found is Mode.THINK and args.budget else None


def ends_with(tokens: Sequence[int], ending: tuple[int, ...]) -> bool:
    """Return whether a sequence of tokens ends in these."""
    return len(tokens) >= len(ending) and tuple(tokens[len(tokens) - len(ending) :]) == ending
