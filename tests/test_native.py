"""The native engine against transformers' own generation and against full forward passes."""

import math

import numpy as np
import pytest
import torch

from adaptthink.engines.base import Finish, Request
from adaptthink.engines.forward import make_token_batches
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.sampling import apply_top_p, make_uniforms, sample_tokens
from adaptthink.errors import UserError

PROMPTS = [(5, 9, 17), (33, 4, 60, 61, 62, 7, 8), (100,), (33, 4, 60, 61, 62, 7, 8)]
NO_EOS = (10**6,)  # a token that no model samples


def requests(prompts=PROMPTS, *, max_tokens=12, **extra):
    return [Request(prompt, max_tokens, stream, **extra) for stream, prompt in enumerate(prompts)]


def engine(model, eos=NO_EOS, **extra):
    return NativeEngine(model, eos, **extra)


def recomputed_logprobs(model, request, completion, temperature):
    """Log-probability of every response token from one plain forward pass over the whole sequence."""
    ids = torch.tensor([request.prompt_ids + completion.token_ids])
    with torch.inference_mode():
        logprobs = (model(ids).logits[0] / temperature).log_softmax(-1)
    start = len(request.prompt_ids)
    return [logprobs[start + t - 1, token].item() for t, token in enumerate(completion.token_ids)]


def test_near_greedy_sampling_equals_transformers_generate(random_model):
    completions = engine(random_model).generate(requests(), temperature=1e-4)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        expected = random_model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert list(completion.token_ids) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_logprobs_are_those_of_a_full_forward_pass(random_model, temperature):
    requested = requests(prefix_ids=(41, 42))
    for request, completion in zip(
        requested, engine(random_model).generate(requested, temperature=temperature), strict=True
    ):
        assert completion.token_ids[:2] == (41, 42)
        expected = recomputed_logprobs(random_model, request, completion, temperature)
        assert list(completion.logprobs) == pytest.approx(expected, abs=2e-4)


def test_a_response_does_not_depend_on_the_rest_of_the_batch(random_model):
    together = engine(random_model).generate(requests(), temperature=1.0, seed=3)
    alone = [engine(random_model).generate([request], temperature=1.0, seed=3)[0] for request in requests()]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]


def test_rows_are_refilled_while_others_go_on(random_model):
    requested = [Request(PROMPTS[i % 4], 1 + 3 * (i % 5), i) for i in range(40)]
    wide = engine(random_model).generate(requested, temperature=1.0, seed=1)
    finished = []
    narrow = engine(random_model, max_concurrent_sequences=3).generate(
        requested, temperature=1.0, seed=1, on_finish=lambda *ended: finished.append(ended)
    )
    assert [c.token_ids for c in wide] == [c.token_ids for c in narrow]
    assert sorted(finished, key=lambda ended: ended[0]) == list(enumerate(narrow))
    assert [index for index, _ in finished] != list(range(40))  # as they end


def test_seed_and_stream_decide(random_model):
    same = engine(random_model).generate(requests(), temperature=1.0, seed=1)
    assert same == engine(random_model).generate(requests(), temperature=1.0, seed=1)
    assert same != engine(random_model).generate(requests(), temperature=1.0, seed=2)
    assert same[1].token_ids != same[3].token_ids  # the same prompt on another stream


def test_caps_hold_and_the_end_token_stops(random_model):
    long = engine(random_model).generate(requests(max_tokens=30), temperature=1.0)
    assert all(len(c.token_ids) == 30 and c.finish is Finish.LENGTH for c in long)
    end = long[0].token_ids[7]
    first = long[0].token_ids.index(end)
    stopped = engine(random_model, eos=(end,)).generate(requests(max_tokens=30), temperature=1.0)[0]
    assert stopped.token_ids == long[0].token_ids[: first + 1]
    assert stopped.finish is Finish.STOP


def test_a_forced_end_token_does_not_stop(random_model):
    completion = engine(random_model, eos=(41,)).generate([Request((5,), 4, 0, (41, 42))], temperature=1.0)[0]
    assert completion.token_ids[:2] == (41, 42)
    assert len(completion.token_ids) > 2


def test_banned_first_token_is_never_drawn_and_the_rest_renormalised(random_model):
    unconstrained = engine(random_model).next_token_logprobs([PROMPTS[0]], range(300))[0]
    favourite = int(np.argmax(unconstrained))
    requested = [Request(PROMPTS[0], 1, stream, (), (favourite,)) for stream in range(200)]
    for completion in engine(random_model).generate(requested, temperature=1.0):
        token = completion.token_ids[0]
        assert token != favourite
        expected = unconstrained[token] - math.log1p(-math.exp(unconstrained[favourite]))
        assert completion.logprobs[0] == pytest.approx(expected, abs=1e-4)


def test_sampled_frequencies_match_the_distribution(random_model):
    """4,000 samples of the first token against the model's probabilities: each within 4.5 standard errors."""
    num = 4000
    probability = np.exp(engine(random_model).next_token_logprobs([PROMPTS[1]], range(300))[0])
    requested = [Request(PROMPTS[1], 1, stream) for stream in range(num)]
    sampled = engine(random_model).generate(requested, temperature=1.0, seed=11)
    count = np.bincount([c.token_ids[0] for c in sampled], minlength=300)
    error = np.sqrt(num * probability * (1 - probability)) + 1e-9
    common = probability > 0.005
    assert (np.abs(count - num * probability)[common] / error[common]).max() < 4.5


def test_next_token_logprobs_equal_a_forward_pass(random_model):
    found = engine(random_model).next_token_logprobs(PROMPTS, (3, 77), temperature=0.6)
    for prompt, row in zip(PROMPTS, found, strict=True):
        with torch.inference_mode():
            expected = (random_model(torch.tensor([prompt])).logits[0, -1] / 0.6).log_softmax(-1)
        assert row == pytest.approx([expected[3].item(), expected[77].item()], abs=1e-4)


def test_nothing_asked_nothing_answered(random_model):
    assert engine(random_model).generate([], temperature=1.0) == []
    assert engine(random_model).next_token_logprobs([], (1,)) == []


def test_the_model_is_left_in_its_mode(random_model):
    random_model.train()
    engine(random_model).generate(requests(), temperature=1.0)
    assert random_model.training


def test_models_without_full_attention_are_refused(random_model):
    random_model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(UserError, match="sliding_attention"):
        engine(random_model)


def test_nucleus_by_hand():
    # 0.5 + 0.3 reaches 0.75, so the third is cut and the two are renormalised to 0.625 and 0.375.
    kept = apply_top_p(torch.tensor([[0.2, 0.5, 0.3]]).log(), 0.75).exp()
    assert kept[0].tolist() == pytest.approx([0.0, 0.625, 0.375])
    assert apply_top_p(torch.tensor([[0.9, 0.1]]).log(), 0.5).exp()[0].tolist() == pytest.approx([1.0, 0.0])


def test_draw_never_returns_an_impossible_token():
    logprob = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).repeat(3, 1)
    assert sample_tokens(logprob, torch.tensor([0.0, 0.5, 0.999999])).tolist() == [1, 1, 1]


def test_draw_by_hand():
    logprob = torch.tensor([[0.2, 0.5, 0.3]]).log().repeat(4, 1)
    assert sample_tokens(logprob, torch.tensor([0.0, 0.19, 0.21, 0.75])).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("size", [300, 1024, 1025, 5000])
def test_draws_invert_the_cumulative_distribution(size):
    """Against the same inversion in double precision by numpy; a sample next to a boundary may fall on either side."""
    generator = np.random.default_rng(0)
    logprob = torch.from_numpy(generator.normal(size=(500, size)) * 4).float().log_softmax(-1)
    logprob[:, ::3] = -torch.inf
    uniform = generator.random(500)
    cumulative = logprob.double().exp().numpy().cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    for row, token in enumerate(sample_tokens(logprob, torch.from_numpy(uniform)).tolist()):
        low, high = (np.searchsorted(cumulative[row], target[row] + shift, side="right")[0] for shift in (-1e-5, 1e-5))
        assert low <= token <= high
        assert logprob[row, token] > -torch.inf


def test_uniforms_are_uniform_and_independent_of_order():
    values = make_uniforms(5, np.arange(20000), np.full(20000, 3))
    assert values.min() >= 0
    assert values.max() < 1
    # Mean of 20,000 uniforms: standard error 0.00204; lag-one correlation: 0.0071.
    assert abs(values.mean() - 0.5) < 0.008
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
    assert make_uniforms(5, np.array([7]), np.array([3]))[0] == values[7]


def test_the_nucleus_does_not_depend_on_where_the_sort_begins(monkeypatch):
    torch.manual_seed(0)
    logprobs = (torch.randn(50, 97) * torch.linspace(0.1, 6, 50)[:, None]).log_softmax(-1)  # from flat to sharp
    found = {}
    for guess in (1, 8, 97):
        monkeypatch.setattr("adaptthink.engines.sampling.NUCLEUS_GUESS", guess)
        found[guess] = apply_top_p(logprobs, 0.9)
    assert 1 < found[97].isfinite().sum(-1).max() <= 97
    for guess in (1, 8):
        torch.testing.assert_close(found[guess], found[97])
    assert ((found[97].exp().sum(-1) - 1).abs() < 1e-5).all()
    mass = torch.where(found[97].isfinite(), logprobs.exp(), 0).sum(-1)
    assert (mass >= 0.9 - 1e-6).all()
    smallest = torch.where(found[97].isfinite(), logprobs.exp(), 2).min(-1).values
    assert (mass - smallest < 0.9).all()  # without its least likely token the set would be too small


def test_draw_inverts_the_distribution_across_blocks():
    torch.manual_seed(1)
    probabilities = torch.rand(1, 700).double() ** 8
    probabilities[0, 300:520] = 0
    cumulative = (probabilities / probabilities.sum()).cumsum(-1)[0]
    logprobs = (probabilities / probabilities.sum()).log().float()
    for index in (0, 1, 255, 256, 257, 299, 520, 698, 699):
        before = cumulative[index - 1].item() if index else 0.0
        middle = (before + cumulative[index].item()) / 2
        if cumulative[index].item() - before > 1e-6:
            assert sample_tokens(logprobs, torch.tensor([middle], dtype=torch.float64)).item() == index
    assert sample_tokens(logprobs, torch.tensor([0.0], dtype=torch.float64)).item() == 0
    last = sample_tokens(logprobs, torch.tensor([1 - 2.0**-53], dtype=torch.float64)).item()
    assert probabilities[0, last] > 0
    sampled = sample_tokens(logprobs.expand(5000, -1), torch.rand(5000, dtype=torch.float64))
    assert (probabilities[0, sampled] > 0).all()


def test_token_batches_by_hand():
    assert make_token_batches([3, 4, 2, 9, 1], budget=8) == [[0, 1], [2], [3], [4]]
    assert make_token_batches([], budget=8) == []
