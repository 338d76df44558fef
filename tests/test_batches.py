"""Micro-batches: nothing lost, nothing above the limit, and the cheapest division of an order."""

import random
from itertools import combinations, pairwise

import pytest

from adaptthink.models.batches import BATCH_COST, SHARED_COST, Batch, divide, make_micro_batches


def work(seed, count):
    """Random prompts, few of them different, and responses of very different lengths."""
    generator = random.Random(seed)
    known = [(*tuple(range(generator.randint(1, 30))), number) for number in range(3)]
    prompts = [generator.choice(known) for _ in range(count)]
    return prompts, [tuple(range(generator.choice([1, 2, 5, 40, 200]))) for _ in range(count)]


def cost_of(batch, prompts, responses, *, sharing):
    """Tokens of one batch by plain counting."""
    rows = [(prompts[index], responses[index]) for index in batch]
    separate = len(rows) * max(len(prompt) + len(response) - 1 for prompt, response in rows)
    shared = len({prompt for prompt, _ in rows}) * max(len(prompt) for prompt, _ in rows)
    shared += len(rows) * (max(len(response) for _, response in rows) - 1)
    return shared if sharing and shared <= SHARED_COST * separate else separate


@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_division_is_the_cheapest_of_all(seed, sharing):
    prompts, responses = work(seed, 9)
    order, limit = list(range(9)), 700
    found, batches = divide(order, prompts, responses, limit, sharing=sharing)

    def price(cuts):
        bounds = [0, *cuts, 9]
        parts = [order[start:end] for start, end in pairwise(bounds)]
        tokens = [cost_of(part, prompts, responses, sharing=sharing) for part in parts]
        if any(count > limit and len(part) > 1 for count, part in zip(tokens, parts, strict=True)):
            return float("inf")
        return sum(tokens) + BATCH_COST * len(parts)

    best = min(price(cuts) for size in range(9) for cuts in combinations(range(1, 9), size))
    assert found == best
    assert [index for batch in batches for index in batch.indices] == order
    assert price([batch.indices[0] for batch in batches[1:]]) == best
    for batch in batches:
        least, plain = (cost_of(batch.indices, prompts, responses, sharing=shared) for shared in (sharing, False))
        assert batch.shared == (least < plain)


@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("limit", [1, 100, 1000, 10**6])
def test_every_response_is_in_one_batch_and_the_limit_holds(limit, sharing):
    prompts, responses = work(1, 200)
    batches = make_micro_batches(prompts, responses, limit, sharing=sharing)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(200))
    for batch in batches:
        assert len(batch.indices) == 1 or cost_of(batch.indices, prompts, responses, sharing=sharing) <= limit


def test_sharing_runs_fewer_tokens_than_not_sharing():
    prompts, responses = work(2, 200)
    totals = {
        sharing: sum(
            cost_of(batch.indices, prompts, responses, sharing=sharing)
            for batch in make_micro_batches(prompts, responses, 4096, sharing=sharing)
        )
        for sharing in (True, False)
    }
    assert totals[True] < 0.9 * totals[False]


def whole(prompts, responses, *, sharing=True):
    """All of them as the one batch that they make."""
    [batch] = make_micro_batches(prompts, responses, 10**6, sharing=sharing)
    return batch


def test_sharing_pays_by_hand():
    # Four responses of two tokens to a prompt of ten: one token of each is run, 10 + 4 against 4 × 11.
    assert whole([tuple(range(10))] * 4, [(1, 2)] * 4) == Batch([0, 1, 2, 3], True)
    # Two of a hundred to a prompt of ten: 10 + 2 × 99 = 208 against 2 × 109 = 218, less than a tenth.
    assert whole([tuple(range(10))] * 2, [tuple(range(100))] * 2) == Batch([0, 1], False)
    # Nothing to share.
    assert whole([(1, 2), (3, 4)], [(1, 2), (1, 2)]) == Batch([0, 1], False)
    # A model that cannot.
    assert whole([tuple(range(10))] * 4, [(1, 2)] * 4, sharing=False) == Batch([0, 1, 2, 3], False)


def test_nothing_to_run():
    assert make_micro_batches([], [], 100, sharing=True) == []
