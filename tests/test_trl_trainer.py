"""The TRL trainer: what it requests, what it counts, what it refuses. Parity with the native trainer: `parity/`."""

import importlib.util
import json
import math
import re
import shlex
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if importlib.util.find_spec("trl") is None:
    pytest.skip("TRL is not installed here; pip install '.[trl]'", allow_module_level=True)

from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig
from trl.distributed import DistributedBackend
from trl.trainer import grpo_trainer

from adaptthink.engines.base import ScriptedEngine
from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, Verdict
from adaptthink.integrations import trl
from adaptthink.integrations.trl import (
    AdaptThinkConfig,
    AdaptThinkTrainer,
    RolloutRecord,
    check_verdicts,
    problem_dataset,
    read_problem,
)
from adaptthink.models.loading import TINY, load_policy
from adaptthink.modes import Message, Mode
from adaptthink.problems import hash_answer, make_problem, make_problem_id
from adaptthink.sampling.sampler import Sampler
from adaptthink.training.batch import RolloutSummary
from adaptthink.training.credit import Credit
from adaptthink.training.reference import open_references

ROOT = Path(__file__).parents[1]
EXAMPLE = "examples/train_with_trl.py"
SMALL = {"num_generations": 4, "max_completion_length": 24, "max_no_think_tokens": 9, "temperature": 1.0}
LOCAL = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}
ROWS = [{"prompt": "1+1=?", "answer": "2", "reference_reward": 0.5}]
ROWS += [{"prompt": "2+3=?", "answer": "5", "reference_reward": 1.0}]


def settings(tmp_path, **values):
    return AdaptThinkConfig(
        output_dir=str(tmp_path), **(SMALL | LOCAL | {"per_device_train_batch_size": 8, "max_steps": 1} | values)
    )


def make_trainer(tmp_path, rows=ROWS, *, model="tiny", reference=None, eval_dataset=None, **values):
    return AdaptThinkTrainer(
        model, settings(tmp_path, **values), Dataset.from_list(rows), eval_dataset, reference=reference
    )


def script(trainer, answer):
    """Put an engine under a trainer that answers from `answer(question, mode)`; return the engine."""
    tokenizer = trainer.processing_class

    def respond(prompt, prefix):
        question = next(row["prompt"] for row in ROWS if row["prompt"] in tokenizer.decode(prompt))
        return tokenizer.encode(answer(question, bool(prefix)) + "<|eos|>", add_special_tokens=False)

    engine = ScriptedEngine(respond, logprob=-2.0)

    @contextmanager
    def yielded():
        yield engine

    trainer._engine = yielded
    return engine


def rows_of(trainer, rows):
    trainer.model.train()
    return trainer._generate_and_score_completions([dict(row) for row in rows for _ in range(4)])


def test_what_is_asked_for(tmp_path):
    """Two of four copies are forced not to think, with their own token limit; the others open their thinking."""
    trainer = make_trainer(tmp_path)
    engine = script(trainer, lambda question, forced: "\\boxed{2}")
    rows_of(trainer, ROWS)
    template = trainer._template
    assert [one.prefix_ids for one in engine.requests] == 2 * (
        2 * [template.no_think_prefix_ids] + 2 * [template.think_prefix_ids]
    )
    assert [one.max_tokens for one in engine.requests] == 2 * [9, 9, 24, 24]
    assert len({one.stream for one in engine.requests}) == 8
    assert len({one.prompt_ids for one in engine.requests}) == 2


def test_a_group_that_two_processes_share_is_split_by_its_position(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    engine = script(trainer, lambda question, forced: "\\boxed{2}")
    whole = rows_of(trainer, ROWS[:1])
    streams = [one.stream for one in engine.requests]
    halves = []
    monkeypatch.setattr("adaptthink.integrations.trl.gather_object", lambda own: [*own, *own])
    for process in range(2):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", process)
        engine.requests.clear()
        halves.append(trainer._generate_and_score_completions([dict(ROWS[0]) for _ in range(2)]))
        assert [one.stream for one in engine.requests] == streams[2 * process : 2 * process + 2]
    assert [half["no_think"].tolist() for half in halves] == [[True, True], [False, False]]
    assert torch.cat([half["credit"] for half in halves]).tolist() == whole["credit"].tolist()


def test_a_think_start_of_the_models_own(tmp_path):
    trainer = make_trainer(tmp_path, force_think="ban")
    engine = script(trainer, lambda question, forced: "\\boxed{2}")
    batch = rows_of(trainer, ROWS[:1])
    template = trainer._template
    assert [one.prefix_ids for one in engine.requests] == 2 * [template.no_think_prefix_ids] + 2 * [()]
    assert [one.banned_first_ids for one in engine.requests] == [
        (),
        (),
        (template.no_think_id,),
        (template.no_think_id,),
    ]
    for row, decision in enumerate([math.log(0.5)] * 2 + [math.log(0.5) - 2.0] * 2):
        behavior = batch["behavior_logprobs"][row][batch["in_loss"][row]].tolist()
        assert behavior == pytest.approx([decision] + [-2.0] * (len(behavior) - 1))


def test_the_batch_by_hand(tmp_path):
    """Advantages, the decision's log 0.5, the mask, and labels that are the response and nothing else."""
    trainer = make_trainer(tmp_path, delta=0.25, no_think_share=0.25)
    answers = {("1+1=?", True): "\\boxed{2}", ("1+1=?", False): "</think>\\boxed{3}"}
    answers |= {("2+3=?", True): "\\boxed{5}", ("2+3=?", False): "</think>\\boxed{5}"}
    calls = iter(range(8))
    script(trainer, lambda question, forced: answers[question, next(calls) % 4 == 0])
    batch = rows_of(trainer, ROWS)
    assert batch["no_think"].tolist() == 2 * [True, False, False, False]
    assert batch["credit"][:, 0].tolist() == [0.75, -0.5, -0.5, -0.5, 0.25, 0.0, 0.0, 0.0]
    text = trainer.processing_class.decode
    for row in range(8):
        response = batch["labels"][row] != -100
        start = int(response.nonzero()[0])
        assert batch["attention_mask"][row].sum() == start + response.sum() == int(response.nonzero()[-1]) + 1
        assert "</think>" not in text(batch["input_ids"][row, :start])
        assert text(batch["input_ids"][row][response]).endswith("}<|eos|>")
        tokens = int(response.sum())
        assert batch["prompt_tokens"][row] == start
        assert batch["in_loss"][row].tolist() == [True] * tokens + [False] * (batch["in_loss"].shape[1] - tokens)
        behavior = batch["behavior_logprobs"][row, :tokens].tolist()
        share = 0.25 if row % 4 == 0 else 0.75
        assert behavior == pytest.approx([math.log(share)] + [-2.0] * (len(behavior) - 1))
        assert not batch["behavior_logprobs"][row, tokens:].any()


def test_forced_tokens_behind_the_decision_carry_no_loss(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    decision = trainer._template.no_think_id
    trainer._template = replace(trainer._template, no_think_prefix_ids=(decision, 7, 8))
    monkeypatch.setattr(Sampler, "encode_prompt", lambda self, problem: (5, 6))
    engine = script(trainer, None)
    engine.script = lambda prompt, prefix: (9, *trainer._eos_ids)
    batch = rows_of(trainer, ROWS[:1])
    assert batch["labels"][0].tolist() == [-100, -100, decision, 7, 8, 9, *trainer._eos_ids]
    assert batch["in_loss"].tolist()[0] == [True, False, False, True, True]
    assert batch["in_loss"].tolist()[3] == [True, True, True, False, False]


def test_evaluation_lets_the_model_choose(tmp_path):
    dataset = Dataset.from_list([{"prompt": row["prompt"], "answer": row["answer"]} for row in ROWS])
    trainer = make_trainer(tmp_path, eval_dataset=dataset, num_generations_eval=1, per_device_eval_batch_size=2)
    answers = {"1+1=?": "</think>\\boxed{2}", "2+3=?": "Okay</think>\\boxed{6}"}
    engine = script(trainer, lambda question, forced: answers[question])
    metrics = trainer.evaluate()
    assert [one.prefix_ids for one in engine.requests] == [(), ()]
    assert {one.max_tokens for one in engine.requests} == {24}
    assert "eval_loss" not in metrics
    shown = {
        name: metrics[f"eval_{name}"] for name in ("reward", "no_think_share", "mean_tokens_no_think", "reward_think")
    }
    assert shown == {"reward": 0.5, "no_think_share": 0.5, "mean_tokens_no_think": 6, "reward_think": 0.0}


def test_evaluation_batches_hold_whole_groups(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=Dataset.from_list(ROWS), per_device_eval_batch_size=3)
    with pytest.raises(
        UserError, match="no whole groups of num_generations_eval = 4; change per_device_eval_batch_size"
    ):
        trainer.evaluate()


def test_training_and_evaluation_are_counted_apart(tmp_path):
    dataset = Dataset.from_list([{"prompt": "1+1=?", "answer": "2"}] * 3)
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2, "per_device_eval_batch_size": 4}
    trainer = make_trainer(tmp_path, eval_dataset=dataset, max_steps=2, logging_steps=2, **evaluation)
    script(trainer, lambda question, forced: "</think>\\boxed{2}")
    trainer.train()
    evaluated = [row for row in trainer.state.log_history if "eval_responses" in row]
    assert [(row["step"], row["eval_responses"], row["eval_no_think_share"]) for row in evaluated] == [
        (1, 6, 1),
        (2, 6, 1),
    ]
    [trained] = [row for row in trainer.state.log_history if "loss" in row]
    assert (trained["responses"], trained["no_think_share"]) == (16, 0.5)


def test_metrics_by_hand():
    seen = [
        RolloutRecord(RolloutSummary("a", Mode.NO_THINK, Verdict.CORRECT, 6, -1.0), math.log(0.25), Credit(0.05, 0.05)),
        RolloutRecord(RolloutSummary("a", Mode.NO_THINK, Verdict.WRONG, 8, -1.0), math.log(0.5), Credit(0.0, 0.0)),
        RolloutRecord(RolloutSummary("a", Mode.THINK, Verdict.TRUNCATED, 20, -1.0), None, Credit(-0.5, -0.5)),
        RolloutRecord(RolloutSummary("a", Mode.THINK, Verdict.REFERENCE_UNPARSABLE, 10, -1.0), None, Credit(0.0, 0.0)),
    ]
    found = trl.describe_records(seen, training=True)
    shares = dict.fromkeys(Verdict, 0.0) | {one.summary.verdict: 0.25 for one in seen}
    assert found == pytest.approx(
        {
            "responses": 4, "response_tokens": 44, "update_tokens": 26, "mean_tokens": 11,
            "no_think_share": 0.5, "zero_advantage_share": 0.5, "reward": 1 / 3,
            "reward_no_think": 0.5, "mean_tokens_no_think": 7, "truncated_share_no_think": 0,
            "reward_think": 0, "mean_tokens_think": 15, "truncated_share_think": 0.5,
            "no_think_logprob": math.log(0.125) / 2, "no_think_probability": 0.375,
        }
        | {f"verdict_share_{verdict}": share for verdict, share in shares.items()}
    )  # fmt: skip
    evaluated = trl.describe_records(seen, training=False)
    assert set(found) - set(evaluated) == {"update_tokens", "zero_advantage_share"}
    assert trl.describe_records([], training=True) == {}
    assert trl.describe_clipping([(True, 1.0), (True, 0.0), (False, 0.25)]) == {
        "clip_share_no_think": 0.5, "clip_share_think": 0.25,
    }  # fmt: skip
    assert trl.describe_clipping([(True, 1.0)]) == {"clip_share_no_think": 1.0}


def test_a_log_counts_each_response_once(tmp_path):
    trainer = make_trainer(tmp_path, logging_steps=2, max_steps=2)
    script(trainer, lambda question, forced: "\\boxed{2}" if question == "1+1=?" else "\\boxed{3}")
    trainer.train()
    [row] = [row for row in trainer.state.log_history if "loss" in row]
    assert (row["reward"], row["step"]) == (0.25, 2)  # half of the answers without thinking, none that never closed it
    assert row["reward_no_think"] == 0.5
    assert row["no_think_logprob"] == -2.0
    assert row["verdict_share_unclosed"] == 0.5


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_resumed_run_asks_for_what_it_would_have_asked(tmp_path, stop):
    """Problems and random streams, in the first epoch, at its end and in the middle of the second."""
    rows = [{"prompt": f"{a}+{a}=?", "answer": f"{2 * a}", "reference_reward": 0.5} for a in range(8)]

    def run(name, *, resume=None, **values):
        dataset = Dataset.from_list(rows)
        saved = {"save_strategy": "steps", "save_steps": stop, "save_total_limit": None}
        args = settings(tmp_path / name, **(saved | {"max_steps": 7} | values))
        trainer = AdaptThinkTrainer("tiny", args, dataset)
        engine = script(trainer, None)
        engine.script = lambda prompt, prefix: trainer._eos_ids
        trainer.train(resume_from_checkpoint=resume)
        return [(one.prompt_ids, one.stream) for one in engine.requests]

    whole = run("whole")
    assert len(whole) == 7 * 8
    first, second = ({prompt for prompt, _ in part} for part in (whole[:8], whole[32:40]))
    assert first != second, "each epoch has an order of its own"
    resumed = run("resumed", resume=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert resumed == whole[stop * 8 :]


def test_grading_that_fails_stops_the_training(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, max_failed_grades=0.2)
    script(trainer, lambda question, forced: "\\boxed{2}")
    graded = trl.generate_and_grade

    def with_timeouts(*args, **kwargs):
        first, second, *others = graded(*args, **kwargs)
        return [replace(one, grade=replace(one.grade, verdict=Verdict.TIMEOUT)) for one in (first, second)] + others

    monkeypatch.setattr(trl, "generate_and_grade", with_timeouts)
    with pytest.raises(UserError, match=r"step 1: grading timed out or failed on 25\.0%"):
        trainer.train()


def test_completions_can_be_shown(tmp_path):
    trainer = make_trainer(tmp_path, log_completions=True)
    script(trainer, lambda question, forced: "\\boxed{2}")
    trainer.train()
    table = next((tmp_path / "completions").glob("*.parquet"))
    shown = Dataset.from_parquet(str(table), cache_dir=str(tmp_path / "cache"))
    assert sorted(set(zip(shown["verdict"], shown["reward"], strict=True))) == [
        ("correct", 1.0), ("unclosed", 0.0), ("wrong", 0.0),
    ]  # fmt: skip
    assert all("\\boxed{2}" in text for text in shown["completion"])


def test_the_saved_model_is_hugging_faces_with_our_card(tmp_path):
    trainer = make_trainer(tmp_path, delta=0.075)
    script(trainer, lambda question, forced: "\\boxed{2}")
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert "delta 0.075" in card.content
    assert "Backend: TRL 1.16" in card.content
    assert "1 steps of 2 problems x 4 responses" in card.content
    policy = load_policy(str(tmp_path / "model"), device="cpu")
    original = AutoModelForCausalLM.from_pretrained(TINY).state_dict()
    changed = [not torch.equal(tensor, original[name]) for name, tensor in policy.model.state_dict().items()]
    assert any(changed)


def test_adapters(tmp_path):
    """LoRA: forced prefixes, log-probabilities of the adapted model, only the adapter is trained."""
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.5)
    args = settings(tmp_path, learning_rate=1e-9)
    trainer = AdaptThinkTrainer("tiny", args, Dataset.from_list(ROWS), peft_config=lora)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([dict(row) for row in ROWS for _ in range(4)])
    with torch.no_grad():
        out = trainer.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
            fused_lm_head=True,
        )
    rows = zip(out.log_probs, batch["prompt_tokens"], batch["in_loss"].sum(1), batch["behavior_logprobs"], strict=True)
    found = [(logprobs[start : start + tokens - 1], behavior[1:tokens]) for logprobs, start, tokens, behavior in rows]
    later, sampled = (torch.cat(parts) for parts in zip(*found, strict=True))  # behind the decision
    assert len(later) > 30
    torch.testing.assert_close(later, sampled, rtol=1e-3, atol=1e-4)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()


class FakeVllm:
    """Stands where TRL's vLLM generation stands: keeps what it is made with, counts weights, holds an engine's LLM."""

    def __init__(self, **made_with):
        self.made_with, self.num_syncs, self.llm = made_with, 0, object()
        self.vllm_client = SimpleNamespace(get_server_info=lambda: {"model_config": {"logprobs_mode": FakeVllm.mode}})

    def sync_weights(self):
        self.num_syncs += 1


@pytest.fixture
def fake_vllm(monkeypatch):
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", FakeVllm)
    FakeVllm.mode = "processed_logprobs"
    requested = []

    def engine_of(*arguments, **named):
        requested.append((arguments, named))
        tokenizer = AutoTokenizer.from_pretrained(TINY)
        ids = tokenizer.encode("\\boxed{2}<|eos|>", add_special_tokens=False)
        return ScriptedEngine(lambda prompt, prefix: ids, logprob=-2.0)

    monkeypatch.setattr(trl, "VllmEngine", engine_of)
    monkeypatch.setattr(trl, "connect", engine_of)
    return requested


def test_vllm_in_the_trainers_process(tmp_path, fake_vllm):
    """Our engine speaks to TRL's vLLM, after TRL has sent it the weights, once for each update."""
    trainer = make_trainer(tmp_path, use_vllm=True, vllm_mode="colocate", max_steps=3)
    trainer.train()
    assert trainer.vllm_generation.num_syncs == 3
    assert len(fake_vllm) == 3
    assert all(arguments == (trainer.vllm_generation.llm, trainer._eos_ids) for arguments, _ in fake_vllm)
    assert trainer.state.log_history[0]["reward_no_think"] == 0.5


def test_a_vllm_server(tmp_path, fake_vllm):
    trainer = make_trainer(
        tmp_path, use_vllm=True, vllm_mode="server", vllm_server_port=8123, max_steps=2, max_concurrent_sequences=7
    )
    trainer.train()
    [[[url, eos], named]] = fake_vllm
    assert (url, eos, named["max_concurrent_sequences"]) == ("http://0.0.0.0:8123", trainer._eos_ids, 7)
    assert trainer.vllm_generation.num_syncs == 2


def test_a_server_that_leaves_out_the_temperature_is_refused(tmp_path, fake_vllm):
    FakeVllm.mode = "raw_logprobs"
    with pytest.raises(UserError, match="--logprobs-mode processed_logprobs"):
        make_trainer(tmp_path, use_vllm=True, vllm_mode="server")


@pytest.mark.parametrize(("name", "kind"), [("zero2", "DEEPSPEED"), ("fsdp", "FSDP")])
def test_accelerate_knows_our_files(name, kind):
    config = load_config_from_file(str(ROOT / "examples" / "accelerate" / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == (kind, 8, "bf16")


def documented_commands():
    """The commands of docs/how-to/trl.md that start the example, each as one line."""
    blocks = (ROOT / "docs" / "how-to" / "trl.md").read_text().split("```")[1::2]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return sorted({" ".join(line.split()) for line in lines if EXAMPLE in line})


def test_there_are_commands_for_every_launcher():
    found = "".join(documented_commands())
    assert all(part in found for part in ("python", "torchrun", "accelerate launch", "--vllm_mode server"))


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_are_read_and_take_a_whole_step(command):
    """Their flags are the example's, and micro-batch, accumulation and processes make the recipe's step."""
    launcher, _, flags = command.partition(EXAMPLE)
    if config_file := re.search(r"--config_file (\S+)", launcher):
        processes = load_config_from_file(str(ROOT / config_file[1])).num_processes
    else:
        processes = int(dict(re.findall(r"(--nproc_per_node) (\d+)", launcher)).get("--nproc_per_node", 1))
    spec = importlib.util.spec_from_file_location("example", ROOT / EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    _, recipe, args = example.parse([*shlex.split(flags), *("--use_cpu", "True", "--bf16", "False")])
    responses = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
    assert responses == recipe.problems_per_step * recipe.samples_per_problem
    # what the trainer would be given is what the recipe's own commands pre-sample and train with
    same = ("delta", "no_think_share", "samples_per_problem", "max_think_tokens", "max_no_think_tokens", "temperature")
    own = args.train_config()
    assert {name: getattr(own, name) for name in same} == {name: getattr(recipe, name) for name in same}


def test_defaults_are_the_papers(tmp_path):
    args = AdaptThinkConfig(output_dir=str(tmp_path), per_device_train_batch_size=16, use_cpu=True, bf16=False)
    changed = args.train_config().model_dump(exclude_defaults=True)
    # bf16 is off, and the number of problems follows from TRL's batch sizes
    assert changed == {"dtype": "float32", "problems_per_step": 1, "seed": 42}


def test_by_default_one_epoch_and_a_checkpoint_every_twenty_steps(tmp_path):
    """Each of 22 problems once, one a step; the last checkpoint is that of the end."""
    rows = [{"prompt": f"{a}+{a}=?", "answer": f"{2 * a}", "reference_reward": 0.5} for a in range(22)]
    own = {name: value for name, value in LOCAL.items() if name != "save_strategy"}
    args = AdaptThinkConfig(str(tmp_path), per_device_train_batch_size=4, **SMALL, **own)
    trainer = AdaptThinkTrainer("tiny", args, Dataset.from_list(rows))
    engine = script(trainer, None)
    engine.script = lambda prompt, prefix: trainer._eos_ids
    trainer.train()
    assert len(engine.requests) == 22 * 4
    assert len({one.prompt_ids for one in engine.requests}) == 22
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-20", "checkpoint-22"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"beta": 0.04}, r"beta = 0\.04 is not for AdaptThink: the paper's objective has no such term"),
        ({"loss_type": "dapo"}, "loss_type = 'dapo' is not for AdaptThink"),
        ({"importance_sampling_level": "token"}, "delta, ratio and epsilon shape the loss; leave it at 'sequence'"),
        ({"scale_rewards": "group"}, "compares with the reference model, not with the other samples"),
        ({"top_p": 0.95}, "sampled from the policy itself at temperature"),
        ({"vllm_importance_sampling_correction": True}, "vllm_importance_sampling_correction = True is not for"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions = True is not for"),
        ({"use_transformers_continuous_batching": True}, "not supported here; leave it at False"),
        ({"no_think_share": 0.3}, r"no_think_share = 0\.3 of samples_per_problem = 4 is 1\.2 samples"),
        ({"delta": -0.1}, r"delta = -0\.1: input should be greater than or equal to 0"),
        ({"epsilon": 1.5}, r"clip = 1\.5: input should be less than 1"),
        ({"ratio": "geometric"}, "ratio = 'geometric': input should be 'sequence_mean', 'sequence' or 'token'"),
    ],
)
def test_settings_that_are_not_the_method_are_refused(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        settings(tmp_path, **changed)


def test_false_for_scale_rewards_is_what_it_is_already(tmp_path):
    assert settings(tmp_path, scale_rewards=False).scale_rewards == "none"


def test_reward_functions_are_refused(tmp_path):
    with pytest.raises(UserError, match="reward_funcs are not for AdaptThink"):
        AdaptThinkTrainer("tiny", settings(tmp_path), Dataset.from_list(ROWS), reward_funcs=[len])


def test_another_trainers_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match="args is a GRPOConfig; give an AdaptThinkConfig"):
        AdaptThinkTrainer("tiny", GRPOConfig(str(tmp_path), use_cpu=True, bf16=False), Dataset.from_list(ROWS))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "1+1=?", "answer": "2"}, "no reference: give AdaptThinkTrainer"),
        ({"prompt": "1+1=?", "reference_reward": 1.0}, "column 'answer' holds None for '1\\+1=\\?'"),
        ({"question": "1+1=?", "answer": "2", "reference_reward": 1.0}, "column 'prompt' holds None; it takes"),
        ({"prompt": "1+1=?", "answer": "2", "reference_reward": 50.0}, r"is 50\.0; a mean reward is in \[0, 1\]"),
        ({"prompt": "1+1=?", "answer": "2", "kind": "essay", "reference_reward": 1.0}, "'kind' holds 'essay'"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused_before_the_model_is_loaded(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path, [row], model="org/never-loaded")


def test_reading_a_row():
    plain = read_problem({"prompt": "1+1=?", "answer": 2})
    assert (plain.prompt, plain.answer, plain.id) == ("1+1=?", "2", make_problem_id("1+1=?", "2"))
    assert read_problem({"prompt": [{"role": "user", "content": "1+1=?"}], "answer": "2"}) == plain
    two = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1=?"}]
    with_system = read_problem({"prompt": two, "answer": "2"})
    assert (with_system.context, with_system.prompt) == ((Message("system", "Be brief."),), "1+1=?")
    assert with_system.id != plain.id
    with pytest.raises(UserError, match="a conversation that ends in one"):
        read_problem({"prompt": two[:1], "answer": "2"})


def test_conversations_as_rows_and_back():
    problems = [make_problem("1+1=?", "2"), make_problem("1+2=?", "10", context=(Message("system", "Base 3."),))]
    rows = problem_dataset(problems)
    assert [read_problem(row) for row in rows] == problems


def test_our_problems_as_rows_and_back():
    kept = make_problem("1+1=?", "2", level=1, source="a")
    choice = make_problem("A or B?", "B", level="hard", kind=AnswerKind.CHOICE)
    rows = problem_dataset([kept, choice])
    assert [read_problem(row).id for row in rows] == [kept.id, choice.id]
    assert [read_problem(row).kind for row in rows] == [AnswerKind.MATH, AnswerKind.CHOICE]
    assert [read_problem(row).level for row in rows] == ["1", "hard"]


def test_references_from_a_store(tmp_path):
    store = tmp_path / "ref.jsonl"
    ids = [make_problem_id(row["prompt"], row["answer"]) for row in ROWS]
    verdicts = (["correct", "wrong"], ["reference_unparsable", "reference_unparsable"])
    fingerprint = load_policy("tiny", device="cpu").fingerprint
    made_with = {"samples": 2, "model_fingerprint": fingerprint, "max_tokens": 24, "boxed_only": True}
    lines = [{"settings": made_with}]
    lines += [{"id": id_, "verdicts": own, "tokens": [3, 4]} for id_, own in zip(ids, verdicts, strict=True)]
    store.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {id_: one.reward for id_, one in open_references(store).items()} == {ids[0]: 0.5, ids[1]: None}
    trainer = make_trainer(tmp_path, reference=store)
    script(trainer, lambda question, forced: "\\boxed{2}" if question == "1+1=?" else "\\boxed{5}")
    batch = rows_of(trainer, ROWS)
    assert batch["credit"][:2, 0].tolist() == pytest.approx([0.55, 0.55])
    assert batch["credit"][4:].any(1).tolist() == [False] * 4  # a problem without a reference teaches nothing
    with pytest.raises(UserError, match="the reference lacks problem"):
        make_trainer(tmp_path, [*ROWS, {"prompt": "9-4=?", "answer": "5"}], reference=str(store))
    with pytest.raises(UserError, match=r"no reference store at '.*none\.jsonl'; make one with: adaptthink presample"):
        make_trainer(tmp_path, reference=tmp_path / "none.jsonl")
    store.write_text(store.read_text().replace(fingerprint, "0" * 16) + '{"id": "half')
    before = store.read_bytes()
    with pytest.raises(UserError, match="holds the samples of another model"):
        make_trainer(tmp_path, reference=store)
    assert store.read_bytes() == before, "another program may be writing it"


def test_a_store_that_was_graded_against_another_answer_is_refused(tmp_path):
    store = tmp_path / "ref.jsonl"
    with_source = make_problem("1+1=?", "2", source="sums/train")
    row = {"prompt": "2+3=?", "answer": "5", "problem_id": "00000000000000aa"}
    own = read_problem(row)
    lines = [{"settings": {"samples": 1}}, {"id": with_source.id, "verdicts": ["correct"], "tokens": [3]}]
    lines.append({"id": own.id, "verdicts": ["correct"], "tokens": [3], "answer_hash": hash_answer(own)})
    store.write_text("".join(json.dumps(line) + "\n" for line in lines))
    [kept] = problem_dataset([with_source])
    check_verdicts(
        store, Dataset.from_list([kept, {name: kept[name] for name in ("prompt", "answer", "problem_id")}]), 0
    )
    check_verdicts(store, Dataset.from_list([row]), 0)
    for changed in (row | {"answer": "6"}, row | {"kind": "choice"}, kept | {"answer": "3"}):
        with pytest.raises(UserError, match="graded against another reference answer to problem"):
            check_verdicts(store, Dataset.from_list([changed]), 0)
    store.write_text(store.read_text().replace("correct", "unknown"))
    with pytest.raises(UserError, match="no response of the reference to problem"):
        check_verdicts(store, None, 1)


@pytest.fixture
def strange_store(tmp_path):
    """A store of another model's samples on our rows."""
    store = tmp_path / "ref.jsonl"
    made_with = {"samples": 1, "model_fingerprint": "0123456789abcdef", "max_tokens": 24, "boxed_only": True}
    made_with |= {"temperature": 0.1, "top_p": 0.5, "seed": 7}  # a matter of the store's own
    lines = [{"settings": made_with}]
    lines += [
        {"id": make_problem_id(row["prompt"], row["answer"]), "verdicts": ["correct"], "tokens": [3]} for row in ROWS
    ]
    store.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return store


@pytest.mark.parametrize("backend", ["fsdp", "zero2"])
def test_a_store_of_another_model_is_refused_where_the_main_process_has_the_weights(
    tmp_path, strange_store, monkeypatch, backend
):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(DistributedBackend, "is_fsdp", backend == "fsdp")
    trainer.is_deepspeed_enabled = backend == "zero2"
    with pytest.raises(UserError, match=r"another model \(fingerprint 0123456789abcdef, this one has"):
        trainer._check_model(strange_store)


def test_where_no_process_has_all_weights_it_is_said_that_the_store_was_not_compared(
    tmp_path, strange_store, monkeypatch
):
    monkeypatch.setattr(DistributedBackend, "is_zero3", True)
    with pytest.warns(UserWarning, match=r"ref\.jsonl' .* fingerprint 0123456789abcdef; .* could not be compared"):
        make_trainer(tmp_path, reference=strange_store)


def test_a_store_of_another_reward_is_refused(tmp_path, strange_store):
    with pytest.raises(UserError, match="made with other settings: reward was None and is now 'builtins:len'"):
        AdaptThinkTrainer("tiny", settings(tmp_path), Dataset.from_list(ROWS), reference=strange_store, reward=len)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_completion_length": 48}, "made with other settings: max_tokens was 24 and is now 48"),
        ({"boxed_only": False}, "made with other settings: boxed_only was True and is now False"),
    ],
)
def test_a_store_that_was_cut_or_graded_otherwise_is_refused_before_the_model_is_loaded(
    tmp_path, strange_store, changed, message
):
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path, model="org/never-loaded", reference=strange_store, **changed)


@pytest.mark.parametrize(
    ("adapter", "layer"),
    [
        ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head"),
    ],
)
def test_an_adapter_on_tied_weights_is_refused(tmp_path, adapter, layer):
    policy = load_policy("tiny")
    with pytest.raises(UserError, match=f"peft_config puts an adapter on {layer}, whose weight is shared"):
        AdaptThinkTrainer(
            policy.model,
            settings(tmp_path),
            Dataset.from_list(ROWS),
            processing_class=policy.tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, **adapter),
        )


def test_a_model_with_a_missing_tensor_is_refused(tmp_path):
    folder = tmp_path / "model"
    load_policy("tiny").save(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 of its tensors \(model.norm.weight\)"):
        make_trainer(tmp_path, model=str(folder))


def test_a_template_that_writes_the_day_needs_it_or_a_store(tmp_path):
    policy = load_policy("tiny")
    policy.tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }}" + policy.tokenizer.chat_template
    policy.save(tmp_path / "model")
    model = {"model": str(tmp_path / "model")}
    with pytest.raises(UserError, match="give prompt_date='20"):
        make_trainer(tmp_path, **model)
    assert make_trainer(tmp_path, prompt_date="2026-01-31", **model)._template.date == "2026-01-31"
