r"""How time and memory grow: a figure of seconds and megabytes against batch, response length, problems and model size.

    python benchmarks/growth.py [--quick] [--axis problems]

Every point is a process of its own, so that its peak memory is its own: the embedded reasoner (or a random model of the
same family), one step of rollouts and update after one that does not count. Responses are as long as max_tokens allows:
no token ends them. For the number of problems: reading a JSONL file, pre-sampling one response to each, one step's
rollouts and advantages, and evaluating on all of them, with a model that answers at once to prompts that it does not
read, so that what is measured is everything around it. Writes results/growth-DATE.json and
results/growth.png; with --axis results/growth-AXIS-DATE.json and no figure.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models import model_folder
from record import RESULTS, surroundings, write_result


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: what grows, and everything that is held."""

    axis: str
    value: int
    prompts: int = 4
    tokens: int = 32
    hidden: int = 128
    layers: int = 4
    problems: int = 0


AXES = {
    "responses": [Point("responses", 16 * n, prompts=n) for n in (1, 2, 4, 8, 16, 32, 64)],
    "tokens per response": [Point("tokens per response", n, tokens=n) for n in (16, 32, 64, 128, 256, 512)],
    "problems": [Point("problems", n, problems=n) for n in (1_000, 10_000, 100_000, 1_000_000)],
    "million parameters": [
        Point("million parameters", 0, hidden=hidden, layers=layers)
        for hidden, layers in ((64, 2), (128, 4), (256, 6), (512, 8), (768, 12))
    ],
}


def run_point(point: Point) -> dict[str, Any]:
    """Measure one point in this process."""
    return run_problems(point) if point.problems else run_step(point)


def peak_mb() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_step(point: Point) -> dict[str, Any]:
    """Time rollouts and an update."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, Qwen2Config  # noqa: PLC0415

    from adaptthink.config.schema import TrainConfig  # noqa: PLC0415
    from adaptthink.engines.native import NativeEngine  # noqa: PLC0415
    from adaptthink.grading import Verdict  # noqa: PLC0415
    from adaptthink.models.loading import load_policy  # noqa: PLC0415
    from adaptthink.problems.arithmetic import Split, generate_problems  # noqa: PLC0415
    from adaptthink.sampling.sampler import Sampler  # noqa: PLC0415
    from adaptthink.training.data import choose_problems  # noqa: PLC0415
    from adaptthink.training.methods import credit_rollouts  # noqa: PLC0415
    from adaptthink.training.reference import Reference  # noqa: PLC0415
    from adaptthink.training.rollout import collect  # noqa: PLC0415
    from adaptthink.training.update import update  # noqa: PLC0415

    policy = load_policy(str(model_folder("tiny")))
    shape = Qwen2Config.from_pretrained(model_folder("tiny"))
    shape.update(
        {
            "hidden_size": point.hidden, "intermediate_size": 3 * point.hidden, "num_hidden_layers": point.layers,
            "num_attention_heads": point.hidden // 32, "num_key_value_heads": point.hidden // 64,
            "layer_types": ["full_attention"] * point.layers, "max_position_embeddings": 4096,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    config = TrainConfig(
        problems_per_step=point.prompts, samples_per_problem=16, temperature=1.0, learning_rate=1e-6,
        max_think_tokens=point.tokens, max_no_think_tokens=point.tokens,
    )  # fmt: skip
    problems = generate_problems(-(-point.prompts // 5) + 1, seed=0, split=Split.TRAIN)[: point.prompts]
    reference = {one.id: Reference(one.id, (Verdict.CORRECT, Verdict.WRONG), (1, 1)) for one in problems}
    sampler = Sampler(NativeEngine(model, [10**9]), policy.tokenizer, policy.template)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    seconds = []
    for step in (1, 2):
        started = time.perf_counter()
        rollouts = collect(sampler, choose_problems(problems, point.prompts, config.seed, step), config, step)
        sampled = time.perf_counter()
        credits = credit_rollouts(rollouts, reference, config, step)
        update(model, optimizer, rollouts, credits, config, step)
        seconds.append((sampled - started, time.perf_counter() - sampled))
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    return {
        "value": parameters if point.axis == "million parameters" else point.value,
        "rollout_seconds": seconds[-1][0],
        "update_seconds": seconds[-1][1],
        "peak_mb": peak_mb(),
    }


def run_problems(point: Point) -> dict[str, Any]:
    """Time what a job does with all problems; the model answers at once, and every prompt is the same to it."""
    from adaptthink.api import evaluate_policy, sample_reference  # noqa: PLC0415
    from adaptthink.callbacks import Callback  # noqa: PLC0415
    from adaptthink.config.schema import EvaluateConfig, TrainConfig  # noqa: PLC0415
    from adaptthink.engines.base import ScriptedEngine  # noqa: PLC0415
    from adaptthink.models.loading import load_policy  # noqa: PLC0415
    from adaptthink.sampling.sampler import Sampler  # noqa: PLC0415
    from adaptthink.training.data import choose_problems, find_problems  # noqa: PLC0415
    from adaptthink.training.methods import credit_rollouts  # noqa: PLC0415
    from adaptthink.training.rollout import collect  # noqa: PLC0415

    class Unread(Sampler):
        def encode_prompt(self, problem: Any) -> tuple[int, ...]:
            return (5,)

    class Instant(ScriptedEngine):
        def generate(self, *args: Any, **options: Any) -> Any:
            self.requests.clear()  # it would keep them all
            return super().generate(*args, **options)

    policy = load_policy(str(model_folder("tiny")))
    answer = [*policy.tokenizer.encode("</think>\\boxed{7}", add_special_tokens=False), policy.eos_ids[0]]
    sampler = Unread(Instant(lambda _, prefix: answer[len(prefix) :]), policy.tokenizer, policy.template)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problems.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(point.problems):
                prompt = f"Problem {number}: what is {number} + {number % 97}? " + "Think of apples and of pears. " * 8
                file.write(json.dumps({"prompt": prompt, "answer": str(number + number % 97)}) + "\n")
        config = TrainConfig(problems=str(path), reference_samples=1, samples_per_problem=2, max_no_think_tokens=99)
        row: dict[str, Any] = {"value": point.value, "before_mb": peak_mb()}
        started = time.perf_counter()

        def done(part: str) -> None:
            nonlocal started
            row[f"{part}_seconds"], row[f"{part}_mb"] = time.perf_counter() - started, peak_mb()
            started = time.perf_counter()

        problems = find_problems(config.problems, None, config).problems
        done("read")
        reference = sample_reference(policy, sampler, problems, config, Path(folder) / "reference.jsonl", Callback())
        done("presample")
        chosen = choose_problems(problems, config.problems_per_step, config.seed, step=1)
        rollouts = collect(sampler, chosen, config, step=1)
        credit_rollouts(rollouts, reference, config, step=1)
        done("step")
        evaluation = EvaluateConfig(max_no_think_tokens=99)
        evaluate_policy(policy, sampler, problems, ("auto",), evaluation, Path(folder) / "evaluation", Callback())
        done("evaluate")
        return row | {"peak_mb": peak_mb()}


def draw_figure(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot seconds above and memory below, a column for each axis."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, len(results), figsize=(3.4 * len(results), 5.6), sharex="col", squeeze=False)
    for column, (name, rows) in enumerate(results.items()):
        values = [row["value"] for row in rows]
        for key in [key for key in rows[0] if key.endswith("_seconds")]:
            axes[0][column].plot(values, [row[key] for row in rows], marker="o", label=key.removesuffix("_seconds"))
        axes[0][column].set(xscale="log", yscale="log", title=name)
        axes[0][column].legend(frameon=False)
        axes[1][column].plot(values, [row["peak_mb"] for row in rows], marker="o", color="tab:green")
        axes[1][column].set(xscale="log", xlabel=name)
        axes[1][column].set_ylim(bottom=0)
        for axis in axes[:, column]:
            axis.grid(visible=True, alpha=0.3)
            axis.set_xticks(values, [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values])
            axis.tick_params(axis="x", rotation=45)
            axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel("peak memory, MB")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure all points, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first three points of each axis")
    parser.add_argument("--axis", choices=AXES, help="one axis alone; a result of its own")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(run_point(Point(**json.loads(arguments.point)))))
        return
    results: dict[str, list[dict[str, Any]]] = {}
    for axis, points in AXES.items():
        if arguments.axis not in (None, axis):
            continue
        for point in points[:3] if arguments.quick else points:
            command = [sys.executable, __file__, "--point", json.dumps(asdict(point))]
            out = subprocess.run(command, capture_output=True, text=True, check=False)
            if out.returncode:
                raise SystemExit(f"{point} failed:\n{out.stderr[-2000:]}")
            results.setdefault(axis, []).append(json.loads(out.stdout.splitlines()[-1]))
            shown = {key: round(value, 3) for key, value in results[axis][-1].items()}
            print(f"{axis}: {shown}", flush=True)
    result = surroundings(["torch", "transformers"]) | {"axes": results}
    name = f"growth-{arguments.axis.replace(' ', '-')}" if arguments.axis else "growth"
    print(f"written to {write_result(name, result)}")
    if not arguments.axis:
        draw_figure(results, RESULTS / "growth.png")


if __name__ == "__main__":
    main()
