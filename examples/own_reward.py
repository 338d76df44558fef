"""Train with a reward function and problems of your own, through the public interface alone.

    python examples/own_reward.py [OUTPUT]

The problems are dicts, the reward gives half a point for a number that is off by one. A few steps show the interface;
they are not a result.
"""

import sys
from collections.abc import Mapping
from typing import Any

import adaptthink as at


def reward(problem: at.Problem, response: at.Response) -> float:
    """1 for the right number, half of it for a number that is off by one, else 0."""
    found = (response.answer or "").strip().removeprefix("\\boxed{").removesuffix("}")
    if not found.lstrip("-").isdigit():
        return 0.0
    distance = abs(int(found) - int(problem.answer))
    return 1.0 if distance == 0 else 0.5 if distance == 1 else 0.0


class Progress(at.Callback):
    """Prints one line for each training step."""

    def on_step(self, metrics: Mapping[str, Any]) -> None:
        think, no_think = metrics["reward_think"], metrics["reward_no_think"]
        print(f"step {metrics['step']}: mean reward {think:.2f} thinking, {no_think:.2f} not thinking")


def main(output: str) -> None:
    sums = [(a, b, c) for a in range(11, 90, 7) for b in (3, 6, 8) for c in (2, 5)]
    problems = [{"prompt": f"{a}+{b}-{c}=?", "answer": a + b - c, "level": 1 + (a > 50)} for a, b, c in sums]
    model = at.load("tiny")
    run = at.train(
        model,
        problems,
        output=output,
        reward=reward,
        callbacks=[Progress()],
        clean=True,
        steps=4,
        problems_per_step=8,
        samples_per_problem=4,
        reference_samples=2,
        max_think_tokens=64,
        max_no_think_tokens=16,
        temperature=1.0,
        learning_rate=1e-4,
    )
    result = at.evaluate(run.model, problems[:20], reward=reward, max_think_tokens=64, max_no_think_tokens=16)
    for mode, scores in result.modes.items():
        print(f"{mode:9} mean reward {scores.overall.accuracy:.2f}, {scores.overall.mean_tokens:.1f} tokens")
    print(f"model in {run.folder / 'model'}, samples in {result.folder}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/own_reward")
