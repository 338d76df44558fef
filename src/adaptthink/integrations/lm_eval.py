"""A model class for lm-evaluation-harness: our engine, modes and threshold under its tasks.

`adaptthink-lm-eval --model adaptthink --model_args model=tiny,mode=auto --tasks …`; in Python, import this module and
call `lm_eval.simple_evaluate(model="adaptthink", …)`. Only what follows the thought is handed to the task. A response
whose thought never closed gives an empty answer, and their number is said.

A context that the chat template rendered (`--apply_chat_template`) is taken as it is; any other becomes the one message
of a user, because there is no mode to choose outside a conversation.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from pydantic import Field
from tqdm import tqdm

from adaptthink.config.schema import EngineConfig, Share, check
from adaptthink.dial.decide import read_stored_threshold
from adaptthink.engines.base import Request
from adaptthink.errors import UserError
from adaptthink.models.loading import load_configured
from adaptthink.modes import Message, Mode, encode, is_rendered, render, rendered_ids
from adaptthink.sampling.engine import make_engine
from adaptthink.sampling.responses import GREEDY_TOP_P, Ask, answer_all, read_reply
from adaptthink.sampling.sampler import MaxTokens, stream_seed

logger = logging.getLogger("lm_eval.adaptthink")  # under the harness's own, whose verbosity it follows
REQUESTED_MODES: dict[str, Mode | None] = {"auto": None, "think": Mode.THINK, "no_think": Mode.NO_THINK}
# What a task may say beside its own limits, with the values that leave the sampling as it is.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_sample": (True, False),
    "min_p": (0,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "use_cache": (True, False),
}


class ModelArgs(EngineConfig):
    """What --model_args may hold."""

    mode: Literal["auto", "think", "no_think"] = Field("auto", description="auto: the model's or the threshold's.")
    threshold: Share | None = Field(
        None, description="P(no_think) from which on auto does not think; not given: the model folder's, if any."
    )


@dataclass(frozen=True, slots=True)
class Generation:
    """What a task asks of a response; a temperature of 0 is greedy."""

    max_tokens: int | None
    temperature: float
    top_p: float
    stops: tuple[str, ...]


@register_model("adaptthink")
class AdaptThinkLM(LM):
    """Answers the harness's requests, `max_concurrent_sequences` at a time; the harness's batch size changes nothing.

    Raises UserError for unknown model_args, and for what a model with modes cannot give.
    """

    def __init__(
        self,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__()
        self.args = check(ModelArgs, model_args)
        self.mode = REQUESTED_MODES[self.args.mode]
        if device and torch.cuda.is_available():  # the harness says cuda:0 by itself, on any machine
            self.args = self.args.model_copy(update={"device": device})
        policy = load_configured(self.args)
        stored = read_stored_threshold(policy) if self.args.threshold is None else self.args.threshold
        self.threshold = None if self.mode else stored
        self.tokenizer, self.template = policy.tokenizer, policy.template
        self.engine = make_engine(policy, self.args)

    @property
    def tokenizer_name(self) -> str:
        """Part of the key under which the harness caches rendered requests."""
        return self.args.model.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The source of the chat template; there is but one."""
        return str(self.tokenizer.get_chat_template())

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation up to where the mode is decided."""
        if not add_generation_prompt:
            raise UserError(
                "the task begins the answer itself (gen_prefix), where the thought should begin; use a task without "
                "gen_prefix, or leave --apply_chat_template out"
            )
        return render(self.tokenizer, self.template, [Message(turn["role"], turn["content"]) for turn in chat_history])

    def prompt(self, context: str) -> str:
        """A context as rendered by the chat template, up to where the mode is decided."""
        if is_rendered(self.tokenizer, self.template, context):
            return context
        return render(self.tokenizer, self.template, [Message("user", context)])

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the answers, without their thoughts; stop texts hold for the answer only."""
        requested = [
            (str(context), read_generation(options)) for context, options in (request.args for request in requests)
        ]
        seen: Counter[str] = Counter()
        asks = []
        for context, generation in requested:
            max_tokens = [self.args.max_think_tokens, self.args.max_no_think_tokens]
            most = generation.max_tokens or max(max_tokens)
            asks.append(
                Ask(
                    prompt_ids=rendered_ids(self.tokenizer, self.template, self.prompt(context)),
                    streams=(stream_seed(self.args.seed, context, seen[context]),),
                    max_tokens=MaxTokens(*(min(most, cap) for cap in max_tokens)),
                    mode=self.mode,
                    threshold=self.threshold,
                    temperature=generation.temperature,
                    top_p=generation.top_p,
                )
            )
            seen[context] += 1  # a repeat of a request is another draw
        with tqdm(total=len(asks), desc="responses", disable=disable_tqdm) as bar:
            answers = answer_all(
                self.engine, self.template, asks, seed=self.args.seed, on_answer=lambda *_: bar.update()
            )
        replies = [
            read_reply(
                self.tokenizer, self.template, answer.completions[0], forced=answer.forced, stops=generation.stops
            )
            for answer, (_, generation) in zip(answers, requested, strict=True)
        ]
        unanswered = sum(reply.answer is None for reply in replies)
        if unanswered:
            logger.warning(
                "%d of %d responses reached their cap before an answer and count as empty; raise max_gen_toks "
                "(--gen_kwargs) or max_think_tokens (--model_args)",
                unanswered,
                len(replies),
            )
        no_think = sum(reply.mode is Mode.NO_THINK for reply in replies)
        logger.info("%d of %d responses without thinking", no_think, len(replies))
        texts = [reply.answer or "" for reply in replies]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log P(continuation | context, no_think) and whether it is what greedy decoding gives.

        White space before the continuation is left out, as it begins a turn of its own. Raises UserError in any other
        mode: behind a thought, the probability of an answer would be a sum over all thoughts.
        """
        if self.mode is not Mode.NO_THINK:
            raise UserError(
                f"the task compares log-likelihoods of given answers, which mode={self.args.mode} does not define (the "
                "answer follows a thought that is drawn); use --model_args mode=no_think, or a task that generates"
            )
        prefix = self.template.no_think_prefix_ids
        pairs = [self.encode_pair(*request.args) for request in requests]
        longest: dict[tuple[int, ...], int] = {}
        for prompt, ids in pairs:
            longest[prompt] = max(longest.get(prompt, 0), len(ids))
        scoring = [Request(prompt, len(prefix + ids), 0, prefix + ids) for prompt, ids in pairs]
        decoding = [Request(prompt, len(prefix) + length, 0, prefix) for prompt, length in longest.items()]
        scored = self.engine.generate(scoring, temperature=1.0)
        decoded = self.engine.generate(decoding, temperature=1.0, top_p=GREEDY_TOP_P)
        greedy = {prompt: completion.token_ids for prompt, completion in zip(longest, decoded, strict=True)}
        found = [
            (sum(completion.logprobs[len(prefix) :]), greedy[prompt][: len(prefix + ids)] == prefix + ids)
            for completion, (prompt, ids) in zip(scored, pairs, strict=True)
        ]
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return found

    def encode_pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids of a context, and of a given answer behind the no_think prefix; UserError if they merge."""
        text = self.prompt(context)
        prompt = rendered_ids(self.tokenizer, self.template, text)
        head = prompt + self.template.no_think_prefix_ids
        before = text.removesuffix(self.template.cut) + self.template.no_think_text
        whole = encode(self.tokenizer, before + continuation.lstrip())
        if whole[: len(head)] != head:
            raise UserError(
                f"the answer {continuation[:40]!r} merges with the tokens before it, so its log-likelihood is not "
                "defined; use a task that generates"
            )
        return prompt, whole[len(head) :]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Refuse: the probability of a text outside a conversation has nothing to do with modes."""
        raise UserError(
            "the task measures the perplexity of plain texts, where there is no mode to choose; use the harness's own "
            "--model hf for it"
        )


def read_generation(options: Mapping[str, Any]) -> Generation:
    """Read a task's generation_kwargs; raises UserError for what would change the sampling and is not offered."""
    given = normalize_gen_kwargs(dict(options), default_max_gen_toks=0)
    known = {"until", "max_gen_toks", "temperature", "top_p"}
    for name, value in given.items():
        if name not in known and value is not None and value not in NEUTRAL.get(name, ()):
            raise UserError(
                f"the task asks for {name}={value!r}, which is not offered here; change it with --gen_kwargs"
            )
    return Generation(
        max_tokens=given["max_gen_toks"] or None,
        temperature=float(given.get("temperature") or 0.0),
        top_p=float(given.get("top_p") or 1.0),
        stops=tuple(given["until"]),
    )
