"""A rollout for verl by transformers' `generate`, in a Ray actor (test support).

Requests are gathered into batches, since `generate` takes all at once: until as many wait as verl allows to run
(`rollout.max_num_seqs`), or until none has come for a moment. Different settings or token limits go apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

QUIET_SECONDS = 0.5  # without a new request, until a batch is taken as complete


def server_name(rank: int) -> str:
    """Return the name of a replica's actor."""
    return f"transformers_cpu_{rank}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What requests of one call to `generate` share."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    bias: tuple[tuple[int, float], ...]  # added to the logits of tokens, as vLLM's logit_bias


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request, and where its answer is awaited."""

    prompt_ids: list[int]
    settings: Settings
    answer: asyncio.Future[TokenOutput]


@ray.remote(num_cpus=0)
class Server:
    """Holds the model that generates."""

    def __init__(self, path: str, dtype: str, max_concurrent_sequences: int, max_tokens: int) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        ends = self.model.generation_config.eos_token_id
        self.ends = {ends} if isinstance(ends, int) else set(ends or ())
        self.max_concurrent_sequences, self.max_tokens = max_concurrent_sequences, max_tokens
        self.waiting: list[Waiting] = []
        self.arrived = asyncio.Event()
        self.weights_of_step: int | None = None
        self.serving: asyncio.Task[None] | None = None

    async def generate(
        self, prompt_ids: Sequence[int], sampling_params: dict[str, Any], request_id: str, **_: Any
    ) -> TokenOutput:
        """Answer one request."""
        settings = Settings(
            max_tokens=sampling_params.get("max_tokens", self.max_tokens),
            temperature=sampling_params.get("temperature", 1.0),
            top_k=sampling_params.get("top_k", -1),
            top_p=sampling_params.get("top_p", 1.0),
            bias=tuple((sampling_params.get("logit_bias") or {}).items()),
        )
        request = Waiting([int(token) for token in prompt_ids], settings, asyncio.get_running_loop().create_future())
        self.waiting.append(request)
        self.arrived.set()
        if self.serving is None or self.serving.done():
            self.serving = asyncio.create_task(self.serve())
        return await request.answer

    async def serve(self) -> None:
        """Answer all that wait, batch by batch."""
        while self.waiting:
            while len(self.waiting) < self.max_concurrent_sequences:
                self.arrived.clear()
                try:
                    await asyncio.wait_for(self.arrived.wait(), QUIET_SECONDS)
                except TimeoutError:
                    break
            batch, self.waiting = (
                self.waiting[: self.max_concurrent_sequences],
                self.waiting[self.max_concurrent_sequences :],
            )
            for settings in {request.settings for request in batch}:
                alike = [request for request in batch if request.settings == settings]
                try:
                    answers = self.complete([request.prompt_ids for request in alike], settings)
                except Exception as error:  # noqa: BLE001  # whoever waits must hear of it, whatever it is
                    for request in alike:
                        request.answer.set_exception(error)
                else:
                    for request, answer in zip(alike, answers, strict=True):
                        request.answer.set_result(answer)

    @torch.inference_mode()
    def complete(self, prompts: list[list[int]], settings: Settings) -> list[TokenOutput]:
        """Generate for prompts that share their settings, padded at the left."""
        width = max(map(len, prompts))
        samples_tokens = settings.temperature > 0
        sampling = {"temperature": settings.temperature, "top_k": max(settings.top_k, 0), "top_p": settings.top_p}
        out = self.model.generate(
            input_ids=torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts]),
            attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
            max_new_tokens=settings.max_tokens,
            do_sample=samples_tokens,
            **(sampling if samples_tokens else {}),
            sequence_bias={(token,): value for token, value in settings.bias} or None,
            output_scores=True,
            return_dict_in_generate=True,
        )
        chosen_BT = out.sequences[:, width:]
        logprob_BT = torch.stack(
            [
                scores_BV.log_softmax(-1).gather(1, chosen_B[:, None])[:, 0]
                for scores_BV, chosen_B in zip(out.scores, chosen_BT.T, strict=True)
            ],
            dim=1,
        )
        answers = []
        for tokens, logprobs in zip(chosen_BT.tolist(), logprob_BT.tolist(), strict=True):
            end = next((index + 1 for index, token in enumerate(tokens) if token in self.ends), len(tokens))
            answers.append(
                TokenOutput(
                    token_ids=tokens[:end],
                    log_probs=logprobs[:end],
                    stop_reason="completed",
                    extra_fields={"global_steps": self.weights_of_step},
                )
            )
        return answers

    async def load(self, weights: dict[str, Tensor], step: int | None) -> None:
        """Take the weights of a step; those that are tied to others need not come."""
        found = self.model.load_state_dict(weights, strict=False)
        missing = set(found.missing_keys) - set(self.model.all_tied_weights_keys)
        if missing or found.unexpected_keys:
            raise ValueError(f"weights do not fit: missing {sorted(missing)}, unexpected {found.unexpected_keys}")
        self.weights_of_step = step

    async def idle(self, **_: Any) -> None:
        """Do nothing: a CPU's memory is neither released nor resumed, and no batch can be interrupted."""

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = idle
    abort_all_requests = resume_generation = start_profile = stop_profile = idle


class Replica(RolloutReplica):
    """One server, beside one rank of the trainer."""

    async def launch_servers(self) -> None:
        """Start the actor; its weights come before the first request."""
        server = Server.options(name=server_name(self.replica_rank), max_concurrency=self.max_concurrency).remote(
            self.model_config.path, self.config.dtype, self.config.max_num_seqs, self.config.response_length
        )
        self.servers = [server]
        self._server_handle = server
        self._server_address = server_name(self.replica_rank)


class WeightSender(BaseRollout):
    """The trainer's end of a replica, in each of its ranks: sends the engine's own weight stream to the server."""

    async def resume(self, tags: list[str]) -> None:
        """There is nothing to resume."""

    async def release(self) -> None:
        """There is nothing to release."""

    async def update_weights(
        self,
        weights: Generator[tuple[str, Tensor], None, None],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **_: Any,
    ) -> None:
        """Send all weights; every rank has to fetch them, because gathering a sharded tensor is a collective."""
        gathered = {name: tensor.detach().clone() for name, tensor in weights}
        server = ray.get_actor(server_name(torch.distributed.get_rank()))
        await server.load.remote(gathered, global_steps)
