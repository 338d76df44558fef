"""What a training will need before it is started: memory of each GPU, seconds of a step, hours of a run.

Arithmetic on a model's shape, a recipe and data sheets; nothing is loaded. Work is counted as in `roofline` and divided
by peaks times an efficiency. Generation is gone through in time: which rows run, how much they look back at, who waits
for room in the cache, and how long the longest is alone. One device is the native trainer, more are verl (FSDP, vLLM).

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
SHORTENING = 0.9  # of thoughts, as a mean over a run: see `shortened`
BLOCKS = 256  # of time, into which the longest response is cut
GB = 1e9
WORKSPACE_GB = 2.0  # that vLLM keeps for activations and graphs
LOGIT_COPIES = 2  # verl: float32 logits of a whole micro-batch, and their gradient
LOGIT_PIECES = 3  # native: logits exist in pieces of bounded size, with what is computed from them


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The free constants: shares of the peaks that are reached, and what a decoding step costs beside them."""

    update: float  # of the peak of products, recomputation counted as work
    decode: float  # of both roofs in generation
    layer_seconds: float  # of a decoding step, for each layer
    element_seconds: float  # of a decoding step, for each row, layer and hidden element
    switch_seconds: float  # of a step, for changing between generation and update where GPUs do both in turns (verl)
    source: str


GPU_EFFICIENCY = Efficiency(
    update=0.3,
    decode=0.5,
    layer_seconds=1e-4,
    element_seconds=0.0,
    switch_seconds=10.0,
    source="round figures, in part chosen without a source: see docs/scaling.md",
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
    rows: int  # at once, at most
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
    cache_tokens: float  # that a replica of the engine has room for
    memory: Memory
    first: Step  # with the lengths at the start
    mean: Step  # with the lengths as they are over a run
    saved_seconds: float  # a step, that recomputing the old log-probabilities would take
    hours: float
    reference_hours: float  # at most: each step's problems are new
    fits: bool


def cluster_platform(cluster: Cluster) -> Platform:
    """Say what a cluster offers, by its data sheets."""
    gpu = cluster.gpu
    machine = Machine(gpu.teraflops * 1e12, gpu.bandwidth_gb * GB)
    name = f"{cluster.count}x {gpu.name}"
    return Platform(name, cluster.count, gpu.memory_gb * GB, machine, cluster.joined_gb * GB, GPU_EFFICIENCY)


def spread(mean: float, cap: int) -> tuple[float, ...]:
    """Quantiles of log-normal lengths that are cut at `cap` and have that mean when cut.

    Raises UserError for a mean that is none below the cap.
    """
    if not 1 <= mean < cap:
        raise UserError(f"a mean length of {mean:g} tokens does not go with a cap of {cap}; give less than the cap")
    normal = NormalDist()
    factor_Q = np.exp([SPREAD * normal.inv_cdf((point + 0.5) / POINTS) for point in range(POINTS)])
    low, high = 0.0, 1e6 * cap
    for _ in range(100):
        median = (low + high) / 2
        low, high = (median, high) if np.clip(median * factor_Q, 1, cap).mean() < mean else (low, median)
    return tuple(np.clip(high * factor_Q, 1, cap).tolist())


def quantiles(tokens: Sequence[float]) -> tuple[float, ...]:
    """The quantiles of lengths that were measured."""
    return tuple(np.quantile(np.asarray(tokens), (np.arange(POINTS) + 0.5) / POINTS).tolist())


def shortened(lengths: Lengths, cap: int) -> Lengths:
    """Lengths as a mean over a training: thoughts that end by themselves get shorter, to four fifths at its end.

    That end is the paper's, where nearly all answers are still thoughts: AIME24 12,073 → 9,279 tokens (1.5B, δ = 0) and
    10,306 → 8,599 (7B, δ = 0.05). What is cut stays cut, direct answers stay as they are.
    """
    think = tuple(length if length >= cap else SHORTENING * length for length in lengths.think)
    return replace(lengths, think=think)


def step_rows(lengths: Lengths, config: VerlConfig) -> np.ndarray:
    """The lengths of a step's responses, longest first: the share of each mode is π_IS's, whatever the policy does."""
    rows = config.problems_per_step * config.samples_per_problem
    no_think = round(rows * config.no_think_share)
    drawn = [
        np.quantile(np.asarray(of_mode), (np.arange(count) + 0.5) / count)
        for of_mode, count in ((lengths.think, rows - no_think), (lengths.no_think, no_think))
        if count
    ]
    return np.sort(np.concatenate(drawn))[::-1]


def generate(
    architecture: Architecture, shape: Shape, platform: Platform, rows: np.ndarray, prompt: int,
    max_concurrent_sequences: int, cache_tokens: float, tensor_parallel: int = 1,
) -> Generation:  # fmt: skip
    """Go through the generation of `rows` (lengths in order of arrival) on one replica of the engine.

    A row enters where the cache can hold it to its end. In a decoding step all weights and all running rows' keys and
    values are read once. Raises UserError if a row is longer than the cache.
    """
    if len(rows) and prompt + rows.max() > cache_tokens:
        raise UserError(f"the engine's cache holds {cache_tokens:,.0f} tokens, less than one response")
    efficiency = platform.efficiency
    flops_roof = peak(shape.element_bytes, platform) * efficiency.decode * tensor_parallel
    bytes_roof = platform.machine.bytes_per_second * efficiency.decode * tensor_parallel
    block = max(1.0, rows.max(initial=1) / BLOCKS)
    left_R, context_R = np.empty(0), np.empty(0)  # of running rows: tokens to come, tokens to look back at
    seconds = tail = 0.0
    entered = most = 0
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
        most = max(most, len(left_R))
        run_R = np.minimum(left_R, block)  # tokens of each row in this block
        steps, drawn = run_R.max(), run_R.sum()
        looked = (run_R * (context_R + run_R / 2)).sum()
        flops = 2 * drawn * (shape.body + shape.head) + 4 * shape.attention * looked
        moved = shape.element_bytes * (steps * (shape.body + shape.head) + shape.kv * looked)
        beside = architecture.layers * (
            steps * efficiency.layer_seconds + drawn * architecture.hidden * efficiency.element_seconds
        )
        spent = max(flops / flops_roof, moved / bytes_roof) + beside
        seconds += spent
        tail += spent if entered == len(rows) and len(left_R) < max(1, most / 8) else 0.0
        context_R, left_R = context_R + run_R, left_R - run_R
        context_R, left_R = context_R[left_R > 0], left_R[left_R > 0]
    return Generation(float(seconds), most, float(rows.max(initial=0)), float(tail))


def forward_flops(shape: Shape, rows: np.ndarray, prompt: int) -> np.ndarray:
    """Operations of one forward pass over each response with its prompt, as `roofline.update_bound` counts them."""
    length = rows + prompt - 1
    return 2 * length * shape.body + 2 * rows * shape.head + 2 * shape.attention * length * (length + 1)


def passes(config: VerlConfig) -> int:
    """Forward passes that the update is worth: a backward is two, one with frozen weights; recomputing is one more."""
    return 1 + (1 if config.lora_rank else 2) + config.gradient_checkpointing


def trained_weights(architecture: Architecture, config: VerlConfig) -> int:
    """How many weights have a gradient."""
    return architecture.adapter(config.lora_rank) if config.lora_rank else architecture.weights


def element_bytes(config: VerlConfig, platform: Platform) -> int:
    """Bytes of a number in generation and in the update's products; float32 on a CPU unless it is told otherwise."""
    if config.dtype == "bfloat16":
        return 2
    return 4 if config.dtype == "float32" or not platform.is_gpu else 2


def peak(number: int, platform: Platform) -> float:
    """Operations per second with numbers of so many bytes: on a GPU float32 runs as TF32, at half of bfloat16."""
    return platform.machine.flops_per_second * (2 / number if platform.is_gpu else 1)


def longest_response(config: VerlConfig, platform: Platform, lengths: Lengths) -> float:
    """Tokens that there must be room for, prompt included: what may come (verl), or what does (native trainer)."""
    if platform.devices > 1:
        return config.max_prompt_tokens + max(config.max_think_tokens, config.max_no_think_tokens)
    return lengths.prompt + max(lengths.think[-1], lengths.no_think[-1])


def micro_batch(config: VerlConfig, platform: Platform, lengths: Lengths) -> float:
    """Tokens of a micro-batch: as many as allowed, but always one whole response."""
    return max(config.micro_batch_tokens, longest_response(config, platform, lengths))


def estimate_memory(architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths) -> Memory:
    """Bytes of one device. Weights that are trained are float32, and so are their gradients and Adam's two moments.

    verl shards these over all devices and gathers two layers and the embeddings at a time. Activations of a token are,
    in each layer, what its backward needs with flash attention: 4 hidden, 2 query, 2 key and 4 intermediate widths, and
    the two norms in float32; recomputed, they exist for one layer, and the layers' inputs for all.

    Beside an adapter, engines are given a copy of the model with it merged in (`Policy.plain`). The native engine keeps
    it, and lays weights out anew to generate (`Decoder`), or has the new copy before the old one goes.
    """
    a, number, trained = architecture, element_bytes(config, platform), trained_weights(architecture, config)
    many = platform.devices > 1
    tokens = micro_batch(config, platform, lengths)
    layer = number * (4 * a.hidden + 2 * a.queries + 2 * a.keys + 4 * a.intermediate) + 8 * a.hidden
    kept = layer + a.layers * number * a.hidden if config.gradient_checkpointing else a.layers * layer
    held = (0.0 if config.offload else 1.0) / platform.devices  # of what is sharded
    if many:
        beside = number * (2 * a.body / a.layers + 2 * a.head)  # gathered
        logits = tokens * a.vocabulary * 4.0 * LOGIT_COPIES
    else:
        beside = number * a.weights if number == 2 and not config.lora_rank else 0  # cast for the products
        logits = LOGIT_PIECES * LOGIT_ELEMENTS * 4.0
    merged = number * a.weights if config.lora_rank and not many else 0
    if many or config.engine.reserves_memory:
        share = config.engine_memory * platform.memory_bytes
        engine, idle = share + merged, 0.0 if many else share
    elif config.engine.in_process:
        rows = step_rows(lengths, config)[: config.max_concurrent_sequences] + lengths.prompt
        laid_out = 0 if beside else number * a.weights  # of weights that are trained, in bfloat16: the cast above
        engine, idle = merged + laid_out + number * a.shape(number).kv * float(rows.sum()), float(merged)
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


def room_in_cache(architecture: Architecture, config: VerlConfig, platform: Platform, tensor_parallel: int) -> float:
    """Tokens whose keys and values one replica of the engine has room for; the native engine takes what it needs."""
    if platform.devices == 1 and config.engine.in_process:
        return math.inf
    number = element_bytes(config, platform)
    held = config.engine_memory * platform.memory_bytes - WORKSPACE_GB * GB
    return (held * tensor_parallel - number * architecture.weights) / (number * architecture.shape(number).kv)


def place(config: VerlConfig, devices: int) -> VerlConfig:
    """The config with so many GPUs: in its own nodes if they have as many, else in one node, or in several of one size.

    For one device nothing changes: the native trainer has no nodes.
    """
    if devices == 1:
        return config
    if config.nodes * config.gpus_per_node != devices:
        each = devices if devices <= NODE_GPUS else math.gcd(devices, NODE_GPUS)
        config = config.model_copy(update={"nodes": devices // each, "gpus_per_node": each})
    address = config.ray_address or ("auto" if config.nodes > 1 else None)  # a cluster is needed then
    return config.model_copy(update={"ray_address": address})


def replicas_size(architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths) -> int:
    """GPUs that one replica of the engine is spread over: as configured, or the least multiple that holds a response.

    That is twice, four or eight times as many, as far as the node and the heads of attention can be divided by them;
    as configured if none is enough: `Plan.fits` says so.
    """
    if platform.devices == 1:
        return 1
    longest = longest_response(config, platform, lengths)
    node_gpus = place(config, platform.devices).gpus_per_node
    for size in (factor * config.tensor_parallel for factor in (1, 2, 4, 8)):
        divides = node_gpus % size == 0 and architecture.heads % size == 0
        if divides and room_in_cache(architecture, config, platform, size) >= longest:
            return size
    return config.tensor_parallel


def estimate_step(
    architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths, tensor_parallel: int,
    cache_tokens: float,
) -> Step:  # fmt: skip
    """Seconds of a step, on the device that is done last."""
    number = element_bytes(config, platform)
    shape = architecture.shape(number)
    rows = step_rows(lengths, config)
    replicas = max(1, platform.devices // tensor_parallel)
    own = np.random.default_rng(0).permutation(rows[::replicas])  # of the replica with the longest, as they arrive
    held = max(cache_tokens, lengths.prompt + rows[0])  # a plan that does not fit is priced as if one row did
    generation = generate(
        architecture, shape, platform, own, lengths.prompt, config.max_concurrent_sequences, held, tensor_parallel
    )
    flops_N = forward_flops(shape, rows, lengths.prompt) * passes(config)
    reached = peak(number, platform) * platform.efficiency.update
    update = max(flops_N.sum() / platform.devices, flops_N[0]) / reached  # a response is not cut into pieces
    sync = communication = 0.0
    if platform.devices > 1:
        tokens = max((rows + lengths.prompt).sum() / platform.devices, rows[0] + lengths.prompt)
        batches = math.ceil(tokens / micro_batch(config, platform, lengths))
        gathered, reduced = 2 * number * architecture.weights, 4 * trained_weights(architecture, config)
        communication = batches * (gathered + reduced) / platform.link_bytes
        sync = number * architecture.weights / platform.link_bytes + platform.efficiency.switch_seconds
    return Step(generation.seconds, float(update), communication, sync, float(rows.sum()), generation)


def make_plan(architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths) -> Plan:
    """Estimate a whole training."""
    size = replicas_size(architecture, config, platform, lengths)
    cache = room_in_cache(architecture, config, platform, size)
    memory = estimate_memory(architecture, config, platform, lengths)
    first = estimate_step(architecture, config, platform, lengths, size, cache)
    cap = max(config.max_think_tokens, config.max_no_think_tokens)
    mean = estimate_step(architecture, config, platform, shortened(lengths, cap), size, cache)
    return Plan(
        trainer="verl" if platform.devices > 1 else "native",
        tensor_parallel=size,
        cache_tokens=cache,
        memory=memory,
        first=first,
        mean=mean,
        saved_seconds=mean.update_seconds / passes(config),
        hours=config.steps * mean.seconds / 3600,
        reference_hours=reference_hours(architecture, config, platform, lengths, size, cache),
        fits=fits(architecture, config, platform, lengths),
    )


def reference_hours(
    architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths, size: int, cache: float
) -> float:
    """Hours of pre-sampling for problems that are all different, the engines kept full to the last responses."""
    samples = config.steps * config.problems_per_step * config.reference_samples
    replicas = max(1, platform.devices // size)
    longest = lengths.prompt + lengths.think[-1]
    at_once = max(1, int(min(config.max_concurrent_sequences, 2 * cache / longest)))
    count = min(math.ceil(samples / replicas), 4 * at_once)
    rows = np.quantile(
        np.asarray(lengths.think), np.random.default_rng(0).permutation((np.arange(count) + 0.5) / count)
    )
    shape = architecture.shape(element_bytes(config, platform))
    held = max(cache, longest)
    part = generate(architecture, shape, platform, rows, lengths.prompt, config.max_concurrent_sequences, held, size)
    full = part.seconds - part.tail_seconds
    return (full * max(1.0, samples / replicas / count) + part.tail_seconds) / 3600


@dataclass(frozen=True, slots=True)
class Remedy:
    """Settings that make a plan fit, as a person would write them."""

    settings: str
    memory: Memory


def remedies(
    architecture: Architecture,
    config: VerlConfig,
    platform: Platform,
    lengths: Lengths,
    larger: Sequence[Platform] = (),
) -> list[Remedy]:
    """Say what makes a plan fit: each change that is enough alone, else the shortest sequence of them that is.

    `larger` are the platforms that may be had instead.
    """

    def attempt(there: Platform, *changes: dict[str, object]) -> Remedy | None:
        keys = {key: value for change in changes for key, value in change.items()}  # later ones win
        changed = config.model_copy(update=keys)
        if not fits(architecture, changed, there, cut(lengths, changed)):
            return None
        words = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]  # as TOML writes them too
        if there is not platform:
            words.append(f"--gpus {there.name.replace(' ', '')}")
        size = replicas_size(architecture, changed, there, cut(lengths, changed))
        if there.devices > 1 and size != changed.tensor_parallel:
            words.append(f"tensor_parallel = {size}")
        return Remedy(", ".join(words), estimate_memory(architecture, changed, there, cut(lengths, changed)))

    alone = [attempt(platform, change) for change in possible_changes(config, platform, lengths)]
    found = [remedy for remedy in (*alone, *map(attempt, larger)) if remedy]
    if found:
        least: dict[str, Remedy] = {}  # of each kind the smallest change
        for one in found:
            least.setdefault(re.split(r" = |\d", one.settings)[0], one)
        return list(least.values())
    for there in (platform, *larger):
        rows = sequences(list(possible_changes(config, there, lengths)))
        for end in range(1, len(rows[0]) + 1):
            if remedy := next(filter(None, (attempt(there, *row[:end]) for row in rows)), None):
                return [remedy]
    return []


def sequences(changes: list[dict[str, object]]) -> list[list[dict[str, object]]]:
    """All changes in their order, once with each share of the engine: the least leaves vLLM too little room."""
    shares = [change for change in changes if "engine_memory" in change]
    return [[change for change in changes if change not in shares or change == one] for one in shares] or [changes]


def larger_platforms(platform: Platform) -> list[Platform]:
    """More GPUs of the same kind; the link is left as it is, memory does not depend on it."""
    counts = [factor * platform.devices for factor in (2, 4, 8, 16, 32)] if platform.is_gpu else []
    kind = platform.name.rpartition(" ")[2]
    return [replace(platform, name=f"{count}x {kind}", devices=count) for count in counts]


def possible_changes(config: VerlConfig, platform: Platform, lengths: Lengths) -> Iterator[dict[str, object]]:
    """What can be tried, as keys of a recipe, what costs least first."""
    reserved = platform.devices > 1 or config.engine.reserves_memory
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    least = math.ceil(longest_response(config, platform, lengths))
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
    least = math.ceil(longest_response(halved, platform, cut(lengths, halved)))
    smaller = {"micro_batch_tokens": least} if config.micro_batch_tokens > least else {}
    yield {"max_think_tokens": halved.max_think_tokens, **smaller}


def cut(lengths: Lengths, config: VerlConfig) -> Lengths:
    """Lengths under a config's caps."""
    think = tuple(min(length, config.max_think_tokens) for length in lengths.think)
    return replace(
        lengths, think=think, no_think=tuple(min(one, config.max_no_think_tokens) for one in lengths.no_think)
    )


def fits(architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths) -> bool:
    """Whether a device holds both halves of a step, and the engine a whole response."""
    size = replicas_size(architecture, config, platform, lengths)
    return estimate_memory(architecture, config, platform, lengths).peak <= platform.memory_bytes and room_in_cache(
        architecture, config, platform, size
    ) >= longest_response(config, platform, lengths)
