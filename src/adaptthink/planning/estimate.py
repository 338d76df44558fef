"""What a training will need, before it is started: memory of each GPU, seconds of a step, hours of a run.

Arithmetic on a model's shape, a recipe and data sheets; nothing is loaded. Work is counted as in `roofline` and divided
by peaks times an efficiency. Generation is simulated over time: which rows run, the length of their contexts, which
rows wait for free cache, and how long the longest one runs alone. One device means the native trainer, more mean verl
(FSDP, vLLM).

Left out: time that validation and checkpoints take, faults of the network, and what the native trainer saves: prompts
that share work in the update, and samples without an advantage, which it does not update on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from adaptthink.config.schema import EngineName, VerlConfig
from adaptthink.errors import UserError
from adaptthink.models.scoring import LOGIT_ELEMENTS
from adaptthink.planning.architecture import Architecture
from adaptthink.planning.hardware import NODE_GPUS, Cluster
from adaptthink.planning.roofline import Machine, Shape

POINTS = 512  # of a distribution of lengths
SPREAD = 0.8  # standard deviation of the logarithm of assumed lengths
SHORTENING = 0.9  # of thinking, as a mean over a run: see `shorten_thinking`
BLOCKS = 256  # of time, into which the longest response is cut
GB = 1e9
WORKSPACE_GB = 2.0  # that vLLM keeps for activations and graphs
LOGIT_ROWS, LOGIT_COPIES = 512, 6  # verl: logits exist for so many tokens at once, with what is computed from them
LOGIT_PIECES = 3  # native: logits exist in pieces of bounded size, with what is computed from them


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The free constants: shares of the peaks that are reached, and what a decoding step costs beside them."""

    update: float  # of the peak of products, recomputation counted as work
    decode: float  # of both roofs in generation
    layer_seconds: float  # of a decoding step, for each layer
    element_seconds: float  # of a decoding step, for each row, layer and hidden element
    switch_seconds: float  # of a step, for switching between generation and update on the same GPUs (verl)
    source: str


GPU_EFFICIENCY = Efficiency(
    update=0.3,
    decode=0.5,
    layer_seconds=1e-4,
    element_seconds=0.0,
    switch_seconds=10.0,
    source="round figures, in part chosen without a source: see docs/how-to/scaling.md",
)
CPU_EFFICIENCY = Efficiency(
    update=0.45,
    decode=0.75,
    layer_seconds=1.7e-4,
    element_seconds=7e-8,
    switch_seconds=0.0,
    source="benchmarks/results/roofline-*-2026-11-22.json, native engine, two cores",
)


@dataclass(frozen=True, slots=True)
class Platform:
    """What a training runs on; figures are of one device."""

    name: str
    devices: int
    memory_bytes: float
    machine: Machine
    link_bytes: float  # per second and direction, of the slowest link between devices
    efficiency: Efficiency

    @property
    def is_gpu(self) -> bool:
        """Whether figures are a data sheet's, not measured here."""
        return self.efficiency is not CPU_EFFICIENCY


@dataclass(frozen=True, slots=True)
class Lengths:
    """Response lengths in tokens by mode, as evenly spaced quantiles, shortest first."""

    prompt: int
    think: tuple[float, ...]
    no_think: tuple[float, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one device, by what they are for."""

    weights: float
    optimizer: float
    gradients: float
    activations: float
    logits: float
    engine: float  # its weights and cache, and copies of weights on their way to it
    engine_idle: float  # what it keeps during the update

    @property
    def rollout(self) -> float:
        """Held while responses are generated, or weights handed to the engine for it."""
        return self.weights + self.optimizer + self.engine

    @property
    def update(self) -> float:
        """Held at the height of the update."""
        return self.weights + self.optimizer + self.gradients + self.activations + self.logits + self.engine_idle

    @property
    def peak(self) -> float:
        """The larger of both."""
        return max(self.rollout, self.update)


@dataclass(frozen=True, slots=True)
class Generation:
    """How the rollouts of a step go on the replica that has the longest of them."""

    seconds: float
    rows: int  # largest number that runs at once
    longest_tokens: float
    tail_seconds: float  # with less than an eighth of its rows still running


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of a training step by phase, and its tokens."""

    rollout_seconds: float
    update_seconds: float
    communication_seconds: float  # of the update, hidden behind products where it is shorter than they are
    sync_seconds: float
    tokens: float  # of all responses
    generation: Generation

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.rollout_seconds + max(self.update_seconds, self.communication_seconds) + self.sync_seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """A training, estimated."""

    trainer: str  # native or verl
    tensor_parallel: int
    cache_tokens: float  # capacity of the cache of one replica of the engine
    memory: Memory
    first: Step  # with the lengths at the start
    mean: Step  # with the lengths as they are over a run
    saved_seconds: float  # a step, that recomputing the old log-probabilities would take
    hours: float
    reference_problems: int  # that need a reference
    reference_hours: float
    checkpoint_bytes: float
    fits: bool


def make_cluster_platform(cluster: Cluster) -> Platform:
    """Return a cluster as a platform, by its GPUs' data sheet."""
    gpu = cluster.gpu
    machine = Machine(gpu.teraflops * 1e12, gpu.bandwidth_gb * GB)
    name = f"{cluster.count}x {gpu.name}"
    return Platform(name, cluster.count, gpu.memory_gb * GB, machine, cluster.joined_gb * GB, GPU_EFFICIENCY)


def make_quantiles(mean: float, max_tokens: int) -> tuple[float, ...]:
    """Return quantiles of log-normal lengths that have the given mean after they are cut at `max_tokens`.

    Raises UserError for a mean that is not between 1 and `max_tokens`.
    """
    if not 1 <= mean < max_tokens:
        raise UserError(
            f"a mean length of {mean:g} tokens is impossible with max_tokens {max_tokens}; give less than that"
        )
    normal = NormalDist()
    factor_Q = np.exp([SPREAD * normal.inv_cdf((point + 0.5) / POINTS) for point in range(POINTS)])
    low, high = 0.0, 1e6 * max_tokens
    for _ in range(100):
        median = (low + high) / 2
        low, high = (median, high) if np.clip(median * factor_Q, 1, max_tokens).mean() < mean else (low, median)
    return tuple(np.clip(high * factor_Q, 1, max_tokens).tolist())


def compute_quantiles(tokens: Sequence[float]) -> tuple[float, ...]:
    """Return the quantiles of measured lengths."""
    return tuple(np.quantile(np.asarray(tokens), (np.arange(POINTS) + 0.5) / POINTS).tolist())


def shorten_thinking(lengths: Lengths, max_tokens: int) -> Lengths:
    """Return lengths as a mean over a training: thinking that ends by itself shrinks to four fifths at the end.

    The four fifths are the paper's, on a set where nearly all responses still think: AIME24 12,073 → 9,279 tokens
    (1.5B, δ = 0) and 10,306 → 8,599 (7B, δ = 0.05). Cut responses stay cut, direct answers keep their length.
    """
    think = tuple(length if length >= max_tokens else SHORTENING * length for length in lengths.think)
    return replace(lengths, think=think)


def make_step_rows(lengths: Lengths, config: VerlConfig) -> np.ndarray:
    """Return the lengths of a step's responses, longest first. The share of each mode is that of π_IS."""
    rows = config.problems_per_step * config.samples_per_problem
    no_think = round(rows * config.no_think_share)
    by_mode = [
        np.quantile(np.asarray(of_mode), (np.arange(count) + 0.5) / count)
        for of_mode, count in ((lengths.think, rows - no_think), (lengths.no_think, no_think))
        if count
    ]
    return np.sort(np.concatenate(by_mode))[::-1]


def simulate_generation(
    architecture: Architecture, shape: Shape, platform: Platform, rows: np.ndarray, prompt: int,
    max_concurrent_sequences: int, cache_tokens: float, tensor_parallel: int = 1,
) -> Generation:  # fmt: skip
    """Simulate the generation of `rows` (lengths in order of arrival) on one replica of the engine.

    A row starts when the cache can hold it to its end. In a decoding step all weights and all running rows' keys and
    values are read once. Raises UserError if a row is longer than the cache.
    """
    if len(rows) and prompt + rows.max() > cache_tokens:
        raise UserError(f"the engine's cache holds {cache_tokens:,.0f} tokens, less than one response")
    efficiency = platform.efficiency
    flops_roof = find_peak_flops(shape.element_bytes, platform) * efficiency.decode * tensor_parallel
    bytes_roof = platform.machine.bytes_per_second * efficiency.decode * tensor_parallel
    block = max(1.0, rows.max(initial=1) / BLOCKS)
    left_R, context_R = np.empty(0), np.empty(0)  # of running rows: tokens left to generate, tokens of context
    seconds = tail = 0.0
    entered = max_sequences = 0
    while entered < len(rows) or len(left_R):
        free = cache_tokens - (left_R + context_R).sum()
        count = 0
        for length in rows[entered : entered + max_concurrent_sequences - len(left_R)]:
            free -= length + prompt
            if free < 0:
                break
            count += 1
        new = rows[entered : entered + count]
        seconds += count * 2 * prompt * shape.body / flops_roof
        left_R = np.concatenate([left_R, new])
        context_R = np.concatenate([context_R, np.full(count, float(prompt))])
        entered += count
        max_sequences = max(max_sequences, len(left_R))
        run_R = np.minimum(left_R, block)  # tokens of each row in this block
        steps, generated = run_R.max(), run_R.sum()
        attended = (run_R * (context_R + run_R / 2)).sum()
        flops = 2 * generated * (shape.body + shape.head) + 4 * shape.attention * attended
        moved = shape.element_bytes * (steps * (shape.body + shape.head) + shape.kv * attended)
        beside = architecture.layers * (
            steps * efficiency.layer_seconds + generated * architecture.hidden * efficiency.element_seconds
        )
        spent = max(flops / flops_roof, moved / bytes_roof) + beside
        seconds += spent
        tail += spent if entered == len(rows) and len(left_R) < max(1, max_sequences / 8) else 0.0
        context_R, left_R = context_R + run_R, left_R - run_R
        context_R, left_R = context_R[left_R > 0], left_R[left_R > 0]
    return Generation(float(seconds), max_sequences, float(rows.max(initial=0)), float(tail))


def count_forward_flops(shape: Shape, rows: np.ndarray, prompt: int) -> np.ndarray:
    """Return the operations of a forward pass over each response with its prompt, (N,) (see `compute_update_bound`)."""
    length = rows + prompt - 1
    return 2 * length * shape.body + 2 * rows * shape.head + 2 * shape.attention * length * (length + 1)


def count_passes(config: VerlConfig) -> int:
    """Return the cost of the update in forward passes: a backward is two (frozen weights: one), recomputation one."""
    return 1 + (1 if config.lora_rank else 2) + config.gradient_checkpointing


def count_trained_weights(architecture: Architecture, config: VerlConfig) -> int:
    """Return how many weights have a gradient."""
    return architecture.adapter(config.lora_rank) if config.lora_rank else architecture.weights


def count_checkpoint_bytes(architecture: Architecture, config: VerlConfig) -> float:
    """Return the size of a checkpoint: the trained weights and AdamW's two running statistics, in float32."""
    return 12.0 * count_trained_weights(architecture, config)


def choose_element_bytes(config: VerlConfig, platform: Platform) -> int:
    """Return the bytes of a number in generation and in the update's products; by default float32 on a CPU."""
    if config.dtype == "bfloat16":
        return 2
    return 4 if config.dtype == "float32" or not platform.is_gpu else 2


def find_peak_flops(number: int, platform: Platform) -> float:
    """Return the peak operations per second for numbers of so many bytes; on a GPU float32 is TF32, half as fast."""
    return platform.machine.flops_per_second * (2 / number if platform.is_gpu else 1)


def find_longest_response(config: VerlConfig, platform: Platform, lengths: Lengths) -> float:
    """Return the tokens that a sequence may need, prompt included: the maximum (verl) or the longest (native)."""
    if platform.devices > 1:
        return config.max_prompt_tokens + max(config.max_think_tokens, config.max_no_think_tokens)
    return lengths.prompt + max(lengths.think[-1], lengths.no_think[-1])


def choose_micro_batch(config: VerlConfig, platform: Platform, lengths: Lengths) -> float:
    """Return the tokens of a micro-batch: as many as allowed, but at least one whole response."""
    return max(config.micro_batch_tokens, find_longest_response(config, platform, lengths))


def estimate_memory(architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths) -> Memory:
    """Return the bytes on one device. Trained weights, their gradients and Adam's two running statistics are float32.

    verl shards these over all devices and gathers two layers and the embeddings at a time. Activations of a token are,
    in each layer, what its backward needs with flash attention: 4 hidden, 2 query, 2 key and 4 intermediate widths, and
    the two norms in float32; recomputed, they exist for one layer, and the layers' inputs for all.

    Beside an adapter, engines get a copy of the model with it merged in (`Policy.plain`). The native engine keeps it,
    and packs the weights for generation (`Decoder`), or holds the new copy before the old one is freed.
    """
    a, number, trained = (
        architecture,
        choose_element_bytes(config, platform),
        count_trained_weights(architecture, config),
    )
    many = platform.devices > 1
    tokens = choose_micro_batch(config, platform, lengths)
    layer = number * (4 * a.hidden + 2 * a.queries + 2 * a.keys + 4 * a.intermediate) + 8 * a.hidden
    kept = layer + a.layers * number * a.hidden if config.gradient_checkpointing else a.layers * layer
    held = (0.0 if config.offload else 1.0) / platform.devices  # of what is sharded
    if many:
        beside = number * (2 * a.body / a.layers + 2 * a.head)  # gathered
        logits = min(tokens, LOGIT_ROWS) * a.vocabulary * 4.0 * LOGIT_COPIES + number * a.head  # and its gradient
    else:
        beside = number * a.weights if number == 2 and not config.lora_rank else 0  # cast for the products
        logits = LOGIT_PIECES * LOGIT_ELEMENTS * 4.0
    merged = number * a.weights if config.lora_rank and not many else 0
    if many or config.engine.reserves_memory:
        share = config.engine_memory * platform.memory_bytes
        engine, idle = share + merged, 0.0 if many else share
    elif config.engine.in_process:
        rows = make_step_rows(lengths, config)[: config.max_concurrent_sequences] + lengths.prompt
        packed = 0 if beside else number * a.weights  # of weights that are trained, in bfloat16: the cast above
        engine, idle = merged + packed + number * a.shape(number).kv * float(rows.sum()), float(merged)
    else:
        engine, idle = float(merged), 0.0  # on another machine
    return Memory(
        weights=held * 4 * trained + (a.weights * number if config.lora_rank else 0) + beside,
        optimizer=held * 8 * trained,
        gradients=held * 4 * trained,
        activations=tokens * kept,
        logits=logits,
        engine=engine,
        engine_idle=idle,
    )


def compute_cache_tokens(
    architecture: Architecture, config: VerlConfig, platform: Platform, tensor_parallel: int
) -> float:
    """Return the tokens that fit in the cache of one replica of the engine; infinite for the native engine."""
    if platform.devices == 1 and config.engine.in_process:
        return math.inf
    number = choose_element_bytes(config, platform)
    held = config.engine_memory * platform.memory_bytes - WORKSPACE_GB * GB
    return (held * tensor_parallel - number * architecture.weights) / (number * architecture.shape(number).kv)


def spread_gpus(config: VerlConfig, devices: int) -> VerlConfig:
    """Return the config with so many GPUs: in its own nodes if they fit, else in one node, or in several of equal size.

    For one device nothing changes: the native trainer has no nodes.
    """
    if devices == 1:
        return config
    if config.nodes * config.gpus_per_node != devices:
        each = devices if devices <= NODE_GPUS else math.gcd(devices, NODE_GPUS)
        config = config.model_copy(update={"nodes": devices // each, "gpus_per_node": each})
    address = config.ray_address or ("auto" if config.nodes > 1 else None)  # several nodes need a Ray cluster
    return config.model_copy(update={"ray_address": address})


def choose_tensor_parallel(architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths) -> int:
    """Return the GPUs of one replica of the engine: as configured, or the smallest multiple that holds a response.

    Multiples are 1, 2, 4 and 8, if the GPUs of a node and the attention heads are divisible by the result. If none is
    enough, it is as configured, and `Plan.fits` is False.
    """
    if platform.devices == 1:
        return 1
    longest = find_longest_response(config, platform, lengths)
    node_gpus = spread_gpus(config, platform.devices).gpus_per_node
    for size in (factor * config.tensor_parallel for factor in (1, 2, 4, 8)):
        divides = node_gpus % size == 0 and architecture.heads % size == 0
        if divides and compute_cache_tokens(architecture, config, platform, size) >= longest:
            return size
    return config.tensor_parallel


def estimate_step(
    architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths, tensor_parallel: int,
    cache_tokens: float,
) -> Step:  # fmt: skip
    """Return the seconds of a step, on the device that finishes last."""
    number = choose_element_bytes(config, platform)
    shape = architecture.shape(number)
    rows = make_step_rows(lengths, config)
    replicas = max(1, platform.devices // tensor_parallel)
    own = np.random.default_rng(0).permutation(
        rows[::replicas]
    )  # rows of the replica that has the longest one, in order of arrival
    held = max(cache_tokens, lengths.prompt + rows[0])  # a plan that does not fit is estimated as if one row fitted
    generation = simulate_generation(
        architecture, shape, platform, own, lengths.prompt, config.max_concurrent_sequences, held, tensor_parallel
    )
    flops_N = count_forward_flops(shape, rows, lengths.prompt) * count_passes(config)
    reached = find_peak_flops(number, platform) * platform.efficiency.update
    update = max(flops_N.sum() / platform.devices, flops_N[0]) / reached  # a response is not cut into pieces
    sync = communication = 0.0
    if platform.devices > 1:
        tokens = max((rows + lengths.prompt).sum() / platform.devices, rows[0] + lengths.prompt)
        batches = math.ceil(tokens / choose_micro_batch(config, platform, lengths))
        gathered, reduced = 2 * number * architecture.weights, 4 * count_trained_weights(architecture, config)
        communication = batches * (gathered + reduced) / platform.link_bytes
        sync = number * architecture.weights / platform.link_bytes + platform.efficiency.switch_seconds
    return Step(generation.seconds, float(update), communication, sync, float(rows.sum()), generation)


def make_plan(
    architecture: Architecture,
    config: VerlConfig,
    platform: Platform,
    lengths: Lengths,
    reference_problems: int | None = None,
) -> Plan:
    """Return the estimate of a whole training; without `reference_problems` as if no step used a problem again."""
    num_used = config.steps * config.problems_per_step if reference_problems is None else reference_problems
    size = choose_tensor_parallel(architecture, config, platform, lengths)
    cache = compute_cache_tokens(architecture, config, platform, size)
    memory = estimate_memory(architecture, config, platform, lengths)
    first = estimate_step(architecture, config, platform, lengths, size, cache)
    max_tokens = max(config.max_think_tokens, config.max_no_think_tokens)
    mean = estimate_step(architecture, config, platform, shorten_thinking(lengths, max_tokens), size, cache)
    return Plan(
        trainer="verl" if platform.devices > 1 else "native",
        tensor_parallel=size,
        cache_tokens=cache,
        memory=memory,
        first=first,
        mean=mean,
        saved_seconds=mean.update_seconds / count_passes(config),
        hours=config.steps * mean.seconds / 3600,
        reference_problems=num_used,
        reference_hours=estimate_sampling_hours(
            architecture, config, platform, lengths, num_used * config.reference_samples
        ),
        checkpoint_bytes=count_checkpoint_bytes(architecture, config),
        fits=fits(architecture, config, platform, lengths),
    )


def estimate_sampling_hours(
    architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths, samples: int, *,
    thinking: bool = True,
) -> float:  # fmt: skip
    """Return the hours in which so many responses of one mode are sampled, if the engines are full to the end."""
    size = choose_tensor_parallel(architecture, config, platform, lengths)
    cache = compute_cache_tokens(architecture, config, platform, size)
    replicas = max(1, platform.devices // size)
    quantiles = lengths.think if thinking else lengths.no_think
    longest = lengths.prompt + quantiles[-1]
    at_once = max(1, int(min(config.max_concurrent_sequences, 2 * cache / longest)))
    count = min(math.ceil(samples / replicas), 4 * at_once)
    rows = np.quantile(np.asarray(quantiles), np.random.default_rng(0).permutation((np.arange(count) + 0.5) / count))
    shape = architecture.shape(choose_element_bytes(config, platform))
    held = max(cache, longest)
    part = simulate_generation(
        architecture, shape, platform, rows, lengths.prompt, config.max_concurrent_sequences, held, size
    )
    full = part.seconds - part.tail_seconds
    return (full * max(1.0, samples / replicas / count) + part.tail_seconds) / 3600


@dataclass(frozen=True, slots=True)
class Remedy:
    """Settings that make a plan fit, as a recipe or the command line would have them."""

    settings: str
    memory: Memory


def find_remedies(
    architecture: Architecture,
    config: VerlConfig,
    platform: Platform,
    lengths: Lengths,
    larger: Sequence[Platform] = (),
) -> list[Remedy]:
    """Return what makes a plan fit: each change that suffices alone, else the shortest sequence of changes that does.

    `larger` are platforms to try instead.
    """

    def attempt(there: Platform, *changes: dict[str, object]) -> Remedy | None:
        keys = {key: value for change in changes for key, value in change.items()}  # later changes win
        changed = config.model_copy(update=keys)
        if not fits(architecture, changed, there, clip_lengths(lengths, changed)):
            return None
        words = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]  # as TOML writes them too
        if there is not platform:
            words.append(f"--gpus {there.name.replace(' ', '')}")
        size = choose_tensor_parallel(architecture, changed, there, clip_lengths(lengths, changed))
        if there.devices > 1 and size != changed.tensor_parallel:
            words.append(f"tensor_parallel = {size}")
        return Remedy(", ".join(words), estimate_memory(architecture, changed, there, clip_lengths(lengths, changed)))

    alone = [attempt(platform, change) for change in list_changes(config, platform, lengths)]
    found = [remedy for remedy in (*alone, *map(attempt, larger)) if remedy]
    if found:
        least: dict[str, Remedy] = {}  # of each kind the smallest change
        for one in found:
            least.setdefault(re.split(r" = |\d", one.settings)[0], one)
        return list(least.values())
    for there in (platform, *larger):
        rows = order_changes(list(list_changes(config, there, lengths)))
        for end in range(1, len(rows[0]) + 1):
            if remedy := next(filter(None, (attempt(there, *row[:end]) for row in rows)), None):
                return [remedy]
    return []


def order_changes(changes: list[dict[str, object]]) -> list[list[dict[str, object]]]:
    """Return all changes in order, once with each share of memory for vLLM, as the smallest may not suffice."""
    shares = [change for change in changes if "engine_memory" in change]
    return [[change for change in changes if change not in shares or change == one] for one in shares] or [changes]


def list_larger_platforms(platform: Platform) -> list[Platform]:
    """Return platforms with more GPUs of the same kind. The link stays the same, as memory does not depend on it."""
    counts = [factor * platform.devices for factor in (2, 4, 8, 16, 32)] if platform.is_gpu else []
    kind = platform.name.rpartition(" ")[2]
    return [replace(platform, name=f"{count}x {kind}", devices=count) for count in counts]


def list_changes(config: VerlConfig, platform: Platform, lengths: Lengths) -> Iterator[dict[str, object]]:
    """Yield changes to try, as keys of a recipe, the cheapest first."""
    reserved = platform.devices > 1 or config.engine.reserves_memory
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    least = math.ceil(find_longest_response(config, platform, lengths))
    if config.micro_batch_tokens > least:
        yield {"micro_batch_tokens": least}
    for share in (0.6, 0.4, 0.3, 0.2) if reserved else ():
        if share < config.engine_memory:
            yield {"engine_memory": share}
    if platform.devices > 1:
        yield {"offload": True}
    elif not config.lora_rank:
        yield {"lora_rank": 32}
    if platform.devices == 1:
        yield {"engine": EngineName.NATIVE, "max_concurrent_sequences": 16}
    halved = config.model_copy(update={"max_think_tokens": config.max_think_tokens // 2})
    least = math.ceil(find_longest_response(halved, platform, clip_lengths(lengths, halved)))
    smaller = {"micro_batch_tokens": least} if config.micro_batch_tokens > least else {}
    yield {"max_think_tokens": halved.max_think_tokens, **smaller}


def clip_lengths(lengths: Lengths, config: VerlConfig) -> Lengths:
    """Return lengths cut at a config's max_think_tokens and max_no_think_tokens."""
    think = tuple(min(length, config.max_think_tokens) for length in lengths.think)
    return replace(
        lengths, think=think, no_think=tuple(min(one, config.max_no_think_tokens) for one in lengths.no_think)
    )


def fits(architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths) -> bool:
    """Return whether a device holds both halves of a step, and the engine a whole response."""
    size = choose_tensor_parallel(architecture, config, platform, lengths)
    return estimate_memory(
        architecture, config, platform, lengths
    ).peak <= platform.memory_bytes and compute_cache_tokens(
        architecture, config, platform, size
    ) >= find_longest_response(config, platform, lengths)
