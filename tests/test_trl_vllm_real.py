"""TRL's own vLLM, for real, under the trainer: forced tokens, token limits, log-probabilities, fresh weights.

Needs an environment with both: scripts/setup_vllm.sh makes one for a CPU. To be run in a process of its own, since vLLM
sits in the trainer's process and takes its environment. One thing stands in for TRL's: it hands weights to vLLM in the
memory of a GPU, which a CPU's prepacked layers do not take, so here they go through a folder.
"""

import importlib.util
import os

import pytest
import torch

if importlib.util.find_spec("trl") is None or importlib.util.find_spec("vllm") is None:
    pytest.skip("needs TRL and vLLM; scripts/setup_vllm.sh, .venv-vllm", allow_module_level=True)
os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}

from adaptthink.engines.vllm_worker import FreshWeights
from adaptthink.engines.weights import write_weights_folder
from adaptthink.integrations.trl import AdaptThinkConfig, AdaptThinkTrainer, problem_dataset, select_responses
from adaptthink.problems.arithmetic import Split, generate_problems

K = 4
CLOSE = (
    0.005  # nats on average, between vLLM's log-probability of a sampled token, in half precision, and the trainer's
)
PROBLEMS = generate_problems(1, seed=0, split=Split.TRAIN)[:4]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    args = AdaptThinkConfig(
        output_dir=str(tmp_path_factory.mktemp("run")),
        **{"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True},
        **{"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.1, "vllm_max_model_length": 256},
        **{"per_device_train_batch_size": 4 * K, "num_generations": K, "max_steps": 2, "logging_steps": 1},
        **{"max_completion_length": 48, "max_no_think_tokens": 12, "temperature": 0.7, "learning_rate": 1e-3},
    )
    trainer = AdaptThinkTrainer(
        "tiny", args, problem_dataset(PROBLEMS), reference={problem.id: 0.5 for problem in PROBLEMS}
    )
    vllm = trainer.vllm_generation

    def through_a_folder():
        with write_weights_folder(trainer.accelerator.unwrap_model(trainer.model)) as folder:
            vllm.llm.collective_rpc(FreshWeights.load_fresh_weights, args=(str(folder),))
        assert vllm.llm.reset_prefix_cache()

    vllm.sync_weights = through_a_folder
    trainer.train()
    trainer.model.train()
    return trainer


def sample_batch(trainer, *, synchronised):
    """Sample a batch; return it and the mean gap between the log-probabilities of sampled tokens, vLLM's and ours."""
    trainer._last_loaded_step = -1 if synchronised else trainer.state.global_step
    batch = trainer._generate_and_score_completions([row for row in trainer.train_dataset for _ in range(K)])
    with torch.no_grad():
        out = trainer.model(
            **{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}, fused_lm_head=True
        )
    drawn_BT = batch["in_loss"].clone()
    drawn_BT[torch.arange(len(drawn_BT)), drawn_BT.int().argmax(1)] = False  # but for the decision
    gap_BT = select_responses(out.log_probs, batch) - batch["behavior_logprobs"]
    return batch, gap_BT[drawn_BT].abs().mean().item()


def test_it_trains(trainer):
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["no_think_share"] == 0.5
    assert rows[0]["reward_no_think"] > 0.2
    assert rows[0]["no_think_logprob"] < -5  # scored by vLLM, at the temperature


def test_what_is_drawn(trainer):
    batch, gap = sample_batch(trainer, synchronised=True)
    assert gap < CLOSE
    lengths = (batch["labels"] != -100).sum(1).tolist()
    no_think = batch["no_think"].tolist()
    assert no_think == 4 * [True, True, False, False]
    assert max(length for length, forced in zip(lengths, no_think, strict=True) if forced) <= 12
    assert max(lengths) <= 48
    decisions = [row[mask][0].item() for row, mask in zip(batch["behavior_logprobs"], batch["in_loss"], strict=True)]
    assert decisions == pytest.approx([-0.693147] * 16)


def test_old_weights_would_show(trainer):
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.05)
    _, stale = sample_batch(trainer, synchronised=False)
    _, fresh = sample_batch(trainer, synchronised=True)
    assert fresh < CLOSE
    assert stale > 3 * CLOSE
