"""What a thinking budget costs in accuracy: closed with a ramp, closed at once, and cut without closing.

    python benchmarks/thinking_budget.py tiny

The served engine answers new problems in mode think at several budgets; prints a table in Markdown and stores a result.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from statistics import fmean

from record import surroundings, write_result

from adaptthink import api
from adaptthink.config.schema import EvaluateConfig
from adaptthink.engines.base import Finish, Request
from adaptthink.engines.continuous import ContinuousBatch
from adaptthink.engines.jobs import Closing, Job
from adaptthink.engines.native import NativeEngine
from adaptthink.grading import Submission, Verdict, grade_all
from adaptthink.models.loading import Policy, load_policy
from adaptthink.modes import Mode, encode_prompt
from adaptthink.problems import Problem
from adaptthink.sampling.reading import Response
from adaptthink.sampling.requests import MaxTokens, derive_stream, make_request
from adaptthink.serving.generation import Ended
from adaptthink.serving.streaming import ChoiceReader

BUDGETS = (16, 32, 48, 64, 96)
RAMPS = (0.0, 0.2, 0.5)
LONGEST, ANSWER = 128, 16  # tokens of a response without a budget, and of an answer behind a closed thought


def answer(policy: Policy, problems: Sequence[Problem], budget: int | None, ramp: float | None) -> list[Response]:
    """Return one response a problem; without a ramp the thought is cut, without a budget it is the model's own."""
    engine = NativeEngine(policy.model, policy.eos_ids)
    batch, template = ContinuousBatch(engine, max_concurrent_sequences=256), policy.template
    close = template.no_think_prefix_ids[template.no_think_prefix_ids.index(template.close_id) :]
    responses: dict[int, Response] = {}

    def make_job(number: int, problem: Problem) -> Job:
        closing = None
        limit = LONGEST if budget is None else budget + len(close) + ANSWER
        if budget is not None and ramp is not None:
            closing = Closing(template.close_id, budget, close, math.ceil(ramp * budget))
        prompt = encode_prompt(policy.tokenizer, template, problem.messages)
        reader = ChoiceReader(0, policy.tokenizer, template, (), plain=False)

        def begin(_: Sequence[float]) -> list[Request]:
            stream = derive_stream(problem, 0)
            return [make_request(template, prompt, Mode.THINK, stream, MaxTokens(limit, limit))]

        def on_token(_: int, token: int, finish: Finish | None) -> bool:
            for event in reader.add(token, finish):
                if isinstance(event, Ended):
                    responses[number] = event.response
            return True

        return Job(prompt, begin, on_token, raise_error, temperature=0.6, top_p=0.95, closing=closing)

    for number, problem in enumerate(problems):
        batch.submit(make_job(number, problem))
    while not batch.idle:
        batch.step()
    return [responses[number] for number in range(len(problems))]


def raise_error(error: Exception) -> None:
    """Raise what ended a job."""
    raise error


def measure(problems: Sequence[Problem], responses: Sequence[Response]) -> dict[str, float]:
    """Return accuracy, mean tokens, and the share of responses without an answer."""
    graded = grade_all(
        Submission(one.final_answer, problem.answer, finished=one.finished)
        for problem, one in zip(problems, responses, strict=True)
    )
    return {
        "accuracy": fmean(one.verdict is Verdict.CORRECT for one in graded),
        "tokens": fmean(one.tokens for one in responses),
        "without_answer": fmean(not one.answer for one in responses),
    }


def main(model: str, per_level: int) -> None:
    """Measure, print and store."""
    policy = load_policy(model)
    config = EvaluateConfig(problems="arithmetic", problems_per_level=per_level)
    problems = api.read_evaluation_problems(config).problems
    free = measure(problems, answer(policy, problems, None, None))
    rows: list[dict[str, float | str]] = []
    print(f"without a budget: {free['accuracy']:.1%} at {free['tokens']:.1f} tokens\n")
    print("| budget | cut | " + " | ".join(f"ramp {ramp:g}" for ramp in RAMPS) + " |")
    print("|---:|" + "---|" * (1 + len(RAMPS)))
    for budget in BUDGETS:
        cells = []
        for ramp in (None, *RAMPS):
            found = measure(problems, answer(policy, problems, budget, ramp))
            rows.append({"budget": budget, "ramp": "cut" if ramp is None else ramp} | found)
            cells.append(f"{found['accuracy']:.1%} / {found['tokens']:.1f} / {found['without_answer']:.1%}")
        print(f"| {budget} | " + " | ".join(cells) + " |", flush=True)
    result = surroundings(["adaptthink", "torch"]) | {
        "model": model,
        "problems": len(problems),
        "free": free,
        "budgets": rows,
    }
    write_result("thinking-budget", result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--problems-per-level", type=int, default=200)
    arguments = parser.parse_args()
    main(arguments.model, arguments.problems_per_level)
