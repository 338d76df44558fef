"""Evaluation of a model behind a chat endpoint: its setting, its questions, and its replies as samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from adaptthink.chat.base import Dialect, Endpoint, Prices, Question, Reply, Switch
from adaptthink.chat.client import ask_all
from adaptthink.config.schema import EvaluateConfig
from adaptthink.evaluation.run import Query, Respond, policy_setting
from adaptthink.evaluation.store import REQUESTED_MODES, Sample, Setting
from adaptthink.sampling.sampler import MaxTokens, stream_seed


def make_endpoint(config: EvaluateConfig) -> Endpoint:
    """The chat endpoint that a config describes; raises UserError where its settings do not go together."""
    assert config.chat is not None
    return Endpoint(
        url=config.chat,
        model=config.model,
        dialect=Dialect(config.dialect),
        switch=Switch(config.switch),
        key_variable=config.key_variable,
        concurrency=config.concurrency,
        effort=config.effort,
        no_think_effort=config.no_think_effort,
        budget_tokens=config.budget_tokens,
        completion_cap=config.completion_cap,
        inline_thinking=config.inline_thinking,
        prices=Prices(config.price_input, config.price_output),
    )


def chat_setting(endpoint: Endpoint, config: EvaluateConfig) -> Setting:
    """The setting of an evaluation behind a chat endpoint: its model stands for weights that nobody can look at."""
    details = [endpoint.effort, endpoint.budget_tokens and f"{endpoint.budget_tokens} tokens"]
    details.append("the server's sampling" if config.server_sampling else None)
    details.append(f"no_think is {endpoint.no_think_effort}" if endpoint.no_think_effort != "none" else None)
    said = ", ".join(str(detail) for detail in details if detail)
    fingerprint = f"{endpoint.model} at {endpoint.url}"
    setting = policy_setting(endpoint.model, fingerprint, config)
    return replace(setting, switch=f"{endpoint.switch} ({said})" if said else str(endpoint.switch))


def chat_respond(endpoint: Endpoint, config: EvaluateConfig) -> Respond:
    """Answer through a chat endpoint, many questions at a time; samples come in the order in which they end."""
    max_tokens = MaxTokens(config.max_think_tokens, config.max_no_think_tokens)

    def question(query: Query) -> Question:
        return Question(
            query.problem.prompt,
            REQUESTED_MODES[query.requested],
            max_tokens.of(REQUESTED_MODES[query.requested]),
            temperature=None if config.server_sampling else config.temperature,
            top_p=None if config.server_sampling else config.top_p,
            seed=chat_seed(config.seed, query),
        )

    def respond(queries: Sequence[Query], take: Callable[[Sample], None]) -> None:
        def heard(index: int, _: Question, reply: Reply) -> None:
            take(read_reply(queries[index], reply, chat_seed(config.seed, queries[index])))

        ask_all(endpoint, map(question, queries), heard)

    return respond


def chat_seed(seed: int, query: Query) -> int:
    """The seed sent with one question: 31 bits, as some servers take no more."""
    return stream_seed(seed, "evaluate", query.requested, query.problem.id, query.index) >> 33


def read_reply(query: Query, reply: Reply, seed: int) -> Sample:
    """Turn a chat's reply into the sample that is kept."""
    return Sample(
        problem_id=query.problem.id,
        requested=query.requested,
        index=query.index,
        mode=reply.mode,
        thinking=reply.thinking,
        answer=reply.answer,
        finish=reply.finish,
        tokens=reply.tokens,
        thinking_tokens=reply.thinking_tokens,
        seed=seed,
        prompt_tokens=reply.prompt_tokens,
        tokens_estimated=reply.tokens_estimated,
    )
