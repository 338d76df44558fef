"""What the pages say of results: pieces of their text, with the figures taken from the result files (plans: computed).

Each function yields the pieces of one page. tests/test_figures.py fails where the page does not have one of them, so no
figure can differ from its file. Tables and sections that a program writes whole are compared with what it writes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from adaptthink.cli.plan import MEANS, MEASURED_LIMITS, plan_job
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import VerlConfig
from adaptthink.planning.estimate import make_quantiles
from adaptthink.problems.words import LEVELS

Pieces = Iterator[str]
KINDS = ("accuracy", "tokens")  # of changes


def read(name: str) -> Any:
    """Return a result by its name and date."""
    return json.loads((Path(__file__).parent / "results" / f"{name}.json").read_text(encoding="utf-8"))


def number(value: float, form: str = ".1f") -> str:
    """Write a number as the pages do, with a minus sign."""
    return format(value, form).replace("-", "−")


def points(share: float, form: str = ".1f") -> str:
    """Write a share in percent, or a difference of shares in points."""
    return number(100 * share, form)


def listed(shares: Iterable[float]) -> str:
    """Write the shares of several levels: .993 .980."""
    return " ".join(number(one, ".3f").removeprefix("0") for one in shares)


def interval(found: Mapping[str, float], form: str = "+.1f") -> str:
    """Write a share or a difference with its 95% interval, in points."""
    estimate, low, high = (points(found[end], form) for end in ("estimate", "low", "high"))
    return f"{estimate} ({low} to {high})"


def joined(values: Iterable[str]) -> str:
    """Write several in a sentence: 1, 2 and 3."""
    *first, last = values
    return f"{', '.join(first)} and {last}"


# ---- README and tutorials: the demo ----------------------------------------------------------------------------------

TITLES = {
    "original_think": "Original, Thinking",
    "original_no_think": "Original, NoThinking",
    "adaptthink_dial": "**AdaptThink, dial**",
    "adaptthink": "AdaptThink, as it chooses",
    "adaptthink_think": "AdaptThink, forced to think",
    "adaptthink_no_think": "AdaptThink, forced to no_think",
}


def read_demo() -> Any:
    """Return the demo's result; its runs are by seed."""
    return read("demo-2026-11-28")


def show_modes(scores: Mapping[str, Any], form: str) -> list[str]:
    """Write a row of the demo, by level: accuracy % / tokens / no_think %."""
    levels = (scores[level] for level in "12345")
    return [
        f"{points(one['accuracy'])} / {number(one['mean_tokens'], form)} / {points(one['no_think_share'], form)}"
        for one in levels
    ]


def readme() -> Pieces:
    """Yield the headline and the demo's table."""
    result = read_demo()
    run = result["runs"]["0"]
    dial = run["changes"]["adaptthink_dial"]
    accuracy, length = ({end: points(dial[key][end], "+.1f") for end in dial[key]} for key in KINDS)
    yield f"**accuracy {accuracy['estimate']} points** (95%: {accuracy['low']} to {accuracy['high']})"
    yield f"**length {length['estimate']}%** ({length['low']} to {length['high']})."
    for row in ("original_think", "original_no_think", "adaptthink_dial", "adaptthink_think"):
        yield f"| {TITLES[row]} | {' | '.join(show_modes(run['modes'][row], '.0f'))} |"
    yield f"This is the run of the picture ({result['date']},"


def demo() -> Pieces:
    """Yield the demo's tables."""
    result = read_demo()
    for seed, run in result["runs"].items():
        accuracy, length = (interval(run["changes"]["adaptthink_dial"][key]) for key in KINDS)
        first, last = (points(run["modes"]["adaptthink_dial"][level]["no_think_share"], ".0f") for level in "15")
        change = f"{accuracy.replace(' (', ' points (')} | {length.replace(' (', '% (')}"
        yield f"| {seed} | {change} | {first}% | {last}% |"
    run = result["runs"]["0"]
    for row, title in TITLES.items():
        yield f"| {title} | {' | '.join(show_modes(run['modes'][row], '.0f'))} |"
    for seed, paper in read("demo-paper-2026-11-28")["runs"].items():
        accuracy, length = (interval(paper["changes"]["adaptthink"][key]) for key in KINDS)
        first, last = (points(paper["modes"]["adaptthink"][level]["no_think_share"]) for level in "15")
        change = f"{accuracy.replace(' (', ' points (')} | {length.replace(' (', '% (')}"
        yield f"| {seed} | {change} | {first}% | {last}% |"
    yield f"one thread, {result['date']}; [result]"
    yield f"It took {run['seconds']:.0f} s on two cores that other work kept busy,"
    yield f"and {number(run['peak_memory_mb'] / 1000)} GB;"


def ways() -> Pieces:
    """Yield the ways of the second base's thoughts."""
    evaluations = read("ways-2026-11-28")["evaluations"]
    modes = evaluations["long"]
    rows = [("left free", "auto", "all"), ("forced to no_think", "no_think", "all")]
    rows += [(f"left free, {way} way", "auto", way) for way in ("long", "medium", "short")]
    for title, mode, way in rows:
        cells = (modes[mode][level].get(way) for level in "12345")
        shown = (f"{points(one['accuracy'])} / {number(one['tokens'], '.0f')}" if one else "–" for one in cells)
        yield f"| {title} | {' | '.join(shown)} |"
    cut = {level: points(modes["auto"][level]["all"]["cut"], ".0f") for level in "45"}
    yield f"The limit cuts {cut['4']}% of the thoughts on level 4 and {cut['5']}% on level 5"
    right = {level: points(evaluations["uncut"]["think"][level]["all"]["accuracy"]) for level in "45"}
    yield f"forced thoughts are right in {right['4']}% on level 4 and {right['5']}% on level 5."


def first_training() -> Pieces:
    """Yield what the training of the first tutorial prints: the demo's, seed 0."""
    run = read_demo()["runs"]["0"]
    for step in ("1", "20", "40", "60", "82"):
        one = run["steps"][step]
        levels = " ".join(points(one["probe_no_think_by_level"][level], "3.0f") for level in "12345")
        yield (
            f"{step}/82 {one['reward_think']:.2f} {one['reward_no_think']:.2f} {one['mean_tokens_think']:.0f} "
            f"{one['mean_tokens_no_think']:.0f} {one['truncated_share_think']:.2f} "
            f"{one['probe_no_think_logprob']:.2f} {one['probe_mode_mass']:.2f} {levels}"
        )
    first, last = run["reward_no_think"].values()
    yield f"the mean without thinking is {first:.2f}, over the last twenty {last:.2f}."
    for row, title in (
        ("original_think", "Original, Thinking"), ("adaptthink_dial", "AdaptThink, dial"), ("adaptthink", "AdaptThink"),
    ):  # fmt: skip
        change = run["changes"].get(row)
        shown = [points(change[key]["estimate"], "+.1f") for key in KINDS] if change else None
        one, _, three, _, five = show_modes(run["modes"][row], ".1f")
        yield f"| {title} | {one} | {three} | {five} | {f'{shown[0]} / {shown[1]}%' if shown else '– / –'} |"
    dial = run["changes"]["adaptthink_dial"]["tokens"]["estimate"]
    yield f"On average over the levels its responses are {points(-dial, '.0f')}% shorter"
    cut, still = (round(200 * run["modes"][row]["5"]["truncated_share"]) for row in ("original_think", "adaptthink"))
    yield f"({cut} of 200 responses), the trained model hardly ever ({still} of 200)"
    for question, probability in run["no_think_probability"].items():
        for threshold in (0.01, 0.5, run["threshold"]):
            mode = "no_think" if probability >= threshold else "think"
            yield f"{probability:<11.6g} {mode:9} threshold {threshold:g}  {question}"


def own_problems() -> Pieces:
    """Yield what the tutorial says of the lines that it shows."""
    printed = "".join(one["printed"] for one in read(TUTORIALS["docs/tutorials/own_problems_and_reward.md"])["blocks"])
    lines = re.findall(r"(\w+) +(long|short) +reward ([\d.]+)  tokens +([\d.]+)  no_think +(\d+)%", printed)
    before, after = ({(mode, level): rest for mode, level, *rest in half} for half in (lines[:6], lines[6:]))
    reward = {key: found[0] for key, found in before.items()}
    yield f"Short tills earn {reward['no_think', 'short']} without a thought and {reward['think', 'short']} with one."
    yield f"an answer without a thought earns {reward['no_think', 'long']} instead of {reward['think', 'long']}."
    yield f"(think, long: {before['think', 'long'][1]} → {after['think', 'long'][1]} tokens)"
    yield f"on {after['auto', 'short'][2]}% of the short tills"
    [shorter] = re.findall(r"tokens: lower, -([\d.]+)", printed)
    yield f"The responses are {points(float(shorter), '.0f')}% shorter"


def reading_a_report() -> Pieces:
    """Yield the figures of the run that the tutorial reads."""
    run = read_demo()["runs"]["0"]
    modes, auto, direct = run["modes"], run["auto_by_level"], run["no_think_by_level"]
    original = modes["original_think"]
    right = original["5"]["accuracy"]
    yield f"right on {points(right)}% of level 5. That is {round(200 * right)} of 200 problems."
    for level in "45":
        yield f"| Level {level} | {show_range(original[level])} |"
    for level in "24":
        before, after = (show_range(modes[f"{row}_no_think"][level]) for row in ("original", "adaptthink"))
        yield f"| Level {level} | {before} | {after} | {interval(direct[level]['accuracy'])} |"
    adjusted = direct["2"]["accuracy"]["p"]
    yield f"a p-value of about {adjusted / 5:.3f} by itself"
    yield f"the adjusted p, {adjusted:.3f}, and the verdict"
    for row, title in (("adaptthink_think", "trained, forced to think"), ("adaptthink", "trained, as it chooses")):
        accuracy, length = (points(run["changes"][row][key]["estimate"], "+.1f") for key in KINDS)
        yield f"| {title} | {accuracy} | {length}% |"
    chosen, forced = (-run["changes"][row]["tokens"]["estimate"] for row in ("adaptthink", "adaptthink_think"))
    yield f"responses are {points(chosen)}% shorter. It is tempting to say that mode choice saved {points(chosen)}%."
    yield f"The choice of the mode adds the other {points(chosen - forced, '.0f')} points,"
    yield f"The accuracy rose by {points(run['changes']['adaptthink']['accuracy']['estimate'])} points."
    tokens = [
        number(fmean(level["mean_tokens"] for level in modes[f"{row}_no_think"].values()))
        for row in ("original", "adaptthink")
    ]
    yield "Here the no_think answers have {} tokens before the training and {} after it.".format(*tokens)
    length = {level: points(auto[level]["tokens"]["estimate"]) for level in "34"}
    yield f"Here it is {length['3']}% on level 3 and {length['4']}% on the next one, level 4."
    for level in "12345":
        shown = interval(auto[level]["accuracy"])
        yield f"| Level {level} | {shown.removeprefix('+') if shown.startswith('+0.0') else shown} |"
    yield f"{points(run['truncated_share'])}% of the original's responses are *truncated*"
    yield f"where {points(original['5']['truncated_share'])}% of the thoughts reach"
    implicit, beside = run["implicit_no_think"], run["beside_starts"]
    yield "{:.1%} ({:.1%} to {:.1%})".format(*(implicit[end] for end in ("estimate", "low", "high")))
    yield f"{beside['share']:.1%}, {beside['accuracy']:.0%} of them right"
    yield f"As it chooses, {beside['share']:.1%} of the trained model's responses begin in neither"


def show_range(scores: Mapping[str, Any]) -> str:
    """Write an accuracy with its interval, in percent: 98.5 (96.0–99.6)."""
    low, high = (points(end) for end in scores["accuracy_interval"])
    return f"{points(scores['accuracy'])} ({low}–{high})"


# ---- explanations ----------------------------------------------------------------------------------------------------


def gap() -> Pieces:
    """Yield what the gap objective came to beside the paper's form."""
    result = read("gap-2026-11-27")
    before, models, budgets = result["original"], result["models"], result["budgets"]["gap"]
    think, no_think = (models["gap"][mode]["accuracy_by_level"] for mode in ("think", "no_think"))
    tokens = number(models["gap"]["think"]["tokens"])
    sampled = {name: fmean(by_seed.values()) / 1e6 for name, by_seed in result["rollout_tokens"].items()}
    yield f"{number(sampled['gap'])} million rollout tokens each"

    for row in budgets:
        if row["budget"] in (20, 22, 24, 25, 26, 28, 30, 34):
            cells = [f"{row['budget']:g}", points(row["accuracy"])]
            for other in (row.get("as_trained"), row["dials"]):
                best = other and f"{points(other['accuracy'])} ({other['best'].replace('delta_', 'δ = ')})"
                cells += [best, interval(other["difference"]["interval"])] if other else ["–", "–"]
            yield f"| {' | '.join(cells)} |"

    won = [row["budget"] for row in budgets if verdict(row, "as_trained") == "higher"]
    ahead, behind = ([row["budget"] for row in budgets if verdict(row, "dials") == one] for one in ("higher", "lower"))
    losses = [-row["dials"]["difference"]["interval"]["estimate"] for row in budgets if 10 <= row["budget"] <= 20]
    trained = f"({won[0]:g} to {won[-1]:g} tokens)"
    yield f"At each of the {len(won)} budgets at which the paper's form has a model as it was trained {trained}"
    yield f"ahead at {len(ahead)} budgets of {len(budgets)} ({ahead[0]:g} to {ahead[-1]:g} tokens)"
    yield f"and behind at {len(behind) or 'none'}"
    yield f"it is {points(min(losses))} to {points(max(losses))} points below. These are {len(budgets)} looks"
    [claim] = [
        part
        for claim in read("bench-tiny-2026-11-28")["claims"]
        for part in claim["parts"]
        if part["measured"].startswith("accuracy of gap's dial less the best of their dials")
    ]
    low, high = number(claim["low"], "+.1f"), number(claim["high"], "+.1f")
    yield f"{number(claim['estimate'])} ({low} to {high}), {claim['verdict']}."

    yield f"levels 1–5: {listed(think.values())}, against {listed(before['think']['accuracy_by_level'].values())}"
    yield f"at {tokens} tokens instead of {number(before['think']['tokens'])}."
    direct, paper = before["no_think"]["accuracy_by_level"], models["delta_0.05"]["no_think"]["accuracy_by_level"]
    yield f"levels 1–3: {listed(no_think[one] for one in '123')} against {listed(direct[one] for one in '123')};"
    worn, papers = ([points(direct[level] - one[level]) for level in "123"] for one in (no_think, paper))
    yield f"that is {joined(worn)} points below, where the paper's form at δ = 0.05 is {joined(papers)} below."

    half, settled = models["gap_half"]["think"], [row for row in result["budgets"]["gap_half"] if row["budget"] == 26]
    yield f"(82 steps, {number(sampled['gap_half'], '.2f')} million, five seeds)"
    yield f"forced think {points(half['accuracy'])}% at {number(half['tokens'])} tokens."
    yield f"its flat part later, at 26 tokens ({points(settled[0]['accuracy'])}%)"
    demos = [run["changes"]["adaptthink_dial"] for run in read_demo()["runs"].values()]
    gains, savings = ([one[key]["estimate"] for one in demos] for key in KINDS)
    yield f"{points(min(gains), '+.1f')} to {points(max(gains), '+.1f')} points"
    yield f"at {points(max(savings), '.0f')} to {points(min(savings), '.0f')}% length (three seeds"


def verdict(row: Any, rivals: str) -> str | None:
    """Return how a dial compares with the best of its rivals at one budget; `None` where none is that short."""
    return row[rivals]["difference"]["verdict"] if rivals in row else None


def gap_rates() -> Pieces:
    """Yield what learning rates did to the gap objective."""
    rates = read("gap-rates-2026-11-28")["learning_rates"]
    original = read("gap-2026-11-27")["original"]["think"]["accuracy_by_level"]
    think = [rate["think"]["accuracy"] for rate in rates.values()]
    levels = [level for rate in rates.values() for level in rate["think"]["accuracy_by_level"].items()]
    yield f"Forced think is {joined(points(fmean(seeds)) for seeds in think)}% at {joined(rates)}"
    yield f"(standard deviation between seeds at most {points(max(map(stdev, think)))} points)"
    worst = max(original[level] - fmean(seeds) for level, seeds in levels)
    yield f"on no level below the original by more than {math.ceil(1000 * worst) / 10} points."
    dials = [{row["budget"]: row["accuracy"] for row in rate["dial"]} for rate in rates.values()]
    at_26 = (dial[26] for dial in dials)
    shown = joined(f"{points(fmean(one))}% ({points(min(one))}–{points(max(one))})" for one in at_26)
    yield f"The dial at 26 tokens: {shown}, so every seed"
    slow, usual = (points(fmean(dial[24])) for dial in dials[:2])
    yield f"dial at 24 tokens {slow} instead of {usual}%)"
    worn = rates["3e-4"]["no_think"]["accuracy_by_level"]
    yield f"({listed(fmean(worn[level]) for level in '123')} on levels 1–3)"


def mismatch() -> Pieces:
    """Yield what is said about the table of mismatches, which benchmarks/mismatch.py writes."""
    trainings = read("mismatch-2026-11-28")["trainings"]
    sound, warn, _, truncate = (number(one["probe_no_think_share"] or 0, ".3f") for one in [*trainings.values()][:4])
    yield f"P(no_think) is {sound} in `sound`, {warn} in `warn` and {truncate} in `truncate`"
    masked = trainings["skewed-mask"]
    responses = masked["steps"] * 320
    yield f"{masked['masked']:,} of {responses:,} here ({masked['steps']} steps of 320)"


def performance() -> Pieces:
    """Yield what is said about a peer that was not adopted; benchmarks/compare.py writes the page's table."""
    result = read("rollout-tiny-float32-2026-11-22")
    alone, converted = (
        number(result[over]["ctranslate2"]["median"]) for over in ("native_over", "native_over_with_sync")
    )
    yield f"the native engine is {alone} times as fast, {converted} times with the conversion"


def statistics() -> Pieces:
    """Yield the measured coverage of intervals."""
    result = read("coverage-2026-11-28")
    for problems, k, cells in result["cover_shares"]:
        yield f"| {problems} | {k} | {' | '.join(map(show_least_and_most, cells))} |"
    for problems, (new, old), cells in result["cover_differences"]:
        yield f"| {problems} | {new}, {old} | {' | '.join(map(show_least_and_most, cells))} |"
    for deviation, problems, *coverage in result["cover_tokens"]:
        yield f"| {deviation} | {problems} | {' | '.join(map(number, coverage))} |"
    few: dict[str, list[str]] = {}
    for spread, _, coverage, width in result["cover_few"]:
        few.setdefault(f"{spread}", []).append(f"{number(coverage)}, {number(width, '.2f')}")
    for spread, cells in few.items():
        yield f"| {spread if spread == 'mixed' else f'log-deviation {spread}'} | {' | '.join(cells)} |"
    yield f"scipy {result['versions']['scipy']}."


def show_least_and_most(ends: tuple[float, float]) -> str:
    """Write two percentages, once where they are the same."""
    return "-".join(dict.fromkeys(map(number, ends)))


def dial_online() -> Pieces:
    """Yield the simulations of the online dial."""
    result = read("online-dial-2026-11-28")
    worlds = [
        "on all requests",
        "on half of them, up to 100 requests late",
        "on 90% of the thoughts, 45% of the direct answers (not covered by the proof)",
        "none on wrong direct answers (breaks the assumption)",
        "good; after 1,000 requests every direct answer is wrong",
        "direct answers get worse all the time, to a loss of 60 points",
        "an adversary: direct answers are perfect until a threshold is in use, then always wrong; from nothing",
        "the same, after `learn`",
    ]
    for world, (_, bad, excess, held) in zip(worlds, result["break_guarantees"], strict=True):
        if world in worlds[:4]:
            yield f"| {world} | {points(bad)}% |"
        else:
            yield f"| {world} | {' | '.join(map(number, excess))} | {points(held, '.0f')}% |"
    for tolerance, explore, cells in result["time_certificates"]:
        times = [[format(time, ",") if time else "not reached" for time in cell] for cell in cells]
        yield f"| {tolerance} | {explore} | {' | '.join(f'{median} ({most})' for median, most in times)} |"
    for problems, shares in result["compare_starts"]:
        yield f"| {problems:,} | {' | '.join(points(one, '.0f') + '%' for one in shares)} |"


# ---- the table of methods --------------------------------------------------------------------------------------------


def find_scores(name: str, problems: str = "in distribution", mode: str = "auto") -> Any:
    """Return the scores of an entry of the table."""
    [row] = [row for row in read("bench-tiny-2026-11-28")["rows"] if row["name"] == name]
    return row["sets"][problems]["modes"][mode]


def benchmark() -> Pieces:
    """Yield what is said about the section that `adaptthink bench` writes."""
    result = read("bench-tiny-2026-11-28")
    for title, name in (("DLER's utility is", "dler"), ("AdaptThink's", "adaptthink")):
        scores = find_scores(name)
        accuracy, tokens = scores["accuracy"]["estimate"], scores["tokens"]["estimate"] / result["scale"]
        yield f"{title} {joined(points(accuracy - price * tokens) for price in (0, 0.05, 0.08, 0.1, 0.2))}"
    knobs = {
        (one["name"], f"{one['value']:g}"): f"{one['value']:g}: {points(one['utility'])}" for one in result["knobs"]
    }
    for title, name, better, chosen in (
        ("TLMRE (α = ", "tlmre", "0.1", "0.4"),
        ("ThinkPrune (", "thinkprune", "64", "48"),
        ("TNT (", "tnt", "1", "4"),
        ("DA-DLER (", "da_dler", "48", "16"),
        ("RFT_MixThinking (", "rft_mixthinking", "0", "0.125"),
    ):
        note = "chosen " if name == "tlmre" else ""
        yield f"{title}{knobs[name, better]}; {note}{knobs[name, chosen]})"
    grpo = find_scores("grpo")
    shares = joined(points(seed["no_think"]) for seed in grpo["by_seed"].values())
    low, high = (points(grpo["no_think"][end]) for end in ("low", "high"))
    yield f"Plain GRPO's share of no_think is {shares}%; the interval of {low} to {high} around"
    tnt = find_scores("tnt", mode="think")
    seeds = joined(points(seed["accuracy"]) for seed in tnt["by_seed"].values())
    yield f"TNT's {points(tnt['accuracy']['estimate'])}% in forced think is {seeds}%."


def methods() -> Pieces:
    """Yield the accuracy of methods of pairs on other wordings."""
    names = ("overthink", "dpo_shortest", "dast", "original")
    pairs = [points(find_scores(name, "shifted")["accuracy"]["estimate"]) for name in names]
    yield "OverThink has {}%, DPO {}%, DAST {}%, the model before training {}%".format(*pairs)


def from_trl() -> Pieces:
    """Yield how often plain GRPO found no_think."""
    (first, second), cold = (
        [points(seed["no_think"]) for seed in find_scores(name)["by_seed"].values()] for name in ("grpo", "grpo_cold")
    )
    yield f"ended with {first}% no_think on one seed and {second}% on the other at T = 1, and with {cold[0]}% on both"


# ---- how-to ----------------------------------------------------------------------------------------------------------


def dial() -> Pieces:
    """Yield how often thresholds break their limit, and the original's thoughts, which a dial is compared with."""
    worlds = {
        "plateau": "all thresholds lose 10.5 points, most of them with noise; limit 10",
        "slope": "each direct answer loses 30 points; limit 10",
        "rare": "one problem in 95 is lost; limit 1",
    }
    for world, certified, naive in read("dial-2026-11-28")["break_limits"]:
        yield f"| {worlds[world]} | {points(certified)}% | {points(naive, '.0f')}% |"
    found = read("demo-dial-2026-11-28")["runs"]["0"]["dial"]
    for point in found["curve"]:
        threshold = point["threshold"]
        name = {0: "never think", found["certified"]: f"**{threshold:.3g}**"}.get(threshold, f"{threshold:.3g}")
        cells = [points(point["no_think_share"]), points(point["accuracy"]), number(point["mean_tokens"])]
        if threshold > 1:
            yield f"| always think | {' | '.join(cells)} | | |"
        else:
            low, high = point["accuracy_difference_interval"]
            accuracy = {"estimate": point["accuracy_difference"], "low": low, "high": high}
            low, high = point["token_change_interval"]
            length = {"estimate": point["token_change"], "low": low, "high": high}
            yield f"| {name} | {' | '.join(cells)} | {interval(accuracy)} | {interval(length)} |"
    think = read("gap-2026-11-27")["original"]["think"]
    yield f"the original thinks at {points(think['accuracy'])}% with {number(think['tokens'])} tokens."


def serving() -> Pieces:
    """Yield the tables of the server beside peers and of the gateway, and the soak."""
    beside = read("serve-2026-11-28")["streams"]
    for streams, servers in beside.items():
        first, speed, work = (
            ", ".join(number(server[name], ",.0f") for server in servers.values())
            for name in ("first_token_ms", "tokens_per_second", "tokens_per_cpu_second")
        )
        yield f"| {streams} | {first} ms | {speed} | {work} |"
    short = {name: number(server["short_ms"] / 1000) for name, server in beside["100"].items()}
    yield f"a short answer takes {short['transformers']} s there, {short['new']} s here and {short['vllm']} s in vLLM"

    gateway = read("gateway-2026-11-28")["streams"]
    for streams, one in gateway.items():
        direct, through = (number(one[way]["piece_ms"], ".2f") for way in ("direct", "gateway"))
        added, first = number(one["added_piece_ms"], ".2f"), number(one["added_first_ms"], ".0f")
        yield f"| {streams} | {direct} ms | {through} ms | {added} ms | {first} ms |"
    many = gateway["100"]
    yield f"| 18 ms | {number(many['gateway']['cpu_ms'], '.2f')} ms |"
    direct, through = (many[way]["piece_ms_p95"] for way in ("direct", "gateway"))
    yield f"at 100 streams was {number(direct)} ms directly and {number(through, '.0f')} ms through the gateway"

    soak = read("soak-2026-11-28")
    last, second = (number(soak[f"rss_mb_{fifth}_fifth"], ".0f") for fifth in ("last", "second"))
    yield f"sends {soak['requests']:,} short requests"
    yield f"Embedded model, {soak['clients']} clients, {soak['date']}"
    yield f"median of the last fifth against that of the second: {last} and {second} MB"


def one_gpu() -> Pieces:
    """Yield what `adaptthink plan` says of the recipes for one GPU."""
    rows: dict[str, list[str]] = {}
    for recipe, gpu in (("r1_distill_1.5b_one_gpu", "H100"), ("r1_distill_1.5b_24gb", "RTX4090")):
        config = resolve("verl", VerlConfig, recipes=[recipe])
        planned = plan_job(config, gpu)
        cells = {
            "longest thought": f"{config.max_think_tokens:,}" + (" tokens" if not rows else ""),
            "problems × responses a step": f"{config.problems_per_step} × {config.samples_per_problem}",
            "steps": f"{config.steps}",
            "problems seen": f"{config.steps * config.problems_per_step:,}",
            "reference": f"{config.reference_samples}{' responses' if not rows else ''} each, "
            f"{planned['plan']['reference_hours']:.1f} h",
            "training": f"{planned['plan']['hours']:.1f} h",
            "disk": f"{planned['disk_bytes'] / 1e9:.0f} GB",
        }
        for title, cell in cells.items():
            rows.setdefault(title, []).append(cell)
    for title, found in rows.items():
        yield f"| {title} | {' | '.join(found)} |"
    mean, limit = MEANS["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"][0], MEASURED_LIMITS[0]
    lengths = make_quantiles(mean, limit)
    cut = [f"{fmean(length >= most for length in lengths):.0%}" for most in (16384, 8192, 4096)]
    yield "{} of R1's thoughts on DeepScaleR are cut at 16K, {} at 8K and {} at 4K;".format(*cut)


def presampling() -> Pieces:
    """Yield the memory of pre-sampling."""
    rows = read("presample-memory-2026-11-23")["points"]
    for row in rows:
        yield f"| {row['samples']:,} | {row['before_mb']} | {row['peak_mb']} | {row['seconds']} |"
    more = rows[-1]["peak_mb"] - rows[0]["peak_mb"]
    problems = rows[-1]["samples"] // 16
    yield f"A million samples need {number(more, '.0f')} MB more than a thousand"
    yield f"for each of {problems:,} problems"


def problems() -> Pieces:
    """Yield the memory that problems take."""
    rows = {row["value"]: row for row in read("growth-problems-2026-11-28")["axes"]["problems"]}
    many = rows[100_000]
    read_all, step = (f"{many[key] - many['before_mb']:.0f}" for key in ("read_mb", "step_mb"))
    yield f"reading a hundred thousand rows for training adds {read_all} MB to the process"
    yield f"with the references of all sampled and a step taken, {step} MB."


def words() -> Pieces:
    """Yield the rows of the problems in words: their settings, and their tokens."""
    for level, tokens in read("words-2026-11-28")["levels"].items():
        one = LEVELS[int(level)]
        cells = [" or ".join(map(str, numbers)) for numbers in (one.steps, one.distractors)]
        cells += [number(tokens[part], ".0f") for part in ("question", "thought", "solution")]
        yield f"| {level} | {cells[0]} | {cells[1]} | {one.limit} | {' | '.join(cells[2:])} |"


def scaling() -> Pieces:
    """Yield what is said about the figure of steps on 1 to 1,024 GPUs."""
    steps = {row["gpus"]: row for row in read("scaling-r1_distill_1.5b-2026-11-23")["rows"]}
    many = steps[1024]
    first, last = (number(steps[gpus]["seconds"], ".0f") for gpus in (8, 1024))
    yield f"From 8 to 1,024 GPUs a step falls from {first} to {last} s"
    yield f"one token after the other: {number(many['longest_alone'], '.0f')} s."
    yield f"at 1,024 GPUs a batch has {many['growing_batch']:,} problems"
    for recipe, gpus, title, hours in (
        ("r1_distill_1.5b", "8xH800", "1.5B on 8 H800", 32),
        ("r1_distill_7b", "32xH800", "7B on 32 H800", 28),
    ):
        planned = plan_job(resolve("verl", VerlConfig, recipes=[recipe]), gpus)["plan"]["hours"]
        yield f"| {title} | {hours} h | {planned:.1f} h | {hours / planned:.2f} |"
    slowest = read("grading-2026-11-22")["answers_per_second"]["MATH-500, near misses"]["ours"]["median"]
    yield f"({number(1000 / slowest, '.0f')} ms an answer at worst in"


SMOLLM2 = {
    "original_think": "after the cold start, thinking",
    "original_no_think": "after the cold start, answering at once",
    "adaptthink": "trained, as it chooses",
    "adaptthink_think": "trained, forced to think",
    "adaptthink_no_think": "trained, forced to answer at once",
}


def smollm2() -> Pieces:
    """Yield the results of SmolLM2 after two cold starts, and their minutes."""
    results, minutes = Path(__file__).parents[1] / "results", {}
    for name, rows in (
        ("smollm2", {row: title.replace("trained", "by the gap objective") for row, title in SMOLLM2.items()}),
        ("smollm2-paper", {row: title.replace("trained", "by the paper's form") for row, title in SMOLLM2.items()}),
        ("smollm2-bare-answers", dict([*SMOLLM2.items()][:3])),
    ):
        run = json.loads((results / name / "summary.json").read_text(encoding="utf-8"))
        for row, title in rows.items():
            if not (name == "smollm2-paper" and row.startswith("original")):  # the same as of the run before
                yield f"| {title} | {' | '.join(show_modes(run['modes'][row]['levels'], '.1f'))} |"
        found = (run["changes"]["adaptthink"][key]["interval"] for key in KINDS)
        accuracy, length = ({end: points(one[end], "+.1f") for end in ("estimate", "low", "high")} for one in found)
        minutes[name] = run["seconds"]["total"] / 60
        yield f"{accuracy['estimate']} points (95%: {accuracy['low']} to {accuracy['high']})"
        yield f"{length['estimate']}% ({length['low']} to {length['high']})"
        yield f"to {run['peak_memory_mb'] / 1000:.0f} GB"
    yield f"with its evaluation {minutes['smollm2']:.0f} and {minutes['smollm2-paper']:.0f};"
    for name in ("smollm2", "smollm2-bare-answers"):
        lines = (results / name / "cold_start.jsonl").read_text(encoding="utf-8").splitlines()
        yield f"cold start took {sum(json.loads(line)['update_seconds'] for line in lines) / 60:.0f} minutes"
    for name, words in (("smollm2", "{} at the fifth step and {} at the tenth"), ("smollm2-paper", "{} and {}")):
        lines = (results / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        probes = {step["step"]: step.get("probe_no_think_share") for step in map(json.loads, lines)}
        yield words.format(*(f"{points(probes[step], '.0f')}%" for step in (5, 10)))
    for name, words in (
        (
            "smollm2/shifted_before",
            "On {n} problems in situations that no training saw the model is right on {} before",
        ),
        ("smollm2/shifted", "{} after the training with {} answered at once"),
        ("smollm2-paper/shifted", "{} with {} by the paper's form"),
        ("smollm2-bare-answers/shifted", "On {n} problems in situations that no training saw it is right on {} after"),
        ("smollm2-bare-answers/shifted_before", "on {} before"),
    ):
        scores = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["modes"]["auto"]["overall"]
        yield words.format(*(f"{points(scores[key])}%" for key in ("accuracy", "no_think_share")), n=scores["n"])


def tutorial_smollm2() -> Pieces:
    """Yield how often SmolLM2 is right on level 1 after the first cold start, in both modes."""
    summary = Path(__file__).parents[1] / "results/smollm2-bare-answers/summary.json"
    modes = json.loads(summary.read_text(encoding="utf-8"))["modes"]
    think, direct = (modes[f"original_{mode}"]["levels"]["1"]["accuracy"] for mode in ("think", "no_think"))
    yield f"was right on {points(think, '.0f')}% of level 1 when it thought, and on {points(direct, '.0f')}%"


PAGES: Mapping[str, tuple[Callable[[], Pieces], ...]] = {
    "README.md": (readme,),
    "docs/explanation/benchmark.md": (benchmark,),
    "docs/explanation/dial_online.md": (dial_online,),
    "docs/explanation/gap.md": (gap, gap_rates),
    "docs/explanation/methods.md": (methods,),
    "docs/explanation/mismatch.md": (mismatch,),
    "docs/explanation/performance.md": (performance,),
    "docs/explanation/statistics.md": (statistics,),
    "docs/how-to/dial.md": (dial,),
    "docs/how-to/from_trl.md": (from_trl,),
    "docs/how-to/one_gpu.md": (one_gpu,),
    "docs/how-to/presampling.md": (presampling,),
    "docs/how-to/problems.md": (problems, words),
    "docs/how-to/scaling.md": (scaling,),
    "docs/how-to/serving.md": (serving,),
    "docs/how-to/smollm2.md": (smollm2,),
    "docs/tutorials/demo.md": (demo, ways),
    "docs/tutorials/first_training.md": (first_training,),
    "docs/tutorials/own_problems_and_reward.md": (own_problems,),
    "docs/tutorials/smollm2.md": (tutorial_smollm2,),
    "docs/tutorials/reading_a_report.md": (reading_a_report,),
}

# What the blocks of a tutorial print, by benchmarks/tutorials.py.
TUTORIALS: Mapping[str, str] = {
    "docs/tutorials/first_training.md": "tutorial-first-training-2026-11-28",
    "docs/tutorials/own_problems_and_reward.md": "tutorial-own-problems-and-reward-2026-11-28",
    "docs/tutorials/reading_a_report.md": "tutorial-reading-a-report-2026-11-28",
}
