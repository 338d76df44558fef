"""Requests and readings: what is forced, what counts, where the threshold lies, what a stop cuts."""

import math

import pytest

from adaptthink.engines.base import Completion, Finish, ScriptedEngine
from adaptthink.engines.native import NativeEngine
from adaptthink.modes import Message, Mode, encode_prompt, probe
from adaptthink.sampling.reading import Response, apply_stops, decode, join_response, read_response
from adaptthink.sampling.requests import MaxTokens
from adaptthink.sampling.responses import GREEDY_TOP_P, Decision, PromptRequest, complete_prompts

MAX_TOKENS = MaxTokens(think=20, no_think=8)
ONE, OTHER = (5, 6), (7, 8)


@pytest.fixture
def template(tokenizer):
    return probe(tokenizer)


class Spy(ScriptedEngine):
    """Records the calls too, not only the requests."""

    def __init__(self, script, **options):
        super().__init__(script, **options)
        self.calls, self.prefills = [], []

    def generate(self, requests, **options):
        self.calls.append((len(requests), options["temperature"], options["top_p"], options["seed"]))
        return super().generate(requests, **options)

    def next_token_logprobs(self, prompts, token_ids, **options):
        self.prefills.append(list(prompts))
        return super().next_token_logprobs(prompts, token_ids, **options)


def test_each_mode_is_forced_in_its_way_and_forced_tokens_count_toward_max_tokens(template):
    engine = Spy(lambda prompt, prefix: [9] * 30)
    requests = [PromptRequest(ONE, (1,), MAX_TOKENS, mode) for mode in (None, Mode.THINK, Mode.NO_THINK)]
    done = complete_prompts(engine, template, requests, seed=4)
    unconstrained, think, no_think = engine.requests
    assert (unconstrained.prefix_ids, unconstrained.banned_first_ids, unconstrained.max_tokens) == ((), (), 20)
    assert (think.prefix_ids, think.banned_first_ids, think.max_tokens) == (template.think_prefix_ids, (), 20)
    assert (no_think.prefix_ids, no_think.banned_first_ids) == (template.no_think_prefix_ids, ())
    assert no_think.max_tokens == 8
    assert [len(one.completions[0].token_ids) for one in done] == [20, 20, 8]
    assert engine.calls == [(3, 1.0, 1.0, 4)]
    assert engine.prefills == []  # without a threshold no probability is computed


def test_the_threshold_decides_from_one_prefill_and_equality_is_no_think(template):
    found = {ONE: 0.3, OTHER: 0.29}
    engine = Spy(lambda *_: [9], next_token=lambda prompt, token: math.log(found[prompt]))
    requests = [
        PromptRequest(ONE, (1,), MAX_TOKENS, threshold=math.exp(math.log(0.3))),
        PromptRequest(OTHER, (1,), MAX_TOKENS, threshold=0.3),
        PromptRequest(OTHER, (2,), MAX_TOKENS, threshold=0.2),
        PromptRequest((1,), (1,), MAX_TOKENS, Mode.THINK, threshold=0.2),  # requested: nothing is looked up
    ]
    done = complete_prompts(engine, template, requests)
    assert engine.prefills == [[ONE, OTHER]]
    assert [one.decision.mode for one in done] == [Mode.NO_THINK, Mode.THINK, Mode.NO_THINK, Mode.THINK]
    assert [one.decision.no_think_probability for one in done[:3]] == pytest.approx([0.3, 0.29, 0.29])
    assert done[3].decision == Decision(Mode.THINK, None)
    assert engine.requests[1].prefix_ids == template.think_prefix_ids


def test_requests_that_are_sampled_alike_are_one_batch_and_done_keep_their_order(template):
    engine = Spy(lambda prompt, prefix: [*prompt, 9])
    requests = [
        PromptRequest(ONE, (1, 2), MAX_TOKENS, temperature=0.7, top_p=0.9),
        PromptRequest(OTHER, (3,), MAX_TOKENS, temperature=0),
        PromptRequest((1,), (4,), MAX_TOKENS, temperature=0.7, top_p=0.9),
        PromptRequest((2,), (5,), MAX_TOKENS, temperature=0, top_p=0.5),
    ]
    handed = []
    done = complete_prompts(engine, template, requests, on_completed=lambda *pair: handed.append(pair))
    assert engine.calls == [(3, 0.7, 0.9, 0), (2, 1.0, GREEDY_TOP_P, 0)]
    assert [request.stream for request in engine.requests] == [1, 2, 4, 3, 5]
    assert [[c.token_ids[0] for c in one.completions] for one in done] == [[5, 5], [7], [1], [2]]
    assert handed == [(index, done[index]) for index in (0, 2, 1, 3)]


def test_temperature_0_is_the_most_likely_token(random_policy):
    engine = NativeEngine(random_policy.model, random_policy.eos_ids)
    requests = [PromptRequest((5, 9, 17), (stream,), MAX_TOKENS, temperature=0) for stream in range(3)]
    first, *others = [
        answer.completions[0].token_ids for answer in complete_prompts(engine, random_policy.template, requests)
    ]
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
    ("text", "finish", "thinking", "answer", "thinking_tokens"),
    [
        ("Alright\n1+1=2\n</think>2<|eos|>", "stop", "Alright\n1+1=2\n", "2", 8),
        ("Alright\n1+1=2\n</think>\n\n2;3", "length", "Alright\n1+1=2\n", "\n\n2;3", 8),
        ("Alright\n1+1=2", "length", "Alright\n1+1=2", None, 7),
        ("</think>\\boxed{2}<|eos|>", "stop", None, "\\boxed{2}", 0),
        ("Alright</think><|eos|>", "stop", "Alright", "", 1),
        ("<think>\n9</think>2<|eos|>", "stop", "\n9", "2", 3),
        ("\n</think>2<|eos|>", "stop", None, "2", 0),
        ("", "length", None, None, 0),
        # The thinking ends at the first close token; a second one stands in the answer.
        ("9</think>2</think>3<|eos|>", "stop", "9", "2</think>3", 1),
        ("</think>9</think>3<|eos|>", "stop", None, "9</think>3", 0),
    ],
)
def test_reading(tokenizer, template, text, finish, thinking, answer, thinking_tokens):
    response = read_response(tokenizer, template, completion(tokenizer, text, Finish(finish)))
    assert response == Response(
        mode=Mode.NO_THINK if text.startswith("</think>") else Mode.THINK,
        thinking=thinking,
        answer=answer,
        finish=Finish(finish),
        tokens=len(tokenizer.encode(text, add_special_tokens=False)),
        thinking_tokens=thinking_tokens,
    )
    assert response.final_answer == (answer if finish == "stop" else None)


def spelled(tokenizer, text):
    """Tokens of a text in which markers stand in ordinary characters."""
    return tuple(token for sign in text for token in tokenizer.encode(sign, add_special_tokens=False))


def test_a_close_marker_in_ordinary_tokens_is_text(tokenizer, template):
    end = (tokenizer.eos_token_id,)
    open_ended = spelled(tokenizer, "9</think>\\boxed{2}") + end
    response = read_response(tokenizer, template, Completion(open_ended, (0.0,) * len(open_ended), Finish.STOP))
    assert (response.thinking, response.answer) == ("9</think>\\boxed{2}", None)
    mentioned = (template.close_id, *spelled(tokenizer, "2 </think> 3"), *end)
    response = read_response(tokenizer, template, Completion(mentioned, (0.0,) * len(mentioned), Finish.STOP))
    assert (response.thinking, response.answer, response.thinking_tokens) == (None, "2 </think> 3", 0)


@pytest.mark.parametrize(
    ("stops", "answer", "finish"),
    [
        ((), "1+2\n\n3;4", "length"),
        (("\n\n",), "1+2", "stop"),  # those before and within the thinking, and around it, do not count
        ((";", "+"), "1", "stop"),
        (("9",), "1+2\n\n3;4", "length"),  # stands in the thinking only
        (("",), "1+2\n\n3;4", "length"),
    ],
)
def test_stops_hold_for_the_answer_only(tokenizer, template, stops, answer, finish):
    cut = completion(tokenizer, "Alright\n\n9\n\n</think>\n\n1+2\n\n3;4", Finish.LENGTH)
    response = apply_stops(read_response(tokenizer, template, cut), stops)
    assert (response.answer, response.finish) == (answer, finish)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Alright\n</think>2<|eos|>", "<think>\nAlright\n</think>2"),
        ("</think>2<|eos|>", "<think>\n</think>2"),
    ],
)
def test_joining_puts_back_what_the_prompt_ended_in(tokenizer, template, text, expected):
    prompt = decode(tokenizer, encode_prompt(tokenizer, template, "1+1=?"))
    assert join_response(read_response(tokenizer, template, completion(tokenizer, text)), template, prompt) == expected


def test_joining_where_the_prompt_opens_nothing(tokenizer, template):
    """As with templates that end the prompt in one of the markers: it is then the response that has it."""
    opened = read_response(tokenizer, template, completion(tokenizer, "<think>\n9</think>2<|eos|>"))
    closed = read_response(tokenizer, template, completion(tokenizer, "</think>2<|eos|>"))
    assert join_response(opened, template, "<|user|>1+1=?<|assistant|>") == "<think>\n9</think>2"
    assert join_response(closed, template, "<|user|>1+1=?<|assistant|>") == "<think></think>2"


def test_thinking_that_never_ends_stays_open(tokenizer, template):
    prompt = decode(tokenizer, encode_prompt(tokenizer, template, [Message("user", "1+1=?")]))
    response = read_response(tokenizer, template, completion(tokenizer, "Alright\n1", Finish.LENGTH))
    assert join_response(response, template, prompt) == "<think>\nAlright\n1"
