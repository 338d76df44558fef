"""The two rounds, with the native engine completing their requests one by one; the assembly is what is tested."""

import pytest
import torch

from adaptthink.engines.base import Finish, Request
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.rounds import Continuation, complete, derive_seed, score
from adaptthink.errors import UserError

PROMPT, OTHER = (5, 9, 17), (33, 4, 60)
NO_EOS = (10**6,)


class Continuer:
    """Completes requests with a native engine and records them."""

    def __init__(self, model, eos=NO_EOS):
        self.engine = NativeEngine(model, eos)
        self.batches = []

    def __call__(self, parts, on_continuation):
        self.batches.append(list(parts))
        results = [self.one(part) for part in parts]
        if on_continuation:
            for index in reversed(range(len(parts))):
                on_continuation(index, results[index])
        return results

    def one(self, part):
        request = Request(part.context_ids, part.max_tokens, 0, (), part.banned_ids)
        [done] = self.engine.generate([request], temperature=part.temperature, top_p=part.top_p, seed=part.seed)
        scored = ()
        if part.scored_ids:
            rows = self.engine.next_token_logprobs([part.context_ids], part.scored_ids, temperature=part.temperature)
            scored = tuple(rows[0])
        return Continuation(done.token_ids, done.logprobs, done.finish is Finish.STOP, scored)


def answer(continuer, requests, *, temperature=0.8, top_p=1.0, seed=1, capacity_tokens=100, on_finish=None):
    return complete(
        continuer,
        requests,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        capacity_tokens=capacity_tokens,
        on_finish=on_finish,
    )


def model_logprobs(model, context, temperature=0.8):
    with torch.inference_mode():
        return (model(torch.tensor([context])).logits[0, -1] / temperature).log_softmax(-1)


def test_forced_tokens_come_first_with_the_models_own_logprobs(random_model):
    [done] = answer(Continuer(random_model), [Request(PROMPT, 5, 0, prefix_ids=(41, 42))])
    assert done.token_ids[:2] == (41, 42)
    assert len(done.token_ids) == len(done.logprobs) == 5
    for t, token in enumerate(done.token_ids):
        expected = model_logprobs(random_model, PROMPT + done.token_ids[:t])[token].item()
        assert done.logprobs[t] == pytest.approx(expected, abs=1e-4)


def test_a_forced_token_is_scored_once_for_all_responses_that_share_it(random_model):
    continuer = Continuer(random_model)
    answer(continuer, [Request(PROMPT, 4, stream, prefix_ids=(41 + stream % 2,)) for stream in range(8)])
    [scoring, rest] = continuer.batches
    assert [(part.context_ids, part.scored_ids, part.top_p) for part in scoring] == [(PROMPT, (41, 42), 1.0)]
    assert len({part.seed for part in rest}) == 8


def test_a_ban_holds_at_the_first_sampled_position_alone(random_model):
    continuer = Continuer(random_model)
    plain = model_logprobs(random_model, (*PROMPT, 41))
    favourite = int(plain.argmax())
    [done] = answer(continuer, [Request(PROMPT, 4, 0, (41,), (favourite,))])
    [_, first], [rest] = continuer.batches
    assert (first.context_ids, first.max_tokens, first.banned_ids) == ((*PROMPT, 41), 1, (favourite,))
    assert (rest.context_ids, rest.max_tokens, rest.banned_ids) == ((*PROMPT, *done.token_ids[:2]), 2, ())
    assert first.seed != rest.seed
    renormalised = plain[done.token_ids[1]] - torch.log1p(-plain[favourite].exp())
    assert done.logprobs[1] == pytest.approx(renormalised.item(), abs=1e-4)


@pytest.mark.parametrize(
    ("request_", "length", "finish"),
    [
        (Request(PROMPT, 2, 0, (41, 42)), 2, Finish.LENGTH),  # the prefix fills max_tokens
        (Request(PROMPT, 2, 0, (41, 42, 43), (7,)), 2, Finish.LENGTH),  # and more than that
        (Request(PROMPT, 1, 0, (), (7,)), 1, Finish.LENGTH),  # the first token under a ban does
        (Request(PROMPT, 3, 0, (41,), (7,)), 3, Finish.LENGTH),
    ],
)
def test_caps_hold_where_the_first_round_meets_them(random_model, request_, length, finish):
    finished = []
    [done] = answer(Continuer(random_model), [request_], on_finish=lambda *ended: finished.append(ended))
    assert done.token_ids[: len(request_.prefix_ids)] == request_.prefix_ids[:length]
    assert (len(done.token_ids), len(done.logprobs), done.finish) == (length, length, finish)
    assert finished == [(0, done)]


def test_a_drawn_end_token_stops_and_a_forced_one_does_not(random_model):
    plain = model_logprobs(random_model, PROMPT)
    first, second = plain.topk(2).indices.tolist()
    continuer = Continuer(random_model, eos=(second,))
    [stopped] = answer(continuer, [Request(PROMPT, 9, 0, (), (first,))], temperature=0.01)
    assert (stopped.token_ids, stopped.finish) == ((second,), Finish.STOP)
    [forced] = answer(continuer, [Request(PROMPT, 2, 0, (second,))])
    assert len(forced.token_ids) == 2


def test_the_longest_caps_start_first_and_answers_keep_their_order(random_model):
    continuer, finished = Continuer(random_model), []
    max_tokens = [3, 9, 1, 9]
    done = answer(
        continuer,
        [Request(PROMPT, limit, limit) for limit in max_tokens],
        on_finish=lambda *ended: finished.append(ended),
    )
    assert [len(completion.token_ids) for completion in done] == max_tokens
    assert [part.max_tokens for part in continuer.batches[0]] == [9, 9, 3, 1]
    assert sorted(finished, key=lambda ended: ended[0]) == list(enumerate(done))


def test_draws_follow_from_seed_stream_and_round():
    seeds = {derive_seed(*key, round_number=n) for key in [(0, 1), (1, 0), (0, 2**70), (-1, 1)] for n in (1, 2)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_scores_are_asked_for_in_small_parts(random_model):
    continuer = Continuer(random_model)
    rows = score(continuer, [PROMPT, OTHER, PROMPT], range(40), 0.8)
    assert [len(part.scored_ids) for part in continuer.batches[0]] == [16, 16, 8] * 2
    assert rows[0] == rows[2]
    assert rows[1] == pytest.approx(model_logprobs(random_model, OTHER)[:40].tolist(), abs=1e-4)


def test_nothing_asked_nothing_drawn(random_model):
    continuer = Continuer(random_model)
    assert answer(continuer, []) == []
    assert score(continuer, [], (1,), 1.0) == []
    assert continuer.batches == []


def test_what_vllm_would_change_is_refused(random_model):
    with pytest.raises(UserError, match=r"temperature 3 is outside 0\.01 to 2"):
        answer(Continuer(random_model), [Request(PROMPT, 5, 0)], temperature=3)
    with pytest.raises(UserError, match="max_no_think_tokens to 7"):
        answer(Continuer(random_model), [Request(PROMPT, 8, 0)], capacity_tokens=10)


def test_an_engine_that_breaks_its_word_is_found_out():
    def cut(parts, on_continuation):
        return [Continuation((1,), (-1.0,), stopped=False) for _ in parts]

    with pytest.raises(UserError, match="after 1 of 5 tokens"):
        answer(cut, [Request(PROMPT, 5, 0)])
    with pytest.raises(UserError, match="banned"):
        answer(cut, [Request(PROMPT, 5, 0, (), (1,))])
