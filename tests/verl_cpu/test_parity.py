"""The recorded rollouts through verl's own code: the same loss and the same gradient as the native trainer's.

verl's part is real: its step, its queue's columns, the old log-probabilities, its padding. What Ray and FSDP would be
needed for is not: a dictionary stands for the queue, and forward passes are the native trainer's, in verl's layout.
None of verl's part changes the type of the log-probabilities, so a model in float64 is compared in float64.
"""

import math
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("verl")  # in .venv-verl

import transfer_queue
from omegaconf import OmegaConf
from parity import recorded
from parity.recorded import (
    BOUNDS,
    all_in_float64,
    config,
    initial_model,
    moved_model,
    native_loss_and_gradient,
    native_rollouts,
    references,
    rollouts,
    sampling_model,
)
from tensordict import NonTensorStack, TensorDict
from verl.trainer.ppo.utils import need_reference_policy
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils import tensordict_utils

from adaptthink.config.resolve import check
from adaptthink.config.schema import VerlConfig
from adaptthink.integrations.verl import plugin
from adaptthink.integrations.verl.data import TRAIN
from adaptthink.integrations.verl.loop import Sampled
from adaptthink.integrations.verl.settings import NAME, make_verl_settings
from adaptthink.integrations.verl.trainer import AdaptThinkTrainer
from adaptthink.models.scoring import compute_response_logprobs
from adaptthink.training.batch import summarise_rollout
from adaptthink.training.credit import spread_credit
from adaptthink.training.methods import credit_rollouts, load_method
from adaptthink.training.rollout import make_loss_mask

RATIOS = ("sequence_mean", "sequence", "token")
GAPS = ("gap", "gap:pull=0")
DTYPES = pytest.mark.parametrize("dtype", BOUNDS, ids=str)
SPLITS = pytest.mark.parametrize(("micro_batches", "ranks"), [(1, 1), (5, 1), (3, 2)])


def settings_of(folder, **values):
    """verl's settings as its trainer would have them, of what they say about the algorithm."""
    ranks = values.pop("ranks", 1)
    recipe = check(VerlConfig, config(**values).model_dump() | {"gpus_per_node": ranks})
    lines = [f"{key.lstrip('+')}={value}" for key, value in make_verl_settings(recipe, "tiny", folder).items()]
    return recipe, OmegaConf.from_dotlist([line for line in lines if not line.startswith("trainer.logger")])


class Queue:
    """A dictionary that answers as verl's queue does, as far as a step needs."""

    def __init__(self, rows):
        self.rows = rows

    def kv_batch_get(self, keys, partition_id, select_fields):
        columns = {name: [self.rows[key][name] for key in keys] for name in select_fields if name in self.rows[keys[0]]}
        return TensorDict(
            {
                name: torch.nested.as_nested_tensor(values, layout=torch.jagged)
                if isinstance(values[0], torch.Tensor)
                else NonTensorStack(*values)
                for name, values in columns.items()
            },
            batch_size=len(keys),
        )

    def kv_batch_put(self, keys, partition_id, fields, tags=None):
        for index, key in enumerate(keys):
            self.rows.setdefault(key, {}).update({name: fields[name][index] for name in fields.keys()})  # noqa: SIM118
        return Batch(keys, partition_id)

    def kv_clear(self, keys, partition_id):
        for key in keys:
            del self.rows[key]


class Batch:
    def __init__(self, keys, partition_id=TRAIN):
        self.keys, self.partition_id, self.extra_info = list(keys), partition_id, {}

    def __len__(self):
        return len(self.keys)


def queue_of(recipe):
    """The recorded rollouts as the agent loop hands them over."""
    rows = {}
    for place, one in enumerate(rollouts()):
        index, sample = divmod(place, recipe.samples_per_problem)
        reference = references()[one.problem.id].reward
        behavior = torch.tensor(one.behavior_logprobs)
        if not load_method(recipe.method).samples_from_is:
            behavior[0] = 0.0  # verl's servers say nothing of a forced token
        sampled = Sampled(index, sample, reference, one.num_forced, one.within_mode, summarise_rollout(one))
        response_mask = torch.tensor(make_loss_mask(one), dtype=torch.int64)
        rows[f"{one.problem.id}_{sample}_0"] = {
            "prompts": torch.tensor(one.prompt_ids),
            "responses": torch.tensor(one.response_ids),
            "input_ids": torch.tensor(one.prompt_ids + one.response_ids),
            "response_mask": response_mask,
            "loss_mask": response_mask,
            "rollout_log_probs": behavior,
            "extra_fields": {NAME: asdict(sampled)},
        }
    return Queue(rows)


def forward(model, data, temperature):
    """Log-probabilities of every token of every sequence, flat, each at the index before it, as verl's engines give."""
    prompts, responses = ([ids.tolist() for ids in data[name].unbind()] for name in ("prompts", "responses"))
    logprob_BT = compute_response_logprobs(model, prompts, responses, temperature)
    rows = [
        torch.cat([torch.zeros(len(prompt) - 1), own[: len(response)], torch.zeros(1)])
        for prompt, response, own in zip(prompts, responses, logprob_BT, strict=True)
    ]
    return torch.cat(rows)


class Workers:
    """verl's workers: the model that sampled, the one before training, and the one to update, which has moved since."""

    def __init__(self, queue, recipe, dtype, micro_batches, ranks):
        self.queue, self.temperature, self.micro_batches, self.ranks = queue, recipe.temperature, micro_batches, ranks
        self.sampling, self.initial, self.model = sampling_model(dtype), initial_model(dtype), moved_model(dtype)
        self.scored, self.metrics = {}, {}

    def set_loss_fn(self, loss):
        self.loss = loss

    def compute_log_prob(self, batch):
        self.score("policy", self.sampling, batch)

    def compute_ref_log_prob(self, batch):
        self.score("initial", self.initial, batch)

    @torch.no_grad()
    def score(self, name, model, batch):
        assert len(batch) % self.ranks == 0
        data = self.queue.kv_batch_get(batch.keys, TRAIN, ["prompts", "responses"])
        sizes = [len(self.queue.rows[key]["input_ids"]) for key in batch.keys]
        flat = forward(model, data, batch.extra_info["temperature"])
        for key, own in zip(batch.keys, flat.split(sizes), strict=True):
            self.queue.rows[key]["log_probs"] = own
        self.scored[name] = sum(sizes)

    def update_actor(self, batch):
        fields = ["prompts", "responses", "input_ids", "response_mask", "old_log_probs", "advantages"]
        names = ("actor/pg_loss", "actor/behavior_decision")
        found = dict.fromkeys(names, 0.0)
        for part in np.array_split(np.arange(len(batch)), self.micro_batches * self.ranks):
            data = self.queue.kv_batch_get([batch.keys[index] for index in part], TRAIN, fields)
            tensordict_utils.assign_non_tensor(
                data,
                dp_size=self.ranks,
                global_batch_size=batch.extra_info["global_batch_size"],
                batch_num_tokens=1,
                max_response_len=-1,
            )
            flat = forward(self.model, data, self.temperature)
            log_probs = torch.nested.nested_tensor_from_jagged(flat, data["input_ids"].offsets())
            loss, metrics = self.loss(model_output={"log_probs": log_probs}, data=data, dp_group=None)
            (loss / self.ranks).backward()  # FSDP averages gradients over ranks
            found["actor/pg_loss"] += metrics["actor/pg_loss"].aggregate() / self.ranks
            found["actor/behavior_decision"] += metrics["actor/behavior_decision"].aggregate() * len(part) / len(batch)
        return {"metrics": {name: [value] for name, value in found.items()} | {"mfu": 0.0}}


def step(monkeypatch, folder, *, micro_batches=1, ranks=1, dtype=torch.float64, **values):
    """One step on the recorded rollouts as verl takes it on `ranks` ranks; returns trainer, workers and metrics."""
    if dtype == torch.float64:
        all_in_float64(monkeypatch)
    recipe, settings = settings_of(folder, ranks=ranks, **values)
    queue = queue_of(recipe)
    workers = Workers(queue, recipe, dtype, micro_batches, ranks)
    for name in ("kv_batch_get", "kv_batch_put", "kv_clear"):
        monkeypatch.setattr(transfer_queue, name, getattr(queue, name))
    batch = Batch(queue.rows)
    # Balancing over the ranks changes the order of the responses.
    monkeypatch.setattr(PPOTrainerSync, "_balance_batch", lambda self, batch, metrics: Batch(batch.keys[::-1]))
    for name in ("on_init_end", "on_sample_end"):
        monkeypatch.setattr(PPOTrainerSync, name, lambda self: None)
    monkeypatch.setattr(PPOTrainerSync, "__init__", lambda self, config: setattr(self, "config", config))
    monkeypatch.setattr(plugin.trainer, "read_config", lambda run: recipe)
    monkeypatch.setattr(PPOTrainerSync, "replay_buffer", SimpleNamespace(sample=lambda **_: (batch, {})), raising=False)
    defaults = {"actor_rollout_ref": {"actor": {"calculate_entropy": False, "shuffle": False}}}
    trainer = AdaptThinkTrainer(OmegaConf.merge(settings, defaults, {"trainer": {"critic_warmup": 0}}))
    trainer.global_steps, trainer.use_critic = 1, False
    trainer.actor_rollout_wg = trainer.ref_policy_wg = workers
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])
    trainer.use_reference_policy = need_reference_policy(trainer.config)
    trainer.on_init_end()
    metrics = {}
    trainer._step_once(metrics, {}, recipe.problems_per_step)
    return trainer, workers, metrics


def verl_loss_and_gradient(*arguments, **values):
    """Loss and gradient of that step, and the mean of π_IS at the decisions."""
    _, workers, metrics = step(*arguments, **values)
    gradient = {name: p.grad for name, p in workers.model.named_parameters() if p.grad is not None}
    return metrics["actor/pg_loss"], gradient, metrics["actor/behavior_decision"]


def difference(found, expected):
    """The length of the difference of two gradients, relative to that of the expected one."""
    assert found.keys() == expected.keys()

    def length(gradient):
        return math.hypot(*(value.double().norm().item() for value in gradient.values()))

    return length({name: found[name] - value for name, value in expected.items()}) / length(expected)


def assert_native(found, dtype, **values):
    loss, gradient, _ = found
    expected_loss, expected = native_loss_and_gradient(config(**values), dtype)
    assert loss == pytest.approx(expected_loss, rel=BOUNDS[dtype])
    assert difference(gradient, expected) < BOUNDS[dtype]


@DTYPES
@pytest.mark.parametrize("ratio", RATIOS)
@SPLITS
def test_loss_and_gradient_are_the_native_trainers(monkeypatch, tmp_path, ratio, micro_batches, ranks, dtype):
    found = verl_loss_and_gradient(
        monkeypatch, tmp_path, ratio=ratio, micro_batches=micro_batches, ranks=ranks, dtype=dtype
    )
    assert_native(found, dtype, ratio=ratio)


@DTYPES
@pytest.mark.parametrize("method", GAPS)
@SPLITS
def test_gap_is_the_native_trainers(monkeypatch, tmp_path, method, micro_batches, ranks, dtype):
    found = verl_loss_and_gradient(
        monkeypatch, tmp_path, method=method, micro_batches=micro_batches, ranks=ranks, dtype=dtype
    )
    assert_native(found, dtype, method=method)


def test_grpo_is_the_native_trainers(monkeypatch, tmp_path):
    assert_native(verl_loss_and_gradient(monkeypatch, tmp_path, method="grpo"), torch.float64, method="grpo")


@pytest.mark.parametrize("method", ["adaptthink", "grpo", "adapt", "degrpo", *GAPS])
def test_the_credit_of_each_token_is_the_native_one(monkeypatch, tmp_path, method):
    trainer, workers, _ = step(monkeypatch, tmp_path, method=method)
    settings = config(method=method)
    sampled = native_rollouts(settings, torch.float64)
    credits = credit_rollouts(sampled, references(), settings, step=1)
    for row, one, credit in zip(workers.queue.rows.values(), sampled, credits, strict=True):
        native_T = spread_credit(credit, one.behavior_logprobs, one.initial_logprobs)
        behind = len(one.response_ids) - len(native_T)
        np.testing.assert_allclose(row["advantages"].numpy(), np.pad(native_T, (0, behind)), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(row["old_log_probs"].numpy(), one.behavior_logprobs, rtol=1e-6)
    assert trainer.described["zero_advantage_share"] < 1


def test_a_think_start_among_several_counts_as_its_mode(monkeypatch, tmp_path):
    _, expected = native_loss_and_gradient(config(method="gap"), torch.float64)
    several = [replace(one, within_mode=math.log(0.25) if one.mode == "think" else 0.0) for one in rollouts()]
    for module in (recorded, sys.modules[__name__]):
        monkeypatch.setattr(module, "rollouts", lambda: several)
    found = verl_loss_and_gradient(monkeypatch, tmp_path, method="gap")
    assert_native(found, torch.float64, method="gap")
    assert difference(found[1], expected) > 0.01


def test_only_what_the_gap_needs_is_scored(monkeypatch, tmp_path):
    """One token in each mode of every problem by the policy; the no_think responses by the model before training."""
    _, workers, _ = step(monkeypatch, tmp_path, method="gap")
    prompts = {one.problem.id: len(one.prompt_ids) for one in rollouts()}
    assert workers.scored["policy"] == sum(2 * (tokens + 1) for tokens in prompts.values())
    no_think = [one for one in rollouts() if one.mode == "no_think"]
    assert workers.scored["initial"] == sum(len(one.prompt_ids) + len(one.response_ids) for one in no_think)
    assert not step(monkeypatch, tmp_path, method="adaptthink")[1].scored


@pytest.mark.parametrize(("fault", "method"), [("decision", "gap:pull=0"), ("pull", "gap"), ("order", "gap:pull=0")])
def test_a_lost_part_of_the_gap_is_caught(monkeypatch, tmp_path, fault, method):
    right = AdaptThinkTrainer._compute_old_log_prob

    def compute_old_log_prob(self, batch, metrics):
        if fault == "decision":  # 0 stays where the policy's log-probability belongs
            return PPOTrainerSync._compute_old_log_prob(self, batch, metrics)
        if fault == "order":  # problems mixed
            self.sampled = {key: replace(one, index=one.sample) for key, one in self.sampled.items()}
        return right(self, batch, metrics)

    monkeypatch.setattr(AdaptThinkTrainer, "_compute_old_log_prob", compute_old_log_prob)
    if fault == "pull":  # to the policy itself
        monkeypatch.setattr(Workers, "compute_ref_log_prob", Workers.compute_log_prob)
    _, gradient, _ = verl_loss_and_gradient(monkeypatch, tmp_path, method=method)
    _, expected = native_loss_and_gradient(config(method=method), torch.float64)
    assert difference(gradient, expected) > max(BOUNDS.values())


def test_the_half_survives_to_the_loss(monkeypatch, tmp_path):
    *_, decision = verl_loss_and_gradient(monkeypatch, tmp_path)
    assert decision == pytest.approx(0.5, abs=1e-6)


def test_recomputed_the_half_is_lost_and_the_gradient_is_another(monkeypatch, tmp_path):
    """What verl does without `bypass_mode`."""

    def recompute(self, batch, metrics):
        rows = transfer_queue.kv_batch_get.__self__.rows
        batch.extra_info["temperature"] = config().temperature
        self.actor_rollout_wg.score("policy", self.actor_rollout_wg.model, batch)
        for key in batch.keys:
            size = len(rows[key]["responses"])
            rows[key]["old_log_probs"] = rows[key]["log_probs"][-size - 1 : -1]
        return batch

    monkeypatch.setattr(PPOTrainerSync, "_compute_old_log_prob", recompute)
    _, gradient, decision = verl_loss_and_gradient(monkeypatch, tmp_path)
    _, expected = native_loss_and_gradient(config(), torch.float64)
    assert abs(decision - 0.5) > 0.01
    assert difference(gradient, expected) > 0.01


def test_the_plugin_registers_what_the_settings_name_and_verl_has_no_loss_of_its_own(tmp_path):
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
    from verl.trainer.ppo.v1 import get_trainer_cls

    _, settings = settings_of(tmp_path)
    assert get_trainer_cls(settings.trainer.v1.trainer_mode) is plugin.trainer.AdaptThinkTrainer
    assert settings.actor_rollout_ref.rollout.agent.default_agent_loop in _agent_loop_registry
    with pytest.raises(ValueError, match=NAME):
        get_adv_estimator_fn(settings.algorithm.adv_estimator)
    with pytest.raises(ValueError, match=NAME):
        get_policy_loss_fn(settings.actor_rollout_ref.actor.policy_loss.loss_mode)
