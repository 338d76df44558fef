"""Evaluation of a model behind a chat endpoint: its setting, its requests, and its responses as samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from adaptthink.chat.base import ChatResponse, Endpoint, Prices, Question
from adaptthink.chat.client import ask_all
from adaptthink.config.chat import ChatConfig
from adaptthink.evaluation.run import Query, Respond, make_sample
from adaptthink.evaluation.store import REQUESTED_MODES, Decision, Sample, Setting
from adaptthink.sampling.requests import MaxTokens, make_seed


def make_endpoint(config: ChatConfig) -> Endpoint:
    """Return the chat endpoint that a config describes; raises UserError where its settings do not go together."""
    return Endpoint(
        url=config.chat,
        model=config.model,
        dialect=config.dialect,
        switch=config.switch,
        key_variable=config.key_variable,
        concurrency=config.concurrency,
        effort=config.effort,
        no_think_effort=config.no_think_effort,
        budget_tokens=config.budget_tokens,
        completion_cap=config.completion_cap,
        inline_thinking=config.inline_thinking,
        prices=Prices(config.price_input, config.price_output),
    )


def make_chat_setting(endpoint: Endpoint, config: ChatConfig) -> Setting:
    """Return the setting of an evaluation: the name stands for the weights, which are unknown.

    The address is no part of it, as the same server may be at another one tomorrow.
    """
    details = [
        endpoint.effort,
        endpoint.budget_tokens and f"{endpoint.budget_tokens} tokens",
        "the server's sampling" if config.server_sampling else None,
        f"no_think is {endpoint.no_think_effort}" if endpoint.no_think_effort != "none" else None,
    ]
    named = ", ".join(str(detail) for detail in details if detail)
    return Setting(
        model=endpoint.model,
        fingerprint=endpoint.model,
        temperature=config.temperature,
        top_p=config.top_p,
        max_think_tokens=config.max_think_tokens,
        max_no_think_tokens=config.max_no_think_tokens,
        seed=config.seed,
        switch=f"{endpoint.switch} ({named})" if named else str(endpoint.switch),
        force_think=None,
    )


def make_chat_responder(
    endpoint: Endpoint,
    config: ChatConfig,
    *,
    on_decision: Callable[[str, Decision], None] = lambda problem_id, decision: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> Respond:
    """Return a function that samples through a chat endpoint, many requests at a time, in the order they end.

    `on_decision` gets a problem's id and decision before the sample whose response states it.
    """
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)

    def question(query: Query) -> Question:
        mode = REQUESTED_MODES[query.requested]
        return Question(
            query.problem.prompt,
            mode,
            max_tokens.of(mode),
            temperature=None if config.server_sampling else config.temperature,
            top_p=None if config.server_sampling else config.top_p,
            seed=make_chat_seed(config.seed, query),
            context=query.problem.context,
        )

    def respond(queries: Sequence[Query], take: Callable[[Sample], None]) -> None:
        def ended(index: int, _: Question, response: ChatResponse) -> None:
            if response.no_think_probability is not None:
                on_decision(queries[index].problem.id, Decision(response.no_think_probability))
            take(make_chat_sample(queries[index], response, make_chat_seed(config.seed, queries[index])))

        ask_all(endpoint, map(question, queries), ended, on_message)

    return respond


def make_chat_seed(seed: int, query: Query) -> int:
    """Return the seed sent with one request: 31 bits, as some servers take no more."""
    return make_seed(seed, "evaluate", query.requested, query.problem.id, query.index) >> 33


def make_chat_sample(query: Query, response: ChatResponse, seed: int) -> Sample:
    """Return a chat endpoint's response as the sample that is stored."""
    sample = make_sample(query, response, seed)
    return replace(
        sample,
        prompt_tokens=response.prompt_tokens,
        tokens_estimated=response.tokens_estimated,
        seconds=None if response.seconds is None else round(response.seconds, 3),
    )
