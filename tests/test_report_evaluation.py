"""The report of evaluation folders: whose numbers it shows, how it reports what is missing or not comparable."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_folders import HOSTILE, made_up_dial, make_evaluation, make_run, samples, summary, write_samples

from adaptthink.errors import UserError
from adaptthink.evaluation.scores import Scores
from adaptthink.report import thin_dial, write_report
from adaptthink.report.drawing import (
    DARK,
    LIGHT,
    Key,
    Plot,
    draw_for_paper,
    draw_inline,
    draw_picture,
    mix_colours,
    write_csv,
)
from adaptthink.report.figures import LEVEL_CHARTS, plot_levels, position_label
from adaptthink.report.tables import Row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_evaluation(tmp_path / "trained")


def cells(html: str, name: str) -> list[list[str]]:
    """The cells of each table row of that name."""
    rows = re.findall(rf'<th scope="row">{re.escape(name)}</th>(.*?)</tr>', html, flags=re.DOTALL)
    return [re.findall(r"<td.*?>(.*?)</td>", row) for row in rows]


def table(text: str, name: str) -> list[str]:
    return next(re.split(r"\s*\|\s*", line)[2:-1] for line in text.splitlines() if line.startswith(f"| {name} |"))


def test_both_versions_show_the_summary(folder):
    html, markdown = (path.read_text() for path in write_report(folder))
    # (98.5 + 97 + 96 + 93 + 89.5) / 5; (5.5 + 13.8 + 37.6 + 80 + 121.6) / 5; (99 + 70 + 24 + 5 + 0) / 5; 51.7 / .948
    everything = ["94.8", "91.8–96.8", "51.7", "46.5–62.0", "54.5", "39.6", "0.0", "0.5", "0.0", "0.0", "1,000"]
    assert cells(html, "auto")[0] == everything
    assert table(markdown, "auto") == everything
    assert cells(html, "auto")[1][:3] == ["98.5", "5.5", "99.0"]  # level 1
    assert cells(html, "auto")[2][:2] == ["95.5–100.0", "5.0–6.6"]
    assert cells(html, "no_think")[0][0] == "54.8"
    for text in (html, markdown):
        assert "4.2 points" in text or "4.3 points" in text
        assert "0.25" in text
        assert "No dial.json" not in text
        assert "No calibration" not in text


def test_the_speed_is_shown_where_it_was_measured(folder):
    assert not any("Speed of" in path.read_text() for path in write_report(folder))
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["modes"]["auto"]["speed"] = {"median_seconds": 1.25, "p95_seconds": 3.0, "tokens_per_second": None}
    path.write_text(json.dumps(summary))
    for written in write_report(folder):
        text = written.read_text()
        assert "Speed of auto: median 1.2 s, 95th percentile 3.0 s." in text
        assert text.count("Speed of") == 1


def test_what_is_missing_is_named(tmp_path):
    bare = make_evaluation(tmp_path / "bare", extras=False)
    (bare / "samples.jsonl").unlink()
    html, markdown = (path.read_text() for path in write_report(bare))
    for text in (html, markdown):
        assert re.search(r"No dial.json in bare.*adaptthink calibrate", text)
        assert re.search(r"No calibration in quality.json of bare.*adaptthink evaluate", text, re.DOTALL)
        assert "No samples.jsonl" in text
        assert "None" not in text


def test_several_folders_stand_in_the_same_pictures(folder, tmp_path):
    other = make_evaluation(tmp_path / "base", extras=False)
    html, markdown = (path.read_text() for path in write_report(folder, other, output=tmp_path / "out"))
    assert "Not evaluated alike" not in html
    names = [f"{model}, {mode}" for model in ("trained", "base") for mode in ("auto", "think", "no_think")]
    assert re.findall(r'<tr class="[\w ]*"><th scope="row">(.*?)</th>', html) == names * 2
    assert "No dial.json in base" in html
    assert "No dial.json in trained" not in html
    assert table(markdown, "base, auto") == table(markdown, "trained, auto")
    (scatter,) = re.findall(r'<svg role="img" aria-label="Accuracy and tokens".*?</svg>', html, flags=re.DOTALL)
    assert "var(--model-0)" in scatter
    assert "var(--model-1)" in scatter
    assert "var(--think)" not in scatter


def test_what_keeps_models_from_being_compared_is_said(folder, tmp_path):
    other = make_evaluation(tmp_path / "warm", temperature=1.0, model="another", seed=3)
    records = [row for row in samples() if row["level"] != 5]
    write_samples(other, records)
    html, markdown = (path.read_text() for path in write_report(folder, other, output=tmp_path / "out"))
    for text in (html, markdown):
        assert "Not evaluated alike" in text
        assert "warm answered other problems than trained: 16 and 20, of which 16 are the same" in text
        assert "temperature is 0.6 in trained and 1.0 in warm" in text
        assert "seed is" not in text


def test_figures_are_written_as_files(folder, tmp_path):
    write_report(folder, output=tmp_path / "out", figure_folder=tmp_path / "figures")
    names = ("accuracy-and-tokens", "accuracy-by-level", "tokens-by-level", "no-think-by-level", "reliability")
    found = {path.name for path in (tmp_path / "figures").iterdir()}
    assert found == {f"{name}.{ending}" for name in names for ending in ("svg", "png", "csv")}
    assert not (folder / "report.html").exists()
    ElementTree.parse(tmp_path / "figures" / "reliability.svg")
    rows = list(csv.DictReader((tmp_path / "figures" / "no-think-by-level.csv").open()))
    first = {row["row"]: row for row in rows if row["level"] == "1"}
    assert [float(first["auto"][key]) for key in ("no_think_percent", "low", "high")] == pytest.approx([99, 94, 100])
    # a forced mode's share was not estimated
    assert [first["no_think"][key] for key in ("no_think_percent", "low", "high")] == ["100.0", "", ""]


def test_the_same_folder_gives_the_same_bytes(folder, tmp_path):
    first, second = (write_report(folder, output=tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second


def test_text_of_a_folder_is_escaped(folder, tmp_path):
    odd = make_evaluation(tmp_path / "<img src=x>", model=HOSTILE)
    html, _ = (path.read_text() for path in write_report(folder, odd, output=tmp_path / "out"))
    assert "<img" not in html
    assert html.count("<script>") == 1


def test_a_folder_without_auto_shows_what_it_has(tmp_path):
    folder = make_evaluation(tmp_path / "forced", extras=False)
    content = json.loads((folder / "summary.json").read_text())
    del content["modes"]["auto"]
    (folder / "summary.json").write_text(json.dumps(content))
    write_samples(folder, [row | {"requested": "think", "index": 0} for row in samples()[1:]])
    html = write_report(folder)[0].read_text()
    assert "forced to think" in html
    assert html.count('<article class="card"') == 20


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["trained", "run"], r"run' holds no evaluation.json.*RUN/evaluations"),
        (["trained", "trained"], "'trained' is given twice"),
        (["trained"] * 9, "9 models are too many for one figure; give 8 or fewer"),
    ],
)
def test_folders_that_cannot_stand_together(folder, tmp_path, names, message):
    make_run(tmp_path / "run", num_steps=2)
    with pytest.raises(UserError, match=message) as caught:
        write_report(*(tmp_path / name for name in names), output=tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_several_folders_need_a_place(folder, tmp_path):
    with pytest.raises(UserError, match="--output"):
        write_report(folder, make_evaluation(tmp_path / "base"))


def test_an_evaluation_that_was_not_finished(folder):
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match=r"summary\.json: no such file: the evaluation was not finished"):
        write_report(folder)


@pytest.mark.parametrize("name", ["dial.json", "quality.json", "evaluation.json", "summary.json"])
def test_a_damaged_file_is_named(folder, name):
    (folder / name).write_text('{"half')
    with pytest.raises(UserError, match=re.escape(f"{name}: damaged (not valid JSON")):
        write_report(folder)


@pytest.mark.parametrize(
    "content", ["{}", '{"calibration": null}', '{"calibration": {"bins": [{}, 3]}}', '{"curve": [{}], "threshold": 1}']
)
@pytest.mark.parametrize("name", ["dial.json", "quality.json"])
def test_odd_extras_are_one_line(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name}: damaged \(\w+: Field required"):
        write_report(folder)


def test_transcripts_are_the_first_by_problem_not_the_first_that_ended(folder):
    """Samples lie in the order in which they ended, the shortest first."""
    first = samples()[1:]
    later = [row | {"problem_id": f"{row['problem_id']} later", "prompt": "came second"} for row in first]
    write_samples(folder, [*first, *later])
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(reversed(lines)))
    assert "came second" not in write_report(folder)[1].read_text()


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_a_long_dial_is_thinned_but_keeps_its_ends_and_the_threshold_in_use():
    dial = made_up_dial()
    curve = tuple(replace(dial.curve[0], threshold=1 - n / 1000) for n in range(1000))
    in_use = replace(dial.threshold, no_think_probability=curve[300].threshold)
    kept = thin_dial(replace(dial, curve=curve, threshold=in_use), count=10)
    assert kept == tuple(curve[n] for n in (0, 111, 222, 300, 333, 444, 555, 666, 777, 888, 999))


def test_colours_of_both_schemes_have_the_same_names_and_mix_between_their_ends():
    assert list(LIGHT) == list(DARK)
    assert mix_colours("#000000", "#ff8000", 0.5) == "#804000"
    assert (LIGHT["level-0"], LIGHT["level-10"]) == ("#ee9a52", "#4d2303")


def test_a_figure_for_papers_has_its_size_title_keys_and_light_colours():
    wide = Scores(0.5, (0.4, 0.6), 10.0, (8.0, 13.0), 0.5, (0.4, 0.6), 0.0, 9, {})
    scores = (wide, replace(wide, mean_tokens=40.0, tokens_interval=None))
    row = Row("auto", Key("a" * 30, "adapt"), scores, wide, forced=False)
    _, tokens, _ = LEVEL_CHARTS
    plot = plot_levels(("1", "2"), [row, row, row], tokens)
    shown = draw_picture(plot)
    # 320 points of 1/72 inch at 300 dpi; 196 points, 15 for the title, 15 for each of three long keys
    assert shown.pixels == (1333, int((196 + 4 * 15) / 72 * 300))
    assert LIGHT["adapt"].encode() in shown.svg
    assert b"var(" not in shown.svg
    assert b"<text" not in shown.svg  # letters are outlined: no font is needed
    assert "var(--adapt)" in draw_inline(plot)
    assert draw_for_paper(plot, "svg") == shown.svg
    assert shown.csv.decode().splitlines()[:3] == [
        "level,row,mean_tokens,low,high", f"1,{'a' * 30},10.0,8.0,13.0", f"2,{'a' * 30},40.0,,",
    ]  # fmt: skip


def test_bars_of_nothing_say_so():
    row = Row("auto", Key("auto", "adapt"), (None,), None, forced=False)
    for chart in LEVEL_CHARTS:
        assert "not recorded" in draw_inline(plot_levels(("1",), [row], chart))
        assert "not recorded" in draw_inline(plot_levels((), [], chart))


def test_csv_quotes_what_would_break_it():
    plot = Plot("x", "x", "", (), ("row", "value"), (('say "a, b"', 1.5), ("none", None)), lambda axes, paint: None)
    text = write_csv(plot).decode()
    assert list(csv.reader(io.StringIO(text))) == [["row", "value"], ['say "a, b"', "1.5"], ["none", ""]]


def test_a_label_goes_where_nothing_is():
    frame, own = (0.0, 0.0, 200.0, 100.0), (44.0, 42.0, 56.0, 58.0)
    right = position_label((50, 50), own, 40, [own], [], frame)
    assert right == (10, 0, (60, 42.5, 100, 57.5))
    left = position_label((50, 50), own, 30, [own], [right[2]], frame)
    assert left[:2] == (-10, 0)
    up = position_label((50, 50), own, 40, [own], [right[2], left[2]], frame)
    assert up[1] != 0


def test_the_line_to_a_label_crosses_no_other_label():
    frame, own = (20.0, 0.0, 200.0, 100.0), (44.0, 42.0, 56.0, 58.0)  # no room on the left
    beside, name = (60.0, 45.0, 100.0, 55.0), (52.0, 41.5, 59.0, 44.0)
    assert position_label((50, 50), own, 40, [own, beside], [], frame)[:2] == (10, -16)
    assert position_label((50, 50), own, 40, [own, beside], [name], frame)[:2] == (10, 16)


def test_the_summary_of_a_training_run_still_makes_the_training_report(tmp_path):
    run = make_run(tmp_path / "run", num_steps=3)
    assert summary()["modes"].keys() == json.loads((run / "summary.json").read_text())["modes"].keys()
    assert "<h2>Training</h2>" in write_report(run)[0].read_text()
