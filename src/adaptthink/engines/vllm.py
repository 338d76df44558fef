"""vLLM in this program: token ids in, token ids and log-probabilities out, fresh weights after every update.

vLLM runs in a process of its own and keeps its own copy of the weights, so memory holds two. It is configured to return
"processed" log-probabilities: those of the distribution that is sampled from, after temperature, top_p and bans.

A response's random numbers follow from (seed, stream) alone. Its logits do not quite: vLLM does not promise the same
rounding for every batch, so where two tokens are nearly tied the batch may decide which of them is sampled.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from adaptthink.engines.base import Completion, OnFinish, Request
from adaptthink.engines.rounds import Continuation, ContinuationRequest, OnContinuation, complete, score
from adaptthink.engines.vllm_worker import EXTENSION, METHOD
from adaptthink.engines.weights import write_weights_folder
from adaptthink.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def start_vllm(
    path: str, eos_ids: Sequence[int], *, dtype: torch.dtype, max_concurrent_sequences: int, memory_share: float
) -> VllmEngine:
    """Start vLLM with the model at `path` (a folder or hub id). Takes half a minute or more.

    It runs on one GPU, or on the CPU where there is none, wherever the policy is. `memory_share` of the device's memory
    (of the machine's, on a CPU) is taken for weights and key/value cache. Raises UserError if vLLM is not installed or
    does not start.
    """
    # Set before vLLM is imported, and only where nothing was set: its logs would drown ours; nothing is sent anywhere.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import LLM  # noqa: PLC0415  (not installed everywhere, and slow to import)
    except ImportError as error:
        raise UserError(
            f"the vllm engine needs vLLM, which cannot be imported ({error}); install it in "
            "the project's folder with pip install '.[vllm]', or use --engine native"
        ) from None
    try:
        llm = LLM(
            path,
            dtype=str(dtype).removeprefix("torch."),
            skip_tokenizer_init=True,
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,
            max_model_len=-1,  # as long as the model allows and the memory holds
            max_num_seqs=max_concurrent_sequences,
            gpu_memory_utilization=memory_share,
            enforce_eager=not torch.cuda.is_available(),
            use_tqdm_on_load=False,
            worker_extension_cls=EXTENSION,
        )
    except (OSError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"vLLM did not start with '{path}': {first}; set VLLM_LOGGING_LEVEL=INFO to see its log, "
            "or use --engine native"
        ) from None
    return VllmEngine(llm, eos_ids)


class VllmEngine:
    """Generates with `llm`, a `vllm.LLM` with processed log-probabilities; `eos_ids` end a response."""

    def __init__(self, llm: Any, eos_ids: Sequence[int]) -> None:
        self.llm = llm
        self.eos_ids = tuple(sorted(set(eos_ids)))

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        on_finish: OnFinish | None = None,
    ) -> list[Completion]:
        """Complete every request, in order (see `Engine.generate` and `rounds.complete`)."""
        return complete(
            self._continue_all,
            requests,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            capacity_tokens=self.llm.model_config.max_model_len,
            on_finish=on_finish,
        )

    def next_token_logprobs(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Return log-probabilities of the next token from one prefill per prompt (see `Engine`)."""
        return score(self._continue_all, prompts, token_ids, temperature)

    def load_weights(self, model: PreTrainedModel) -> None:
        """Replace vLLM's weights by the model's, by way of a folder, and forget what was cached with the old ones."""
        with write_weights_folder(model) as folder:
            self.llm.collective_rpc(METHOD, args=(str(folder),))
        if not self.llm.reset_prefix_cache():
            raise UserError("vLLM kept its prefix cache of the old weights; let running requests finish first")

    def _continue_all(
        self, requests: Sequence[ContinuationRequest], on_continuation: OnContinuation
    ) -> list[Continuation]:
        from vllm import SamplingParams, TokensPrompt  # noqa: PLC0415  (as above)

        names = self.llm.enqueue(
            [TokensPrompt(prompt_token_ids=list(request.context_ids)) for request in requests],
            [
                SamplingParams(
                    max_tokens=request.max_tokens,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    seed=request.seed,
                    stop_token_ids=list(self.eos_ids),
                    ignore_eos=True,  # ours are the only end tokens
                    logit_bias=dict.fromkeys(request.banned_ids, -math.inf) or None,
                    logprobs=None if request.scored_ids else 0,
                    logprob_token_ids=list(request.scored_ids) or None,
                    detokenize=False,
                    flat_logprobs=True,
                )
                for request in requests
            ],
            use_tqdm=False,
        )
        # Requests are numbered; vLLM returns the number with a random tail, and its outputs carry the number alone.
        index_of = {name.partition("-")[0]: index for index, name in enumerate(names)}
        results: dict[int, Continuation] = {}
        while self.llm.llm_engine.has_unfinished_requests():
            for output in self.llm.llm_engine.step():
                if output.finished:
                    index = index_of[output.request_id]
                    results[index] = self._read(requests[index], output.outputs[0])
                    if on_continuation:
                        on_continuation(index, results[index])
        return [results[index] for index in range(len(requests))]

    def _read(self, request: ContinuationRequest, output: Any) -> Continuation:
        """Read what vLLM returned for one request: `output.logprobs[t]` maps token ids to log-probabilities."""
        tokens = tuple(output.token_ids)
        return Continuation(
            tokens,
            tuple(output.logprobs[t][token].logprob for t, token in enumerate(tokens)),
            stopped=output.finish_reason == "stop",
            scored=tuple(output.logprobs[0][token].logprob for token in request.scored_ids),
        )
