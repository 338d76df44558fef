"""The report on a made-up run folder: its numbers by hand, its text escaped, its page self-contained."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_folders import (
    HOSTILE,
    TRAINED,
    make_run,
    metrics,
    samples,
    score,
    summary,
    write_lines,
    write_samples,
)

from adaptthink.errors import UserError
from adaptthink.report import write_report
from adaptthink.report.figures import average_neighbours, read_column
from adaptthink.report.formats import FILTERS, fence

MOST_BYTES = 3_000_000  # of a page with all its downloads
DELTA_POINTS, DELTA_PERCENT = "+0.7", "−32.0"  # of CHANGES
NO_THINK_POINTS = "−39.3"


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
    in_markdown = row(markdown_rows(markdown.read_text()), "AdaptThink")
    assert in_markdown[1] == "98.5 / 5.5 / 99.0"
    assert in_markdown[-1] == f"{DELTA_POINTS} / {DELTA_PERCENT}%"


def test_both_versions_carry_the_same_headline_numbers(run):
    html, markdown = (path.read_text() for path in write_report(run))
    assert [re.sub(r"<.*?>", "", big) for big in re.findall(r"<b>([+−\d].*?)</b>", html)] == [
        f"{DELTA_POINTS} points", f"{DELTA_PERCENT}%", "39.6%",
    ]  # fmt: skip
    assert re.findall(r"\*\*(.*?)\*\*", markdown) == [f"{DELTA_POINTS} points", f"{DELTA_PERCENT}%", "39.6%"]


def test_without_changes_the_headline_is_what_the_summary_states(run):
    (run / "summary.json").write_text('{"delta_accuracy_points": 1.5, "delta_length_percent": null}')
    html, markdown = (path.read_text() for path in write_report(run))
    assert "<b>+1.5 points</b>" in html
    assert "<b>–</b>" in html
    assert "**+1.5 points**, no interval: summary.json has none" in markdown


def test_the_intervals_of_the_changes_are_those_of_the_summary(run):
    html, markdown = (page.read_text() for page in write_report(run))
    for text in (html, markdown):
        assert "95% interval −1.2 to +3.5: not distinguishable from no change" in text
        assert re.search(r"95% interval −61\.0 to −27\.5(</dd>|\n)", text)
    assert row(Page(html).rows, "Forced to think")[-2:] == ["+1.0", "–"]  # its length has no interval


@pytest.mark.parametrize("missing", [{"adaptthink": None}, {}])
def test_without_changes_there_are_dashes(run, missing):
    path = run / "summary.json"
    path.write_text(json.dumps(summary() | {"changes": missing}))
    html, _ = (page.read_text() for page in write_report(run))
    assert row(Page(html).rows, "AdaptThink")[-2:] == ["–", "–"]
    assert f"<b>{DELTA_POINTS} points</b>" in html
    assert "no interval: summary.json has none" in html


@pytest.mark.parametrize("fault", [{"accuracy": None}, {"accuracy": "high"}, {"tokens_interval": [1]}])
def test_damaged_scores_are_one_line(run, fault):
    content = summary()
    content["modes"]["original_no_think"]["levels"]["3"] |= fault
    (run / "summary.json").write_text(json.dumps(content))
    [key] = fault
    with pytest.raises(UserError, match=rf"summary\.json: damaged \(modes\.original_no_think\.levels\.3\.{key}"):
        write_report(run)


def test_a_row_without_scores_counts_as_not_evaluated(run):
    content = summary()
    content["modes"]["original_no_think"] = None
    (run / "summary.json").write_text(json.dumps(content))
    html, _ = (page.read_text() for page in write_report(run))
    assert set(row(Page(html).rows, "Original, NoThinking")[1:-2]) == {"–"}
    assert "Original, NoThinking (not evaluated)" in html
    assert row(Page(html).rows, "AdaptThink")[1] == "98.5"


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
    html = without_downloads(write_report(run)[0].read_text())
    assert "http" not in html
    assert "@import" not in html
    for tag, attributes in Page(html).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "image")
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith("#"), (tag, attributes)
    assert set(re.findall(r"url\((.)", html)) == {"#"}
    assert len(html) < 1_000_000


def without_downloads(html: str) -> str:
    """The page as it is shown; what can be downloaded is encoded, where any text may occur at random."""
    return re.sub(r'href="data:[\w/+]+;base64,[\w+/=]+"', 'href="#"', html)


def test_figures_take_every_colour_from_the_page_and_share_no_ids(run):
    html = without_downloads(write_report(run)[0].read_text())
    drawings = re.findall(r'<svg role="img".*?</svg>', html, flags=re.DOTALL)
    assert len(drawings) == 14  # three bars, the scatter, ten panels
    assert not re.findall(r"(?:fill|stroke): #(?!1f77b4)", "".join(drawings))
    ids = re.findall(r'\bid="(.*?)"', html)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", html))


def test_long_transcripts_are_clipped(run):
    write_samples(run / TRAINED, [record | {"thinking": "<" * 100_000} for record in samples()])
    html, markdown = write_report(run)
    assert html.stat().st_size < MOST_BYTES
    assert "characters left out" in markdown.read_text()


def test_page_of_a_long_run_is_small(run):
    write_lines(run / "metrics.jsonl", metrics(4000))
    assert write_report(run)[0].stat().st_size < MOST_BYTES


def test_transcripts_are_the_first_of_each_kind_and_only_of_chosen_modes(run):
    later = [row | {"problem_id": f"{row['problem_id']} later", "prompt": "second"} for row in samples()]
    write_samples(run / TRAINED, [*samples(), *later])
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
    odd = [samples()[1] | {"problem_id": f"at {level}", "level": level, "thinking": "cut \ud83d"} for level in levels]
    write_samples(run / TRAINED, odd)
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


@pytest.mark.parametrize("content", ["{}", '{"modes": {"adaptthink": null}}', '{"modes": {}, "seconds": {"a": null}}'])
def test_missing_values_are_dashes_not_crashes(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": NaN, "probe_mode_mass": null}\n')
    write_samples(tmp_path / TRAINED, samples())
    for name in ("problems", "verdicts", "decisions"):
        (tmp_path / TRAINED / f"{name}.jsonl").unlink()
    html, markdown = (path.read_text() for path in write_report(tmp_path))
    assert html.count("not recorded") == 14  # every drawing
    assert "accuracy **–**" in markdown
    assert "None" not in html
    assert "nan" not in {content for cells in Page(html).rows for content in cells}


def test_missing_summary_names_the_commands_that_make_it(tmp_path):
    with pytest.raises(UserError, match=r"summary\.json.*`adaptthink run`.*`adaptthink evaluate`") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("done", "planned", "said"),
    [(0, 9, "at step 0 of 9."), (4, 9, "at step 4 of 9."), (4, None, "at step 4."), (9, 9, "The training has ended.")],
)
def test_a_training_that_nothing_has_evaluated_has_a_report_too(run, done, planned, said):
    (run / "summary.json").unlink()
    config = {"model": HOSTILE, "method": "gap", "seed": 3, "delta": 0.05} | ({"steps": planned} if planned else {})
    (run / "config.json").write_text(json.dumps(config))
    rows = metrics(9)[:done]
    if rows:
        rows[-1]["alarms"] = {"worse": "it became worse"}
    write_lines(run / "metrics.jsonl", rows)
    shutil.rmtree(run / "evaluations")
    html, markdown = (path.read_text() for path in write_report(run))
    assert Page(html).open == []
    for text in (html, markdown):
        assert said in text
        assert "method gap" in text
        assert "Accuracy" not in text
        assert "<script>alert" not in text
        assert ("it became worse" in text) == bool(rows)
        assert ("No step has ended yet" in text) == (not rows)
    assert html.count("<figure>") == (10 if rows else 0)


def test_a_configuration_of_another_form_is_one_line(run):
    (run / "summary.json").unlink()
    (run / "config.json").write_text('{"seed": "many"}')
    with pytest.raises(UserError, match=r"config\.json: damaged \(seed: Input should be a valid integer"):
        write_report(run)


@pytest.mark.parametrize("line", ['{"step": 3, "loss', "[1]", '{"loss": 1}', '{"step": "three"}', ""])
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


def test_repeated_steps_count_once_and_the_first_counts(run):
    write_lines(run / "metrics.jsonl", [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 6.0}, {"step": 1, "loss": 7.0}])
    loss = row(markdown_rows(write_report(run)[1].read_text()), "Loss")
    assert loss == ["Loss", "", "5", "6", "5", "6"]


def test_null_is_a_gap_and_an_absent_key_is_not():
    steps = [{"step": 1, "a": 2.0}, {"step": 2}, {"step": 3, "a": None}, {"step": 4, "a": 4.0}]
    (first, _), (third, gap), last = read_column(steps, "a", 0.5)
    assert (first, third, last) == (1, 3, (4, 2.0))
    assert math.isnan(gap)
    smooth = average_neighbours([math.nan, 1.0, 3.0, math.nan, 5.0], 3)
    assert [None if math.isnan(value) else value for value in smooth] == [None, 2, 2, None, 5]


def test_formats():
    assert [FILTERS["signed"](value) for value in (1.25, -0.04, -3.96, None)] == ["+1.2", "0.0", "−4.0", "–"]
    assert FILTERS["cell"]("a|b\n<i>") == r"a\|b &lt;i&gt;"
    assert fence("```` x").startswith("`````text\n")


def test_the_model_card_gets_the_result_once(run):
    card = run / "model" / "README.md"
    write_report(run)
    assert not card.exists()
    card.parent.mkdir()
    card.write_text("---\ntags: [adaptthink]\n---\n\n# A model\n\nHow it was made.\n")
    write_report(run)
    first = card.read_text()
    assert first.startswith("---\ntags: [adaptthink]\n---\n\n# A model\n\nHow it was made.\n\n## Evaluation\n")
    assert f"**{DELTA_POINTS} points**" in first
    write_report(run)
    assert card.read_text() == first


def test_a_card_without_an_evaluation_stays_as_it_is(run):
    (run / "summary.json").write_text('{"modes": {}}')
    (run / "model").mkdir()
    (run / "model" / "README.md").write_text("# A model\n")
    write_report(run)
    assert (run / "model" / "README.md").read_text() == "# A model\n"
