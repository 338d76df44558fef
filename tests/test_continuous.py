"""Continuous batching: the same samples as the batch engine, and no job in another's way."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from adaptthink.engines import forward as forward_module
from adaptthink.engines.base import Completion, Finish, NonFiniteError, Request, ScriptedEngine
from adaptthink.engines.continuous import ContinuousBatch, _Row, count_shared, raise_close
from adaptthink.engines.jobs import Closing, Job, WholeBatches, compute_distance
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.sampling import apply_top_p, choose_tokens
from adaptthink.models.loading import load_policy
from adaptthink.modes import encode_prompt

QUESTIONS = ("47+8-3=?", "5-3=?\n9+8=?", "9+8-4+6=?", "1+1=?")


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture(params=["fast path", "modules"])
def native(policy, request, monkeypatch):
    if request.param == "modules":
        monkeypatch.setattr(forward_module, "supports", lambda model: False)
    return NativeEngine(policy.model, policy.eos_ids)


@pytest.fixture(scope="module")
def prompts(policy):
    return [encode_prompt(policy.tokenizer, policy.template, question) for question in QUESTIONS]


@dataclass
class Client:
    """Records what a job gets."""

    requests: list[Request]
    tokens: dict[int, list[int]] = field(default_factory=dict)
    finishes: dict[int, Finish] = field(default_factory=dict)
    scores: list[float] | None = None
    errors: list[Exception] = field(default_factory=list)
    stop_after: int | None = None

    def job(self, **options):
        def begin(scores):
            self.scores = list(scores)
            return self.requests

        def on_token(choice, token, finish):
            self.tokens.setdefault(choice, []).append(token)
            if finish:
                self.finishes[choice] = finish
            return self.stop_after is None or len(self.tokens[choice]) < self.stop_after

        return Job(self.requests[0].prompt_ids, begin, on_token, self.errors.append, **options)

    @property
    def done(self):
        return len(self.finishes) == len(self.requests)


def run(batch):
    while not batch.idle:
        batch.step()


def alone(native, requests, *, temperature=1.0, top_p=1.0, seed=0):
    """What the batch engine gives each request when it is the only one."""
    return [native.generate([request], temperature=temperature, top_p=top_p, seed=seed)[0] for request in requests]


def check_same(client, completions):
    assert not client.errors
    for choice, completion in enumerate(completions):
        assert client.tokens[choice] == list(completion.token_ids)
        assert client.finishes[choice] is completion.finish


@pytest.mark.parametrize(
    ("temperature", "top_p", "prefix", "banned"),
    [(1.0, 1.0, 0, 0), (1.7, 0.9, 0, 0), (1.0, 1e-9, 1, 0), (1.3, 1.0, 0, 1)],
)
def test_a_job_alone_gets_what_the_batch_engine_gives(policy, native, prompts, temperature, top_p, prefix, banned):
    template = policy.template
    request = Request(
        prompts[0],
        60,
        stream=12345,
        prefix_ids=template.no_think_prefix_ids if prefix else (),
        banned_first_ids=(template.no_think_id,) if banned else (),
    )
    client = Client([request])
    batch = ContinuousBatch(native, seed=7)
    batch.submit(client.job(temperature=temperature, top_p=top_p))
    run(batch)
    check_same(client, alone(native, [request], temperature=temperature, top_p=top_p, seed=7))


def test_jobs_that_come_and_go_get_what_each_would_get_alone(native, prompts):
    """Different sampling settings, lengths, numbers of choices, and fewer rows than responses."""
    batch = ContinuousBatch(native, seed=3, max_concurrent_sequences=4, chunk_tokens=24)
    clients, options = [], []
    for number in range(12):
        streams = range(number * 10, number * 10 + 1 + number % 3)
        requests = [Request(prompts[number % 4], 5 + 7 * (number % 5), stream) for stream in streams]
        clients.append(Client(requests))
        options.append({"temperature": 1.0 + 0.1 * number, "top_p": 1.0 if number % 2 else 0.8})
    for number, client in enumerate(clients):
        batch.submit(client.job(**options[number]))
        for _ in range(number % 4):
            batch.step()
    run(batch)
    for client, settings in zip(clients, options, strict=True):
        check_same(client, alone(native, client.requests, seed=3, **settings))


def test_the_decision_is_read_off_the_prefill_of_the_answer(native, prompts, policy):
    ids = (policy.template.no_think_id, policy.template.think_id)
    client = Client([Request(prompts[0], 5, 1)])
    batch = ContinuousBatch(native)
    batch.submit(client.job(scored_ids=ids, temperature=0.3))
    run(batch)
    assert client.scores == pytest.approx(native.next_token_logprobs([prompts[0]], ids)[0], abs=1e-5)


def count_read(batch):
    """Record how many prompt tokens each forward pass of the batch reads."""
    read = []
    prefill, extend = batch.forward.prefill, batch.forward.extend

    def counted_prefill(ids, lengths, cache):
        read.append(int(lengths.sum()))
        return prefill(ids, lengths, cache)

    def counted_extend(ids, cache):
        read.append(ids.numel())
        return extend(ids, cache)

    batch.forward.prefill, batch.forward.extend = counted_prefill, counted_extend
    return read


def test_a_long_prompt_stops_nobody(policy, prompts):
    native = NativeEngine(policy.model, policy.eos_ids)
    batch = ContinuousBatch(native, chunk_tokens=16)
    read = count_read(batch)
    short, long = Client([Request(prompts[0], 40, 5)]), Client([Request(prompts[1] * 8, 20, 6)])
    batch.submit(short.job())
    batch.step()
    batch.submit(long.job())
    late = Client([Request(prompts[2], 3, 7)])
    steps = 0
    while not long.tokens:
        before = len(short.tokens[0])
        batch.step()
        steps += 1
        assert short.done or len(short.tokens[0]) == before + 1
        if steps == 2:
            batch.submit(late.job())
    assert steps == math.ceil(len(prompts[1]) * 8 / 16) > 4
    assert late.done
    assert max(read) <= 16
    run(batch)
    check_same(long, alone(native, long.requests))


def test_a_prompt_is_read_once_and_a_next_turn_reads_what_is_new(native, prompts):
    batch = ContinuousBatch(native, chunk_tokens=1000)
    read = count_read(batch)
    first = prompts[0] * 4
    requests = [[Request(first, 9, stream) for stream in (1, 2, 3)], [Request(first + prompts[1], 9, 4)]]
    requests.append([Request(first, 9, 9)])
    for expected in requests:
        client = Client(expected)
        batch.submit(client.job())
        run(batch)
        check_same(client, alone(native, expected))
    assert read == [len(first), len(prompts[1])]


def test_what_is_kept_of_prompts_has_a_bound(native, prompts):
    longer = [prompt * 4 for prompt in prompts]
    batch = ContinuousBatch(native, prefix_tokens=len(longer[0]) + 1)
    for prompt in (longer[1], longer[0], prompts[2]):
        batch.submit(Client([Request(prompt, 2, 1)]).job())
        run(batch)
    assert list(batch.kept.prompts) == [longer[0]]  # the last that is worth it


def test_a_cancelled_job_leaves_at_the_next_step(native, prompts):
    batch = ContinuousBatch(native, max_concurrent_sequences=3)
    clients = [Client([Request(prompts[0], 200, n), Request(prompts[0], 200, n + 50)]) for n in range(2)]
    jobs = [client.job(temperature=3.0) for client in clients]
    for job in jobs:
        batch.submit(job)
    for _ in range(3):
        batch.step()
    jobs[0].cancelled = True
    had = {choice: len(ids) for choice, ids in clients[0].tokens.items()}
    batch.step()
    assert {choice: len(ids) for choice, ids in clients[0].tokens.items()} == had
    assert {row.job for row in batch.rows} == {jobs[1]}
    assert len(batch.rows) == 2  # the freed rows are used at once
    run(batch)
    check_same(clients[1], alone(native, clients[1].requests, temperature=3.0))


def test_a_client_that_has_enough_ends_its_choice(native, prompts):
    client = Client([Request(prompts[0], 200, 1), Request(prompts[0], 200, 2)], stop_after=4)
    batch = ContinuousBatch(native)
    batch.submit(client.job(temperature=2.0))
    run(batch)
    assert [len(ids) for ids in client.tokens.values()] == [4, 4]


def test_who_has_the_fewest_rows_is_next(native, prompts):
    """One owner's hundred choices leave the next free row to another's single one."""
    batch = ContinuousBatch(native, max_concurrent_sequences=2)
    many = Client([Request(prompts[0], 6, n) for n in range(100)])
    one = Client([Request(prompts[1], 3, 1)])
    batch.submit(many.job(owner="a", temperature=3.0))
    batch.step()
    batch.submit(many.job(owner="a"))
    batch.submit(one.job(owner="b"))
    for _ in range(12):
        batch.step()
    assert one.done
    assert len(many.finishes) < 10


def test_absurd_sampling_settings_are_bounded_and_harm_nobody(native, prompts):
    good, absurd = Client([Request(prompts[0], 20, 1)]), Client([Request(prompts[0], 20, 2)])
    batch = ContinuousBatch(native)
    batch.submit(good.job(temperature=1.2, top_p=0.9))
    batch.submit(absurd.job(top_p=1e-300))
    run(batch)
    check_same(good, alone(native, good.requests, temperature=1.2, top_p=0.9))
    check_same(absurd, alone(native, absurd.requests, top_p=1e-9))


def test_a_row_that_is_not_finite_fails_alone_and_leaves_nothing_behind(native, prompts):
    """The faulty row's keys and values become NaN too; the row that takes its place must not read them."""
    batch = ContinuousBatch(native, max_concurrent_sequences=2)
    bad, good = Client([Request(prompts[0], 50, 1)]), Client([Request(prompts[1], 50, 2)])
    batch.submit(bad.job(temperature=2.0))
    batch.submit(good.job())
    for _ in range(3):
        batch.step()
    with torch.inference_mode():
        for layer in batch.cache.slots:
            layer.states[:, 0] = torch.nan
    batch.step()
    assert [type(error) for error in bad.errors] == [NonFiniteError]
    late = Client([Request(prompts[2], 50, 3)])
    batch.submit(late.job())
    run(batch)
    for client in (good, late):
        check_same(client, alone(native, client.requests))


def test_a_fault_of_one_job_is_not_anothers(native, prompts, policy):
    batch = ContinuousBatch(native)
    clients = [Client([Request(prompts[0], 9, n)]) for n in range(4)]
    jobs = [client.job() for client in clients]

    def fail(*_):
        raise RuntimeError("mine")

    jobs[0].begin = jobs[1].on_token = fail
    jobs[3].prompt_ids = (10**6,)
    for job in jobs:
        batch.submit(job)
    run(batch)
    assert [[str(error) for error in client.errors] for client in clients[:3]] == [["mine"], ["mine"], []]
    assert "embeddings" in str(clients[3].errors[0])
    assert clients[2].done


def test_when_a_step_fails_all_jobs_hear_of_it_and_the_next_work(native, prompts):
    batch = ContinuousBatch(native)
    step, faults = batch.forward.step, [RuntimeError("out of memory")]
    batch.forward.step = lambda *args: step(*args) if not faults else (_ for _ in ()).throw(faults.pop())
    first, second = Client([Request(prompts[0], 9, 1)]), Client([Request(prompts[0], 9, 1)])
    batch.submit(first.job())
    run(batch)
    batch.submit(second.job())
    run(batch)
    assert [str(error) for error in first.errors] == ["out of memory"]
    check_same(second, alone(native, second.requests))


# Other engines.


def test_an_engine_of_batches_isolates_the_job_that_makes_a_batch_fail():
    engine = ScriptedEngine(lambda prompt, prefix: (8, 9, 2))
    generate, sizes = engine.generate, []

    def failing(requests, **options):
        sizes.append(len(requests))
        if any(request.stream == 13 for request in requests):
            raise RuntimeError("13")
        return generate(requests, **options)

    engine.generate = failing
    runner = WholeBatches(engine)
    clients = [Client([Request((5,), 9, stream)]) for stream in (1, 13, 3)]
    for client in clients:
        runner.submit(client.job())
    run(runner)
    assert sizes == [3, 1, 1, 1]
    assert [client.done for client in clients] == [True, False, True]
    assert [str(error) for error in clients[1].errors] == ["13"]


# Sampling.


def test_each_row_has_its_own_sampling_settings():
    """By hand: of two tokens with logits (ln 3, 0), temperature 0.5 makes odds of 9 to 1, and top_p 0.5 keeps one."""
    logits = torch.tensor([[math.log(3), 0.0]]).expand(4, 2)
    uniform = torch.tensor([0.89, 0.91, 0.99, 0.0], dtype=torch.float64)
    tokens, logprobs = choose_tokens(
        logits, uniform, np.array([0.5, 0.5, 1.0, 1.0]), np.array([1.0, 1.0, 0.5, 1.0]), banned={3: (0,)}, forced={}
    )
    assert tokens.tolist() == [0, 1, 0, 1]
    assert logprobs.tolist() == pytest.approx([math.log(0.9), math.log(0.1), 0.0, 0.0])
    tokens, logprobs = choose_tokens(logits, uniform, np.ones(4), np.full(4, 0.5), banned={}, forced={0: 1})
    assert (tokens[0], logprobs[0].item()) == (1, pytest.approx(math.log(0.25)))


def test_a_top_p_below_the_smallest_float_keeps_the_most_likely_token():
    kept = apply_top_p(torch.tensor([[0.2, 0.5, 0.3]]).log(), 1e-300)
    assert kept.tolist() == [[-math.inf, 0.0, -math.inf]]


def test_the_shared_beginning_of_two_prompts():
    assert [count_shared((1, 2, 3), other) for other in ((1, 2), (1, 3, 3), (2,), (1, 2, 3, 4))] == [2, 1, 0, 3]


def test_a_completion_is_what_it_was(native, prompts):
    """The record that the two engines share; a guard for `alone`."""
    [completion] = alone(native, [Request(prompts[0], 3, 1)])
    assert isinstance(completion, Completion)
    assert len(completion.token_ids) <= 3


def test_the_close_token_rises_towards_the_end_of_a_budget():
    """10 nats below the largest logit two tokens before the end, 5 one before it; a logit above that stays."""
    assert [compute_distance(position, 10, 2) for position in range(6, 12)] == [None, None, 10.0, 5.0, None, None]
    assert compute_distance(9, 10, 0) is None
    closing = Closing(close_id=1, budget=10, ids=(1,), ramp=2)
    job = Job((5,), lambda scores: [], lambda *args: True, pytest.fail, closing=closing)
    request = Request((5,), 20, 0)
    rows = [_Row(job, 0, request, position) for position in (7, 8, 9, 9)]
    rows[3].closed = True
    logits = torch.tensor([[2.0, -30.0, 0.0]] * 4)
    raise_close(logits, rows)
    assert logits[:, 1].tolist() == [-30.0, -8.0, -3.0, -30.0]
    likely = torch.tensor([[2.0, 1.0, 0.0]])
    raise_close(likely, [rows[2]])
    assert likely.tolist() == [[2.0, 1.0, 0.0]]
