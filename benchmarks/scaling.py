"""How a step's time grows with GPUs by the arithmetic of `adaptthink plan`: nothing is run, nothing is measured.

    python benchmarks/scaling.py [--recipe r1_distill_1.5b] [--gpu H100]

Writes results/scaling-RECIPE-DATE.json and docs/assets/scaling.png. Three ways: the recipe's batch on more and more
GPUs; a batch that grows with them from eight GPUs on; and rollouts that go on while the trainer updates, no response
older than `STALENESS` updates, on the recipe's batch.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
from record import surroundings, write_result

from adaptthink.cli.plan import PROMPT_TOKENS, find_lengths
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import VerlConfig
from adaptthink.planning.architecture import Architecture, read_architecture
from adaptthink.planning.estimate import (
    Lengths,
    Platform,
    choose_element_bytes,
    make_cluster_platform,
    make_plan,
    make_step_rows,
    simulate_generation,
)
from adaptthink.planning.hardware import NODE_GPUS, read_cluster

mpl.use("Agg")
from matplotlib import pyplot as plt

COUNTS = [2**power for power in range(11)]
STALENESS = 4  # updates between the policy that drew a token and the one that learns from it, at most
FIGURE = Path(__file__).parents[1] / "docs" / "assets" / "scaling.png"


def main() -> None:
    """Compute, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="r1_distill_1.5b")
    parser.add_argument("--gpu", default="H100")
    arguments = parser.parse_args()
    config = resolve("verl", VerlConfig, recipes=[arguments.recipe])
    architecture, lengths = read_architecture(config.model), find_lengths(config, None, None, PROMPT_TOKENS, None)
    rows = []
    for count in COUNTS:
        platform = make_cluster_platform(read_cluster(f"{count}x{arguments.gpu}"))
        fixed = make_plan(architecture, config, platform, lengths)
        batch = max(1, round(config.problems_per_step * count / 8))
        growing = config.model_copy(update={"problems_per_step": batch, "steps": max(1, 314 * 128 // batch)})
        grown = make_plan(architecture, growing, platform, lengths)
        row = {
            "gpus": count,
            "rollout": fixed.first.rollout_seconds,
            "longest_alone": longest_alone(architecture, config, platform, lengths),
            "update": max(fixed.first.update_seconds, fixed.first.communication_seconds),
            "sync": fixed.first.sync_seconds,
            "seconds": fixed.first.seconds,
            "growing_batch": batch,
            "growing_seconds": grown.first.seconds,
            "asynchronous_seconds": asynchronous(architecture, config, platform, lengths, fixed.first.update_seconds),
            "hours": fixed.hours,
            "reference_hours": fixed.reference_hours,
            "fits": fixed.fits,
        }
        rows.append(row)
        print({name: round(value, 1) for name, value in row.items()}, flush=True)
    result = surroundings(["numpy"]) | {"measured": False, "recipe": arguments.recipe, "gpu": arguments.gpu}
    print(write_result(f"scaling-{arguments.recipe}", result | {"staleness": STALENESS, "rows": rows}))
    draw(rows, f"{arguments.recipe} on {arguments.gpu}")


def longest_alone(architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths) -> float:
    """Seconds that the longest response takes on an engine that has nothing else: no number of GPUs goes below it."""
    shape = architecture.shape(choose_element_bytes(config, platform))
    return simulate_generation(
        architecture, shape, platform, make_step_rows(lengths, config)[:1], lengths.prompt, 1, math.inf
    ).seconds


def asynchronous(
    architecture: Architecture, config: VerlConfig, platform: Platform, lengths: Lengths, update_seconds: float
) -> float:
    """Seconds of a step where rollouts never stop: as many GPUs generate as keeps the others updating.

    What is in flight and what waits belongs to at most STALENESS batches, and so each GPU has the fewer rows the more
    GPUs there are. Weights are sent without a stop; waking and sleeping fall away.
    """
    sampled = make_step_rows(lengths, config)
    update_gpu_seconds = update_seconds * platform.devices
    updating = max(1, platform.devices // 4)
    for _ in range(20):  # the share of GPUs that update, until both sides take the same time
        generating = max(1, platform.devices - updating)
        at_once = max(1, min(config.max_concurrent_sequences, STALENESS * len(sampled) // generating))
        stream = np.random.default_rng(1).choice(sampled, 16 * at_once)
        part = simulate_generation(
            architecture, architecture.shape(choose_element_bytes(config, platform)), platform, stream, lengths.prompt,
            at_once, math.inf,
        )  # fmt: skip
        full = part.seconds - part.tail_seconds
        rollout = full / stream.sum() * sampled.sum() / generating
        update = max(update_gpu_seconds / updating, sampled[0] / sampled.sum() * update_gpu_seconds)
        wanted = round(platform.devices * update * updating / (update * updating + rollout * generating))
        if wanted == updating or platform.devices == 1:
            break
        updating = min(platform.devices - 1, max(1, wanted))
    return float(rollout + update if platform.devices == 1 else max(rollout, update))


def draw(rows: list[dict[str, float]], title: str) -> None:
    """Draw both figures."""
    count_N = np.array([row["gpus"] for row in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, label, style in (
        ("seconds", "whole step", "k-o"),
        ("rollout", "rollout", "C0-"),
        ("longest_alone", "the longest response alone", "C0:"),
        ("update", "update", "C1-"),
        ("sync", "wake, sleep, weights", "C2-"),
    ):
        left.loglog(count_N, [row[name] or math.nan for row in rows], style, label=label, base=2, markersize=4)
    many = [row for row in rows if row["gpus"] >= NODE_GPUS]  # with fewer, GPUs cannot be divided well
    many_N, apart = np.array([row["gpus"] for row in many]), [row["asynchronous_seconds"] for row in many]
    label = f"asynchronous, {STALENESS} updates old at most"
    left.loglog(many_N, apart, "C3--s", label=label, base=2, markersize=4)
    left.set_yscale("log", base=10)
    left.set(xlabel="GPUs", ylabel="seconds", title=f"a step of {title}, fixed batch")
    left.legend(fontsize=8)
    eight = next(row for row in rows if row["gpus"] == 8)
    grown = [row["growing_seconds"] * 128 / row["growing_batch"] for row in rows]
    for label, style, gpus_N, seconds in (
        ("fixed batch", "k-o", count_N, [row["seconds"] for row in rows]),
        ("batch grows with GPUs", "C4-^", count_N, grown),
        ("asynchronous, fixed batch", "C3--s", many_N, apart),
    ):
        share_N = 100 * 8 * eight["seconds"] / (gpus_N * np.array(seconds))
        right.plot(gpus_N, share_N, style, label=label, markersize=4)
    right.set_xscale("log", base=2)
    right.set(xlabel="GPUs", ylabel="%", title="responses per GPU and second, 8 GPUs = 100%", ylim=(0, None))
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xticks(count_N, [str(count) for count in count_N], fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(FIGURE, dpi=110)
    print(FIGURE)


if __name__ == "__main__":
    main()
