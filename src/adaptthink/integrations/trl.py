"""AdaptThink in TRL: `AdaptThinkTrainer` where a script has `GRPOTrainer`, `AdaptThinkConfig` for `GRPOConfig`.

What stays TRL's: the model and its adapters, data loading, launchers (DDP, DeepSpeed, FSDP), gradient accumulation, the
optimiser, checkpoints, vLLM and the way of weights to it. What is ours: a generation batch is sampled from π_IS and
graded (`training/rollout.py`), and credit and loss are the method's (`training/methods`). So these two private methods
of TRL's are replaced whole, `_generate_and_score_completions` and `_compute_loss`; hence the narrow pin of its version.

Left out: the list of reward functions (`reward` takes one), tools, environments, images, and settings of GRPO that
the method does not have; each is refused by name. Training forces modes; evaluation lets the model choose.
"""

from __future__ import annotations

import gc
import logging
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import __version__ as trl_version
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from adaptthink.config.resolve import check
from adaptthink.config.schema import ForceThink, TrainConfig
from adaptthink.engines.base import Engine
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.openai import connect
from adaptthink.engines.vllm import VllmEngine
from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, Limits, Verdict
from adaptthink.models.card import write_card
from adaptthink.models.checks import examine
from adaptthink.models.context import check_context, find_context_tokens
from adaptthink.models.loading import Policy, find_eos_ids, find_model, load_model
from adaptthink.models.lora import check_targets
from adaptthink.models.scoring import pad
from adaptthink.models.think_starts import probe_configured
from adaptthink.modes import Mode, ThinkTemplate
from adaptthink.problems import Problem, format_prompt, hash_answer, make_problem
from adaptthink.problems.files import read_prompt, shorten
from adaptthink.ratio import Ratio
from adaptthink.sampling.grader import AnswerGrader, RewardFunction, RewardGrader
from adaptthink.sampling.reading import decode
from adaptthink.sampling.requests import MaxTokens, derive_stream, make_request, make_seed
from adaptthink.sampling.sampler import (
    Pending,
    Rollout,
    Sampler,
    Sampling,
    generate_and_grade,
)
from adaptthink.storage.rows import RowError
from adaptthink.training.batch import Batch, RolloutSummary, summarise_rollout
from adaptthink.training.credit import Credit, spread_credit
from adaptthink.training.initial import InitialModel, keep_initial
from adaptthink.training.methods import check_method, load_method, refuse_stored
from adaptthink.training.metrics import (
    GRADED_STEPS,
    check_grading,
    compute_weighted_mean,
    describe_credit,
    describe_rollouts,
)
from adaptthink.training.mismatch import (
    Parts,
    add_parts,
    check_mismatch,
    describe_mismatch,
    find_excess,
    gate_mismatch,
)
from adaptthink.training.reference import (
    check_grades,
    check_settings,
    make_store_settings,
    open_references,
    read_fingerprint,
    read_store_date,
)
from adaptthink.training.rollout import (
    assign_modes,
    find_decision_logprob,
    make_loss_mask,
    replace_decision_logprob,
)

logger = logging.getLogger(__name__)

Metrics = dict[str, float]

IGNORED = -100  # a label that has no log-probability

# Settings of GRPOConfig that must stay as `AdaptThinkConfig` has them, and why.
FIXED = {
    "the paper's objective has no such term; delta, ratio and epsilon shape the loss": (
        "beta", "loss_type", "importance_sampling_level", "epsilon_high", "entropy_coef", "use_adaptive_entropy",
        "top_entropy_quantile", "off_policy_mask_threshold", "router_aux_loss_coef", "sync_ref_model",
    ),
    "an advantage compares with the reference model, not with the other samples, and the reward is the grader's": (
        "scale_rewards", "reward_weights", "multi_objective_aggregation", "mask_truncated_completions",
    ),
    "responses are sampled from the policy itself at temperature, as their log-probabilities must be": (
        "top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs", "vllm_structured_outputs_regex",
        "vllm_importance_sampling_correction",
    ),
    "it is not supported here": (
        "use_transformers_continuous_batching", "cache_implementation", "chat_template_kwargs", "remove_unused_columns",
        "vllm_enable_sleep_mode", "vllm_tensor_parallel_size", "log_multimodal", "ds3_gather_for_generation",
    ),
}  # fmt: skip


@dataclass
class AdaptThinkConfig(GRPOConfig):
    """TRL's `GRPOConfig` with the paper's settings as defaults, and AdaptThink's own beside them.

    `max_completion_length` is the token limit of a think response, `num_generations` is K. `delta` is the paper's δ,
    not TRL's second clipping bound. Raises UserError for settings that would not be the method any more.
    """

    method: str = field(
        default="adaptthink", metadata={"help": "What is learned from the samples: adaptthink (the paper), gap (ours)."}
    )
    delta: float = field(default=0.05, metadata={"help": "δ: how much accuracy no_think may cost."})
    no_think_share: float = field(
        default=0.5, metadata={"help": "Share of no_think samples; 0 forces nothing (plain on-policy)."}
    )
    ratio: Ratio = field(
        default="sequence_mean",
        metadata={"help": "Importance ratio: sequence_mean (official code), sequence (Eq. 9 literally) or token."},
    )
    max_no_think_tokens: int = field(default=4096, metadata={"help": "Token limit of a forced no_think response."})
    think_start: str = field(
        default="Alright", metadata={"help": "w_start: the text that forced thinking begins with."}
    )
    prompt_date: str | None = field(
        default=None,
        metadata={"help": "The day, YYYY-MM-DD, for chat templates that write it into prompts; default: the store's."},
    )
    force_think: str = field(
        default="start",
        metadata={"help": "Begin thinking with think_start (start), or with any other token but no_think's (ban)."},
    )
    boxed_only: bool = field(default=True, metadata={"help": "Read answers in \\boxed{} only, as the paper."})
    grading_seconds: float = field(
        default=2.0,
        metadata={"help": "Seconds of processor time after which a symbolic comparison of one answer is stopped."},
    )
    reward_seconds: float = field(
        default=10.0, metadata={"help": "Time-out of a call of the reward function, where one is given."}
    )
    max_failed_grades: float = field(
        default=0.05, metadata={"help": "Stop if grading failed on more than this share of the last responses."}
    )
    mismatch: str = field(
        default="warn",
        metadata={"help": "Where sampler and trainer disagree: warn (the paper), mask, truncate or stop."},
    )
    max_concurrent_sequences: int = field(
        default=1024, metadata={"help": "Responses that a process generates at the same time; bounds memory."}
    )

    # TRL's own, with the paper's values, and checkpoints as `adaptthink train` keeps them
    num_train_epochs: float = 1.0
    save_steps: float = 20
    save_total_limit: int | None = 2
    max_completion_length: int = 16384
    num_generations: int = 16
    temperature: float = 0.6
    learning_rate: float = 2e-6
    lr_scheduler_type: str = "constant"
    disable_dropout: bool = True  # π_θ must be the policy that was sampled
    loss_type: str = "grpo"  # the nearest name in TRL; the loss itself is the method's
    importance_sampling_level: str = "sequence"
    scale_rewards: str = "none"
    vllm_importance_sampling_correction: bool = False  # the sampler's log-probabilities are the denominator already

    def __post_init__(self) -> None:
        super().__post_init__()
        for reason, names in FIXED.items():
            for name in names:
                value, wanted = getattr(self, name), getattr(AdaptThinkConfig, name)
                if value != wanted:
                    raise UserError(f"{name} = {value!r} is not for AdaptThink: {reason}; leave it at {wanted!r}")
        refuse_stored(self.method, "TRL")
        check_method(self.train_config())  # raises for other invalid settings

    def train_config(self, **more: Any) -> TrainConfig:
        """Return the same settings as `adaptthink train` has them; raises UserError for values out of their range."""
        shared = ("method", "delta", "no_think_share", "ratio", "max_no_think_tokens", "mismatch")
        written = ("think_start", "force_think", "prompt_date")
        graded = ("boxed_only", "grading_seconds", "max_failed_grades", "max_concurrent_sequences")
        same = {
            name: getattr(self, name) for name in (*shared, *written, *graded, "temperature", "learning_rate", "seed")
        }
        samples = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        return check(
            TrainConfig,
            same
            | {
                "max_think_tokens": self.max_completion_length,
                "samples_per_problem": self.num_generations,
                "problems_per_step": max(1, samples // self.num_generations),
                "clip": self.epsilon,
                "dtype": "bfloat16" if self.bf16 else "float32",
            }
            | ({"max_grad_norm": self.max_grad_norm} if self.max_grad_norm else {})  # 0 bounds nothing
            | more,
        )


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """What the metrics need of one rollout; those of all processes are sent to each."""

    summary: RolloutSummary
    no_think_logprob: float | None  # of the decision token under the policy, where no_think was forced
    credit: Credit | None = None  # in training


class ByEpoch(torch.utils.data.Sampler[int]):
    """TRL's order of the rows, the shuffling of each epoch seeded by seed and epoch.

    TRL's sampler shuffles with a generator that no checkpoint holds: resumed, it would repeat the first epoch's order.
    `epoch` returns how many epochs are done, parts of one included.
    """

    def __init__(self, rows: Any, seed: int, epoch: Callable[[], float]) -> None:
        self.rows, self.seed, self.epoch = rows, seed, epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        if self.rows.shuffle:
            self.rows.generator.manual_seed(make_seed(self.seed, "epoch", int(self.epoch())) >> 1)  # it takes 63 bits
        return iter(self.rows)


class AdaptThinkTrainer(GRPOTrainer):
    """Trains a model to choose when to think.

    A dataset has the columns `prompt` (a question, or a conversation that ends in one) and `answer`; `kind`,
    `level`, `source` and `problem_id` are optional (`problem_dataset` makes them from our problems). R̄_ref comes from
    `reference`: the path of a store that `adaptthink presample` made, or rewards by problem id; where that is None,
    from a column `reference_reward`. Raises UserError for what cannot work, before the first step where it can be seen.
    """

    args: AdaptThinkConfig
    model: Any
    processing_class: Any
    num_generations: int
    num_generations_eval: int
    _logs: Any

    _tag_names = ["trl", "adaptthink"]  # noqa: RUF012  (as TRL has it)
    _name = "AdaptThink"

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: AdaptThinkConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        reference: str | Path | Mapping[str, float | None] | None = None,
        reward: RewardFunction | None = None,
        reward_funcs: None = None,
        **trainer: Any,
    ) -> None:
        if reward_funcs is not None:
            raise UserError(
                "reward_funcs are not for AdaptThink: the reward is 1 for a correct answer and 0 otherwise, by the "
                "column 'answer'; leave them out, or give one function of your own as reward (docs/how-to/rewards.md)"
            )
        args = AdaptThinkConfig(output_dir="adaptthink") if args is None else args
        if not isinstance(args, AdaptThinkConfig):
            raise UserError(f"args is a {type(args).__name__}; give an AdaptThinkConfig, which takes the same settings")
        self._rewards = read_rewards(reference)
        self._grader = (
            RewardGrader(reward, args.reward_seconds)
            if reward
            else AnswerGrader(Limits(args.grading_seconds), args.boxed_only)
        )
        if isinstance(reference, str | Path):
            check_store(Path(reference), args, self._grader.name if isinstance(self._grader, RewardGrader) else None)
        if isinstance(train_dataset, Dataset):
            check_rows(train_dataset, self._rewards)
        if isinstance(reference, str | Path):
            check_verdicts(Path(reference), train_dataset, args.max_failed_grades)
        name = model if isinstance(model, str) else str(model.name_or_path)
        options = args.model_init_kwargs
        if isinstance(model, str) and trainer.get("quantization_config") is None:
            model, args.model_init_kwargs = load_for_trl(model, args), None  # TRL would warn that it does not use them
        super().__init__(
            model=find_model(model) if isinstance(model, str) else model,
            reward_funcs=graded_by_the_trainer,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **trainer,
        )
        args.model_init_kwargs = options
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            raise UserError("the model's processor is no tokenizer; AdaptThink is for language models without images")
        if self._dist.is_fsdp and not args.use_vllm:
            raise UserError(
                "under FSDP no process has the whole model to generate with; set use_vllm=True, or use DeepSpeed or DDP"
            )
        store = Path(reference) if isinstance(reference, str | Path) else None
        self._template = probe_dated(self.processing_class, args, store)
        self._eos_ids = find_eos_ids(self.model, self.processing_class, self._template)
        self._examine(name)
        for dataset in (train_dataset, eval_dataset):
            if isinstance(dataset, Dataset):
                check_lengths(self.model.config, self.processing_class, self._template, dataset, args)
        if isinstance(reference, str | Path):
            self._check_model(Path(reference))
        self._train_config = args.train_config()
        self._method = load_method(args.method)
        self._initial = self._keep_initial() if self._method.initial_modes else None
        self._server = self._connect() if args.use_vllm and args.vllm_mode == "server" else None
        self._records: dict[bool, list[RolloutRecord]] = {
            True: [],
            False: [],
        }  # in training or not: since its last log, everywhere
        self._clipped: list[tuple[bool, float]] = []
        self._mismatch: Parts = {}  # of this process's responses
        self._graded: deque[list[Verdict]] = deque(maxlen=GRADED_STEPS)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Sample and grade this process's part of a generation batch; in training, return what the loss needs.

        Rows come as TRL lays them out: the K copies of a problem follow each other, over the processes in turn.
        """
        training = self.model.training
        copies = self.num_generations if training else self.num_generations_eval
        if not training and len(inputs) * self.accelerator.num_processes % copies:
            raise UserError(
                f"an evaluation batch of {len(inputs)} responses on each of {self.accelerator.num_processes} processes "
                f"holds no whole groups of num_generations_eval = {copies}; change per_device_eval_batch_size"
            )
        first = self.accelerator.process_index * len(inputs)
        positions = [(first + index) % copies for index in range(len(inputs))]
        with self._engine() as engine:
            sampler = Sampler(engine, self.processing_class, self._template, self._grader)
            sampled = sample_rows(
                sampler, [read_problem(row) for row in inputs], positions, self.args, self.state.global_step, training
            )
        forced = training and self.args.no_think_share > 0
        everywhere: list[RolloutRecord] = gather_object([make_record(one, forced=forced) for one in sampled])
        if not training:
            self._records[training] += everywhere
            return {}
        references: list[float | None] = gather_object([find_reference_reward(row, self._rewards) for row in inputs])
        progress = self.state.global_step / max(1, self.state.max_steps)
        batch = Batch([one.summary for one in everywhere], references, progress)
        credits = self._method.assign_credit(batch, self._train_config)
        self._records[training] += [
            replace(one, credit=credit) for one, credit in zip(everywhere, credits, strict=True)
        ]
        own_credits = credits[first : first + len(inputs)]
        rollouts = sampled
        if self._method.samples_from_is:
            force = self._train_config.force_think
            rollouts = [replace_decision_logprob(one, self.args.no_think_share, force) for one in sampled]
        if self._initial:
            rollouts = self._initial.score(rollouts, self._method.initial_modes, self._train_config)
        self._graded.append([one.summary.verdict for one in everywhere])
        check_grading(self._graded, self.args.max_failed_grades, self.state.global_step + 1)
        self._keep_texts(rollouts, own_credits)
        return to_tensors(rollouts, own_credits, self.accelerator.device, self._train_config)

    def _get_train_sampler(self, dataset: Any = None) -> ByEpoch:
        return ByEpoch(super()._get_train_sampler(dataset), self.args.seed, lambda: self.state.epoch or 0)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """One micro-batch's share of the step's loss: the sum over its sequences / the number of all of the step.

        Divided here by the micro-batch and the accumulation steps; the mean over processes, taken by the
        gradient's reduction, completes it.
        """
        width = int(inputs["attention_mask"].sum(-1).max())  # the batch was padded to the longest of the whole step
        with self.accelerator.autocast():
            out = model(
                input_ids=inputs["input_ids"][:, :width],
                attention_mask=inputs["attention_mask"][:, :width],
                labels=inputs["labels"][:, :width],
                fused_lm_head=True,  # TRL's: log-probabilities at its temperature, without the logits of a whole batch
            )
        logprob_BT = select_responses(out.log_probs, inputs)
        gated = gate_mismatch(
            logprob_BT,
            inputs["behavior_logprobs"],
            inputs["in_loss"],
            inputs["sampled_decision"],
            inputs["no_think"],
            self._train_config.mismatch,
        )
        add_parts(self._mismatch, gated.parts)
        result = self._method.compute_loss(
            logprob_BT, gated.behavior_BT, inputs["credit"], gated.mask_BT, self._train_config
        )
        pair_B2 = torch.stack([inputs["no_think"].to(result.clipped_B), result.clipped_B.detach()], dim=1)
        self._clipped += [(bool(mode), value) for mode, value in self.accelerator.gather(pair_B2).tolist()]
        return result.loss_B.mean() / self.current_gradient_accumulation_steps

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, None, None]:
        """Evaluate a batch in the modes that the model chooses; the results are metrics, and there is no loss."""
        self._prepare_inputs(inputs)
        return None, None, None

    def evaluation_loop(self, dataloader: Any, *arguments: Any, **named: Any) -> Any:
        """Evaluate a set, each of its responses counting once, also where they fill up the processes' last batch."""
        output = super().evaluation_loop(dataloader, *arguments, **named)
        if hasattr(dataloader.dataset, "__len__"):
            del self._records[False][len(dataloader.dataset) * self.num_generations_eval :]
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the responses since the last log, over all processes, each counting once."""
        training = self.model.training
        metrics = describe_records(self._records[training], training=training)
        self._records[training] = []
        if training:
            metrics |= describe_clipping(self._clipped) | self._describe_mismatch()
            self._clipped, self._mismatch = [], {}
        self._metrics["train" if training else "eval"].update({name: [value] for name, value in metrics.items()})
        super().log(logs, start_time)

    def _describe_mismatch(self) -> Metrics:
        """Describe how far sampler and trainer are apart, over all processes; say it, or end, beyond the bounds."""
        parts: Parts = {}
        for found in gather_object([self._mismatch]):
            add_parts(parts, found)
        metrics = describe_mismatch(parts)
        check_mismatch(metrics, self._train_config.mismatch, self.state.global_step)
        for excess in find_excess(metrics):
            logger.warning("step %d: trainer and sampler disagree: %s", self.state.global_step, excess)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write model, tokenizer and our model card in Hugging Face format."""
        super().save_model(output_dir, _internal_call)
        self._write_card(Path(output_dir or str(self.args.output_dir)))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write our card where TRL would write its own."""
        self._write_card(Path(str(self.args.output_dir)))

    def _write_card(self, folder: Path) -> None:
        if self.is_world_process_zero():
            name = str(getattr(self.model.config, "_name_or_path", "") or "model")
            config = self.args.train_config(model=name, problems="a dataset", steps=max(1, self.state.max_steps))
            folder.mkdir(parents=True, exist_ok=True)
            write_card(folder, config, backend=f"TRL {trl_version}")

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        """Yield an engine with the weights as they are now."""
        if self.use_vllm:
            if self.state.global_step != self._last_loaded_step:
                self.vllm_generation.sync_weights()
                self._last_loaded_step = self.state.global_step
                self.accelerator.wait_for_everyone()  # each process calls the server itself, after the new weights
            yield self._server or VllmEngine(self.vllm_generation.llm, self._eos_ids)
            return
        checkpointing: Any = self.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=checkpointing,
        ) as whole:
            model = whole.get_base_model() if hasattr(whole, "get_base_model") else whole  # adapters stay in its layers
            dtype = torch.bfloat16 if self.args.bf16 else model.dtype
            yield NativeEngine(
                model, self._eos_ids, max_concurrent_sequences=self.args.max_concurrent_sequences, dtype=dtype
            )

    def _keep_initial(self) -> InitialModel:
        """Return the model as it is before training; raises UserError where no process has all of its weights."""
        if self._dist.is_zero3 or self._dist.is_fsdp:
            raise UserError(
                f"method = '{self.args.method}' compares with the model before training, and under FSDP and DeepSpeed "
                "ZeRO-3 no process has all of its weights; use DDP or ZeRO-2, or give it pull=0"
            )
        adapter = self.model if hasattr(self.model, "get_base_model") else None
        base = adapter.get_base_model() if adapter else self.model
        return keep_initial(Policy("", base, self.processing_class, self._template, self._eos_ids, adapter))

    def _examine(self, name: str) -> None:
        """Raise UserError for a fault of model or adapter; weights are examined where a process has all of them."""
        adapted = hasattr(self.model, "get_base_model")
        if adapted:
            check_targets(self.model, "peft_config")
        if not (self._dist.is_zero3 or self._dist.is_fsdp):
            model = self.model.get_base_model() if adapted else self.model
            deque(examine(name, model, self.processing_class, self._template, self._eos_ids), maxlen=0)

    def _check_model(self, store: Path) -> None:
        """Raise UserError if a store holds another model's samples; warn where no process has all weights.

        Under FSDP, weights are not divided before the training starts; the main process always has them whole.
        """
        if not self.accelerator.is_main_process:
            return
        made_with = read_fingerprint(store)
        if self._dist.is_zero3:
            warnings.warn(
                f"reference store '{store}' holds the samples of the model with fingerprint {made_with}; whether that "
                "is the model that is trained could not be compared, because under DeepSpeed ZeRO-3 no process has all "
                "weights; make sure of it, or start once without ZeRO-3",
                stacklevel=3,
            )
            return
        adapter = self.model if hasattr(self.model, "get_base_model") else None
        base = adapter.get_base_model() if adapter else self.model
        policy = Policy("", base, self.processing_class, self._template, self._eos_ids, adapter)
        if made_with != policy.fingerprint:
            raise UserError(
                f"reference store '{store}' holds the samples of another model (fingerprint {made_with}, this one has "
                f"{policy.fingerprint}); pre-sample with the model that is trained"
            )

    def _connect(self) -> Engine:
        """Connect to the server that TRL sends weights to; raises UserError if its log-probabilities are not π's."""
        if self.accelerator.is_main_process:
            mode = self.vllm_generation.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
            if mode != "processed_logprobs":
                raise UserError(
                    f"the vLLM server returns {mode}, without the sampling temperature; "
                    "start it with --logprobs-mode processed_logprobs too"
                )
        url = self.args.vllm_server_base_url or f"http://{self.args.vllm_server_host}:{self.args.vllm_server_port}"
        return connect(
            url,
            self._eos_ids,
            name=self.model.name_or_path,
            max_concurrent_sequences=self.args.max_concurrent_sequences,
        )

    def _text(self, rollout: Rollout) -> str:
        return decode(self.processing_class, rollout.response_ids)

    def end_training(self) -> None:
        """End the process group, the last thing that a process does with the trainer.

        The wrapped model holds the group, and a process that exits with one that is held may be aborted. So that is
        given up first; the weights stay in `model`.
        """
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        gc.collect()  # the wrapped model is in reference cycles
        self.accelerator.end_training()

    def _keep_texts(self, rollouts: Sequence[Rollout], credits: Sequence[Credit]) -> None:
        """Give TRL what its table of completions shows (`log_completions`)."""
        if not self.log_completions:
            return
        self._logs["prompt"].extend(gather_object([format_prompt(rollout.problem) for rollout in rollouts]))
        self._logs["completion"].extend(gather_object([self._text(one) for one in rollouts]))
        verdicts: list[Verdict] = gather_object([rollout.verdict for rollout in rollouts])
        self._logs["rewards"]["reward"].extend(
            float(verdict is Verdict.CORRECT) if verdict.has_reward else math.nan for verdict in verdicts
        )
        self._logs["extra"]["verdict"].extend(map(str, verdicts))
        self._logs["advantages"].extend(gather_object([credit.body for credit in credits]))


def load_for_trl(name: str, args: AdaptThinkConfig) -> PreTrainedModel:
    """Load a model by name with TRL's options; raises UserError where its files are not those of the model."""
    given: Any = args.model_init_kwargs  # TRL's parser has made a dict of a text
    options = dict(given or {})
    dtype = options.pop("dtype", "float32")
    options.setdefault("trust_remote_code", args.trust_remote_code)
    return load_model(name, dtype=dtype, **options)


def graded_by_the_trainer(*_: Any, **__: Any) -> list[float | None]:
    """Stand where TRL wants a reward function; the trainer grades, so a call would be a fault."""
    raise AssertionError("AdaptThinkTrainer grades responses itself")


def problem_dataset(problems: Iterable[Problem]) -> Dataset:
    """Return problems as rows for the trainer, ids included, by which a store knows them.

    Prompts are conversations if one of the problems has more than its question.
    """
    rows = list(problems)
    conversations = any(problem.context for problem in rows)
    return Dataset.from_list(
        [
            {
                "prompt": [asdict(message) for message in problem.messages] if conversations else problem.prompt,
                "answer": problem.answer,
                "problem_id": problem.id,
                "source": problem.source,
                "kind": str(problem.kind),
                "level": None if problem.level is None else str(problem.level),  # a column has one type
            }
            for problem in rows
        ]
    )


def read_problem(row: Mapping[str, Any]) -> Problem:
    """Read a row of a dataset; raises UserError that names the column and what it should hold."""
    answer = row.get("answer")
    try:
        context, prompt = read_prompt("prompt", row.get("prompt"), row)
    except RowError as error:
        raise UserError(
            f"column 'prompt' holds {shorten(row.get('prompt'))}; it takes a question as text, or a conversation that "
            f"ends in one ({error})"
        ) from None
    if not isinstance(answer, str | int):
        raise UserError(f"column 'answer' holds {shorten(answer)} for {shorten(prompt)}; it takes the correct answer")
    kind, source = row.get("kind") or AnswerKind.MATH, row.get("source") or ""
    if kind not in set(AnswerKind):
        raise UserError(f"column 'kind' holds {shorten(kind)}; it takes one of {', '.join(AnswerKind)}")
    problem = make_problem(
        prompt, str(answer), level=row.get("level"), source=source, kind=AnswerKind(kind), context=context
    )
    return replace(problem, id=row.get("problem_id") or problem.id)


def read_rewards(reference: str | Path | Mapping[str, float | None] | None) -> Mapping[str, float | None] | None:
    """R̄_ref by problem id, from a store or as given; None stands for the dataset's own column."""
    if isinstance(reference, str | Path):
        return {id_: one.reward for id_, one in open_references(Path(reference)).items()}
    return reference


def probe_dated(tokenizer: PreTrainedTokenizerBase, args: AdaptThinkConfig, store: Path | None) -> ThinkTemplate:
    """Return the think template with the configured day or the store's, where the chat template writes one.

    Raises UserError where there is none, as a training that is resumed on another day would change its prompts.
    """
    recorded = read_store_date(store) if store else None
    template = probe_configured(tokenizer, args.think_start, args.prompt_date)
    if template.date is None:
        return template
    if not (args.prompt_date or recorded):
        raise UserError(
            "the chat template writes the day into prompts, which must stay the same in a training; give "
            f"prompt_date='{template.date}'"
        )
    if store and args.prompt_date:
        check_settings(store, {"prompt_date": args.prompt_date})
    return replace(template, date=args.prompt_date or recorded)


def check_verdicts(store: Path, dataset: Any, limit: float) -> None:
    """Raise UserError if a store's verdicts belong to other reference answers than the dataset's, or failed too often.

    A dataset that is read while the training runs has no rows to look at yet, and whether an id follows from the answer
    cannot be seen in a row that has lost its source.
    """
    references = open_references(store)
    check_grades(references.values(), limit)
    for row in dataset if isinstance(dataset, Dataset) else ():
        problem = read_problem(row)
        stored = references[problem.id].answer_hash
        if stored != hash_answer(problem) and (stored or row.get("source") is not None):
            raise UserError(
                f"reference store '{store}' was graded against another reference answer to problem {problem.id} "
                f"({shorten(problem.prompt)}); pre-sample these problems again"
            )


def check_store(store: Path, args: AdaptThinkConfig, reward: str | None) -> None:
    """Raise UserError if a store's rewards are not those of the training: cut at another length, or graded otherwise.

    Its temperature, top_p and seed are its own (the paper samples the reference with top_p 0.95), and any K will do.
    """
    settings = make_store_settings(args.train_config(), "")
    check_settings(store, {name: settings[name] for name in ("max_tokens", "boxed_only")} | {"reward": reward})


def find_reference_reward(row: Mapping[str, Any], rewards: Mapping[str, float | None] | None) -> float | None:
    """R̄_ref of a row's problem, None for one that cannot be graded; raises UserError where none was given."""
    if rewards is None:
        if "reference_reward" not in row:
            raise UserError(
                "no reference: give AdaptThinkTrainer(reference=PATH) with a store made by 'adaptthink presample', "
                "or the dataset a column 'reference_reward' with the mean reward of the model before training"
            )
        return row["reference_reward"]
    problem = read_problem(row)
    if problem.id not in rewards:
        raise UserError(
            f"the reference lacks problem {problem.id} ({shorten(problem.prompt)}); pre-sample these problems, "
            "and make the dataset of them with problem_dataset, which keeps their ids"
        )
    return rewards[problem.id]


def check_rows(dataset: Dataset, rewards: Mapping[str, float | None] | None) -> None:
    """Raise UserError for the first row that cannot be trained on: before the training, not hours later."""
    for row in dataset:
        read_problem(row)
        value = find_reference_reward(row, rewards)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"the reference reward of {shorten(row['prompt'])} is {value}; a mean reward is in [0, 1]")


def check_lengths(
    model: Any, tokenizer: Any, template: ThinkTemplate, dataset: Dataset, args: AdaptThinkConfig
) -> None:
    """Raise UserError if a prompt and its response do not fit into the model's context."""
    limits = {name: getattr(args, name) for name in ("max_completion_length", "max_no_think_tokens")}
    problems = (read_problem(row) for row in dataset)
    check_context(find_context_tokens(model), tokenizer, template, problems, limits, given=limits)


def sample_rows(
    sampler: Sampler,
    problems: Sequence[Problem],
    positions: Sequence[int],
    args: AdaptThinkConfig,
    step: int,
    training: bool,
) -> list[Rollout]:
    """Sample one response per row; returns rollouts with the engine's log-probabilities.

    `positions` are those among the K copies of a problem; in training the first of them are no_think, up to the share.
    Random streams follow from seed, step, problem and position, so they are the same for any number of processes, and
    after a resumption.
    """
    modes = assign_modes(args.num_generations, args.no_think_share)
    max_tokens = MaxTokens(args.max_completion_length, args.max_no_think_tokens)
    seed = make_seed(args.seed, "rollout", step + 1) if training else make_seed(args.seed, "evaluation")
    requests, pending = [], []
    for problem, position in zip(problems, positions, strict=True):
        request = make_request(
            sampler.template,
            sampler.encode_prompt(problem),
            modes[position] if training else None,
            derive_stream(problem, position),
            max_tokens,
            force_think=ForceThink(args.force_think),
            seed=seed,
        )
        requests.append(request)
        pending.append(Pending(problem, request.prompt_ids, len(request.prefix_ids), weight=1.0))
    return generate_and_grade(sampler, requests, pending, Sampling(max_tokens, args.temperature, seed=seed), None)


def to_tensors(
    rollouts: Sequence[Rollout], credits: Sequence[Credit], device: torch.device, config: TrainConfig
) -> dict[str, Tensor]:
    """Return what the loss needs of rollouts, prompts and responses in one row, padded at the right.

    Ids, mask and labels are (B, S); labels are −100 but for the response. `behavior_logprobs`, `in_loss` and `credit`
    are (B, T), one column for each token of the response.
    """
    mask_BS = pad([[1] * len(one.prompt_ids + one.response_ids) for one in rollouts], device)
    label_BS = pad([[IGNORED] * len(one.prompt_ids) + list(one.response_ids) for one in rollouts], device)
    return {
        "input_ids": pad([one.prompt_ids + one.response_ids for one in rollouts], device),
        "attention_mask": mask_BS,
        "labels": label_BS.masked_fill(mask_BS == 0, IGNORED),
        "behavior_logprobs": pad([one.behavior_logprobs for one in rollouts], device, np.float32),
        "in_loss": pad([make_loss_mask(one) for one in rollouts], device, np.bool_),
        "credit": pad([spread_whole(*pair) for pair in zip(credits, rollouts, strict=True)], device, np.float32),
        "prompt_tokens": torch.tensor([len(one.prompt_ids) for one in rollouts], device=device),
        "no_think": torch.tensor([one.mode is Mode.NO_THINK for one in rollouts], device=device),
        "sampled_decision": torch.tensor([find_decision_logprob(one, config) for one in rollouts], device=device),
    }


def spread_whole(credit: Credit, rollout: Rollout) -> np.ndarray:
    """Return the credit of each token of a response, 0 behind the last that has any."""
    credit_T = spread_credit(credit, rollout.behavior_logprobs, rollout.initial_logprobs)
    return np.pad(credit_T, (0, len(rollout.response_ids) - len(credit_T)))


def select_responses(logprob_BS: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities of the responses' tokens, (B, T), of those of all labels; arbitrary behind an end.

    Column t of `logprob_BS` belongs to token t + 1 of prompt and response.
    """
    mask_BT = inputs["in_loss"]
    column_BT = inputs["prompt_tokens"][:, None] - 1 + torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return logprob_BS.gather(1, column_BT.clamp(max=logprob_BS.shape[1] - 1))


def make_record(rollout: Rollout, *, forced: bool) -> RolloutRecord:
    """Return the record of a rollout as sampled, while its first log-probability is the policy's own."""
    known = forced and rollout.mode is Mode.NO_THINK
    logprob = rollout.behavior_logprobs[0] if known else None
    return RolloutRecord(summarise_rollout(rollout), logprob)


def describe_records(records: Sequence[RolloutRecord], *, training: bool) -> Metrics:
    """Describe responses under the names that every trainer has; a metric without data has no entry."""
    if not records:
        return {}
    summaries = [one.summary for one in records]
    metrics: dict[str, Any] = {
        "mean_tokens": fmean(one.tokens for one in summaries),
        "no_think_share": fmean(one.mode is Mode.NO_THINK for one in summaries),
        "reward": compute_weighted_mean((one.reward, 1.0) for one in summaries if one.reward is not None),
    }
    metrics |= describe_rollouts(summaries)
    if training:
        metrics |= describe_credit(summaries, [one.credit for one in records if one.credit])
    logprobs = [one.no_think_logprob for one in records if one.no_think_logprob is not None]
    if logprobs:
        metrics |= {"no_think_logprob": fmean(logprobs), "no_think_probability": fmean(map(math.exp, logprobs))}
    return {name: float(value) for name, value in metrics.items() if value is not None}


def describe_clipping(clipped: Iterable[tuple[bool, float]]) -> Metrics:
    """The share of the loss whose gradient the clip removed, by mode."""
    by_mode: dict[Mode, list[float]] = {mode: [] for mode in Mode}
    for no_think, value in clipped:
        by_mode[Mode.NO_THINK if no_think else Mode.THINK].append(value)
    return {f"clip_share_{mode}": fmean(values) for mode, values in by_mode.items() if values}
