"""What the pages say of results: pieces of their text, with the figures taken from the result files.

Each function yields the pieces of one page. tests/test_figures.py fails where the page does not have one of them, so no
figure can differ from its file. Tables and sections that a program writes whole are compared with what it writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

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
    yield f"one thread, {result['date']}; [result]"
    yield f"It took {run['seconds']:.0f} s on two cores that other work kept busy,"
    yield f"and {number(run['peak_memory_mb'] / 1000)} GB;"


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
    cut, still = (round(200 * run["modes"][row]["5"]["truncated_share"]) for row in ("original_think", "adaptthink"))
    yield f"({cut} of 200 responses), the trained model hardly ever ({still} of 200)"
    for question, probability in run["no_think_probability"].items():
        for threshold in (0.01, 0.5, run["threshold"]):
            mode = "no_think" if probability >= threshold else "think"
            yield f"{probability:<11.6g} {mode:9} threshold {threshold:g}  {question}"


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
    accuracy, tokens = points(models["gap"]["think"]["accuracy"]), number(models["gap"]["think"]["tokens"])
    sampled = {name: fmean(by_seed.values()) / 1e6 for name, by_seed in result["rollout_tokens"].items()}
    yield f"instead of {accuracy}% and {tokens} (five seeds"
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
    yield f"its flat part at 26 tokens ({points(settled[0]['accuracy'])}%)"
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
    """Yield the original model's thoughts, which a dial is compared with."""
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


def presampling() -> Pieces:
    """Yield the memory of pre-sampling."""
    rows = read("presample-memory-2026-11-23")["points"]
    for row in rows:
        yield f"| {row['samples']:,} | {row['before_mb']} | {row['peak_mb']} | {row['seconds']} |"
    more = rows[-1]["peak_mb"] - rows[0]["peak_mb"]
    problems = rows[-1]["samples"] // 16
    yield f"A million samples need {number(more, '.0f')} MB more than a thousand"
    yield f"for each of {problems:,} problems"


def scaling() -> Pieces:
    """Yield what is said about the figure of steps on 1 to 1,024 GPUs."""
    steps = {row["gpus"]: row for row in read("scaling-r1_distill_1.5b-2026-11-23")["rows"]}
    many = steps[1024]
    first, last = (number(steps[gpus]["seconds"], ".0f") for gpus in (8, 1024))
    yield f"From 8 to 1,024 GPUs a step falls from {first} to {last} s"
    yield f"one token after the other: {number(many['longest_alone'], '.0f')} s."
    yield f"at 1,024 GPUs a batch has {many['growing_batch']:,} problems"
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
    for name, rows in (("smollm2", SMOLLM2), ("smollm2-bare-answers", [*SMOLLM2][:3])):
        folder = Path(__file__).parents[1] / "results" / name
        run = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        for row in rows:
            yield f"| {SMOLLM2[row]} | {' | '.join(show_modes(run['modes'][row]['levels'], '.1f'))} |"
        found = (run["changes"]["adaptthink"][key]["interval"] for key in KINDS)
        accuracy, length = ({end: points(one[end], "+.1f") for end in ("estimate", "low", "high")} for one in found)
        yield f"accuracy {accuracy['estimate']} points (95%: {accuracy['low']} to {accuracy['high']})"
        yield f"length {length['estimate']}% ({length['low']} to {length['high']})"
        steps = [json.loads(line) for line in (folder / "cold_start.jsonl").read_text(encoding="utf-8").splitlines()]
        cold_start = sum(step["update_seconds"] for step in steps)
        yield f"cold start took {cold_start / 60:.0f} minutes"
        yield f"needed up to {run['peak_memory_mb'] / 1000:.0f} GB"
    new = json.loads((folder.parent / "smollm2" / "summary.json").read_text(encoding="utf-8"))
    yield f"training and evaluation after it {new['seconds']['total'] / 60:.0f};"
    metrics = (folder.parent / "smollm2" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    probes = {step["step"]: step.get("probe_no_think_share") for step in map(json.loads, metrics)}
    yield f"is {points(probes[5], '.0f')}% at the fifth and {points(probes[10], '.0f')}% at the tenth,"
    before, after = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["modes"]["auto"]["overall"]
        for name in ("shifted_before", "shifted")
    )
    right = points(after["accuracy"]), points(before["accuracy"])
    yield f"On {after['n']} problems in situations that no training saw it is right on {right[0]}% after"
    yield f"and on {right[1]}% before"


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
    "docs/how-to/presampling.md": (presampling,),
    "docs/how-to/scaling.md": (scaling,),
    "docs/how-to/serving.md": (serving,),
    "docs/how-to/smollm2.md": (smollm2,),
    "docs/tutorials/demo.md": (demo,),
    "docs/tutorials/first_training.md": (first_training,),
    "docs/tutorials/reading_a_report.md": (reading_a_report,),
}
