"""One step by hand, exact accumulation, exact skipping, and a run that resumes as if it had never stopped."""

import copy
import errno
import json
import math
import os
import signal
import statistics
from dataclasses import replace

import pytest
import torch
from rollouts import make_rollout
from safetensors.torch import load_file

from adaptthink import api
from adaptthink.callbacks import Callback
from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.engines.base import NonFiniteError, ScriptedEngine
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import DivergedError, UserError
from adaptthink.grading import Verdict
from adaptthink.models.loading import Policy, find_eos_ids
from adaptthink.models.make_tiny import make_model
from adaptthink.modes import Mode, probe
from adaptthink.objective import policy_loss
from adaptthink.planning.roofline import Machine
from adaptthink.problems import make_problem
from adaptthink.problems.arithmetic import Split, generate_problems
from adaptthink.processes import Interruption, interrupt_on_signals
from adaptthink.sampling.sampler import Sampler
from adaptthink.storage.runs import read_metrics
from adaptthink.training import describe
from adaptthink.training import update as update_module
from adaptthink.training.advantages import compute_advantages, find_implicit_thinkers
from adaptthink.training.batch import Batch, summarise_rollout
from adaptthink.training.checkpoint import find_checkpoint
from adaptthink.training.credit import Credit, assign_evenly
from adaptthink.training.data import choose_problems, count_used, select_gradable, select_used, settle_reference
from adaptthink.training.describe import (
    compute_implicit_share,
    compute_roofline_seconds,
    measure_roofline,
    probe_responses,
)
from adaptthink.training.methods import check_method, credit_rollouts
from adaptthink.training.metrics import check_grading, describe_credit, describe_rollouts
from adaptthink.training.reference import Reference
from adaptthink.training.rollout import make_loss_mask
from adaptthink.training.train import Reporting, TrainingData, train
from adaptthink.training.update import compute_learning_rate, compute_micro_batch_loss, update

PROBLEM = make_problem("47+8=?", "55", level=1)


def config(**values):
    small = {
        "steps": 4, "problems_per_step": 2, "samples_per_problem": 4, "max_think_tokens": 12,
        "max_no_think_tokens": 5, "learning_rate": 1e-2, "temperature": 1.0, "checkpoint_every": 1,
        "probe_every": 2, "micro_batch_tokens": 200,
    }  # fmt: skip
    return check(TrainConfig, small | values)


def credit_values(rollouts, reference, settings):
    """The advantage of each rollout, which all of its tokens have."""
    credits = credit_rollouts(rollouts, reference, settings, step=1)
    assert all(credit.decision == credit.body for credit in credits)
    return torch.tensor([credit.body for credit in credits])


def rollout(response, logprobs, *, mode=Mode.THINK, verdict=Verdict.CORRECT, prompt=(5, 9, 17), num_forced=1):
    return make_rollout(PROBLEM, mode, prompt, response, logprobs, num_forced, verdict)


def batch():
    """Prompts and responses of different lengths, one forced token, behaviour values near a random model's."""
    return [
        rollout([60, 61, 62, 63], [-math.log(2), -5.0, -5.5, -6.0]),
        rollout([70, 71], [-math.log(2), -5.2], mode=Mode.NO_THINK, prompt=(5, 9, 17, 33, 34)),
        rollout([80, 81, 82], [-math.log(2), -1.0, -5.1], mode=Mode.NO_THINK, num_forced=2),
        rollout([90], [-5.0], prompt=(4,)),
        rollout([60, 65, 66, 67, 68], [-math.log(2), -5.0, -5.5, -6.0, -4.0], prompt=(7, 8)),
    ]


@pytest.fixture
def template(tokenizer):
    return probe(tokenizer)


ADVANTAGES = torch.tensor([0.3, -0.7, 0.05, 0.0, -1.0])


def gradients(model, rollouts, advantages, **values):
    """Gradient of one update, taken before the optimiser's step; in float64, so that rounding hides nothing."""
    model = copy.deepcopy(model).double()
    captured = {}

    class Spy(torch.optim.SGD):
        def step(self, *args, **kwargs):
            captured.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    optimizer = Spy(model.parameters(), lr=0.0)
    metrics = update(
        model, optimizer, rollouts, assign_evenly(advantages.tolist()), config(max_grad_norm=1e9, **values), step=1
    )
    return captured, metrics


def test_micro_batch_loss_equals_each_rollout_alone_on_a_plain_forward(random_model):
    rollouts, settings = batch(), config(ratio="sequence_mean", temperature=0.6)
    together = compute_micro_batch_loss(
        random_model, rollouts, assign_evenly(ADVANTAGES.tolist()), settings
    ).loss.loss_B
    for index, one in enumerate(rollouts):
        ids = torch.tensor([one.prompt_ids + one.response_ids])
        logprobs = (random_model(ids).logits[0] / 0.6).log_softmax(-1)
        start = len(one.prompt_ids)
        chosen = torch.stack([logprobs[start + t - 1, token] for t, token in enumerate(one.response_ids)])
        expected = policy_loss(
            chosen[None], torch.tensor([one.behavior_logprobs]), ADVANTAGES[index : index + 1],
            torch.tensor([make_loss_mask(one)]), clip=0.2, ratio="sequence_mean",
        )  # fmt: skip
        assert together[index].item() == pytest.approx(expected.loss_B.item(), abs=1e-5)


@pytest.mark.parametrize("ratio", ["sequence_mean", "sequence", "token"])
@pytest.mark.parametrize("tokens", [1, 8, 15, 24])
def test_gradient_is_the_same_for_every_micro_batch_size(random_model, ratio, tokens):
    whole, _ = gradients(random_model, batch(), ADVANTAGES, micro_batch_tokens=10**6, ratio=ratio)
    split, _ = gradients(random_model, batch(), ADVANTAGES, micro_batch_tokens=tokens, ratio=ratio)
    for name, gradient in whole.items():
        torch.testing.assert_close(
            split[name],
            gradient,
            rtol=1e-5,
            atol=1e-8,  # the model's norms are computed in float32
        )


def test_leaving_out_zero_advantages_does_not_change_the_gradient(random_model):
    rollouts = batch()
    skipped, metrics = gradients(random_model, rollouts, ADVANTAGES)
    # An advantage too small to matter, but not zero, is not skipped.
    kept, _ = gradients(random_model, rollouts, ADVANTAGES.where(ADVANTAGES != 0, 1e-12))
    assert metrics["loss"] != 0
    for name, gradient in kept.items():
        torch.testing.assert_close(skipped[name], gradient, rtol=1e-6, atol=1e-12)


def test_all_advantages_zero_is_a_step_without_gradient(random_model):
    before = [parameter.clone() for parameter in random_model.parameters()]
    optimizer = torch.optim.AdamW(random_model.parameters(), lr=0.1, weight_decay=0.0)
    metrics = update(random_model, optimizer, batch(), assign_evenly([0.0] * 5), config(), step=1)
    assert metrics["loss"] == 0
    assert metrics["grad_norm"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, random_model.parameters(), strict=True))


def test_the_half_survives_to_the_loss(random_policy, monkeypatch, tmp_path):
    """Whatever the policy thinks of the decision token, log 0.5 is what the loss divides by."""
    seen = []

    def spy(logprob_BT, behavior_BT, *args, **kwargs):
        seen.extend(behavior_BT[:, 0].tolist())
        return policy_loss(logprob_BT, behavior_BT, *args, **kwargs)

    monkeypatch.setattr("adaptthink.training.methods.adaptthink.policy_loss", spy)
    run_training(random_policy, config(steps=2), tmp_path)
    assert len(seen) > 0
    assert seen == pytest.approx([-math.log(2)] * len(seen))


def test_step_advantages_by_hand(template):
    rollouts = [
        rollout([1], [0.0], mode=Mode.NO_THINK),
        rollout([1], [0.0], mode=Mode.NO_THINK, verdict=Verdict.WRONG),
        rollout([1], [0.0]),
        rollout([1], [0.0], verdict=Verdict.TRUNCATED),
    ]
    reference = {PROBLEM.id: Reference(PROBLEM.id, (Verdict.CORRECT,) * 3 + (Verdict.WRONG,), (1, 1, 1, 1))}
    found = credit_values(rollouts, reference, config(delta=0.05))
    assert found.tolist() == pytest.approx([0.30, -0.70, 0.25, -0.75])


def test_a_rollout_that_cannot_be_graded_has_no_advantage(template):
    rollouts = [rollout([1], [0.0], verdict=Verdict.REFERENCE_UNPARSABLE), rollout([1], [0.0])]
    reference = {
        PROBLEM.id: Reference(PROBLEM.id, (Verdict.REFERENCE_UNPARSABLE, Verdict.CORRECT, Verdict.WRONG), (1, 1, 1))
    }
    assert credit_values(rollouts, reference, config(delta=0.05)).tolist() == [0.0, 0.5]
    assert credit_values(rollouts[:1], reference, config(delta=0.05)).tolist() == [0.0]


def test_a_problem_without_a_reference_reward_has_no_advantage():
    rollouts = [rollout([1], [0.0]), rollout([1], [0.0]), rollout([1], [0.0], verdict=Verdict.WRONG)]
    found = compute_advantages(Batch([summarise_rollout(one) for one in rollouts], [None, 0.0, 0.25], 0.0), 0.05)
    assert found.tolist() == [0.0, 1.0, -0.25]


def test_group_advantages_by_hand(template):
    """Two groups of three: rewards 1, 0, 1 (with delta on the first), and all alike."""
    verdicts = (Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, *[Verdict.WRONG] * 3)
    modes = (Mode.NO_THINK, *[Mode.THINK] * 5)
    rollouts = [rollout([1], [0.0], mode=mode, verdict=v) for mode, v in zip(modes, verdicts, strict=True)]
    other = make_problem("3+3=?", "6")
    rollouts[3:] = [replace(one, problem=other) for one in rollouts[3:]]
    grouped = config(method="grpo", samples_per_problem=3, no_think_share=0, delta=0.1)
    values = [1.1, 0.0, 1.0]
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    expected = [(value - mean) / deviation for value in values] + [0.0] * 3
    reference = {one.id: Reference(one.id, (Verdict.CORRECT,), (1,)) for one in (PROBLEM, other)}
    found = credit_values(rollouts, reference, grouped)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_group_advantages_need_a_group():
    with pytest.raises(UserError, match="samples_per_problem >= 2"):
        check_method(config(method="grpo", samples_per_problem=1, no_think_share=0))


def test_probe_responses_are_the_models_own_and_the_same_each_time(random_policy):
    pool = generate_problems(2, seed=0, split=Split.HELD_OUT)
    sampler = native_sampler(random_policy)
    seen = probe_responses(sampler, pool, config(probe_samples=3))
    assert seen == probe_responses(sampler, pool, config(probe_samples=3))
    assert seen != probe_responses(sampler, pool, config(probe_samples=3, seed=1))
    assert 0 < seen["probe_mean_tokens"] <= 12
    assert probe_responses(sampler, pool, config()) == {}


def thinking_openly(text):
    one = rollout([1], [0.0])
    return replace(one, response=replace(one.response, answer=text))


def in_words(text, **values):
    """A rollout that answers with `text` and did not think."""
    one = rollout([1], [0.0], mode=Mode.NO_THINK, **values)
    return replace(one, response=replace(one.response, answer=text))


def test_a_thought_in_disguise_loses_its_reward_and_nothing_else(template):
    rollouts = [
        in_words("\\boxed{55}"),
        in_words("Wait, 47+8 is \\boxed{55}"),
        in_words("Hmm, \\boxed{54}", verdict=Verdict.WRONG),
        thinking_openly("Wait, \\boxed{55}"),
        in_words("Wait", verdict=Verdict.REFERENCE_UNPARSABLE),
    ]
    reference = {PROBLEM.id: Reference(PROBLEM.id, (Verdict.CORRECT,) * 3 + (Verdict.WRONG,), (1, 1, 1, 1))}
    assert find_implicit_thinkers(rollouts) == {1, 2, 4}
    allowed = credit_values(rollouts, reference, config(delta=0.05))
    assert allowed.tolist() == pytest.approx([0.30, 0.30, -0.70, 0.25, 0.0])
    unrewarded = credit_values(rollouts, reference, config(delta=0.05, implicit_thinking="no_reward"))
    assert unrewarded.tolist() == pytest.approx([0.30, -0.70, -0.70, 0.25, 0.0])
    assert compute_implicit_share(rollouts) == 0.75
    assert compute_implicit_share([replace(rollouts[0], weight=3.0), rollouts[1]]) == 0.25
    assert compute_implicit_share([rollouts[3]]) is None


@pytest.mark.parametrize(("choice", "reward_of_no_think"), [("allowed", 1.0), ("no_reward", 0.0)])
def test_training_rewards_implicit_thinking_as_it_is_told(
    random_policy, tmp_path, monkeypatch, choice, reward_of_no_think
):
    seen = []

    def spy(model, rollouts, advantages, *_):
        seen.extend(credit.body for credit in advantages)
        return {"rollout_seconds": 0.0, "update_seconds": 0.0}

    monkeypatch.setattr("adaptthink.training.dump.compute_gradient", spy)
    monkeypatch.setattr(
        "adaptthink.training.train.collect",
        lambda sampler, pool, *_, **__: [replace(in_words("Wait. \\boxed{1}"), problem=pool[0])],
    )
    run_training(random_policy, config(steps=1, implicit_thinking=choice), tmp_path / "run")
    assert seen == pytest.approx([0.05 + reward_of_no_think - 0.5])
    [row] = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert row["implicit_share_no_think"] == 1.0
    assert row["reward_no_think"] == row["verdict_share_correct"] == 1.0  # what it would have earned


def test_training_stops_when_grading_fails_too_often():
    recent = [[Verdict.CORRECT] * 17 + [Verdict.TIMEOUT], [Verdict.ERROR, Verdict.WRONG]]
    check_grading(recent, 0.1, 7)
    with pytest.raises(UserError, match=r"step 7: grading timed out or failed on 10\.0% of the last responses"):
        check_grading(recent, 0.09, 7)


def test_rollout_metrics_by_hand():
    rollouts = [rollout([1, 2], [0, 0]), rollout([1, 2, 3, 4], [0] * 4, verdict=Verdict.TRUNCATED)]
    summaries = [summarise_rollout(one) for one in rollouts]
    metrics = describe_rollouts(summaries) | describe_credit(summaries, [Credit(0.0, 0.0), Credit(0.5, -1.0)])
    assert metrics["reward_think"] == 0.5
    assert metrics["mean_tokens_think"] == 3
    assert metrics["truncated_share_think"] == 0.5
    assert metrics["reward_no_think"] is None
    assert metrics["zero_advantage_share"] == 0.5
    shares = {str(verdict): metrics[f"verdict_share_{verdict}"] for verdict in Verdict}
    assert shares == dict.fromkeys(map(str, Verdict), 0.0) | {"correct": 0.5, "truncated": 0.5}
    assert metrics["response_tokens"] == 6


def test_every_epoch_sees_every_problem_once_in_its_own_order():
    pool = [make_problem(f"{n}+1=?", str(n + 1)) for n in range(7)]
    chosen = [problem for step in range(1, 8) for problem in choose_problems(pool, 3, seed=0, step=step)]
    epochs = [chosen[:7], chosen[7:14], chosen[14:21]]
    for epoch in epochs:
        assert sorted(problem.id for problem in epoch) == sorted(problem.id for problem in pool)
    assert epochs[0] != epochs[1]


def test_problems_that_cannot_be_graded_are_left_out():
    pool = [make_problem(f"{n}+1=?", str(n + 1)) for n in range(4)]
    verdicts = [Verdict.CORRECT, Verdict.REFERENCE_UNPARSABLE, Verdict.WRONG, Verdict.REFERENCE_UNPARSABLE]
    reference = {p.id: Reference(p.id, (verdict,), (1,)) for p, verdict in zip(pool, verdicts, strict=True)}
    assert list(select_gradable(pool, reference)) == [pool[0], pool[2]]


def test_more_problems_per_step_than_there_are():
    pool = [make_problem(f"{n}+1=?", str(n + 1)) for n in range(3)]
    assert len(choose_problems(pool, 8, seed=0, step=2)) == 8


def test_learning_rate_by_hand():
    constant = config(steps=10, learning_rate=1.0, warmup_steps=4)
    assert [compute_learning_rate(constant, step) for step in (1, 2, 4, 10)] == [0.25, 0.5, 1.0, 1.0]
    decay = config(steps=10, learning_rate=1.0, schedule="stable_decay")
    assert [compute_learning_rate(decay, step) for step in (1, 8, 9, 10)] == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3])


def fresh_policy(tokenizer):
    torch.manual_seed(0)
    model = make_model(tokenizer)
    template = probe(tokenizer)
    return Policy("random", model, tokenizer, template, find_eos_ids(model, tokenizer, template))


def native_sampler(policy):
    return Sampler(NativeEngine(policy.model, policy.eos_ids), policy.tokenizer, policy.template)


def run_training(policy, settings, folder, *, stop_after=None, sampler=None):
    pool = generate_problems(2, seed=0, split=Split.TRAIN)
    reference = {p.id: Reference(p.id, (Verdict.CORRECT, Verdict.WRONG), (5, 5)) for p in pool}
    folder.mkdir(exist_ok=True)

    def on_step(metrics):
        if metrics["step"] == stop_after:
            raise KeyboardInterrupt

    warnings = []
    data = TrainingData(pool, reference, held_out=pool[:2])
    train(policy, sampler or native_sampler(policy), data, settings, folder, Reporting(on_step, warnings.append))
    return warnings


def read_timeless(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in rows]


@pytest.mark.parametrize("token_share", [1.0, 0.6])
def test_an_interrupted_run_ends_as_an_uninterrupted_one_bit_for_bit(tokenizer, tmp_path, monkeypatch, token_share):
    monkeypatch.setattr(
        "adaptthink.training.allocation.UNIFORM_STEPS", 2
    )  # what step 5 samples depends on the log of steps 1 to 4
    settings = config(checkpoint_every=2, steps=6, token_share=token_share)
    straight = fresh_policy(tokenizer)
    run_training(straight, settings, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):  # after step 5 of 6, whose checkpoint is that of step 4
        run_training(fresh_policy(tokenizer), settings, tmp_path / "broken", stop_after=5)
    resumed = fresh_policy(tokenizer)
    assert run_training(resumed, settings, tmp_path / "broken") == []
    for (name, a), b in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    timeless = [read_timeless(folder) for folder in (tmp_path / "straight", tmp_path / "broken")]
    assert timeless[0] == timeless[1]
    assert [row["step"] for row in timeless[0]] == [1, 2, 3, 4, 5, 6]
    assert all(row["responses"] == 8 for row in timeless[0][:2])
    assert any(row["responses"] < 8 for row in timeless[0][2:]) == (token_share < 1)


@pytest.mark.parametrize("section", ["gradient", "probe"])
def test_a_signal_is_honoured_within_a_step_and_costs_nothing(tokenizer, tmp_path, monkeypatch, section):
    """Within the gradient the last step is saved; within a probe its own step is, and the probe is made up for."""
    settings = config(checkpoint_every=9, steps=4, probe_every=2)
    straight = fresh_policy(tokenizer)
    run_training(straight, settings, tmp_path / "straight")
    calls = []

    def interrupt(function, number):
        def wrapped(*args, **kwargs):
            calls.append(section)
            if len(calls) == number:
                signal.raise_signal(signal.SIGTERM)
            return function(*args, **kwargs)

        return wrapped

    if section == "gradient":
        loss = update_module.compute_micro_batch_loss
        monkeypatch.setattr(update_module, "compute_micro_batch_loss", interrupt(loss, 3))
    else:
        monkeypatch.setattr(NativeEngine, "next_token_logprobs", interrupt(NativeEngine.next_token_logprobs, 2))
    with pytest.raises(Interruption), interrupt_on_signals():
        run_training(fresh_policy(tokenizer), settings, tmp_path / "broken")
    found = read_metrics(tmp_path / "broken" / "metrics.jsonl")
    done = find_checkpoint(tmp_path / "broken" / "checkpoints", warn=pytest.fail)
    assert len(found) == done == 2
    assert ("probe_no_think_share" in found[-1]) is (section == "gradient")
    resumed = fresh_policy(tokenizer)
    run_training(resumed, settings, tmp_path / "broken")
    assert read_timeless(tmp_path / "broken") == read_timeless(tmp_path / "straight")
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_signal_saves_the_last_step_and_a_log_that_was_changed_since_is_refused(tokenizer, tmp_path):
    settings = config(checkpoint_every=9, steps=3)

    class Stopping(NativeEngine):
        def generate(self, *args, **kwargs):
            if (tmp_path / "run" / "metrics.jsonl").stat().st_size:  # while the second step samples
                raise Interruption(15)
            return super().generate(*args, **kwargs)

    policy = fresh_policy(tokenizer)
    sampler = Sampler(Stopping(policy.model, policy.eos_ids), policy.tokenizer, policy.template)
    with pytest.raises(Interruption):
        run_training(policy, settings, tmp_path / "run", sampler=sampler)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]
    log = tmp_path / "run" / "metrics.jsonl"
    content = log.read_text()
    log.write_text(content.replace('"samples": ', '"samples": 1'))
    with pytest.raises(UserError, match="step 1 is not as the training wrote it"):
        run_training(fresh_policy(tokenizer), settings, tmp_path / "run")
    log.write_text(content)
    run_training(fresh_policy(tokenizer), settings, tmp_path / "run")
    run_training(fresh_policy(tokenizer), settings, tmp_path / "straight")
    resumed, whole = (
        load_file(tmp_path / name / "checkpoints" / "step-000003" / "model.safetensors") for name in ("run", "straight")
    )
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(("step", "error"), [(1, NonFiniteError), (2, DivergedError)])
def test_logits_that_are_not_finite_are_the_trainings_fault_after_its_first_update(tokenizer, tmp_path, step, error):
    class Failing(NativeEngine):
        def generate(self, *args, **kwargs):
            if (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == step - 1:
                raise NonFiniteError("no")
            return super().generate(*args, **kwargs)

    policy = fresh_policy(tokenizer)
    sampler = Sampler(Failing(policy.model, policy.eos_ids), policy.tokenizer, policy.template)
    with pytest.raises(error) as caught:
        run_training(policy, config(steps=3), tmp_path / "run", sampler=sampler)
    assert type(caught.value) is error


def test_a_log_of_an_older_version_is_not_resumed(tokenizer, tmp_path):
    run_training(fresh_policy(tokenizer), config(steps=2), tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    rows = read_metrics(log)
    del rows[1]["strata"]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        run_training(fresh_policy(tokenizer), config(steps=3), tmp_path / "run")
    assert str(caught.value).startswith("cannot resume: step 2 was logged by an older version")
    assert "\n" not in str(caught.value)
    assert read_metrics(log) == rows


def test_the_engine_gets_the_weights_at_the_start_and_after_every_update(tokenizer, tmp_path):
    policy = fresh_policy(tokenizer)
    engine = ScriptedEngine(lambda prompt, prefix: [7, policy.eos_ids[0]])
    steps = []
    loads_of = engine.load_weights
    engine.load_weights = lambda model: (steps.append(len(engine.requests)), loads_of(model))
    run_training(policy, config(steps=2), tmp_path / "run", sampler=Sampler(engine, tokenizer, policy.template))
    half = len(engine.requests) // 2
    assert steps == [0, half, 2 * half]
    assert engine.num_loads == 3


def test_held_out_problems_are_probed_at_the_first_step_the_last_and_every_few(tokenizer, tmp_path):
    run_training(fresh_policy(tokenizer), config(steps=5, probe_every=2, probe_samples=1), tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    for key in ("probe_no_think_logprob", "probe_accuracy", "probe_seconds"):
        assert [row["step"] for row in rows if key in row] == [1, 2, 4, 5]


def test_a_full_disk_at_a_probe_is_reported_as_such(tokenizer, tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("adaptthink.storage.runs.replace_file", fail)
    with pytest.raises(OSError, match="No space left"):
        run_training(fresh_policy(tokenizer), config(steps=1, probe_every=1), tmp_path)


def test_a_finished_run_has_nothing_left_to_do(tokenizer, tmp_path):
    settings = config(steps=2)
    run_training(fresh_policy(tokenizer), settings, tmp_path / "run")
    again = fresh_policy(tokenizer)
    run_training(again, settings, tmp_path / "run", stop_after=3)
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 2


def test_the_step_moves_probability_toward_what_was_rewarded(random_policy):
    """One step on a good no_think answer raises the log-probability of each of its tokens."""
    template, model = random_policy.template, random_policy.model
    response = (template.no_think_id, 61, 62)
    ids = torch.tensor([(5, 9, 17, *response)])

    def logprobs():
        with torch.no_grad():
            table = model(ids).logits[0].log_softmax(-1)
        return [table[2 + t, token].item() for t, token in enumerate(response)]

    before = logprobs()
    good = rollout(response, [-math.log(2), before[1], before[2]], mode=Mode.NO_THINK)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    update(model, optimizer, [good], [Credit(1.0, 1.0)], config(learning_rate=1e-3), step=1)
    assert all(new > old for new, old in zip(logprobs(), before, strict=True))


def test_a_loss_that_is_not_finite_stops_the_run_and_says_so(random_model):
    with torch.no_grad():
        next(random_model.parameters()).fill_(float("nan"))
    optimizer = torch.optim.AdamW(random_model.parameters())
    with pytest.raises(UserError, match="step 1: loss nan"):
        update(random_model, optimizer, batch(), assign_evenly(ADVANTAGES.tolist()), config(), step=1)


def test_the_bound_is_of_the_arithmetic_that_generates(random_model, monkeypatch):
    """Where memory alone counts, half the bytes take half the time; the model's own weights are float32."""
    machine = Machine(flops_per_second=math.inf, bytes_per_second=1.0)
    monkeypatch.setattr(describe, "measure_machine", lambda device, dtype: machine)

    def bound(dtype):
        roofline = measure_roofline(random_model, config(dtype=dtype))
        return compute_roofline_seconds(roofline, batch(), assign_evenly(ADVANTAGES.tolist()))[
            "generate_roofline_seconds"
        ]

    assert 0 < bound("bfloat16") == bound("float32") / 2


@pytest.mark.parametrize(("dtype", "measured"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_the_machine_is_measured_in_the_arithmetic_that_generates(
    random_policy, tmp_path, monkeypatch, dtype, measured
):
    class Pending(Exception):  # noqa: N818
        pass

    def spy(device, dtype):
        raise Pending(dtype)

    monkeypatch.setattr(describe, "measure_machine", spy)
    data, settings = TrainingData([], {}, []), config(dtype=dtype)
    with pytest.raises(Pending) as caught:
        api.train_and_save(random_policy, None, data, settings, tmp_path, Callback(), profile=True)
    assert caught.value.args == (measured,)


def test_bfloat16_arithmetic_keeps_the_direction_of_the_update(random_model):
    """The weights stay float32; the gradient in bfloat16 arithmetic points where the exact one points."""
    rollouts = [rollout([1, 2, 3], [-1.0, -2.0, -3.0]), rollout([4, 5], [-2.0, -2.0], mode=Mode.NO_THINK)]

    def gradient(dtype):
        random_model.zero_grad()
        compute_micro_batch_loss(
            random_model, rollouts, assign_evenly([1.0, -1.0]), config(dtype=dtype)
        ).loss.loss_B.sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in random_model.parameters()])

    exact, low = gradient("float32"), gradient("bfloat16")
    assert low.dtype == torch.float32
    assert not torch.equal(exact, low)
    assert torch.nn.functional.cosine_similarity(exact, low, dim=0) > 0.98


# ---- which problems the steps use ------------------------------------------------------------------------------------

POOL = [make_problem(f"{n}+1=?", str(n + 1)) for n in range(12)]


@pytest.mark.parametrize(("steps", "per_step", "count"), [(1, 5, 5), (2, 5, 10), (3, 5, 12), (40, 5, 12), (1, 1, 1)])
def test_the_problems_that_are_used_are_those_that_the_steps_take(steps, per_step, count):
    config = check(TrainConfig, {"steps": steps, "problems_per_step": per_step, "seed": 4})
    taken = {one.id for step in range(1, steps + 1) for one in choose_problems(POOL, per_step, 4, step)}
    used = select_used(POOL, config)
    assert [one.id for one in used] == [one.id for one in POOL if one.id in taken]
    assert len(used) == count == count_used(len(POOL), config)


def test_a_longer_training_uses_what_a_shorter_one_did_and_more():
    one, two = (
        {problem.id for problem in select_used(POOL, check(TrainConfig, {"steps": steps, "problems_per_step": 4}))}
        for steps in (1, 2)
    )
    assert one < two


def test_what_cannot_be_graded_is_replaced_by_other_problems():
    config, wrong = check(TrainConfig, {"steps": 1, "problems_per_step": 4}), []

    def find(problems):
        wrong.extend(problem.id for problem in problems[:1] if len(wrong) < 2)
        verdicts = dict.fromkeys(wrong, Verdict.REFERENCE_UNPARSABLE)
        return {p.id: Reference(p.id, (verdicts.get(p.id, Verdict.CORRECT),), (1,)) for p in problems}

    problems, reference = settle_reference(POOL, config, find)
    assert 10 <= len(problems) < 12
    assert {one.id for one in choose_problems(problems, 4, config.seed, 1)} == reference.keys()
    assert all(one.reward == 1 for one in reference.values())
