"""The report on a made-up run folder: its numbers by hand, its text escaped, its page self-contained."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from adaptthink.errors import UserError
from adaptthink.report import write_report
from adaptthink.report.figures import column, running_mean
from adaptthink.report.folder import Score
from adaptthink.report.formats import FILTERS, cell, fenced
from adaptthink.report.tables import compare, wilson

ACCURACY = {  # by level, easy to hard
    "original_think": (0.98, 0.97, 0.95, 0.92, 0.885),
    "original_no_think": (0.96, 0.81, 0.62, 0.24, 0.11),
    "adaptthink": (0.985, 0.97, 0.96, 0.93, 0.895),
    "adaptthink_think": (0.985, 0.975, 0.96, 0.935, 0.9),
}
TOKENS = {
    "original_think": (22.0, 34.5, 47.0, 84.2, 121.6),
    "original_no_think": (5.0, 5.1, 5.1, 5.2, 5.3),
    "adaptthink": (5.5, 13.8, 37.6, 80.0, 121.6),
    "adaptthink_think": (21.0, 33.0, 46.0, 83.0, 120.0),
}
NO_THINK = {"original_no_think": (1.0,) * 5, "adaptthink": (0.99, 0.7, 0.24, 0.05, 0.0)}
# accuracies differ by .5, 0, 1, 1, 1 points: mean .7; lengths change by -75, -60, -20, -4.99, 0 percent
DELTA_POINTS, DELTA_PERCENT = "+0.7", "−32.0"
# accuracies differ by -2, -16, -33, -68, -77.5 points: mean -39.3
NO_THINK_POINTS = "−39.3"
KINDS = (("no_think", "correct"), ("think", "correct"), ("no_think", "wrong"), ("think", "truncated"))
HOSTILE = '<script>alert("x")</script> & `tick` | pipe'


def score(accuracy: float, tokens: float, no_think: float, n: int) -> dict[str, Any]:
    shares = {"accuracy": accuracy, "no_think_share": no_think, "truncated_share": 0.005}
    return shares | {"mean_tokens": tokens, "n": n}


def summary() -> dict[str, Any]:
    """`adaptthink_no_think` is missing on purpose."""
    modes = {}
    for mode, accuracies in ACCURACY.items():
        rows = list(zip(accuracies, TOKENS[mode], NO_THINK.get(mode, (0.0,) * 5), strict=True))
        means = [sum(values) / 5 for values in zip(*rows, strict=True)]
        modes[mode] = {
            "levels": {str(level): score(*row, 200) for level, row in enumerate(rows, start=1)},
            "overall": score(means[0], means[1], means[2], 1000),
        }
    return {
        "seed": 7, "delta": 0.05, "objective": "sequence_mean", "model": "tiny", "modes": modes,
        "delta_accuracy_points": 0.7, "delta_length_percent": -31.998,
        "seconds": {"presample": 48.24, "train": 1325.0, "evaluate": 7512.0}, "peak_memory_mb": 1834.2,
    }  # fmt: skip


def metrics(num_steps: int) -> list[dict[str, Any]]:
    noise = random.Random(0)
    steps = []
    for step in range(1, num_steps + 1):
        done = step / num_steps
        think = step % 9 != 4
        record = {
            "step": step, "loss": -0.02 * done + noise.gauss(0, 0.004), "grad_norm": 0.4 + noise.random() / 4,
            "reward_think": 0.94 + noise.gauss(0, 0.02) if think else None,
            "reward_no_think": 0.5 + 0.1 * done + noise.gauss(0, 0.04),
            "mean_tokens_think": 62 - 3 * done + noise.gauss(0, 1.5) if think else None,
            "mean_tokens_no_think": 5.2 + noise.gauss(0, 0.1),
            "truncated_share_think": 0.01 * noise.random() if think else None, "truncated_share_no_think": 0.0,
            "clip_share_think": 0.002 * noise.random(), "clip_share_no_think": 0.02 * done * noise.random(),
            "learning_rate": 1e-4, "response_tokens": 70000, "rollout_seconds": 2.0, "update_seconds": 3.0,
        }  # fmt: skip
        if step % 5 == 0:
            reach = {str(level): 1 / (1 + math.exp(8 * (0.18 * level - done))) for level in range(1, 6)}
            mean = sum(reach.values()) / 5
            record |= {"probe_no_think_by_level": reach, "probe_no_think_share": mean, "probe_mode_mass": 0.999}
            record |= {"probe_no_think_logprob": math.log(mean) - 6 * (1 - done)}
        steps.append(record)
    return steps


def samples() -> list[dict[str, Any]]:
    """Everything that an evaluation's files say, one record a response."""
    records = []
    for level in range(1, 6):
        for chosen, verdict in KINDS:
            thought = "" if chosen == "no_think" else "Alright\n47+8=55\n55-3=52\n" * level
            records.append({
                "asked": "auto", "index": 0, "problem_id": f"chain-{level}-{verdict}-{chosen}", "level": level,
                "prompt": "47+8-3=?", "gold": "52", "mode": chosen, "thought": thought or None,
                "answer": None if verdict == "truncated" else "\n\\boxed{52}", "tokens": 6 + len(thought) // 2,
                "verdict": verdict, "no_think_probability": None if verdict == "wrong" else 0.9123,
            })  # fmt: skip
    records[0]["prompt"] = HOSTILE
    records[1] |= {"thought": f"Alright ``` {HOSTILE}", "answer": "52"}
    forced = {**records[0], "asked": "think", "index": 1, "thought": "asked to think"}
    return [forced, *records]


def write_samples(run: Path, records: list[dict[str, Any]]) -> None:
    """Write an evaluation folder's four files, as far as the report reads them."""
    folder = run / "evaluations" / "adaptthink"
    folder.mkdir(parents=True, exist_ok=True)
    keys = ("problem_id", "asked", "index")
    problems = {row["problem_id"]: row for row in records}.values()
    write_lines(
        folder / "problems.jsonl",
        [{"id": r["problem_id"], "level": r["level"], "prompt": r["prompt"], "answer": r["gold"]} for r in problems],
    )
    columns = {
        "samples": (*keys, "mode", "thought", "answer", "tokens"),
        "verdicts": (*keys, "verdict"),
        "decisions": ("problem_id", "no_think_probability"),
    }
    for name, kept in columns.items():
        write_lines(folder / f"{name}.jsonl", [{key: row[key] for key in kept} for row in records])


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_run(folder: Path, num_steps: int = 60) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary()))
    config = {"model": "tiny", "delta": 0.05, "schedule": "constant", "odd": HOSTILE, "none": None}
    (folder / "config.json").write_text(json.dumps(config))
    write_lines(folder / "metrics.jsonl", metrics(num_steps))
    write_samples(folder, samples())
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


class Page(HTMLParser):
    """Collects table rows, attributes and visible text; fails on tags that do not match."""

    VOID = frozenset({"meta"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def row(rows: list[list[str]], name: str) -> list[str]:
    """The first table row of that name."""
    return next(cells for cells in rows if cells[:1] == [name])


def markdown_rows(text: str) -> list[list[str]]:
    return [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_headline_table_matches_numbers_computed_by_hand(run):
    html, markdown = write_report(run)
    rows = Page(html.read_text()).rows
    adaptthink = row(rows, "AdaptThink")
    assert adaptthink[1:4] == ["98.5", "5.5", "99.0"]
    assert adaptthink[-5:] == ["89.5", "121.6", "0.0", DELTA_POINTS, f"{DELTA_PERCENT}%"]
    assert row(rows, "Original, NoThinking")[-2] == NO_THINK_POINTS
    assert row(rows, "Original, Thinking")[-2:] == ["–", "–"]
    assert set(row(rows, "Forced to no_think")[1:]) == {"–"}
    twin = row(markdown_rows(markdown.read_text()), "AdaptThink")
    assert twin[1] == "98.5 / 5.5 / 99.0"
    assert twin[-1] == f"{DELTA_POINTS} / {DELTA_PERCENT}%"


def test_both_twins_carry_the_same_headline_numbers(run):
    html, markdown = (path.read_text() for path in write_report(run))
    assert [re.sub(r"<.*?>", "", big) for big in re.findall(r"<b>([+−\d].*?)</b>", html)] == [
        f"{DELTA_POINTS} points", f"{DELTA_PERCENT}%", "39.6%",
    ]  # fmt: skip
    assert "not distinguishable from no change" in html
    assert "not distinguishable from no change" in markdown
    assert re.findall(r"\*\*(.*?)\*\*", markdown) == [f"{DELTA_POINTS} points", f"{DELTA_PERCENT}%", "39.6%"]


def test_without_levels_the_headline_is_what_the_summary_states(run):
    (run / "summary.json").write_text('{"delta_accuracy_points": 1.5, "delta_length_percent": null}')
    html, markdown = (path.read_text() for path in write_report(run))
    assert "<b>+1.5 points</b>" in html
    assert "<b>–</b>" in html
    assert "**+1.5 points**" in markdown


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [
        (0.5, 100, 0.40383, 0.59617),  # centre .5; half (1.96 sqrt(.0025 + .0000960)) / 1.0384
        (1.0, 10, 0.72246, 1.0),  # 10 / (10 + 3.8415)
        (0.0, 10, 0.0, 0.27754),
        (0.9, 200, 0.85059, 0.93433),
    ],
)
def test_wilson_interval_matches_hand_computed_values(share, n, low, high):
    assert wilson(share, n) == pytest.approx((low, high), abs=2e-5)


def test_wilson_interval_holds_the_share_despite_rounding():
    for n in range(1, 400):
        for share in (0.0, 1.0, 1 / n, 1 - 1 / n):
            low, high = wilson(share, n) or (2.0, -1.0)
            assert 0 <= low <= share <= high <= 1


def test_wilson_needs_a_share_and_a_number_of_trials():
    assert wilson(None, 10) is None
    assert wilson(0.5, None) is None
    assert wilson(0.5, 0) is None
    assert wilson(1.2, 10) is None


def test_interval_of_the_difference_at_one_level_is_newcombes():
    # Newcombe (1998), 56/70 against 48/80: .2 with interval .0524 to .3339
    change = compare({"1": Score(56 / 70, 1.0, n=70)}, {"1": Score(48 / 80, 2.0, n=80)})
    assert change.points == pytest.approx(20)
    assert change.points_interval == pytest.approx((5.24, 33.39), abs=0.005)
    assert change.percent == pytest.approx(-50)


def test_a_mean_over_fewer_levels_is_not_reported():
    reference = {"1": Score(0.9, 10.0, n=5), "2": Score(0.8, 20.0, n=5)}
    assert compare({"1": Score(0.9, 5.0, n=5)}, reference) == compare({}, {})
    only_tokens = compare({"1": Score(None, 5.0), "2": Score(0.8, 10.0)}, reference)
    assert (only_tokens.points, only_tokens.points_interval, only_tokens.percent) == (None, None, -50)


def test_text_of_the_run_is_escaped(run):
    content = summary() | {"model": HOSTILE}
    content["modes"]["adaptthink"]["levels"]["<script>$x$"] = score(0.5, 3.0, 0.5, 10)
    (run / "summary.json").write_text(json.dumps(content))
    html, markdown = (path.read_text() for path in write_report(run))
    assert [tag for tag, _ in Page(html).tags].count("script") == 1  # the page's own, which unfolds for print
    assert "alert(&#34;x&#34;)" in html
    outside_fences = re.sub(r"^(`{3,})text\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in outside_fences
    assert r"\`tick\` \| pipe" in outside_fences


def test_page_loads_nothing_and_is_small(run):
    html = write_report(run)[0].read_text()
    assert "http" not in html
    assert "@import" not in html
    for tag, attributes in Page(html).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "image")
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith("#"), (tag, attributes)
    assert set(re.findall(r"url\((.)", html)) == {"#"}
    assert len(html) < 1_000_000


def test_figures_take_every_colour_from_the_page_and_share_no_ids(run):
    html = write_report(run)[0].read_text()
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 13  # three bars, the scatter, nine panels
    assert not re.findall(r"(?:fill|stroke): #(?!1f77b4)", "".join(drawings))
    ids = re.findall(r'\bid="(.*?)"', html)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", html))


def test_long_transcripts_are_clipped(run):
    write_samples(run, [record | {"thought": "<" * 100_000} for record in samples()])
    html, markdown = write_report(run)
    assert html.stat().st_size < 1_000_000
    assert "characters left out" in markdown.read_text()


def test_page_of_a_long_run_is_small(run):
    write_lines(run / "metrics.jsonl", metrics(4000))
    assert write_report(run)[0].stat().st_size < 1_000_000


def test_transcripts_are_the_first_of_each_kind_and_only_of_chosen_modes(run):
    later = [row | {"problem_id": f"{row['problem_id']} later", "prompt": "second"} for row in samples()]
    write_samples(run, [*samples(), *later])
    html, markdown = (path.read_text() for path in write_report(run))
    assert html.count('<article class="card"') == 20
    for text in (html, markdown):
        assert "asked to think" not in text
        assert "second" not in text
        assert "chain-3-truncated" in text
    assert html.count("never closed") == 5


def test_levels_come_in_natural_order_and_half_a_character_does_no_harm(run):
    content = summary()
    for scores in content["modes"].values():
        scores["levels"] = dict.fromkeys(("GSM8K", "10", "2"), scores["levels"]["1"])
    (run / "summary.json").write_text(json.dumps(content))
    names = ["Level 2", "Level 10", "GSM8K"]
    levels = ("GSM8K", 10, 2)
    odd = [samples()[1] | {"problem_id": f"at {level}", "level": level, "thought": "cut \ud83d"} for level in levels]
    write_samples(run, odd)
    html, markdown = (path.read_text() for path in write_report(run))
    assert re.findall(r"<h3>(.*?)</h3>", html) == names
    assert re.findall(r"### (.*?):", markdown) == names
    assert Page(html).rows[0][1:4] == names


def test_only_the_summary_is_required(run):
    for name in ("config.json", "metrics.jsonl", "evaluations/adaptthink/samples.jsonl"):
        (run / name).unlink()
    html, markdown = (path.read_text() for path in write_report(run))
    for name in ("config.json", "metrics.jsonl", "samples.jsonl"):
        assert f"No {name}" in html
        assert f"No {name}" in markdown
    assert DELTA_POINTS in html


@pytest.mark.parametrize("content", ["{}", '{"modes": {"adaptthink": null}}', '{"modes": [], "seconds": {"a": null}}'])
def test_missing_values_are_dashes_not_crashes(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n\n{"step": 2, "loss": NaN, "probe_mode_mass": null}\n')
    (tmp_path / "evaluations/adaptthink").mkdir(parents=True)
    (tmp_path / "evaluations/adaptthink/samples.jsonl").write_text('{"asked": "auto"}\n')
    html, markdown = (path.read_text() for path in write_report(tmp_path))
    assert html.count("not recorded") == 13  # every drawing
    assert "accuracy **–**" in markdown
    assert "None" not in html
    assert "nan" not in {content for cells in Page(html).rows for content in cells}


def test_missing_summary_names_the_commands_that_make_it(tmp_path):
    with pytest.raises(UserError, match=r"summary\.json.*`adaptthink demo`.*`adaptthink evaluate`") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ['{"step": 3, "loss', "[1]", '{"loss": 1}', '{"step": "three"}'])
def test_malformed_metrics_line_is_named(run, line):
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 61: ") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["summary.json", "config.json"])
def test_malformed_json_is_named(run, name):
    (run / name).write_text("[" if name == "config.json" else "[]")
    with pytest.raises(UserError, match=re.escape(name)):
        write_report(run)


def test_repeated_steps_of_a_resumed_run_count_once(run):
    write_lines(run / "metrics.jsonl", [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 6.0}, {"step": 1, "loss": 7.0}])
    loss = row(markdown_rows(write_report(run)[1].read_text()), "Loss")
    assert loss == ["Loss", "", "7", "6", "6", "7"]


def test_null_is_a_gap_and_an_absent_key_is_not():
    steps = [{"step": 1, "a": 2.0}, {"step": 2}, {"step": 3, "a": None}, {"step": 4, "a": 4.0}]
    (first, _), (third, gap), last = column(steps, "a", 0.5)
    assert (first, third, last) == (1, 3, (4, 2.0))
    assert math.isnan(gap)
    smooth = running_mean([math.nan, 1.0, 3.0, math.nan, 5.0], 3)
    assert [None if math.isnan(value) else value for value in smooth] == [None, 2, 2, None, 5]


def test_formats():
    assert [FILTERS["signed"](value) for value in (1.25, -0.04, -3.96, None)] == ["+1.2", "0.0", "−4.0", "–"]
    assert cell("a|b\n<i>") == r"a\|b &lt;i&gt;"
    assert fenced("```` x").startswith("`````text\n")
