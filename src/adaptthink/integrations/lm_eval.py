"""A model class for lm-evaluation-harness: our engine, modes and threshold under its tasks.

`adaptthink-lm-eval --model adaptthink --model_args model=tiny,mode=auto --tasks …`; in Python, import this module and
call `lm_eval.simple_evaluate(model="adaptthink", …)`. Only the answer is passed to the task. A response whose thinking
never closed gives an empty answer, and the number of these is logged.

A context that the chat template rendered (`--apply_chat_template`) is taken as it is; any other becomes the one message
of a user, because there is no mode to choose outside a conversation.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from pydantic import Field
from tqdm import tqdm

from adaptthink.config.resolve import Source, settle
from adaptthink.config.schema import EngineConfig, ForceThink, RequestedMode, Share, Unread
from adaptthink.dial.decide import read_stored_dial
from adaptthink.engines.base import Request
from adaptthink.errors import UserError
from adaptthink.models.context import check_length, find_context_tokens
from adaptthink.models.loading import freeze_date, load_configured
from adaptthink.modes import Message, Mode, encode, encode_rendered, is_rendered, render
from adaptthink.sampling.engine import make_engine
from adaptthink.sampling.reading import apply_stops, read_response
from adaptthink.sampling.requests import MaxTokens, make_seed
from adaptthink.sampling.responses import GREEDY_TOP_P, PromptRequest, complete_prompts

logger = logging.getLogger("lm_eval.adaptthink")  # under the harness's own, whose verbosity it follows
REQUESTED_MODES: dict[str, Mode | None] = {"auto": None, "think": Mode.THINK, "no_think": Mode.NO_THINK}
# Other generation_kwargs of tasks, with the values that do not change the sampling.
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
    """The keys of --model_args."""

    mode: RequestedMode = Field("auto", description="auto: the model's or the threshold's.")
    threshold: Share | None = Field(
        None, description="P(no_think) from which on auto does not think; not given: the model folder's, if any."
    )

    force_think: ForceThink = Field(
        ForceThink.START, description="How requested thinking begins: with think_start, or with a ban of no_think."
    )

    def unread(self) -> Iterator[Unread]:
        """Yield the threshold where the mode is forced."""
        yield from super().unread()
        if self.mode != "auto":
            yield Unread(("threshold",), ("mode",), f"mode = '{self.mode}' decides", "give mode=auto, or leave it out")


@dataclass(frozen=True, slots=True)
class Generation:
    """A task's generation settings; a temperature of 0 is greedy."""

    max_tokens: int | None
    temperature: float
    top_p: float
    stops: tuple[str, ...]


@register_model("adaptthink")
class AdaptThinkLM(LM):
    """Answers the harness's requests, `max_concurrent_sequences` at a time; the harness's batch size changes nothing.

    Raises UserError for unknown model_args, and for tasks that a model with modes cannot run.
    """

    def __init__(
        self,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__()
        self.args = settle(ModelArgs, [Source("model_args", model_args, frozenset(model_args))])
        self.mode = REQUESTED_MODES[self.args.mode]
        if device and torch.cuda.is_available():  # the harness passes cuda:0 by default, on any machine
            self.args = self.args.model_copy(update={"device": device})
        policy = load_configured(self.args)
        dial = read_stored_dial(policy) if self.args.threshold is None else None
        policy, self.args = freeze_date(policy, self.args, dial.setting.prompt_date if dial else None)
        stored = dial.threshold.no_think_probability if dial else self.args.threshold
        self.threshold = None if self.mode else stored
        self.tokenizer, self.template = policy.tokenizer, policy.template
        self.context = find_context_tokens(policy.model.config)
        self.engine = make_engine(policy, self.args)

    @property
    def tokenizer_name(self) -> str:
        """Part of the key under which the harness caches rendered requests."""
        return "__".join(filter(None, [*self.args.model.split("/"), self.template.date]))

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the source of the chat template; there is only one."""
        return str(self.tokenizer.get_chat_template())

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a rendered conversation, up to where the mode is decided."""
        if not add_generation_prompt:
            raise UserError(
                "the task begins the answer itself (gen_prefix), where the thinking should begin; use a task without "
                "gen_prefix, or leave --apply_chat_template out"
            )
        return render(self.tokenizer, self.template, [Message(turn["role"], turn["content"]) for turn in chat_history])

    def prompt(self, context: str) -> str:
        """Return a context as rendered by the chat template, up to where the mode is decided."""
        if is_rendered(self.tokenizer, self.template, context):
            return context
        return render(self.tokenizer, self.template, [Message("user", context)])

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the answers, without thinking; stop texts apply to the answer only."""
        requested = [
            (str(context), read_generation(options)) for context, options in (request.args for request in requests)
        ]
        seen: Counter[str] = Counter()
        prompts = []
        for context, generation in requested:
            max_tokens = [self.args.max_think_tokens, self.args.max_no_think_tokens]
            limit = generation.max_tokens or max(max_tokens)
            prompts.append(
                PromptRequest(
                    prompt_ids=encode_rendered(self.tokenizer, self.template, self.prompt(context)),
                    streams=(make_seed(self.args.seed, context, seen[context]),),
                    max_tokens=MaxTokens(*(min(limit, tokens) for tokens in max_tokens)),
                    mode=self.mode,
                    threshold=self.threshold,
                    force_think=self.args.force_think,
                    temperature=generation.temperature,
                    top_p=generation.top_p,
                )
            )
            seen[context] += 1  # a repeated request gets another random stream
        self.check_lengths([(one.prompt_ids, max(one.max_tokens.think, one.max_tokens.no_think)) for one in prompts])
        with tqdm(total=len(prompts), desc="responses", disable=disable_tqdm) as bar:
            completed = complete_prompts(
                self.engine, self.template, prompts, seed=self.args.seed, on_completed=lambda *_: bar.update()
            )
        responses = [
            apply_stops(read_response(self.tokenizer, self.template, one.completions[0]), generation.stops)
            for one, (_, generation) in zip(completed, requested, strict=True)
        ]
        unanswered = sum(response.answer is None for response in responses)
        if unanswered:
            logger.warning(
                "%d of %d responses reached max_tokens before an answer and count as empty; raise max_gen_toks "
                "(--gen_kwargs) or max_think_tokens (--model_args)",
                unanswered,
                len(responses),
            )
        no_think = sum(response.mode is Mode.NO_THINK for response in responses)
        logger.info("%d of %d responses without thinking", no_think, len(responses))
        texts = [response.answer or "" for response in responses]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log P(continuation | context, no_think) and whether greedy decoding gives it.

        White space before the continuation is left out, as it begins a turn of its own. Raises UserError in any other
        mode: after thinking, the probability of an answer would be a sum over all possible thinking.
        """
        if self.mode is not Mode.NO_THINK:
            raise UserError(
                f"the task compares log-likelihoods of given answers, which mode={self.args.mode} does not define (the "
                "answer follows sampled thinking); use --model_args mode=no_think, or a task that generates"
            )
        prefix = self.template.no_think_prefix_ids
        pairs = [self.encode_pair(*request.args) for request in requests]
        self.check_lengths([(prompt, len(prefix + ids)) for prompt, ids in pairs])
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

    def check_lengths(self, requests: Sequence[tuple[tuple[int, ...], int]]) -> None:
        """Warn where a prompt and its response, of so many tokens, may go beyond the model's context.

        Raises UserError for a prompt that leaves no token for a response.
        """
        if self.context is None or not requests:
            return
        longest, _ = max(requests, key=lambda request: len(request[0]))
        most = max(requests, key=lambda request: len(request[0]) + request[1])
        prefix = max(len(self.template.think_prefix_ids), len(self.template.no_think_prefix_ids))
        for prompt, limit in ((longest, 0), most):
            text = str(self.tokenizer.decode(prompt))
            if line := check_length(self.context, len(prompt), "a request", text, prefix, "max_gen_toks", limit):
                logger.warning("%s", line)

    def encode_pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return token ids of a context, and of an answer behind the no_think prefix; UserError if they merge."""
        text = self.prompt(context)
        prompt = encode_rendered(self.tokenizer, self.template, text)
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
        """Raise UserError: the probability of a text outside a conversation has no mode."""
        raise UserError(
            "the task measures the perplexity of plain texts, where there is no mode to choose; use the harness's own "
            "--model hf for it"
        )


def read_generation(options: Mapping[str, Any]) -> Generation:
    """Return a task's generation_kwargs; raises UserError for those that would change the sampling."""
    given = normalize_gen_kwargs(dict(options), default_max_gen_toks=0)
    known = {"until", "max_gen_toks", "temperature", "top_p"}
    for name, value in given.items():
        if name not in known and value is not None and value not in NEUTRAL.get(name, ()):
            raise UserError(f"the task requests {name}={value!r}, which is not supported; change it with --gen_kwargs")
    return Generation(
        max_tokens=given["max_gen_toks"] or None,
        temperature=float(given.get("temperature") or 0.0),
        top_p=float(given.get("top_p") or 1.0),
        stops=tuple(given["until"]),
    )
