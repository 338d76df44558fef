"""What the benchmark is to decide: each claim as comparisons with a bound, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptthink.benchmark.answers import (
    BUDGETS,
    Answers,
    Model,
    average_answers,
    compute_utility,
    dial,
    dial_seeds,
    mix_to_budget,
    pool,
)
from adaptthink.benchmark.entries import MAIN, Family
from adaptthink.benchmark.runs import Found
from adaptthink.evaluation.formats import write_number, write_range
from adaptthink.evaluation.statistics import (
    Difference,
    High,
    Interval,
    Low,
    holm,
    mean_difference,
    share_difference,
    share_interval,
)
from adaptthink.reproduction.claims import check_ratio
from adaptthink.reproduction.runs import MAIN as REPRODUCED
from adaptthink.reproduction.verdicts import judge

MARGIN = 0.01  # of accuracy, that still counts as covering
NEVER = 0.01  # share of no_think
ALPHA = 0.05
Logs = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]  # of trainings, by entry and seed
Reported = Mapping[str, Found]
Models = Mapping[int, Model]  # by seed
Measure = Callable[[Answers, Answers], Difference]


@dataclass(frozen=True, slots=True)
class Part:
    """One comparison: the claim says that the number lies above the bound (or below it), in points by default."""

    measured: str
    estimate: float
    low: Low
    high: High
    by_seed: tuple[float, ...]
    bound: float = 0.0
    above: bool = True
    p_value: float | None = None  # of no difference, adjusted over all parts (Holm); None where a bound is not 0

    @property
    def verdict(self) -> str:
        """Return "supported", "not supported" or "undecided": by the interval, every seed, and the adjusted p-value."""
        found = judge(self.low, self.high, self.by_seed, self.bound, above=self.above)
        if found is None or (self.p_value is not None and self.p_value >= ALPHA):
            return "undecided"
        return "supported" if found else "not supported"

    @property
    def numbers(self) -> str:
        """Return the numbers behind the verdict in one line."""
        seeds = ", ".join(write_number(value, signed=True) for value in self.by_seed)
        p_value = "" if self.p_value is None else f"; p = {self.p_value:.2g}"
        return (
            f"{write_number(self.estimate, signed=True)} ({write_range((self.low, self.high), signed=True)}; seeds "
            f"{seeds}{p_value}), claimed {'above' if self.above else 'below'} {write_number(self.bound, signed=True)}"
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim: supported if all of its parts are, not supported if one is not, else undecided."""

    name: str
    statement: str
    parts: tuple[Part, ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        """Return the verdict; a claim of which nothing was run is undecided."""
        verdicts = {part.verdict for part in self.parts}
        if "not supported" in verdicts:
            return "not supported"
        return "supported" if verdicts == {"supported"} else "undecided"


def check_claims(found: Reported, logs: Logs, scale: float) -> list[Claim]:
    """Decide every claim by what was run."""
    return adjust(
        [
            check_short_thoughts(found, scale),
            check_one_model(found, scale),
            check_sampling(found, scale),
            check_ratios(logs),
            check_offline(found, scale),
            check_random_mix(found),
        ]
    )


def adjust(claims: Sequence[Claim]) -> list[Claim]:
    """Return the claims with the p-values of all their parts adjusted together."""
    keys = [(c, p) for c, claim in enumerate(claims) for p, part in enumerate(claim.parts) if part.p_value is not None]
    none = Interval(0, 0, 0, 1 - ALPHA, 0)
    family = {(c, p): Difference(none, claims[c].parts[p].p_value or 0.0, 0.0) for c, p in keys}
    adjusted = {key: one.p_value for key, one in holm(family).items()}
    return [
        replace(
            claim,
            parts=tuple(replace(part, p_value=adjusted.get((c, p))) for p, part in enumerate(claim.parts)),
        )
        for c, claim in enumerate(claims)
    ]


# ---- the claims -----------------------------------------------------------------------------------------------------


def check_short_thoughts(found: Reported, scale: float) -> Claim:
    """Mode choice trained into a model whose thoughts a length method has shortened."""
    parts = []
    for name, one in found.items():
        if one.entry.base and one.entry.family is Family.MODE_CHOICE:
            for alone in (one.entry.base, "gap"):
                if alone in found:
                    parts.append(compare_utility(found, name, alone, scale))
    return Claim("both", "Mode choice on top of short thoughts beats either alone", tuple(parts))


def check_one_model(found: Reported, scale: float) -> Claim:
    """The dial of one model of the gap objective against the δ-trained models: as each chooses, and their dials."""
    gap = found["gap"].select() if "gap" in found else {}
    rivals = {name: one.select() for name, one in found.items() if name.startswith("delta_")} if gap else {}
    parts = []
    for name, models in rivals.items():
        budget = pool(model.modes["auto"] for model in models.values()).mean_tokens
        pairs = {seed: (dial(gap[seed], budget), models[seed].modes["auto"]) for seed in gap.keys() & models.keys()}
        kept = {seed: (mine, theirs) for seed, (mine, theirs) in pairs.items() if mine}
        if kept and len(kept) == len(pairs):
            what = f"accuracy of gap's dial at {budget:.1f} tokens less that of {name} as trained"
            parts.append(make_part(what, kept, compare_accuracy, bound=-MARGIN))
    parts += compare_dials(gap, rivals, scale)
    return Claim("dial", "One dialled model covers the models that are trained for one δ each", tuple(parts))


def compare_dials(gap: Models, rivals: Mapping[str, Models], scale: float) -> Iterator[Part]:
    """Compare one model's dial with the best of the others' at each budget, chosen where it is compared: theirs gain.

    Each seed is compared with the best of all the seeds' models together.
    """
    own, best = [], []
    for budget in (share * scale for share in BUDGETS):
        mine = [found for model in gap.values() if (found := dial(model, budget))]
        theirs = [found for models in rivals.values() if (found := dial_seeds(models, budget))]
        if theirs and len(mine) == len(gap):
            own.append(mine)
            best.append(max(theirs, key=lambda one: one.accuracy))
    if own:
        rival = average_answers(best)
        pairs = {seed: (average_answers(mine), rival) for seed, mine in zip(gap, zip(*own, strict=True), strict=True)}
        what = "accuracy of gap's dial less the best of their dials, mean over budgets"
        yield make_part(what, pairs, compare_accuracy, bound=-MARGIN)


def check_sampling(found: Reported, scale: float) -> Claim:
    """Plain GRPO, which nobody shows a direct answer."""
    parts = []
    for name in ("grpo", "grpo_cold"):
        if name in found:
            models = found[name].select()
            shares = {seed: share_interval(model.modes["auto"].no_think) for seed, model in models.items()}
            together = share_interval(pool(model.modes["auto"] for model in models.values()).no_think)
            seeds = tuple(100 * one.estimate for one in shares.values())
            ends = 100 * together.estimate, 100 * together.low, 100 * together.high
            parts.append(Part(f"no_think share of {name}", *ends, seeds, 100 * NEVER, above=False))
            if MAIN in found:
                parts.append(compare_utility(found, MAIN, name, scale))
    return Claim(
        "sampling", "Without importance sampling no_think is never found, and AdaptThink ends ahead", tuple(parts)
    )


def check_ratios(logs: Logs) -> Claim:
    """The three ratios from the flat start."""
    names = ("ratio_sequence", "ratio_token")
    parts = []
    if {MAIN, *names} <= logs.keys():
        seeds = set.intersection(*(set(logs[name]) for name in (MAIN, *names)))
        chosen = {name: {seed: logs[own][seed] for seed in sorted(seeds)} for name, own in rename(names).items()}
        for one in check_ratio(chosen):
            numbers = one.estimate, one.low, one.high, one.by_seed, one.bound
            parts.append(Part(f"{one.measured} ({one.name.removeprefix('ratio: ')}), nats", *numbers))
    return Claim("ratio", "The length-normalised ratio is what ends the flat start", tuple(parts))


def rename(names: Sequence[str]) -> dict[str, str]:
    """Return the entries by the names that the reproduction has for them."""
    return {REPRODUCED: MAIN} | {name: name for name in names}


def check_offline(found: Reported, scale: float) -> Claim:
    """Every offline method against the reinforcement learning of the same family table: AdaptThink."""
    names = [name for name, one in found.items() if one.entry.family is Family.OFFLINE]
    parts = [compare_utility(found, MAIN, name, scale) for name in names if MAIN in found]
    return Claim("offline", "Offline methods stay behind reinforcement learning", tuple(parts))


def check_random_mix(found: Reported) -> Claim:
    """Every mode choice against a random choice between its own modes, and the original's, at the same length."""
    parts, notes = [], []
    for name in (MAIN, "gap"):
        if name not in found or "random_mix" not in found:
            continue
        [original] = list(found["random_mix"].select().values())[:1]
        models = found[name].select()
        own = {seed: (one.modes["auto"], mix_like(one, one)) for seed, one in models.items()}
        before = {seed: (one.modes["auto"], mix_like(original, one)) for seed, one in models.items()}
        parts.append(make_part(f"accuracy of {name} less a random mix of its own modes", own, compare_accuracy))
        parts.append(make_part(f"accuracy of {name} less a random mix of the original's", before, compare_accuracy))
        gain = parts[-1].estimate
        explained = 100 * (gain - parts[-2].estimate) / gain if gain > 0 else 0.0
        points, share = write_number(gain), write_number(explained, 0, "%")
        notes.append(f"of the {points} points of {name} over the original's mix, a mix of its own modes has {share}")
    statement = "Choosing by problem beats a random mix of the two modes of the same length"
    return Claim("mix", statement, tuple(parts), "; ".join(notes))


def mix_like(model: Model, other: Model) -> Answers:
    """Return the random mix of a model's modes that is as long as the other's answers."""
    return mix_to_budget(model, other.modes["auto"].mean_tokens)


# ---- comparing ------------------------------------------------------------------------------------------------------


def compare_accuracy(new: Answers, old: Answers) -> Difference:
    """Compare accuracy, paired by problem."""
    return share_difference(new.correct, old.correct)


def compare_utility(found: Reported, new: str, old: str, scale: float) -> Part:
    """Compare the utilities of two entries as they choose."""

    def measure(one: Answers, other: Answers) -> Difference:
        return mean_difference(compute_utility(one, scale), compute_utility(other, scale))

    ours, theirs = found[new].select(), found[old].select()
    shared = sorted(ours.keys() & theirs.keys())
    pairs = {seed: (ours[seed].modes["auto"], theirs[seed].modes["auto"]) for seed in shared}
    return make_part(f"utility of {new} less that of {old}", pairs, measure)


def make_part(
    measured: str, pairs: Mapping[int, tuple[Answers, Answers]], measure: Measure, *, bound: float = 0.0
) -> Part:
    """Compare pairs of answers, one for each seed: all together, and each; numbers become points."""
    together = measure(pool(new for new, _ in pairs.values()), pool(old for _, old in pairs.values()))
    seeds = tuple(100 * measure(new, old).interval.estimate for new, old in pairs.values())
    one = together.interval
    p_value = together.p_value if bound == 0 else None
    return Part(measured, 100 * one.estimate, 100 * one.low, 100 * one.high, seeds, 100 * bound, p_value=p_value)
