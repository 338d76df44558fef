"""Continuous batching on the native engine: a job joins at the next step, and leaves when it ends or is cancelled.

One step feeds one token to every row and samples the next; beside that it reads a chunk of the prompts that wait, so
that a long prompt stops nobody. A prompt is read once for its decision and all its choices. Prompts that were read are
kept for a while: the next turn of a conversation, or the next call with the same instructions, reads only what is new.

Rows lie side by side in one cache (`cache.py`). A row that leaves is replaced by the last one, so that joining and
leaving copy one row and no more. The weights are laid out once, so the model must not be trained meanwhile.

The random stream is the request's own: a job alone gets the samples that `NativeEngine.generate` gives it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from adaptthink.engines.base import Finish, Request, check_finite
from adaptthink.engines.cache import SlotCache
from adaptthink.engines.forward import make_forward, make_token_batches, prefill_prompts
from adaptthink.engines.jobs import Closing, Job, compute_distance
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.sampling import choose_tokens, make_uniforms

CHUNK_TOKENS = 512  # of prompts, read in one step
PREFIX_TOKENS = 16384  # of prompts that are kept
SHARED_TOKENS = 32  # that a prompt has to share with one that is kept; copying fewer saves nothing


@dataclass(eq=False, slots=True)
class _Prompt:
    """A job whose prompt is being read, or has been read and has choices that wait for a row."""

    job: Job
    cache: SlotCache | None = None  # one row
    read: int = 0  # tokens in the cache
    logits_1V: Tensor | None = None  # behind the last one
    choices: deque[tuple[int, Request]] = field(default_factory=deque)


@dataclass(eq=False, slots=True)
class _Row:
    """A response under way, one for each row of the cache."""

    job: Job
    choice: int
    request: Request
    position: int = 0  # number of tokens that the response has so far
    token: int = 0  # the last of them
    blank: bool = True  # whether there are blank tokens only behind the prefix
    closed: bool = False  # whether the thinking has ended
    closing_at: int | None = None  # the position of the first token that closes the thought, if its budget did

    @property
    def closing(self) -> Closing | None:
        """How the thought ends, as long as it goes on."""
        return None if self.closed else self.job.closing

    def check_budget(self) -> None:
        """Begin to close a thought that has reached its budget."""
        begun = self.position >= len(self.request.prefix_ids)
        if self.closing and self.closing_at is None and begun and self.position >= self.closing.budget:
            self.closing_at = self.position

    @property
    def forced(self) -> int | None:
        """The next token, if it is forced."""
        prefix, closing = self.request.prefix_ids, self.job.closing
        if self.position < len(prefix):
            return prefix[self.position]
        if closing and self.closing_at is not None and self.position < self.closing_at + len(closing.ids):
            return closing.ids[self.position - self.closing_at]
        return None

    def find_banned(self, eos_ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens that may not come next."""
        behind_close = (
            self.job.closing
            and self.closing_at is not None
            and self.position == self.closing_at + len(self.job.closing.ids)
        )
        banned = self.request.banned_first_ids
        if not self.blank or self.forced is not None:
            banned = ()
        ends = self.closing or behind_close or (banned and self.job.blank_ids)
        return (*eos_ids, *banned) if ends else banned


class ContinuousBatch:
    """Runs jobs on the native engine's model (see `Runner`), at most `max_concurrent_sequences` at once."""

    def __init__(
        self,
        engine: NativeEngine,
        *,
        seed: int = 0,
        max_concurrent_sequences: int | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
        prefix_tokens: int = PREFIX_TOKENS,
    ) -> None:
        engine.model.eval()
        self.engine, self.seed, self.chunk_tokens = engine, seed, chunk_tokens
        self.max_concurrent_sequences = max_concurrent_sequences or engine.max_concurrent_sequences
        self.device = engine.model.device
        self.eos_ids: list[int] = engine.eos_ids.tolist()
        self.forward = make_forward(engine.model, engine.dtype)
        self.kept = KeptPrompts(prefix_tokens)
        self.waiting: list[Job] = []
        self.reading: list[_Prompt] = []  # each has reserved a row
        self.ready: list[_Prompt] = []  # read, with choices that wait
        self.rows: list[_Row] = []
        self.cache = SlotCache(self.forward.num_layers)

    @property
    def idle(self) -> bool:
        """See `Runner`."""
        return not (self.waiting or self.reading or self.ready or self.rows)

    def submit(self, job: Job) -> None:
        """See `Runner`."""
        try:
            self.engine.check_prompts([job.prompt_ids])
        except Exception as error:  # noqa: BLE001
            job.on_error(error)
        else:
            self.waiting.append(job)

    @torch.inference_mode()
    def fail_all(self, error: Exception) -> None:
        """See `Runner`."""
        jobs = dict.fromkeys(self._list_jobs())
        self._forget(set(jobs))
        for job in jobs:
            if not job.cancelled:
                job.on_error(error)

    @torch.inference_mode()
    def step(self) -> None:
        """Give every row its next token; take jobs in, and read a chunk of their prompts."""
        self._forget({one for one in self._list_jobs() if one.cancelled})
        try:
            logits = [self._decode()] if self.rows else []
        except Exception as error:  # noqa: BLE001  (all rows are lost, but those to come are not)
            self.fail_all(error)
            return
        self._take_in()
        for prompt in self._read_prompts():
            try:
                self._begin(prompt)
            except Exception as error:  # noqa: BLE001
                self._fail(prompt.job, error)
        logits += [self._join(one) for one in self._rank() if isinstance(one, _Prompt)]
        if logits:
            self._sample(torch.cat(logits))

    # ---- rows ----

    def _decode(self) -> Tensor:
        """Feed every row its last token; return logits (B, V)."""
        tokens_B = torch.tensor([row.token for row in self.rows], device=self.device)
        self.cache.begin(self.cache.lengths_B, 1)
        logits_BV = self.forward.step(tokens_B, self.cache)
        self.cache.lengths_B = self.cache.starts_B + 1
        return logits_BV

    def _sample(self, logits_BV: Tensor) -> None:
        """Give every row its next token; those that end leave."""
        rows = self.rows
        for row in rows:
            row.check_budget()
        raise_close(logits_BV, rows)
        position_B = np.array([row.position for row in rows])
        stream_B = np.array([row.request.stream % 2**64 for row in rows], np.uint64)
        tokens_B, logprobs_B = choose_tokens(
            logits_BV,
            torch.from_numpy(make_uniforms(self.seed, stream_B, position_B)).to(self.device),
            np.array([row.job.temperature for row in rows]),
            np.array([row.job.top_p for row in rows]),
            banned={index: banned for index, row in enumerate(rows) if (banned := row.find_banned(self.eos_ids))},
            forced={index: row.forced for index, row in enumerate(rows) if row.forced is not None},
        )
        leaving = []
        for index, (token, logprob) in enumerate(zip(tokens_B.tolist(), logprobs_B.tolist(), strict=True)):
            try:
                check_finite([logprob])
                if not self._deliver(rows[index], token):
                    leaving.append(index)
            except Exception as error:  # noqa: BLE001  (one row's fault is not its neighbours')
                self._fail(rows[index].job, error, forget=False)
                rows[index].job.cancelled = True  # its other rows leave at the next step
                leaving.append(index)
        self._drop(leaving)

    def _deliver(self, row: _Row, token: int) -> bool:
        """Hand over a row's token; return whether the row goes on."""
        stopped = token in self.eos_ids and row.forced is None
        row.closed = row.closed or (row.job.closing is not None and token == row.job.closing.close_id)
        if row.position >= len(row.request.prefix_ids):
            row.blank = row.blank and token in row.job.blank_ids
        row.token, row.position = token, row.position + 1
        full = row.position >= row.request.max_tokens
        finish = Finish.STOP if stopped else Finish.LENGTH if full else None
        return row.job.on_token(row.choice, token, finish) and finish is None

    def _drop(self, indices: list[int]) -> None:
        """Drop rows, each replaced by the last one."""
        for index in reversed(indices):
            last = len(self.rows) - 1
            if index != last:
                self.cache.put(index, self.cache, last)
                self.rows[index] = self.rows[last]
            self.rows.pop()
            self.cache.drop_last()
        if not self.rows:  # gives back the memory of the longest row
            self.cache = SlotCache(self.forward.num_layers)

    # ---- prompts ----

    def _take_in(self) -> None:
        """Reserve free rows for jobs that wait, unless choices that are ready come first."""
        for best in self._rank():
            if isinstance(best, Job):
                self.waiting.remove(best)
                found = self.kept.find(best.prompt_ids)
                self.reading.append(_Prompt(best, *found) if found else _Prompt(best))

    def _rank(self) -> list[Job | _Prompt]:
        """Return who gets the free rows: each time the owner with the fewest, and of its jobs the one with the fewest.

        A job is in it once, to have its prompt read; a prompt that has been read once for each choice that starts.
        """
        count = self.max_concurrent_sequences - len(self.rows) - len(self.reading)
        if count <= 0 or not (self.waiting or self.ready):
            return []
        under_way = [*(row.job for row in self.rows), *(prompt.job for prompt in self.reading)]
        by_owner, by_job = Counter(job.owner for job in under_way), Counter(under_way)
        left: dict[Job | _Prompt, int] = {prompt: len(prompt.choices) for prompt in self.ready}
        left |= dict.fromkeys(self.waiting, 1)
        chosen: list[Job | _Prompt] = []
        while len(chosen) < count and left:

            def taken(one: Job | _Prompt) -> tuple[int, int]:
                job = one if isinstance(one, Job) else one.job
                return by_owner[job.owner], by_job[job]

            best = min(left, key=taken)
            job = best if isinstance(best, Job) else best.job
            by_owner[job.owner] += 1
            by_job[job] += 1
            left[best] -= 1
            if not left[best]:
                del left[best]
            chosen.append(best)
        return chosen

    def _read_prompts(self) -> list[_Prompt]:
        """Read one chunk; return the prompts that are read to their end. Short ones are read together."""
        try:
            short = [one for one in self.reading if not one.read and len(one.job.prompt_ids) <= self.chunk_tokens]
            if short:
                batch = make_token_batches([len(one.job.prompt_ids) for one in short], self.chunk_tokens)[0]
                self._read_together([short[index] for index in batch])
            budget = self.chunk_tokens
            for one in [one for one in self.reading if one.read < len(one.job.prompt_ids) and one not in short]:
                if budget <= 0:
                    break
                budget -= self._read_chunk(one, budget)
                self.reading.remove(one)
                self.reading.append(one)  # the next chunk is another's
        except Exception as error:  # noqa: BLE001  (memory, say)
            for one in list(self.reading):
                self._fail(one.job, error)
        return [one for one in self.reading if one.read == len(one.job.prompt_ids)]

    def _read_together(self, prompts: list[_Prompt]) -> None:
        distinct = list(dict.fromkeys(one.job.prompt_ids for one in prompts))
        cache, logits_PV = prefill_prompts(self.forward, distinct, self.device)
        for index, ids in enumerate(distinct):
            row = cache.copy_row(index, len(ids))
            for one in prompts:
                if one.job.prompt_ids == ids:
                    one.cache, one.read, one.logits_1V = row, len(ids), logits_PV[index : index + 1]

    def _read_chunk(self, prompt: _Prompt, budget: int) -> int:
        """Read at most `budget` tokens of a prompt; return how many."""
        ids = prompt.job.prompt_ids[prompt.read : prompt.read + budget]
        ids_1T = torch.tensor([ids], device=self.device)
        starts_1, lengths_1 = (torch.tensor([count], device=self.device) for count in (prompt.read, len(ids)))
        if prompt.cache is None:
            prompt.cache = SlotCache(self.forward.num_layers)
            prompt.cache.begin(starts_1, len(ids))
            prompt.logits_1V = self.forward.prefill(ids_1T, lengths_1, prompt.cache)
        else:
            prompt.cache.begin(starts_1, len(ids))
            prompt.logits_1V = self.forward.extend(ids_1T, prompt.cache)
        prompt.read += len(ids)
        prompt.cache.lengths_B = starts_1 + lengths_1
        return len(ids)

    def _begin(self, prompt: _Prompt) -> None:
        """Decide what is generated behind a prompt that has been read."""
        assert prompt.cache is not None
        assert prompt.logits_1V is not None
        self.reading.remove(prompt)
        self.kept.keep(prompt.job.prompt_ids, prompt.cache, prompt.logits_1V)
        scores: list[float] = []
        if prompt.job.scored_ids:
            scores = prompt.logits_1V.log_softmax(-1)[0, list(prompt.job.scored_ids)].tolist()
            check_finite(scores)
        prompt.choices.extend(enumerate(prompt.job.begin(scores)))
        if prompt.choices:
            self.ready.append(prompt)

    def _join(self, prompt: _Prompt) -> Tensor:
        """Add a row for the next choice of a prompt; return its logits (1, V)."""
        assert prompt.cache is not None
        assert prompt.logits_1V is not None
        choice, request = prompt.choices.popleft()
        self.cache.put(len(self.rows), prompt.cache, 0)
        self.rows.append(_Row(prompt.job, choice, request))
        if not prompt.choices:
            self.ready.remove(prompt)
        return prompt.logits_1V

    # ---- jobs ----

    def _list_jobs(self) -> list[Job]:
        prompts = [*self.reading, *self.ready]
        return [*self.waiting, *(prompt.job for prompt in prompts), *(row.job for row in self.rows)]

    def _forget(self, jobs: set[Job]) -> None:
        """Drop everything of some jobs."""
        if not jobs:
            return
        self.waiting = [job for job in self.waiting if job not in jobs]
        self.reading = [one for one in self.reading if one.job not in jobs]
        self.ready = [one for one in self.ready if one.job not in jobs]
        self._drop([index for index, row in enumerate(self.rows) if row.job in jobs])

    def _fail(self, job: Job, error: Exception, *, forget: bool = True) -> None:
        if not job.cancelled:
            job.on_error(error)
        if forget:
            self._forget({job})


def raise_close(logits_BV: Tensor, rows: Sequence[_Row]) -> None:
    """Raise the close token's logit in the rows whose thinking is about to reach its budget (see `Closing`)."""
    for index, row in enumerate(rows):
        closing = row.closing
        distance = compute_distance(row.position, closing.budget, closing.ramp) if closing else None
        if closing and distance is not None:
            least = logits_BV[index].max() - distance
            logits_BV[index, closing.close_id] = torch.maximum(logits_BV[index, closing.close_id], least)


class KeptPrompts:
    """Prompts that were read, of `max_tokens` in all; the one that was used longest ago is dropped first."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.prompts: OrderedDict[tuple[int, ...], tuple[SlotCache, Tensor]] = OrderedDict()

    def keep(self, ids: tuple[int, ...], cache: SlotCache, logits_1V: Tensor) -> None:
        """Keep a prompt's cache, one row, and the logits behind it; a short prompt is read again as fast."""
        if len(ids) < SHARED_TOKENS:
            return
        self.prompts[ids] = cache, logits_1V
        self.prompts.move_to_end(ids)
        while sum(map(len, self.prompts)) > self.max_tokens:
            self.prompts.popitem(last=False)

    def find(self, ids: tuple[int, ...]) -> tuple[SlotCache, int, Tensor | None] | None:
        """Return the longest beginning of a prompt that is kept: its cache, its length, and logits if it is all."""
        if ids in self.prompts:
            self.prompts.move_to_end(ids)
            return self.prompts[ids][0], len(ids), self.prompts[ids][1]
        start = ids[: min(SHARED_TOKENS, len(ids) - 1)]
        shared = {
            kept: min(count_shared(kept, ids), len(ids) - 1) for kept in self.prompts if kept[: len(start)] == start
        }
        best = max(shared, key=shared.__getitem__, default=())
        if shared.get(best, 0) < SHARED_TOKENS:
            return None
        self.prompts.move_to_end(best)
        return self.prompts[best][0].copy_row(0, shared[best]), shared[best], None


def count_shared(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Return the number of tokens that two prompts have in common at their beginning."""
    size = min(len(first), len(second))
    different = np.flatnonzero(np.array(first[:size]) != np.array(second[:size]))
    return int(different[0]) if len(different) else size
