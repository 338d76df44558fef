"""What the commands of the dial do: choose a threshold for a model, and say what it decides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from adaptthink.cli.console import console, show_decision, show_dial
from adaptthink.cli.jobs import evaluate_policy, load_evaluation_problems, make_sampler
from adaptthink.config.schema import EvaluateConfig
from adaptthink.dial.curve import (
    STORED,
    calibrate,
    check_weights,
    decide,
    measure,
    read_dial,
    thin,
    to_json,
    write_dial,
)
from adaptthink.errors import UserError
from adaptthink.evaluation.store import read_decisions, read_outcomes, read_setting
from adaptthink.models.loading import load_configured, load_policy
from adaptthink.modes import Mode
from adaptthink.sampling.engine import make_engine

FORCED = (str(Mode.THINK), str(Mode.NO_THINK))


def calibrate_job(
    config: EvaluateConfig, folder: Path, *, tolerance_points: float, token_budget: float | None
) -> dict[str, Any]:
    """Sample what `folder` lacks, choose thresholds, print them, and store the dial there and beside the model."""
    cap = max(config.max_think_tokens, config.max_no_think_tokens)
    if token_budget is not None and token_budget >= cap:
        raise UserError(
            f"--token-budget {token_budget:g} is no limit: a response has at most {cap} tokens "
            "(--max-think-tokens); give less"
        )
    problems = load_evaluation_problems(config)
    policy = load_configured(config)
    sampler = make_sampler(policy, make_engine(policy, config), config)
    evaluate_policy(policy, sampler, problems, FORCED, config, folder)
    wanted = {problem.id for problem in problems}
    outcomes = [
        one for one in read_outcomes(folder) if one.problem_id in wanted and one.index < config.samples_per_problem
    ]
    measured = measure(outcomes, read_decisions(folder))
    dial = calibrate(
        measured, read_setting(folder), config.problems, tolerance=tolerance_points / 100, token_budget=token_budget
    )
    show_dial(dial)
    write_dial(folder / "dial.json", dial)
    chosen = [choice.no_think_probability for choice in dial.choices]
    stored = place_of(config.model, folder)
    write_dial(stored, replace(dial, curve=thin(dial.curve, chosen)))
    console.print(f"threshold in {stored}, the whole curve in {folder / 'dial.json'}", soft_wrap=True)
    return to_json(dial)


def place_of(model: str, folder: Path) -> Path:
    """Where a model's dial is stored: beside its weights where that is a folder to write to, else in `folder`."""
    beside = Path(model)
    own = model != "tiny" and (beside / "config.json").is_file() and os.access(beside, os.W_OK)
    return (beside if own else folder) / STORED


def decide_job(
    model: str, prompts: Sequence[str], *, threshold: float | None, dial_file: Path | None, think_start: str
) -> dict[str, Any]:
    """Print which mode the dial gives each prompt: one line each."""
    if threshold is not None and dial_file is not None:
        raise UserError("--threshold and --dial both say where the threshold is; give one of the two")
    if threshold is None and dial_file is None and (model == "tiny" or not Path(model).is_dir()):
        raise UserError(
            f"'{model}' is no model folder with a dial in it; give --threshold, or --dial with the {STORED} that "
            "adaptthink calibrate wrote"
        )
    path = dial_file or Path(model) / STORED
    dial = read_dial(path) if threshold is None else None
    policy = load_policy(model, think_start=think_start)
    if dial:
        check_weights(dial, policy.fingerprint, path)
    chosen = dial.threshold.no_think_probability if dial else threshold
    assert chosen is not None  # one of the two is given
    decisions = decide(policy, prompts, chosen)
    for prompt, decision in zip(prompts, decisions, strict=True):
        show_decision(prompt, decision, chosen)
    rows = [{"prompt": prompt} | asdict(decision) for prompt, decision in zip(prompts, decisions, strict=True)]
    return {"model": model, "threshold": chosen, "decisions": rows}
