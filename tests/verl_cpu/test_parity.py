"""The recorded rollouts through verl's own code: the same loss and the same gradient as the native trainer's.

verl's part is real: its queue's columns, the old log-probabilities, DataProto and the advantage, its `ppo_loss` with
the loss from its registry. What Ray and FSDP would be needed for is not: a dictionary stands for the queue, and the
forward pass is the native trainer's, in verl's layout. None of verl's part changes the type of the log-probabilities,
so a model in float64 is compared in float64.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("verl")  # in .venv-verl

from omegaconf import OmegaConf
from parity.recorded import BOUNDS, all_in_float64, config, moved_model, native_loss_and_gradient, references, rollouts
from tensordict import NonTensorStack, TensorDict
from verl.trainer.ppo.v1 import PPOTrainerSync, trainer_base
from verl.utils import tensordict_utils
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss

from adaptthink.config.resolve import check
from adaptthink.config.schema import VerlConfig
from adaptthink.integrations.verl import plugin
from adaptthink.integrations.verl.data import TRAIN, Extra
from adaptthink.integrations.verl.loop import compute_learning_value
from adaptthink.integrations.verl.settings import make_verl_settings
from adaptthink.models.scoring import compute_response_logprobs
from adaptthink.training.methods import credit_rollouts
from adaptthink.training.rollout import make_loss_mask

RATIOS = ("sequence_mean", "sequence", "token")
DTYPES = pytest.mark.parametrize("dtype", BOUNDS, ids=str)


def settings_of(folder, **values):
    """verl's settings as its trainer would have them, of what they say about the algorithm."""
    recipe = check(VerlConfig, config(**values).model_dump() | {"gpus_per_node": 1})
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

    def kv_batch_put(self, keys, partition_id, fields):
        for index, key in enumerate(keys):
            self.rows[key] |= {name: fields[name][index] for name in fields.keys()}  # noqa: SIM118


class Batch:
    def __init__(self, keys):
        self.keys, self.partition_id, self.extra_info = keys, TRAIN, {}

    def __len__(self):
        return len(self.keys)


def queue_of(recipe):
    """The recorded rollouts as the agent loop hands them over."""
    rows = {}
    for index, one in enumerate(rollouts()):
        level = None if one.problem.level is None else str(one.problem.level)
        extra = Extra(
            index,
            TRAIN,
            one.problem.id,
            level,
            one.problem.source,
            one.problem.kind,
            references()[one.problem.id].reward,
        )
        response_mask = torch.tensor(make_loss_mask(one), dtype=torch.int64)
        scores = torch.zeros(len(one.response_ids))
        scores[-1] = compute_learning_value(recipe, one, extra)
        rows[f"{one.problem.id}_{index}_0"] = {
            "uid": one.problem.id,
            "prompts": torch.tensor(one.prompt_ids),
            "responses": torch.tensor(one.response_ids),
            "input_ids": torch.tensor(one.prompt_ids + one.response_ids),
            "response_mask": response_mask,
            "loss_mask": response_mask,
            "rollout_log_probs": torch.tensor(one.behavior_logprobs),
            "rm_scores": scores,
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


def verl_loss_and_gradient(
    monkeypatch, folder, *, micro_batches=1, ranks=1, bypass=True, dtype=torch.float64, **values
):
    """One step on the recorded rollouts as verl would do it on `ranks` ranks, with the gradient that it would have."""
    if dtype == torch.float64:
        all_in_float64(monkeypatch)
    recipe, settings = settings_of(folder, **values)
    settings.algorithm.rollout_correction.bypass_mode = bypass
    queue, model = queue_of(recipe), moved_model(dtype)
    keys = list(queue.rows)
    monkeypatch.setattr(trainer_base, "tq", queue)

    def compute_log_prob(batch):
        data = queue.kv_batch_get(keys, TRAIN, ["prompts", "responses"])
        with torch.no_grad():
            flat = forward(model, data, recipe.temperature)
        sizes = [len(queue.rows[key]["input_ids"]) for key in keys]
        for key, own in zip(keys, flat.split(sizes), strict=True):
            queue.rows[key] |= {"log_probs": own, "entropy": torch.zeros_like(own)}
        return batch

    trainer = SimpleNamespace(
        config=OmegaConf.merge(settings, {"algorithm": {"gamma": 1.0, "lam": 1.0}, "actor_rollout_ref": {}}),
        actor_rollout_wg=SimpleNamespace(compute_log_prob=compute_log_prob),
    )
    batch = Batch(keys)
    if bypass:
        PPOTrainerSync._compute_old_log_prob(trainer, batch, {})
    else:
        compute_log_prob(batch)  # what verl does next: it takes these for the old policy's
        for one in queue.rows.values():
            size = len(one["responses"])
            one["old_log_probs"] = one["log_probs"][-size - 1 : -1]
    PPOTrainerSync._compute_advantage(trainer, batch, {})

    actor = settings.actor_rollout_ref.actor
    loss_config = FSDPActorConfig(
        strategy="fsdp2",
        clip_ratio=actor.clip_ratio,
        clip_ratio_low=actor.clip_ratio,
        clip_ratio_high=actor.clip_ratio,
        rollout_n=recipe.samples_per_problem,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss={"loss_mode": actor.policy_loss.loss_mode},
        use_kl_loss=actor.use_kl_loss,
    )
    fields = ["prompts", "responses", "input_ids", "response_mask", "old_log_probs", "advantages"]
    total, seen = 0.0, []
    for part in np.array_split(np.arange(len(keys)), micro_batches * ranks):
        data = queue.kv_batch_get([keys[index] for index in part], TRAIN, fields)
        tensordict_utils.assign_non_tensor(
            data, dp_size=ranks, global_batch_size=len(keys), batch_num_tokens=1, max_response_len=-1
        )
        flat = forward(model, data, recipe.temperature)
        log_probs = torch.nested.nested_tensor_from_jagged(flat, data["input_ids"].offsets())
        loss, metrics = ppo_loss(loss_config, {"log_probs": log_probs}, data)
        (loss / ranks).backward()  # FSDP averages gradients over ranks
        total += loss.item() / ranks
        seen.append(metrics["actor/behavior_decision"].aggregate() * len(part))
    gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return total, gradient, sum(seen) / len(keys)


def difference(found, expected):
    """The length of the difference of two gradients, relative to that of the expected one."""
    assert found.keys() == expected.keys()

    def length(gradient):
        return math.hypot(*(value.double().norm().item() for value in gradient.values()))

    return length({name: found[name] - value for name, value in expected.items()}) / length(expected)


@DTYPES
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("micro_batches", "ranks"), [(1, 1), (5, 1), (3, 2)])
def test_loss_and_gradient_are_the_native_trainers(monkeypatch, tmp_path, ratio, micro_batches, ranks, dtype):
    loss, gradient, _ = verl_loss_and_gradient(
        monkeypatch, tmp_path, ratio=ratio, micro_batches=micro_batches, ranks=ranks, dtype=dtype
    )
    expected_loss, expected = native_loss_and_gradient(config(ratio=ratio), dtype)
    assert loss == pytest.approx(expected_loss, rel=BOUNDS[dtype])
    assert difference(gradient, expected) < BOUNDS[dtype]


def test_grpo_is_the_native_trainers(monkeypatch, tmp_path):
    loss, gradient, _ = verl_loss_and_gradient(monkeypatch, tmp_path, method="grpo")
    expected_loss, expected = native_loss_and_gradient(config(method="grpo"), torch.float64)
    assert loss == pytest.approx(expected_loss, rel=BOUNDS[torch.float64])
    assert difference(gradient, expected) < BOUNDS[torch.float64]


def test_the_half_survives_to_the_loss(monkeypatch, tmp_path):
    *_, decision = verl_loss_and_gradient(monkeypatch, tmp_path)
    assert decision == pytest.approx(0.5, abs=1e-6)


def test_without_bypass_the_half_is_lost_and_the_gradient_is_another(monkeypatch, tmp_path):
    _, gradient, decision = verl_loss_and_gradient(monkeypatch, tmp_path, bypass=False)
    _, expected = native_loss_and_gradient(config(), torch.float64)
    assert abs(decision - 0.5) > 0.01
    assert difference(gradient, expected) > 0.01


def test_the_learning_value_is_the_native_advantage(tmp_path):
    recipe, _ = settings_of(tmp_path)
    queue = queue_of(recipe)
    expected = torch.tensor([one.body for one in credit_rollouts(rollouts(), references(), config())])
    assert [row["rm_scores"].sum().item() for row in queue.rows.values()] == expected.tolist()
    assert not math.isclose(expected.abs().sum().item(), 0)


def test_the_plugin_registers_what_the_settings_name(tmp_path):
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
    from verl.trainer.ppo.v1 import get_trainer_cls

    for ratio in RATIOS:
        _, settings = settings_of(tmp_path, ratio=ratio)
        assert get_policy_loss_fn(settings.actor_rollout_ref.actor.policy_loss.loss_mode).keywords == {"ratio": ratio}
    assert get_adv_estimator_fn(settings.algorithm.adv_estimator) is plugin.loss.spread_advantage
    assert get_trainer_cls(settings.trainer.v1.trainer_mode) is plugin.trainer.AdaptThinkTrainer
    assert settings.actor_rollout_ref.rollout.agent.default_agent_loop in _agent_loop_registry
