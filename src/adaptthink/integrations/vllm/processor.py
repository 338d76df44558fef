"""The logits processor that vLLM loads, by its entry point or by --logits-processors; docs/how-to/engines.md says how.

vLLM has two model runners, each with an interface of its own: the first gives a processor batches and lists of tokens,
the second slots and tensors on the device. `ThinkProcessor` becomes what the runner asks for. The second one needs
Triton, so vLLM's CPU build has the first one only.

vLLM lets a processor refuse a request before it begins, but then the model is not known. What only the engine can see
(no usable chat template, a prompt that does not end in the decision) ends the answer with its first token, and the log
says why: a mode that is not kept in silence would be worse.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from adaptthink.errors import UserError
from adaptthink.integrations.vllm.steps import (
    Force,
    ServedTemplate,
    Step,
    ThinkArgs,
    ThinkState,
    apply_step,
    begin,
    find_template,
    read_args,
    read_settings,
    read_threshold,
)
from adaptthink.sampling.requests import make_seed

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotLogitsProcessor
except ImportError:  # vLLM before its second model runner
    SlotLogitsProcessor = object

ONE_A_STEP = "modes and budgets need one token a step; start vLLM without speculative decoding"
logger = logging.getLogger("vllm.adaptthink")  # under vLLM's own, which writes to its log


class ThinkProcessor(LogitsProcessor, SlotLogitsProcessor):
    """What is named to vLLM; it becomes the processor of the model runner that makes it."""

    def __new__(cls, vllm_config: Any, *rest: Any) -> Any:
        """Return a processor for the runner: the first one passes device and pinning, the second its state."""
        return BatchProcessor(vllm_config) if len(rest) == 2 else SlotProcessor(vllm_config, rest[0])

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request with values that no model takes, by ValueError; vLLM answers 400."""
        try:
            read_args(sampling_params.extra_args)
        except UserError as error:
            raise ValueError(str(error)) from None


@dataclass(slots=True)
class Refused:
    """A request that is ended with its first token, since what it says cannot be done; without an end token, not."""

    end_id: int | None
    done: bool = False

    def take_step(self, generated: Sequence[int]) -> Step | None:
        """Return the end of the answer."""
        return None if self.end_id is None else Force(self.end_id)


class Requests:
    """Makes the state of each request of one engine.

    An engine that was started with this processor by name needs a usable chat template: UserError. One that found it
    by the entry point may serve any model, and reads the template with the first request that says something.
    """

    def __init__(self, vllm_config: Any, fault: str = "") -> None:
        self.config, self.fault = vllm_config, fault
        self.settings = read_settings(vllm_config.additional_config)
        self.served: ServedTemplate | None = None
        self.count = itertools.count()  # the same in every process of an engine, unlike random numbers
        names = vllm_config.model_config.logits_processors or ()
        if any(name is ThinkProcessor or str(name).endswith(f":{ThinkProcessor.__name__}") for name in names):
            if fault:
                raise UserError(fault)
            self.served = self._read_template()

    def begin(self, params: Any, prompt_ids: Sequence[int] | None) -> ThinkState | Refused | None:
        """Return the state of a request; None where nothing is to be done."""
        args = read_args(params.extra_args)
        if args is None and self.settings.mode is None:
            return None
        try:
            if self.fault:
                raise UserError(self.fault)
            self.served = self.served or self._read_template()
            if prompt_ids is None:
                raise UserError("a prompt of embeddings has no tokens that could end in the decision")
            seed = make_seed(params.seed or 0, "think start", next(self.count))
            return begin(self.served, args or ThinkArgs(mode=self.settings.mode or "auto"), prompt_ids, seed)
        except UserError as error:
            return refuse(params, error) if args else None

    def take_step(self, state: ThinkState | Refused, generated: Sequence[int], params: Any) -> Step | None:
        """Return what a state does about its next token."""
        try:
            return state.take_step(generated)
        except UserError as error:
            return refuse(params, error).take_step(generated)

    def _read_template(self) -> ServedTemplate:
        from vllm.tokenizers import cached_tokenizer_from_config  # noqa: PLC0415  (slow to import)

        model = self.config.model_config
        threshold, note = read_threshold(Path(model.model))
        served = find_template(cached_tokenizer_from_config(model), self.settings, threshold)
        if note:
            logger.warning("%s", note)
        return served


def refuse(params: Any, error: UserError) -> Refused:
    """Return the state of a request that cannot be done, and log why."""
    logger.error("an answer was ended with its first token: %s", error)
    return Refused(min(params.all_stop_token_ids, default=None))


@dataclass(slots=True)
class Row:
    """One request of a batch; `generated` is vLLM's own list, which grows."""

    state: ThinkState | Refused
    generated: list[int]
    params: Any


class BatchProcessor(LogitsProcessor):
    """For vLLM's first model runner."""

    def __init__(self, vllm_config: Any) -> None:
        self.requests = Requests(vllm_config)
        self.rows: dict[int, Row] = {}

    def is_argmax_invariant(self) -> bool:
        """Return that greedy decoding is changed too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Take in which requests came, went and moved."""
        process_dict_updates(self.rows, batch_update, self._make_row)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Change the logits, (requests, vocabulary), in place: those of requests that say something, no others."""
        for index, row in self.rows.items():
            step = self.requests.take_step(row.state, row.generated, row.params)
            if step:
                apply_step(logits[index], step)
        return logits

    def _make_row(self, params: Any, prompt_ids: list[int] | None, generated: list[int]) -> Row | None:
        state = self.requests.begin(params, prompt_ids)
        return None if state is None else Row(state, generated, params)


@dataclass(slots=True)
class Slot:
    """One request of the second model runner: its state, once its prompt has been read, and what it generated."""

    params: Any
    state: ThinkState | Refused | None = None
    generated: list[int] = field(default_factory=list)


class SlotProcessor(SlotLogitsProcessor):
    """For vLLM's second model runner, which has tokens on the device only: they are read once a step.

    Not under speculative decoding, where a request has several rows.
    """

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        speculative = vllm_config.speculative_config is not None
        self.requests = Requests(vllm_config, ONE_A_STEP if speculative else "")
        self.states = req_states
        self.slots: dict[int, Slot] = {}

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take in a request; return whether it is to be looked at."""
        self.slots.pop(req_idx, None)
        if read_args(sampling_params.extra_args) is None and self.requests.settings.mode is None:
            return False
        self.slots[req_idx] = Slot(sampling_params)
        return True

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Change the logits, (rows, vocabulary), in place: those of requests that say something, no others."""
        if self.requests.fault:
            return self._refuse_all(logits, ctx)
        last_ids: list[int] | None = None
        for row, index in enumerate(ctx.idx_mapping_np.tolist()):
            if index not in self.slots:
                continue
            slot, start = self.slots[index], int(self.states.prompt_len.np[index])
            count = int(ctx.seq_lens_upper_bound_np[row]) - start
            if count < 0:  # its prompt is not read to the end
                continue
            if slot.state is None:
                slot.state = self.requests.begin(slot.params, self._read(index, 0, start))
            if count == len(slot.generated) + 1:
                last_ids = last_ids or ctx.input_ids.tolist()
                slot.generated.append(last_ids[row])
            elif count != len(slot.generated):
                slot.generated = self._read(index, start, start + count)
            step = self.requests.take_step(slot.state, slot.generated, slot.params) if slot.state else None
            if step:
                apply_step(logits[row], step)
            if slot.state is None or slot.state.done:
                del self.slots[index]
        return logits

    def _refuse_all(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        for row, index in enumerate(ctx.expanded_idx_mapping.tolist()):
            if slot := self.slots.get(index):
                slot.state = slot.state or self.requests.begin(slot.params, None)
                step = slot.state.take_step(()) if slot.state else None
                if step:
                    apply_step(logits[row], step)
        return logits

    def _read(self, index: int, start: int, end: int) -> list[int]:
        return list(self.states.all_token_ids.gpu[index, start:end].tolist())
