"""What `adaptthink plan` does: put a recipe, a model's shape, lengths and hardware together, and print what follows."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from adaptthink.cli.console import console
from adaptthink.config.schema import EvaluateConfig, VerlConfig
from adaptthink.errors import UserError
from adaptthink.integrations.verl.settings import check_config
from adaptthink.planning.architecture import Architecture, read_architecture
from adaptthink.planning.estimate import (
    CPU_EFFICIENCY,
    GB,
    SHORTENING,
    SPREAD,
    Lengths,
    Plan,
    Platform,
    Remedy,
    choose_element_bytes,
    compute_quantiles,
    estimate_sampling_hours,
    find_remedies,
    list_larger_platforms,
    make_cluster_platform,
    make_plan,
    make_quantiles,
    spread_gpus,
)
from adaptthink.planning.hardware import NETWORK_GB, NODE_GPUS, read_cluster
from adaptthink.planning.roofline import measure_machine
from adaptthink.problems.arithmetic import LEVELS
from adaptthink.problems.sets import SETS, find_local_copy
from adaptthink.problems.sources import ArithmeticSource, Purpose, SetSource, Source, name_problem_set, parse_name
from adaptthink.training.data import count_used, find_problems
from adaptthink.training.reference import read_references

PROMPT_TOKENS = 200  # of a competition problem with the instruction and the chat template
SHORT_PROMPT_TOKENS = {"arithmetic": 16, "words": 64}  # of procedural problems, with the chat template
MEANS = {  # tokens, thinking and not: the paper's table 1, mean of MATH500 and AIME24, between which DeepScaleR stands
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (8480, 1424),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (6990, 1313),
}
MEASURED_LIMITS = 16384, 4096  # that those responses had
LIMIT_SHARES = (1 / 2, 1 / 3)  # of max_tokens, where nothing is known; the means above are .43 to .52 and .32 to .35


def plan_job(
    config: VerlConfig,
    gpus: str,
    *,
    think_tokens: float | None = None,
    no_think_tokens: float | None = None,
    prompt_tokens: int | None = None,
    reference: Path | None = None,
    price: float | None = None,
    evaluation: EvaluateConfig | None = None,
) -> dict[str, Any]:
    """Estimate a training on `gpus` (8xH100, or cpu: this machine, measured), print the estimate and return it.

    Raises UserError where `train --backend verl`, which is what more than one GPU are for, would not start.
    """
    platform = (
        measure_this_machine(config) if gpus.strip().lower() == "cpu" else make_cluster_platform(read_cluster(gpus))
    )
    if platform.devices > 1:
        check_config(spread_gpus(config, platform.devices))
    architecture = read_architecture(config.model)
    usual = SHORT_PROMPT_TOKENS.get(config.problems, PROMPT_TOKENS)
    lengths = find_lengths(config, think_tokens, no_think_tokens, prompt_tokens or usual, reference)
    num_problems = count_problems(config)
    num_used = None if num_problems is None else count_used(num_problems, config)
    plan = make_plan(architecture, config, platform, lengths, num_used)
    larger = [more for more in list_larger_platforms(platform) if can_train(config, more.devices)]
    helps = [] if plan.fits else find_remedies(architecture, config, platform, lengths, larger)
    needs = find_needed_settings(config, platform, plan)
    assumptions = list(list_assumptions(config, platform, lengths, num_problems))
    cost = None if price is None else price * platform.devices * plan.hours
    after = list_evaluations(architecture, config, platform, lengths, evaluation) if evaluation else []
    show_plan(architecture, config, platform, lengths, plan, helps, needs, cost)
    show_stages(architecture, config, plan, after)
    console.print("assumed:")
    for line in assumptions:
        console.print(f"  {line}", style="dim", markup=False)
    return {
        "platform": platform_to_json(platform),
        "model": {"name": config.model, "weights": architecture.weights} | asdict(architecture),
        "lengths": {
            "prompt": lengths.prompt,
            "think_mean": sum(lengths.think) / len(lengths.think),
            "no_think_mean": sum(lengths.no_think) / len(lengths.no_think),
            "source": lengths.source,
        },
        "plan": plan_to_json(plan),
        "gpu_hours": platform.devices * plan.hours,
        "cost": cost,
        "disk_bytes": count_disk_bytes(architecture, config, plan),
        "evaluations": [asdict(one) for one in after],
        "settings": needs,
        "remedies": [remedy.settings for remedy in helps],
        "assumptions": assumptions,
    }


def count_problems(config: VerlConfig) -> int | None:
    """Return how many problems there are to train on; None for a set that only the hub has.

    Raises UserError for problems that cannot be read.
    """
    for source in parse_name(config.problems, Purpose.TRAINING):
        if isinstance(source, SetSource) and not find_local_copy(source.name, source.split, config.data):
            return None
    return len(find_problems(config.problems, None, config).problems)


def can_train(config: VerlConfig, devices: int) -> bool:
    """Return whether verl can train with a config on so many GPUs."""
    try:
        check_config(spread_gpus(config, devices))
    except UserError:
        return False
    return True


def find_needed_settings(config: VerlConfig, platform: Platform, plan: Plan) -> list[str]:
    """Return what must be given to `train --backend verl` beside the config, so that it does what is planned."""
    if platform.devices == 1:
        return []
    planned = spread_gpus(config, platform.devices).model_copy(update={"tensor_parallel": plan.tensor_parallel})
    keys = ("nodes", "gpus_per_node", "tensor_parallel", "ray_address")
    values = {key: getattr(planned, key) for key in keys if getattr(planned, key) != getattr(config, key)}
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]


def measure_this_machine(config: VerlConfig) -> Platform:
    """Measure this machine's processor as the native engine would use it."""
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    machine = measure_machine(torch.device("cpu"), dtype)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Platform("cpu", 1, float(memory), machine, math.inf, CPU_EFFICIENCY)


def find_lengths(
    config: VerlConfig, think: float | None, no_think: float | None, prompt: int, reference: Path | None
) -> Lengths:
    """Return the lengths of responses at the start of a training: measured, given, or assumed."""
    known = MEANS.get(config.model) if config.problems == "deepscaler" else None
    assumed = known or (LIMIT_SHARES[0] * config.max_think_tokens, LIMIT_SHARES[1] * config.max_no_think_tokens)
    where = "mean of the paper's MATH500 and AIME24" if known else "half and a third of max_tokens, as the paper's are"
    given = {"thinking": think, "no_think": no_think}
    sources = [f"{mode} as given" for mode, value in given.items() if value is not None]
    if reference and think is not None:
        raise UserError("--reference measures what --think-tokens gives; use one of them")
    if reference:
        thinking = compute_quantiles(read_response_lengths(reference))
        if thinking[-1] > config.max_think_tokens:
            raise UserError(
                f"'{reference}' holds responses of {thinking[-1]:,.0f} tokens, more than "
                f"max_think_tokens = {config.max_think_tokens}; give the limit that it was made with"
            )
        sources.append(f"thinking as in {reference}")
    else:
        thinking = assume_lengths(think, assumed[0], config.max_think_tokens, MEASURED_LIMITS[0] if known else 0)
    direct = assume_lengths(no_think, assumed[1], config.max_no_think_tokens, MEASURED_LIMITS[1] if known else 0)
    if len(sources) < 2:
        sources.append(f"{'otherwise ' if sources else ''}{where}")
    return Lengths(prompt, thinking, direct, "; ".join(sources))


def assume_lengths(given: float | None, assumed: float, limit: int, measured_limit: int) -> tuple[float, ...]:
    """Return lengths with the mean that was given, or of an assumed mean, cut where the limit is below the measured."""
    if given is not None:
        return make_quantiles(given, limit)
    return tuple(min(length, limit) for length in make_quantiles(assumed, max(limit, measured_limit)))


def read_response_lengths(store: Path) -> list[int]:
    """Return the tokens of all responses in a store; raises UserError for a file that is no store or holds none."""
    tokens = [count for reference in read_references(store) for count in reference.tokens]
    if not tokens:
        raise UserError(f"'{store}' holds no responses; give a store that presample has written to")
    return tokens


def show_plan(
    architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths, plan: Plan,
    helps: list[Remedy], needs: list[str], cost: float | None,
) -> None:  # fmt: skip
    """Print an estimate so that it reads on 80 columns."""
    machine = platform.machine
    console.print(f"{config.model}: {architecture.weights / 1e6:,.1f} million weights", markup=False)
    spread_over = f", each vLLM over {plan.tensor_parallel} GPUs" if plan.tensor_parallel > 1 else ""
    console.print(
        f"{plan.trainer} trainer on {platform.name}: {platform.memory_bytes / GB:,.0f} GB, "
        f"{machine.bytes_per_second / GB:,.0f} GB/s, {machine.flops_per_second / 1e12:,.3g} TFLOP/s each{spread_over}",
        markup=False,
    )
    if needs:
        console.print(f"train --backend verl needs: {', '.join(needs)}", markup=False)
    show_memory(platform, plan)
    show_verdict(platform, plan, helps)
    show_step(plan)
    first, devices = plan.first, platform.devices
    console.print(f"{first.generation.rows:,} responses at once on the fullest engine")
    if math.isfinite(plan.cache_tokens):
        held = max(0.0, plan.cache_tokens) / (lengths.prompt + config.max_think_tokens)
        console.print(f"its cache holds {held:,.1f} responses of {config.max_think_tokens:,} tokens")
    gpu_hours = f", {devices * plan.hours:,.0f} GPU hours" if platform.is_gpu else ""
    paid = "" if cost is None else f", cost {cost:,.0f}"
    console.print(f"[bold]run: {config.steps} steps, {write_duration(plan.hours)}{gpu_hours}{paid}[/]")
    samples = f"{config.reference_samples} sample{'' if config.reference_samples == 1 else 's'}"
    console.print(
        f"before it, the reference: {samples} of each of {plan.reference_problems:,} "
        f"problems, {write_duration(plan.reference_hours)}"
    )


@dataclass(frozen=True, slots=True)
class PlannedEvaluation:
    """An evaluation of one set in the modes auto, think and no_think; auto as if the model always thought."""

    name: str
    problems: int
    samples: int  # of a problem in each mode
    hours: float


def list_evaluations(
    architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths, evaluation: EvaluateConfig
) -> list[PlannedEvaluation]:
    """Return the evaluation of each set whose number of problems is known."""
    by_set = evaluation.parse_samples()
    found = []
    for source in parse_name(evaluation.problems, Purpose.EVALUATION):
        name = name_problem_set(source)
        count = count_evaluated(source, evaluation)
        samples = by_set.get(name, evaluation.samples_per_problem)
        hours = sum(
            estimate_sampling_hours(architecture, config, platform, lengths, modes * count * samples, thinking=thinking)
            for modes, thinking in ((2, True), (1, False))
        )
        found += [PlannedEvaluation(name, count, samples, hours)] if count else []
    return found


def count_evaluated(source: Source, evaluation: EvaluateConfig) -> int:
    """Return how many problems a source has to evaluate on; 0 where it is not known."""
    if isinstance(source, SetSource):
        return 0 if source.only else SETS[source.name].splits[source.split].size
    return len(LEVELS) * evaluation.problems_per_level if isinstance(source, ArithmeticSource) else 0


def show_stages(
    architecture: Architecture, config: VerlConfig, plan: Plan, evaluations: Sequence[PlannedEvaluation]
) -> None:
    """Print what comes after the training, and the disk that it takes."""
    if evaluations:
        sets = ", ".join(
            f"{one.name} {one.problems:,}{f' x {one.samples}' if one.samples > 1 else ''}" for one in evaluations
        )
        hours = write_duration(sum(one.hours for one in evaluations))
        console.print(f"after it, an evaluation in three modes: {sets}: {hours} at most", markup=False)
    model, together = count_model_bytes(architecture), count_disk_bytes(architecture, config, plan)
    console.print(
        f"disk: {config.keep_checkpoints + 1} checkpoints of {write_size(plan.checkpoint_bytes)}, "
        f"the model {write_size(model)}: {write_size(together)}"
    )


def count_disk_bytes(architecture: Architecture, config: VerlConfig, plan: Plan) -> float:
    """Return what a run takes on disk: the checkpoints that are kept, one that is being written, and the model."""
    return (config.keep_checkpoints + 1) * plan.checkpoint_bytes + count_model_bytes(architecture)


def count_model_bytes(architecture: Architecture) -> int:
    """Return the size of a model in bfloat16, as it is saved."""
    return 2 * architecture.weights


def show_memory(platform: Platform, plan: Plan) -> None:
    """Print what takes the memory of one device in the two halves of a step."""
    memory = plan.memory
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"GB of {'each GPU' if platform.is_gpu else 'memory'}", min_width=30)
    table.add_column("rollout", justify="right")
    table.add_column("update", justify="right")
    for name, rollout, update in (
        ("weights", memory.weights, memory.weights),
        ("AdamW's state", memory.optimizer, memory.optimizer),
        ("gradients", 0.0, memory.gradients),
        ("activations", 0.0, memory.activations),
        ("logits", 0.0, memory.logits),
        ("engine, its cache and copies", memory.engine, memory.engine_idle),
    ):
        table.add_row(name, *(f"{part / GB:,.3g}" if part else "-" for part in (rollout, update)))
    table.add_row("together", f"{memory.rollout / GB:,.3g}", f"{memory.update / GB:,.3g}", style="bold")
    console.print(table)


def show_verdict(platform: Platform, plan: Plan, helps: list[Remedy]) -> None:
    """Print whether it fits, else where it does not and what helps."""
    have = platform.memory_bytes
    if plan.fits:
        console.print(f"fits: {plan.memory.peak / GB:,.1f} of {have / GB:,.0f} GB")
        return
    over = [
        f"{name} {held / GB:,.1f}"
        for name, held in (("rollout", plan.memory.rollout), ("update", plan.memory.update))
        if held > have
    ]
    reason = f"{' and '.join(over)} of {have / GB:,.0f} GB" if over else "the engine's cache holds no whole response"
    console.print(f"[bold]does not fit[/]: {reason}\nseconds below are as if it did")
    for remedy in helps:
        console.print(f"  fits with {remedy.settings} ({remedy.memory.peak / GB:,.1f} GB)", markup=False)
    if not helps:
        console.print("  nothing tried here makes it fit; lower the token limits, or take GPUs with more memory")


def show_step(plan: Plan) -> None:
    """Print where the seconds of a step go, with the lengths at the start and over the run."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("a step", min_width=30)
    table.add_column("first", justify="right")
    table.add_column("mean", justify="right")
    first, mean = plan.first, plan.mean
    for name, values, form in (
        ("response tokens", (first.tokens, mean.tokens), write_whole),
        ("seconds of rollout", (first.rollout_seconds, mean.rollout_seconds), write_short),
        ("  of it nearly alone", (first.generation.tail_seconds, mean.generation.tail_seconds), write_short),
        ("seconds of update", (first.update_seconds, mean.update_seconds), write_short),
        ("  weights moved meanwhile", (first.communication_seconds, mean.communication_seconds), write_short),
        ("seconds of change and sync", (first.sync_seconds, mean.sync_seconds), write_short),
    ):
        table.add_row(name, *map(form, values))
    table.add_row("seconds", write_short(first.seconds), write_short(mean.seconds), style="bold")
    console.print(table)


def write_short(number: float) -> str:
    """Write a number in three digits, or whole where it has more."""
    return write_whole(number) if number >= 100 else f"{number:.3g}"


def write_size(size: float) -> str:
    """Write a number of bytes with the unit that suits it."""
    return f"{size / GB:,.1f} GB" if size >= GB else f"{1000 * size / GB:,.1f} MB"


def write_whole(number: float) -> str:
    """Write a number without what follows the point."""
    return f"{number:,.0f}"


def write_duration(hours: float) -> str:
    """Write a write_duration with the unit that suits it."""
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"


def list_assumptions(
    config: VerlConfig, platform: Platform, lengths: Lengths, num_problems: int | None
) -> Iterator[str]:
    """Yield the assumptions of an estimate, one line each."""
    efficiency = platform.efficiency
    think, no_think = (sum(of_mode) / len(of_mode) for of_mode in (lengths.think, lengths.no_think))
    yield f"lengths at the start: {think:,.0f} and {no_think:,.0f} tokens, prompts {lengths.prompt}"
    yield f"  {lengths.source}"
    yield f"  where not measured log-normal, deviation of the logarithm {SPREAD}"
    yield f"  mean of the run: thinking at {SHORTENING} of these; modes by no_think_share"
    yield f"{efficiency.update} of the peak is reached in updates, {efficiency.decode} of both rooflines in generation"
    yield f"  {1e3 * efficiency.layer_seconds:g} ms for each layer of a decoding step"
    if efficiency.element_seconds:
        yield f"  {1e9 * efficiency.element_seconds:g} ns for each row and hidden number of a layer"
    yield f"  ({efficiency.source})"
    if platform.devices > 1:
        yield f"{efficiency.switch_seconds:g} s a step to wake the engine and to put it to sleep"
    named = config.model_fields_set & {"nodes", "gpus_per_node"}
    if named and config.nodes * config.gpus_per_node != platform.devices:
        yield f"GPUs by --gpus, not nodes = {config.nodes}, gpus_per_node = {config.gpus_per_node}"
    if platform.devices > NODE_GPUS:
        yield f"nodes of {NODE_GPUS}, {NETWORK_GB:g} GB/s for each GPU between them"
    kind = "float32" if choose_element_bytes(config, platform) == 4 else "bfloat16"
    yield f"products in {kind}; trained weights, gradients, AdamW's state in float32"
    if num_problems is None:
        yield "reference: no problem is used twice (the set is not here to be counted)"
    yield "left out: validation, checkpoints; grading runs while others are generated"


def platform_to_json(platform: Platform) -> dict[str, Any]:
    """Return a platform for JSON, which has no infinity."""
    return asdict(platform) | {"link_bytes": drop_infinity(platform.link_bytes)}


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan for JSON, sums included."""
    steps = {
        name: asdict(step) | {"seconds": step.seconds} for name, step in (("first", plan.first), ("mean", plan.mean))
    }
    memory = asdict(plan.memory) | {"rollout": plan.memory.rollout, "update": plan.memory.update}
    return asdict(plan) | steps | {"memory": memory, "cache_tokens": drop_infinity(plan.cache_tokens)}


def drop_infinity(value: float) -> float | None:
    """Return None for infinity."""
    return value if math.isfinite(value) else None
