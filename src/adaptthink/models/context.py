"""The context of a model: how many tokens prompt and response may have together, and whether they fit.

Beyond it a model meets positions that it was never trained on: with rotary embeddings it goes on, and writes nonsense.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from adaptthink.errors import UserError
from adaptthink.modes import ThinkTemplate, encode_prompt
from adaptthink.problems import Problem, encode_problem
from adaptthink.problems.files import shorten

# Kinds of rotary embeddings whose max_position_embeddings has the scaling in it.
SCALED_ALREADY = {"default", "llama3", "longrope", "su", "mrope", "proportional"}


def find_context_tokens(config: Any) -> int | None:
    """Return the tokens of prompt and response together that a model's config allows; None if it names no limit.

    With linear, dynamic or YaRN scaling of rotary embeddings the limit is `factor` times the original one.
    """
    text = config.get_text_config()
    tokens = getattr(text, "max_position_embeddings", None)
    if not isinstance(tokens, int) or tokens < 1:
        return None
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if not isinstance(scaling, Mapping) or not isinstance(scaling.get("factor"), int | float):
        return tokens
    if scaling.get("rope_type", scaling.get("type")) in SCALED_ALREADY:
        return tokens
    original = scaling.get("original_max_position_embeddings") or tokens
    return max(tokens, int(scaling["factor"] * original))


def check_context(
    context: int | None,
    tokenizer: Any,
    template: ThinkTemplate,
    problems: Iterable[Problem],
    limits: Mapping[str, int],
    *,
    given: Iterable[str] = (),
) -> str | None:
    """Raise UserError where a prompt and its response would not fit into a model's context; None: it names no limit.

    So do conversations whose roles the chat template refuses or leaves out.

    `limits` are the settings that limit responses, with their values. One that is not among those `given` is a default,
    which most responses stay far below: for that a line is returned, unless a prompt leaves no token for a response.
    Without limits that alone is checked.
    """
    if context is None:
        context = sys.maxsize
    key, limit = max(limits.items(), key=lambda item: item[1], default=("", 0))
    prefix = max(len(template.no_think_prefix_ids), len(template.think_prefix_ids))
    longest = find_longest(tokenizer, template, problems, context - max(limit, prefix + 1))
    if longest is None:
        return None
    problem, length = longest
    what = f"problem {problem.id}"
    return check_length(context, length, what, problem.prompt, prefix, key, limit, given=given)


def check_length(
    context: int, length: int, what: str, prompt: str, prefix: int, key: str, limit: int, *, given: Iterable[str] = ()
) -> str | None:
    """Do what `check_context` does for the prompt of `what`, of `length` tokens, where `key` limits its response.

    `prefix` is the number of tokens that may be forced at the beginning of the response.
    """
    left = context - length
    if left <= prefix:
        raise UserError(
            f"the prompt of {what} has {length} tokens, which leaves none for a response in the model's context of "
            f"{context} ({shorten(prompt)}); leave it out, or take a model with a longer context"
        )
    if left >= limit:
        return None
    text = f"a prompt of {length} tokens ({what}) and {key} = {limit} are more than the model's context of {context}"
    if key in given:
        raise UserError(f"{text}; give {key} = {left} or less")
    return f"{text}, behind which it writes nonsense; give {key} = {left} or less"


def find_longest(
    tokenizer: Any, template: ThinkTemplate, problems: Iterable[Problem], limit: int
) -> tuple[Problem, int] | None:
    """Return the problem with the longest prompt, and its tokens, if that is longer than `limit`; else None.

    A token holds a byte or more, so that conversations of few bytes need not be encoded, but for the first of each
    order of roles: a chat template may refuse it.
    """
    frame = len(encode_prompt(tokenizer, template, "1"))
    longest = None
    known: set[tuple[str, ...]] = {()}  # orders of roles before a question
    for problem in problems:
        least = limit if longest is None else max(limit, longest[1])
        roles = tuple(message.role for message in problem.context)
        if roles not in known or sum(len(message.content.encode()) + frame for message in problem.messages) > least:
            known.add(roles)
            length = len(encode_problem(tokenizer, template, problem))
            if length > least:
                longest = problem, length
    return longest
