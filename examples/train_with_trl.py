"""AdaptThink with TRL, on the embedded reasoner unless a recipe names another model: the whole script.

    adaptthink presample toy_cpu --output ref.jsonl
    python examples/train_with_trl.py --reference ref.jsonl --output runs/trl --use_cpu True --bf16 False

In several processes each takes its part of a step: docs/how-to/trl.md has the commands, on CPUs and on GPUs. Flags
that are not named below are those of AdaptThinkConfig: --max_steps, --delta, --use_vllm, … .
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, cast

from transformers import HfArgumentParser

from adaptthink.config.resolve import resolve
from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.integrations.trl import AdaptThinkConfig, AdaptThinkTrainer, problem_dataset
from adaptthink.training.data import find_problems, select_used

EVALUATION = ["--num_generations_eval", "1"]  # so that an evaluation batch of any size holds whole groups

# The miniature's settings, those of the recipe toy_cpu but for its schedule. On a real model the defaults are right.
MINIATURE = [
    *("--temperature", "1.0", "--num_generations", "2", "--max_completion_length", "128"),
    *("--max_no_think_tokens", "16", "--delta", "0.075", "--force_think", "ban"),
    *("--learning_rate", "1e-4", "--max_grad_norm", "0.1", "--gradient_checkpointing", "False"),
    *("--per_device_train_batch_size", "320", "--per_device_eval_batch_size", "80"),
    *("--max_steps", "165", "--logging_steps", "1", "--save_steps", "50", "--report_to", "none"),
]


def parse(arguments: list[str]) -> tuple[argparse.Namespace, TrainConfig, AdaptThinkConfig]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="store made by 'adaptthink presample'")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the model")
    parser.add_argument("--recipe", default="toy_cpu", help="recipe that the store was made with: problems and model")
    parser.add_argument("--model", help="'tiny', a folder or a hub id, in place of the recipe's")
    parser.add_argument("--lora-rank", type=int, default=0, help="rank of LoRA adapters; 0: train all weights")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    own, rest = parser.parse_known_args(arguments)
    recipe = resolve("train", TrainConfig, recipes=[own.recipe], flags={"model": own.model} if own.model else {})
    miniature = MINIATURE if recipe.model == "tiny" else []
    [settings] = HfArgumentParser(cast(Any, AdaptThinkConfig)).parse_args_into_dataclasses(
        ["--output_dir", str(own.output), *EVALUATION, *miniature, *rest]
    )
    return own, recipe, settings


def main(arguments: list[str]) -> None:
    own, recipe, settings = parse(arguments)
    chosen = find_problems(recipe.problems, None, recipe)
    trainer = AdaptThinkTrainer(
        recipe.model,
        settings,
        train_dataset=problem_dataset(select_used(chosen.problems, recipe)),  # those that have a reference
        eval_dataset=problem_dataset(chosen.held_out),
        reference=own.reference,
        peft_config=adapters(own.lora_rank),
    )
    trainer.train(resume_from_checkpoint=own.resume)
    trainer.save_model(str(own.output / "model"))
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        print(metrics)
    trainer.end_training()  # ends the process group: a process that exits in one may be aborted


def adapters(rank: int) -> object | None:
    """LoRA on every linear layer, or nothing."""
    if not rank:
        return None
    from peft import LoraConfig  # noqa: PLC0415  (an extra of its own)

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
