"""Mode choice: how well a model chooses when to think, from one evaluation folder.

Forced think of the same checkpoint is the honest baseline, and the better of the two forced modes on each problem is
what a perfect choice would have given. Numbers are by problem, intervals clustered by it; docs/how-to/evaluation.md
explains how each may be misread. What a folder does not show is None, with the reason in `notes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from adaptthink.errors import UserError
from adaptthink.evaluation.levels import name_level, rank_level
from adaptthink.evaluation.scores import (
    Change,
    compare_accuracy,
    compare_length,
    compare_scores,
    group_no_think,
    group_rewards,
    select_gradable,
)
from adaptthink.evaluation.statistics import Calibration, Difference, Interval, measure_calibration, share_interval
from adaptthink.evaluation.store import (
    Decision,
    Outcome,
    read_decisions,
    read_outcomes,
    read_problems,
    read_samples,
)
from adaptthink.grading.implicit_thinking import Signs, read_signs, thinks_implicitly
from adaptthink.modes import Convention, Mode

DELTA = 0.05  # accuracy that no_think may cost, as the paper trains with
FULL_MASS = 0.99  # on the two mode tokens; below it a problem leaks
EXAMPLES = 5  # problem ids named
BINS = ("0", "(0, 0.5)", "[0.5, 1)", "1")  # of a pass rate
SELECTED = "selected, not comparable"  # the model chose which problems these are
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class PassRates:
    """How often auto answers at once, by how often a reference is right on the problem."""

    reference: str  # "forced think of the same model", or the folder and its row
    bins: dict[str, Interval]  # bin of the pass rate -> no_think share
    unknown: int  # problems that the reference has no answers to


@dataclass(frozen=True, slots=True)
class BetterMode:
    """Auto against the better of the two forced modes of each problem (`find_better_mode`).

    The better mode is measured, and so is what it gives: the higher of two noisy means is too high. `regret` therefore
    scores each forced sample by a choice that the others make (`cross_fit`). Such a choice is at times wrong, so
    that on average `regret` is at most, and `naive_regret` at least, what is lost against the truly better mode.
    """

    hybrid_accuracy: Interval  # share of auto's choices that are the better mode, as all forced samples show it
    regret: Difference | None  # accuracy of the better mode minus that of auto; None with one sample in a mode
    naive_regret: float  # chosen and scored on the same samples
    regret_tokens: Difference | None  # relative change of the mean length from auto to the better mode


@dataclass(frozen=True, slots=True)
class Mass:
    """Probability that a response begins with one of the two mode tokens, at temperature 1.

    Where thinking may begin with any token (`others_think`), the remaining mass begins thinking too and is no leak.
    """

    mean: float
    least: float
    others_think: bool
    leaking: Interval | None  # share of problems with a mass below 0.99; None where others_think
    examples: tuple[str, ...]  # problems that leak most


@dataclass(frozen=True, slots=True)
class ChosenAccuracy:
    """Accuracy of auto's answers by the mode that it chose; `label` is the reason not to compare the two."""

    label: str
    think: Interval | None
    no_think: Interval | None


@dataclass(frozen=True, slots=True)
class BesideStarts:
    """Responses of auto that began with neither the no_think token nor a think start, and what became of them."""

    share: Interval
    accuracy: Interval | None  # None where there are none
    mean_tokens: float | None


@dataclass(frozen=True, slots=True)
class ImplicitThinking:
    """no_think answers that think all the same (`thinks_implicitly`), as a share of the no_think answers."""

    share: Interval
    by_keywords: Interval  # by keywords alone, which is what the paper counts
    levels: dict[str, Interval]
    examples: tuple[str, ...]  # problem ids


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """All of the above; None, or empty, for the reasons in `notes`."""

    delta: float
    no_think_by_level: dict[str, Interval]  # of auto
    no_think_by_pass_rate: PassRates | None
    against_think: Change | None  # auto against the same model forced to think, on the same problems
    better_mode: BetterMode | None
    chosen_accuracy: ChosenAccuracy | None
    mass: Mass | None
    beside_starts: BesideStarts | None
    calibration: Calibration | None  # of P(no_think), against the gap between the forced modes
    implicit_thinking: dict[str, ImplicitThinking]  # by requested mode
    notes: tuple[str, ...]


def assess_mode_choice(
    folder: Path, *, convention: Convention | None = None, reference: Path | None = None, delta: float = DELTA
) -> ModeChoice:
    """Assess all that an evaluation folder holds.

    `convention` is how the model's prompts lead into a mode; None where that is unknown, and then so is what leaks.
    `reference` is the evaluation folder whose pass rates are the problems' difficulty. Raises UserError for folders
    that cannot be read or do not go together.
    """
    outcomes = select_gradable(read_outcomes(folder))
    auto, think, no_think = (
        [one for one in outcomes if one.requested == requested] for requested in ("auto", "think", "no_think")
    )
    decisions = read_decisions(folder)
    if reference and reference.resolve() == folder.resolve():
        reference = None  # its auto row would explain itself
    rates = compare_with_pass_rates(auto, *read_pass_rates(reference, think))
    forced = pair_forced(think, no_think)
    better = compare_with_better_mode(auto, forced, delta)
    notes = []
    if not auto:
        notes.append("no auto responses: no measure of the model's choice; evaluate with --modes auto")
    missing = [requested for requested, row in (("think", think), ("no_think", no_think)) if not row]
    if missing:
        lost = "better mode or calibration" if think else "baseline, better mode or calibration"
        notes.append(f"no forced {' and no forced '.join(missing)}: no {lost}; evaluate with all --modes")
    if better and better.regret is None:
        notes.append("one sample in each forced mode: no honest regret; evaluate with --samples-per-problem 2 or more")
    if not decisions:
        notes.append("the model shows no probabilities of its first token: no mass and no calibration")
    elif convention is None:
        notes.append("how thinking begins is not known here: no mass")
    if auto and rates is None:
        notes.append("no forced think and no --difficulty-from: nothing to measure the problems' difficulty by")
    return ModeChoice(
        delta=delta,
        no_think_by_level=measure_no_think_by_level(auto),
        no_think_by_pass_rate=rates,
        against_think=compare_with_think(auto, think),
        better_mode=better,
        chosen_accuracy=score_by_chosen_mode(auto),
        mass=measure_mass(decisions, convention) if decisions and convention else None,
        beside_starts=measure_beside_starts(auto),
        calibration=check_calibration(decisions, forced, delta),
        implicit_thinking=measure_implicit_thinking(folder),
        notes=tuple(notes),
    )


# ---- the model's choice ---------------------------------------------------------------------------------------------


def measure_no_think_by_level(auto: Sequence[Outcome]) -> dict[str, Interval]:
    """Share of no_think among the responses to each level, in order of the levels."""
    levels = sorted({one.level for one in auto}, key=rank_level)
    return {level: share_interval(group_no_think(one for one in auto if one.level == level)) for level in levels}


def read_pass_rates(reference: Path | None, own_think: Sequence[Outcome]) -> tuple[str, dict[str, float]]:
    """Return the name and the pass rates, by problem, of the measure of difficulty.

    That is a reference folder's auto row, its think row if it has no auto; else forced think of the model itself. The
    auto row of the model itself is no choice: whether it was right depends on the mode, which is to be explained.
    """
    if reference is None:
        return "forced think of the same model", compute_pass_rates(own_think)
    outcomes = select_gradable(read_outcomes(reference))
    for requested in ("auto", "think"):
        row = [one for one in outcomes if one.requested == requested]
        if row:
            return f"{requested} of {reference}", compute_pass_rates(row)
    raise UserError(f"'{reference}' holds neither auto nor think responses; evaluate it with --modes auto")


def compute_pass_rates(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Return the mean reward of each problem."""
    return {problem: fmean(values) for problem, values in group_rewards(outcomes).items()}


def compare_with_pass_rates(auto: Sequence[Outcome], reference: str, rates: Mapping[str, float]) -> PassRates | None:
    """Share of no_think by pass rate; raises UserError if none of the problems has one, None without any."""
    if not auto or not rates:
        return None
    choices = group_no_think(auto)
    known = join_problems(choices, rates)
    if not known:
        raise UserError(f"the reference ({reference}) has none of these problems; give a folder that answers them")
    bins: dict[str, dict[str, list[float]]] = {name: {} for name in BINS}
    for problem, (values, rate) in known.items():
        bins[find_bin(rate)][problem] = values
    shares = {name: share_interval(values) for name, values in bins.items() if values}
    return PassRates(reference, shares, len(choices) - len(known))


def find_bin(rate: float) -> str:
    """Return the bin of a pass rate: never right, seldom, often, always."""
    return BINS[0] if rate == 0 else BINS[3] if rate == 1 else BINS[1] if rate < 0.5 else BINS[2]


def score_by_chosen_mode(auto: Sequence[Outcome]) -> ChosenAccuracy | None:
    """Accuracy by chosen mode. Each mode was chosen for problems that suit it, so the two are not comparable."""
    if not auto:
        return None
    right = {mode: group_rewards(one for one in auto if one.mode is mode) for mode in Mode}
    think, no_think = (share_interval(right[mode]) if right[mode] else None for mode in (Mode.THINK, Mode.NO_THINK))
    return ChosenAccuracy(SELECTED, think, no_think)


# ---- against the forced modes ---------------------------------------------------------------------------------------

Group = Sequence[Outcome]  # the responses to one problem in one requested mode
Forced = Mapping[str, tuple[Group, Group]]  # problem id -> forced think, forced no_think


def compare_with_think(auto: Sequence[Outcome], think: Sequence[Outcome]) -> Change | None:
    """Auto against forced think, on the problems that were requested both ways; None if there are none."""
    shared = join_problems(group_outcomes(auto), group_outcomes(think))
    if not shared:
        return None
    chosen, forced = ([one for pair in shared.values() for one in pair[side]] for side in (0, 1))
    return compare_scores(chosen, forced)


def compare_with_better_mode(auto: Sequence[Outcome], forced: Forced, delta: float) -> BetterMode | None:
    """Auto against the better mode of each problem; None if no problem was requested in all three ways."""
    shared = join_problems(group_outcomes(auto), forced)
    if not shared:
        return None
    choices, naive = {}, []
    tried: list[Outcome] = []  # auto's, where regret can be measured
    better: list[Outcome] = []
    for problem, (chosen, (think, no_think)) in shared.items():
        mode = find_better_mode(think, no_think, delta)
        choices[problem] = [float(one.mode is mode) for one in chosen]
        naive.append(average_rewards(think if mode is Mode.THINK else no_think) - average_rewards(chosen))
        if len(think) > 1 and len(no_think) > 1:
            tried += chosen
            better += cross_fit(think, no_think, delta)
    regret = compare_accuracy(better, tried) if better else None
    tokens = compare_length(better, tried) if better else None
    return BetterMode(share_interval(choices), regret, fmean(naive), tokens)


def find_better_mode(think: Group, no_think: Group, delta: float) -> Mode:
    """Return the mode with the higher mean reward; within `delta` of each other, the one with fewer tokens."""
    gap = average_rewards(think) - average_rewards(no_think)
    if abs(gap) > delta + 1e-12:
        return Mode.THINK if gap > 0 else Mode.NO_THINK
    cheaper = fmean(one.tokens for one in no_think) <= fmean(one.tokens for one in think)
    return Mode.NO_THINK if cheaper else Mode.THINK


def cross_fit(think: Group, no_think: Group, delta: float) -> list[Outcome]:
    """Return the samples of the better mode, each in the mode that the samples of the other folds show to be better.

    Needs two samples or more in each mode; there are as many folds as the mode with fewer has samples. No sample
    takes part in its own choice, so none is favoured by luck.
    """
    scored: list[Outcome] = []
    num_folds = min(len(think), len(no_think))
    for fold in range(num_folds):
        rest, other_rest = (
            [one for index, one in enumerate(group) if index % num_folds != fold] for group in (think, no_think)
        )
        mode = find_better_mode(rest, other_rest, delta)
        scored += (think if mode is Mode.THINK else no_think)[fold::num_folds]
    return scored


def check_calibration(decisions: Mapping[str, Decision], forced: Forced, delta: float) -> Calibration | None:
    """Agreement of P(no_think), at temperature 1, with whether no_think costs at most `delta`; None without both."""
    shared = join_problems(decisions, forced)
    if not shared:
        return None
    probabilities = {problem: decision.no_think_probability for problem, (decision, _) in shared.items()}
    think, no_think = (
        group_rewards(one for _, groups in shared.values() for one in groups[side]) for side in (0, 1)
    )  # in the order of the probabilities
    return measure_calibration(probabilities, think, no_think, delta)


# ---- first tokens in neither mode, implicit thinking -----------------------------------------------------------------


def measure_mass(decisions: Mapping[str, Decision], convention: Convention) -> Mass:
    """Mass on the two mode tokens, and which problems leak.

    Only where the prompt ends before the marker that opens the thinking (`Convention.SWITCH`) does another token answer
    in neither mode. Elsewhere the prompt ends inside opened thinking, and whatever comes first continues it.
    """
    masses = {
        problem: one.no_think_probability + one.think_probability
        for problem, one in decisions.items()
        if one.think_probability is not None
    }
    others_think = convention is not Convention.SWITCH
    leaking = [] if others_think else sorted((p for p in masses if masses[p] < FULL_MASS), key=lambda p: (masses[p], p))
    return Mass(
        mean=fmean(masses.values()),
        least=min(masses.values()),
        others_think=others_think,
        leaking=None if others_think else share_interval({p: [float(masses[p] < FULL_MASS)] for p in masses}),
        examples=tuple(leaking[:EXAMPLES]),
    )


def measure_beside_starts(auto: Sequence[Outcome]) -> BesideStarts | None:
    """Share, accuracy and length of auto's responses that began beside both starts; None where that is unknown."""
    known = [one for one in auto if one.beside is not None]
    if not known:
        return None
    beside = [one for one in known if one.beside]
    by_problem = {problem: [float(bool(one.beside)) for one in own] for problem, own in group_outcomes(known).items()}
    return BesideStarts(
        share=share_interval(by_problem),
        accuracy=share_interval(group_rewards(beside)) if beside else None,
        mean_tokens=fmean(one.tokens for one in beside) if beside else None,
    )


def measure_implicit_thinking(folder: Path) -> dict[str, ImplicitThinking]:
    """Share of no_think answers that think all the same, by requested mode."""
    levels = {problem.id: name_level(problem) for problem in read_problems(folder).values()}
    found = {}
    for requested, signs in sorted(read_no_think_signs(folder).items()):
        implicit = {problem: [float(thinks_implicitly(one)) for one in own] for problem, own in signs.items()}
        worded = {problem: [float(bool(one.keywords)) for one in own] for problem, own in signs.items()}
        by_level = {
            level: share_interval({problem: values for problem, values in implicit.items() if levels[problem] == level})
            for level in sorted({levels[problem] for problem in implicit}, key=rank_level)
        }
        thinking = sorted(
            (problem for problem in implicit if any(implicit[problem])), key=lambda p: (-fmean(implicit[p]), p)
        )
        found[requested] = ImplicitThinking(
            share_interval(implicit), share_interval(worded), by_level, tuple(thinking[:EXAMPLES])
        )
    return found


def read_no_think_signs(folder: Path) -> dict[str, dict[str, list[Signs]]]:
    """Signs of implicit thinking in no_think answers, by requested mode and problem.

    Lengths are compared within a mode and a level.
    """
    levels = {problem.id: name_level(problem) for problem in read_problems(folder).values()}
    keys: list[tuple[str, str]] = []  # requested mode and problem of each answer

    def answers() -> Iterable[tuple[str, str]]:
        for sample in read_samples(folder):
            if sample.mode is Mode.NO_THINK and sample.answer is not None:
                keys.append((sample.requested, sample.problem_id))
                yield f"{sample.requested}/{levels[sample.problem_id]}", sample.answer

    signs = read_signs(answers())  # reads the file to its end, which fills `keys`
    found: dict[str, dict[str, list[Signs]]] = {}
    for (requested, problem), one in zip(keys, signs, strict=True):
        found.setdefault(requested, {}).setdefault(problem, []).append(one)
    return found


# ---- details --------------------------------------------------------------------------------------------------------


def group_outcomes(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by problem, in the order of their indices."""
    groups: dict[str, list[Outcome]] = {}
    for one in sorted(outcomes, key=lambda one: one.index):
        groups.setdefault(one.problem_id, []).append(one)
    return groups


def pair_forced(think: Iterable[Outcome], no_think: Iterable[Outcome]) -> Forced:
    """Return the responses in both forced modes to each problem that was requested in both."""
    return join_problems(group_outcomes(think), group_outcomes(no_think))


def join_problems(one: Mapping[str, T], other: Mapping[str, U]) -> dict[str, tuple[T, U]]:
    """Return what two mappings hold for the problems of both."""
    return {problem: (value, other[problem]) for problem, value in one.items() if problem in other}


def average_rewards(group: Group) -> float:
    """Return the mean reward of the responses to one problem."""
    return fmean(one.correct for one in group)
