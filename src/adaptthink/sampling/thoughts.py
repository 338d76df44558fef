"""Whether a model thinks at all: think tokens in a tokenizer do not mean that its model knows them.

A model that never saw them writes its answer into the thought, or ends at once, and never closes it. Nothing can be
learned from such responses: all are unclosed, and have reward 0. The model needs a cold start (`training.sft`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from adaptthink.engines.base import Engine
from adaptthink.modes import Check, Mode, ThinkTemplate, encode_prompt
from adaptthink.sampling.reading import Response, read_response
from adaptthink.sampling.requests import MaxTokens, make_request

QUESTIONS = ("47+8=?", "63-7=?", "12+5=?", "30-9=?")
FINISHED = "\n47+8=55\n"  # what a thought about the first question may come to
MAX_TOKENS = 64
LEAST_CLOSE = 1e-3  # P(close token) behind a finished thought; merely added to SmolLM2 it has up to 5e-4
ADVICE = "it does not know how to think: give it a cold start (adaptthink sft, docs/how-to/cold_start.md)"


def check_thoughts(engine: Engine, tokenizer: Any, template: ThinkTemplate) -> Check:
    """Return whether a model closes the thoughts that it is made to begin, on a few small questions.

    Thoughts that are longer than a few dozen tokens are judged by the probability of the close token behind a finished
    one.
    """
    prompts = [encode_prompt(tokenizer, template, question) for question in QUESTIONS]
    limits = MaxTokens(MAX_TOKENS, MAX_TOKENS)
    requests = [make_request(template, prompt, Mode.THINK, number, limits) for number, prompt in enumerate(prompts)]
    completions = engine.generate(requests, temperature=0.6, top_p=0.95, seed=0)
    responses = [read_response(tokenizer, template, completion) for completion in completions]
    finished = (*prompts[0], *template.think_prefix_ids, *tokenizer(FINISHED, add_special_tokens=False)["input_ids"])
    [(logprob,)] = engine.next_token_logprobs([finished], (template.close_id,))
    return judge_thoughts(responses, math.exp(logprob), template.close)


def judge_thoughts(responses: Sequence[Response], close_probability: float, close: str) -> Check:
    """Return the check of responses that began as thoughts; the probability is that behind a finished thought."""
    closed = [one for one in responses if one.answer is not None]
    ended = [one for one in responses if one.answer is None and one.finished]
    of = f"of {len(responses)} thoughts"
    if closed:
        tokens = fmean(one.thinking_tokens for one in closed)
        return Check("thoughts", f"{len(closed)} {of} closed, after {tokens:.0f} tokens on average", ok=True)
    shown = f"P({close}) is {close_probability:.1e} behind a finished one"
    if ended:
        tokens = fmean(one.tokens for one in ended)
        found = f"{len(ended)} {of} ended without {close}, after {tokens:.0f} tokens on average"
        return Check("thoughts", f"{found}; {ADVICE}", ok=False)
    if close_probability < LEAST_CLOSE:
        return Check("thoughts", f"none {of} closed within {MAX_TOKENS} tokens, and {shown}; {ADVICE}", ok=False)
    return Check("thoughts", f"none {of} ended within {MAX_TOKENS} tokens; {shown}", ok=True)
