"""Asking and reading: what is forced, what counts, where the threshold falls, what a stop text cuts."""

import math

import pytest

from adaptthink.engines.base import Completion, Finish, ScriptedEngine
from adaptthink.engines.native import NativeEngine
from adaptthink.modes import Message, Mode, probe, prompt_ids
from adaptthink.sampling.responses import (
    GREEDY_TOP_P,
    Ask,
    Decided,
    answer_all,
    inline,
    read_reply,
)
from adaptthink.sampling.sampler import MaxTokens

CAPS = MaxTokens(think=20, no_think=8)
ONE, OTHER = (5, 6), (7, 8)


@pytest.fixture
def template(tokenizer):
    return probe(tokenizer)


class Spy(ScriptedEngine):
    """Remembers the calls too, not only the requests."""

    def __init__(self, script, **options):
        super().__init__(script, **options)
        self.calls, self.prefills = [], []

    def generate(self, requests, **options):
        self.calls.append((len(requests), options["temperature"], options["top_p"], options["seed"]))
        return super().generate(requests, **options)

    def next_token_logprobs(self, prompts, token_ids, **options):
        self.prefills.append(list(prompts))
        return super().next_token_logprobs(prompts, token_ids, **options)


def test_each_mode_is_forced_in_its_way_and_forced_tokens_do_not_count_toward_the_cap(template):
    engine = Spy(lambda prompt, prefix: [9] * 30)
    asks = [Ask(ONE, (1,), CAPS, mode) for mode in (None, Mode.THINK, Mode.NO_THINK)]
    answers = answer_all(engine, template, asks, seed=4)
    free, think, no_think = engine.requests
    assert (free.prefix_ids, free.banned_first_ids, free.max_tokens) == ((), (), 20)
    assert (think.prefix_ids, think.banned_first_ids, think.max_tokens) == ((), (template.no_think_id,), 20)
    assert (no_think.prefix_ids, no_think.banned_first_ids) == (template.no_think_prefix_ids, ())
    assert no_think.max_tokens == 8 + len(template.no_think_prefix_ids)
    assert [answer.forced for answer in answers] == [0, 0, 1]
    assert [len(answer.completions[0].token_ids) - answer.forced for answer in answers] == [20, 20, 8]
    assert engine.calls == [(3, 1.0, 1.0, 4)]
    assert engine.prefills == []  # without a threshold nothing is looked at


def test_the_threshold_decides_from_one_prefill_and_equality_is_no_think(template):
    found = {ONE: 0.3, OTHER: 0.29}
    engine = Spy(lambda *_: [9], next_token=lambda prompt, token: math.log(found[prompt]))
    asks = [
        Ask(ONE, (1,), CAPS, threshold=math.exp(math.log(0.3))),
        Ask(OTHER, (1,), CAPS, threshold=0.3),
        Ask(OTHER, (2,), CAPS, threshold=0.2),
        Ask((1,), (1,), CAPS, Mode.THINK, threshold=0.2),  # asked for: nothing is looked up
    ]
    answers = answer_all(engine, template, asks)
    assert engine.prefills == [[ONE, OTHER]]
    assert [answer.decision.mode for answer in answers] == [Mode.NO_THINK, Mode.THINK, Mode.NO_THINK, Mode.THINK]
    assert [answer.decision.no_think_probability for answer in answers[:3]] == pytest.approx([0.3, 0.29, 0.29])
    assert answers[3].decision == Decided(Mode.THINK, None)
    assert engine.requests[1].banned_first_ids == (template.no_think_id,)


def test_asks_that_are_sampled_alike_are_one_batch_and_answers_keep_their_order(template):
    engine = Spy(lambda prompt, prefix: [*prompt, 9])
    asks = [
        Ask(ONE, (1, 2), CAPS, temperature=0.7, top_p=0.9),
        Ask(OTHER, (3,), CAPS, temperature=0),
        Ask((1,), (4,), CAPS, temperature=0.7, top_p=0.9),
        Ask((2,), (5,), CAPS, temperature=0, top_p=0.5),
    ]
    handed = []
    answers = answer_all(engine, template, asks, on_answer=lambda index, answer: handed.append((index, answer)))
    assert engine.calls == [(3, 0.7, 0.9, 0), (2, 1.0, GREEDY_TOP_P, 0)]
    assert [request.stream for request in engine.requests] == [1, 2, 4, 3, 5]
    assert [[c.token_ids[0] for c in answer.completions] for answer in answers] == [[5, 5], [7], [1], [2]]
    assert handed == [(index, answers[index]) for index in (0, 2, 1, 3)]


def test_temperature_0_is_the_most_likely_token(random_policy):
    engine = NativeEngine(random_policy.model, random_policy.eos_ids)
    asks = [Ask((5, 9, 17), (stream,), CAPS, temperature=0) for stream in range(3)]
    first, *others = [answer.completions[0].token_ids for answer in answer_all(engine, random_policy.template, asks)]
    assert all(other == first for other in others)
    context = (5, 9, 17)
    for token in first:
        (logprobs,) = engine.next_token_logprobs([context], range(300))
        assert logprobs[token] == max(logprobs)
        context = (*context, token)


def completion(tokenizer, text, finish=Finish.STOP):
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    return Completion(ids, (0.0,) * len(ids), finish)


@pytest.mark.parametrize(
    ("text", "finish", "thinking", "answer", "tokens", "thinking_tokens", "ended"),
    [
        ("Alright\n1+1=2\n</think>2<|eos|>", "stop", "Alright\n1+1=2\n", "2", 11, 8, "stop"),
        ("Alright\n1+1=2\n</think>\n\n2;3", "length", "Alright\n1+1=2\n", "2;3", None, 8, "length"),
        ("Alright\n1+1=2", "length", "Alright\n1+1=2", None, 7, 7, "length"),
        ("</think>\\boxed{2}<|eos|>", "stop", None, "\\boxed{2}", None, 0, "stop"),
        ("Alright</think><|eos|>", "stop", "Alright", "", 3, 1, "stop"),
    ],
)
def test_reading(tokenizer, template, text, finish, thinking, answer, tokens, thinking_tokens, ended):
    reply = read_reply(tokenizer, template, completion(tokenizer, text, Finish(finish)), forced=0)
    assert (reply.thinking, reply.answer, reply.finish, reply.thinking_tokens) == (
        thinking,
        answer,
        ended,
        thinking_tokens,
    )
    assert reply.tokens == (tokens or len(tokenizer.encode(text)))
    assert reply.mode is (Mode.NO_THINK if text.startswith("</think>") else Mode.THINK)


def test_forced_tokens_are_not_counted_as_generated(tokenizer, template):
    reply = read_reply(tokenizer, template, completion(tokenizer, "</think>2<|eos|>"), forced=1)
    assert (reply.tokens, reply.thinking_tokens, reply.answer) == (2, 0, "2")


@pytest.mark.parametrize(
    ("stops", "answer", "finish"),
    [
        ((), "1+2\n\n3;4", "length"),
        (("\n\n",), "1+2", "stop"),  # those before and within the thought, and around it, do not count
        ((";", "+"), "1", "stop"),
        (("9",), "1+2\n\n3;4", "length"),  # stands in the thought only
        (("",), "1+2\n\n3;4", "length"),
    ],
)
def test_stop_texts_hold_for_the_answer_only(tokenizer, template, stops, answer, finish):
    cut = completion(tokenizer, "Alright\n\n9\n\n</think>\n\n1+2\n\n3;4", Finish.LENGTH)
    reply = read_reply(tokenizer, template, cut, forced=0, stops=stops)
    assert (reply.answer, reply.finish) == (answer, finish)
    assert reply.head == "Alright\n\n9\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Alright\n</think>2<|eos|>", "<think>\nAlright\n</think>2"),
        ("</think>2<|eos|>", "<think>\n</think>2"),
    ],
)
def test_inline_puts_back_what_the_prompt_ended_in(tokenizer, template, text, expected):
    prompt = prompt_ids(tokenizer, template, "1+1=?")
    reply = read_reply(tokenizer, template, completion(tokenizer, text), forced=0)
    assert inline(tokenizer, template, prompt, reply) == expected


def test_inline_without_an_opener_in_the_prompt(tokenizer, template):
    """As with templates that end the prompt in one of the markers: it is then the response that has it."""
    prompt = tokenizer.encode("<|user|>1+1=?<|assistant|>", add_special_tokens=False)
    opened = read_reply(tokenizer, template, completion(tokenizer, "<think>\n9</think>2<|eos|>"), forced=0)
    closed = read_reply(tokenizer, template, completion(tokenizer, "</think>2<|eos|>"), forced=0)
    assert inline(tokenizer, template, prompt, opened) == "<think>\n9</think>2"
    assert inline(tokenizer, template, prompt, closed) == "<think></think>2"


def test_an_unclosed_thought_stays_unclosed_inline(tokenizer, template):
    prompt = prompt_ids(tokenizer, template, [Message("user", "1+1=?")])
    reply = read_reply(tokenizer, template, completion(tokenizer, "Alright\n1", Finish.LENGTH), forced=0)
    assert inline(tokenizer, template, prompt, reply) == "<think>\nAlright\n1"
