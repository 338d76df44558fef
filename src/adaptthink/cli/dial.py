"""What the commands of the dial do: choose a threshold for a model, and print what it decides."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptthink import api
from adaptthink.cli.console import Terminal, console, shorten, show_text_table
from adaptthink.cli.jobs import load_evaluation_problems
from adaptthink.cli.layout import TextTable
from adaptthink.config.schema import EvaluateConfig
from adaptthink.dial.curve import Point, thin_curve
from adaptthink.dial.decide import ModeDecision
from adaptthink.dial.efforts import Effort
from adaptthink.dial.guarantee import Choice, HeldOut, Kind, describe_limit, describe_rule, describe_shortage
from adaptthink.dial.second_look import SecondLook
from adaptthink.dial.stored import Dial
from adaptthink.evaluation.formats import write_number, write_range
from adaptthink.modes import Mode
from adaptthink.problems.prompts import read_prompt_lines


def calibrate_job(
    config: EvaluateConfig, folder: Path, *, tolerance_points: float, token_budget: float | None, overwrite: bool
) -> Dial:
    """Sample what `folder` lacks, choose thresholds, print them, and store the dial there and beside the model."""
    problems = load_evaluation_problems(config)
    dial = api.calibrate(
        config.model,
        problems,
        tolerance=tolerance_points,
        token_budget=token_budget,
        output=folder,
        overwrite=overwrite,
        callbacks=[Terminal()],
        config=config,
    )
    show_dial(dial)
    return dial


def decide_job(
    model: str, prompts: Sequence[str], *, threshold: float | None, dial_file: Path | None, think_start: str
) -> dict[str, Any]:
    """Print which mode the dial gives each prompt: one line each."""
    chosen, _ = api.choose_threshold(model, threshold, dial_file)
    decisions = api.decide(model, prompts, threshold=threshold, dial=dial_file, think_start=think_start)
    for prompt, decision in zip(prompts, decisions, strict=True):
        show_decision(prompt, decision, chosen)
    rows = [{"prompt": prompt} | asdict(decision) for prompt, decision in zip(prompts, decisions, strict=True)]
    return {"model": model, "threshold": chosen, "decisions": rows}


def score_job(
    model: str, prompts: str, output: Path, *, threshold: float | None, dial: Path | None, **settings: Any
) -> dict[str, Any]:
    """Score what `output` lacks, and print how difficult the prompts are on the whole."""
    source = read_prompt_lines(sys.stdin.buffer, "standard input") if prompts == "-" else prompts
    scores = api.score(model, source, output=output, threshold=threshold, dial=dial, callbacks=[Terminal()], **settings)
    count, total, modes = 0, 0.0, Counter[Mode | None]()
    for one in scores:
        count, total = count + 1, total + one.no_think_probability
        modes[one.mode] += 1
    result = {"model": model, "output": str(output), "prompts": count, "mean_no_think_probability": total / count}
    line = f"{count:,} prompts scored, in {output}: mean P(no_think) {total / count:.3g}"
    if None not in modes:
        result["no_think_share"] = modes[Mode.NO_THINK] / count
        line += f"; by the threshold {result['no_think_share']:.1%} no_think"
    console.print(line, markup=False, soft_wrap=True)
    return result


def show_dial(dial: Dial) -> None:
    """Print a calibrated dial: about a dozen points of its curve, then what was chosen and how it was checked."""
    show_text_table(make_dial_table(dial))
    for choice in dial.choices:
        console.print(describe_choice(choice), markup=False)
        if choice.held_out:
            console.print(f"  {describe_check(choice.held_out)}", markup=False)
    console.print(describe_efforts(dial.efforts), markup=False)
    if dial.second_look:
        console.print(describe_second_look(dial, dial.second_look), markup=False)


def make_dial_table(dial: Dial) -> TextTable:
    """A dozen points of the curve, spread evenly over the problems, and those that were chosen."""
    chosen = [choice.no_think_probability for choice in dial.choices if choice.no_think_probability is not None]
    headings = ("threshold", "no_think, %", "accuracy, %", "mean tokens", "Δ accuracy, points", "Δ length, %")
    return TextTable(
        "results of thresholds on P(no_think), with 95% intervals",
        headings,
        tuple(write_point(point, chosen=point.threshold in chosen) for point in thin_curve(dial.curve, chosen, 11)),
        note="Δ: against always thinking; *: certified" if chosen else "Δ: against always thinking",
    )


def write_point(point: Point, *, chosen: bool) -> tuple[str, ...]:
    """Return the row of one threshold."""
    threshold = "always think" if point.threshold > 1 else f"{point.threshold:g}"
    return (
        f"{threshold}{' *' if chosen else ''}",
        f"{write_number(100 * point.no_think_share)} ({write_range(point.no_think_interval, 0, scale=100)})",
        f"{write_number(100 * point.accuracy)} ({write_range(point.accuracy_interval, 0, scale=100)})",
        f"{write_number(point.mean_tokens)} ({write_range(point.tokens_interval, 0)})",
        write_accuracy_difference(point),
        write_token_change(point),
    )


def write_accuracy_difference(point: Point, unit: str = "") -> str:
    """Points of accuracy against always thinking."""
    ends = write_range(point.accuracy_difference_interval, scale=100, signed=True)
    return f"{write_number(100 * point.accuracy_difference, signed=True)}{unit} ({ends})"


def write_token_change(point: Point, unit: str = "") -> str:
    """Percent of tokens against always thinking."""
    ends = write_range(point.token_change_interval, 0, scale=100, signed=True)
    return f"{write_number(100 * point.token_change, signed=True)}{unit} ({ends})"


def describe_choice(choice: Choice) -> str:
    """The chosen threshold and its certificate, or why there is none."""
    if not choice.certified:
        return f"{describe_limit(choice)}: {describe_shortage(choice)}"
    rule = describe_rule(choice.no_think_probability)
    first = "smallest" if choice.kind is Kind.ACCURACY_LOSS else "largest"
    return (
        f"{describe_limit(choice)}: {rule}, the {first} threshold certified with {choice.confidence:.0%} confidence "
        f"on {choice.num_problems} problems"
    )


def describe_efforts(efforts: Sequence[Effort]) -> str:
    """Return the levels that requests to `serve` can name, and those that could not be certified."""
    lines = []
    for one in efforts:
        tolerance = f"{one.name}, {describe_limit(one.choice)}"
        if not one.choice.held_out:
            lines.append(f"  {tolerance}: not certified")
            continue
        point = one.choice.held_out.point
        rule = describe_rule(one.choice.no_think_probability)
        measured = f"{write_number(100 * point.accuracy)}% at {write_number(point.mean_tokens)} tokens held out"
        lines.append(f"  {tolerance}: {rule}; {measured}")
    return "\n".join(["efforts for serve, each certified by itself:", *lines])


def describe_second_look(dial: Dial, look: SecondLook) -> str:
    """Return what thinking about doubtful direct answers gives, at the threshold in use, else without thinking."""
    if look.right_among_doubtful is None:
        return "second look: no direct answer was doubtful"
    threshold = dial.threshold.no_think_probability if dial.threshold.certified else 0.0
    before, after = (
        next((one for one in curve if one.threshold == threshold), curve[-1]) for curve in (dial.curve, look.curve)
    )
    return (
        f"second look: {write_number(100 * look.doubtful)}% of the direct answers are doubtful, of which "
        f"{write_number(100 * look.right_among_doubtful)}% are right; with a thought after these "
        f"({describe_rule(threshold)}): accuracy {write_number(100 * before.accuracy)} to "
        f"{write_number(100 * after.accuracy)}%, {write_number(before.mean_tokens)} to "
        f"{write_number(after.mean_tokens)} tokens"
    )


def describe_check(held_out: HeldOut) -> str:
    """Return the result of a threshold on the held-out problems."""
    point = held_out.point
    against = held_out.against_thinking
    if against != "not distinguishable":
        against += " in accuracy"
    tokens = f"{write_number(point.mean_tokens)} tokens ({write_range(point.tokens_interval, 0)})"
    return (
        f"held-out {held_out.num_problems}: limit {held_out.verdict}; "
        f"{write_accuracy_difference(point, ' points')}, {against}; "
        f"{tokens}, {write_token_change(point, '%')}; {write_number(100 * point.no_think_share)}% no_think"
    )


def show_decision(prompt: str, decision: ModeDecision, threshold: float) -> None:
    """Print what the dial decides for one prompt."""
    rule = "always thinks" if threshold > 1 else f"threshold {threshold:g}"
    line = f"{decision.no_think_probability:<12.6g}{decision.mode:<10}{rule}  {shorten(prompt)}"
    console.print(line, markup=False, soft_wrap=True, emoji=False)
