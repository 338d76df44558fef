"""Comparisons against numbers computed by hand, and what is refused."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from evaluations import SETTING, make_folder, outcomes
from rich.cells import cell_len
from statsmodels.stats.multitest import multipletests

from adaptthink.cli.compare import compare_job, make_comparison_tables, make_paper_table, write_mean_changes
from adaptthink.cli.console import console, show_text_table
from adaptthink.cli.layout import TextTable, lay_out
from adaptthink.cli.tables import to_markdown
from adaptthink.errors import UserError
from adaptthink.evaluation.compare import (
    Row,
    assign_sets,
    check_alike,
    compare,
    describe_differences,
    name_folders,
    read_rows,
)
from adaptthink.evaluation.statistics import share_difference
from adaptthink.modes import Mode
from adaptthink.problems import make_problem
from adaptthink.reproduction.paper import RESULTS

GRADER = {"version": 1, "boxed_only": True, "seconds": 2.0, "sympy": "1.14.0"}
A = [make_problem(f"a{n}", "1", source="gsm8k/test") for n in range(4)]
B = [make_problem(f"b{n}", "1", source="aime24/train") for n in range(4)]


def row(name, rights, *, tokens, mode=Mode.THINK, problems=(*A, *B), requested="auto", setting=SETTING, grader=GRADER):
    """A row from one list of right and wrong for each problem; `tokens` one number for each."""
    made = []
    for problem, values, count in zip(problems, rights, tokens, strict=True):
        made += outcomes({problem.id: values}, requested=requested, mode=mode, tokens=count)
    return Row(name, requested, setting, grader, {problem.id: problem for problem in problems}, made)


BASE = row(
    "base",
    [[1, 1], [1, 0], [0, 0], [1, 1], [0, 0], [0, 0], [1, 0], [0, 0]],
    tokens=[100, 100, 200, 200, 1000, 1200, 800, 1000],
)
NEW = row(
    "new",
    [[1, 1], [1, 1], [1, 0], [1, 1], [0, 0], [0, 0], [0, 0], [1, 1]],
    tokens=[50, 50, 100, 100, 900, 1080, 720, 900],
    mode=Mode.NO_THINK,
)


def test_the_papers_numbers_by_hand():
    comparison = compare([BASE, NEW])
    assert comparison.sets == {"gsm8k": 4, "aime24": 4}
    assert comparison.differences == ()
    base, new = comparison.rows
    assert [one.accuracy for one in base.sets.values()] == [0.125, 0.625]  # by name
    assert [one.accuracy for one in new.sets.values()] == [0.25, 0.875]
    assert [one.mean_tokens for one in base.sets.values()] == [1000, 150]
    assert [one.no_think_share for one in (*base.sets.values(), *new.sets.values())] == [0, 0, 1, 1]
    assert (base.changes, base.mean_change) == ({}, None)
    assert new.changes["gsm8k"].accuracy.interval.estimate == pytest.approx(0.25)
    assert new.changes["aime24"].tokens.interval.estimate == pytest.approx(-0.10)
    assert new.mean_change.accuracy.interval.estimate == pytest.approx((0.25 + 0.125) / 2)
    assert new.mean_change.tokens.interval.estimate == pytest.approx((-0.5 - 0.1) / 2)


def test_pass_at_k_by_hand():
    base = compare([BASE, NEW]).rows[0]
    assert {k: one.estimate for k, one in base.pass_at["gsm8k"].items()} == {1: 0.625, 2: 0.75}
    single = replace(BASE, outcomes=[one for one in BASE.outcomes if one.index == 0])
    uneven = replace(BASE, name="uneven", outcomes=[*single.outcomes, BASE.outcomes[1]])
    compared = compare([single, uneven]).rows
    assert [one.samples for one in compared] == [(1, 1), (1, 2)]
    assert all(pass_at == {} for one in compared for pass_at in one.pass_at.values())


def test_p_values_are_adjusted_over_rows_and_sets():
    many = [make_problem(f"m{n}", "1", source=f"{'xy'[n % 2]}/test") for n in range(40)]
    rights = {  # the second row is better on 6 and on 9 of 20 problems, the third on 7 and on 4
        "base": [[0] for _ in many],
        "second": [[int(n < (12 if n % 2 == 0 else 18))] for n in range(40)],
        "third": [[int(n < (14 if n % 2 == 0 else 8))] for n in range(40)],
    }
    rows = [row(name, values, tokens=[10 + n for n in range(40)], problems=many) for name, values in rights.items()]
    by_set = {one: [problem.id for problem in many if problem.source[0] == one] for one in "xy"}

    def values(name, one):
        return {p.id: value for p, value in zip(many, rights[name], strict=True) if p.id in by_set[one]}

    raw = [
        share_difference(values(name, one), values("base", one)).p_value for name in ("second", "third") for one in "xy"
    ]
    expected = multipletests(raw, method="holm")[1]
    comparison = compare(rows)
    found = [comparison.rows[n].changes[one].accuracy.p_value for n in (1, 2) for one in "xy"]
    assert found == pytest.approx(expected)
    assert found[0] > raw[0]
    verdicts = [comparison.rows[n].changes[one].accuracy.verdict for n in (1, 2) for one in "xy"]
    assert verdicts == ["not distinguishable", "higher", "higher", "not distinguishable"]


def test_one_source_is_split_by_level():
    levels = [make_problem(f"q{n}", "1", level=n, source="math500/test/Algebra") for n in (10, 2)]
    other = make_problem("q3", "1", level=2, source="math500/test/Geometry")
    assert list(assign_sets({p.id: p for p in (*levels, other)}).values()) == ["2", "2", "10"]
    families = [make_problem("q", "1", level=1, source=f"reasoning_gym/{name}/test") for name in ("gcd", "lcm")]
    assert set(assign_sets({p.id: p for p in families}).values()) == {"reasoning_gym/gcd", "reasoning_gym/lcm"}


def test_a_set_of_one_problem_has_no_length_interval():
    few = (*A[:1], *B)
    rights = [[1], [0], [1], [0], [1]]
    rows = [row(name, rights, tokens=[5, 6, 7, 8, 9], problems=few) for name in ("one", "two")]
    comparison = compare(rows)
    assert comparison.rows[0].sets["gsm8k"].tokens_interval is None
    assert comparison.rows[1].changes["gsm8k"].tokens is None
    assert comparison.rows[1].mean_change.tokens is None
    assert comparison.rows[1].changes["aime24"].tokens is not None
    assert comparison.rows[1].changes["gsm8k"].accuracy.verdict == "not distinguishable"
    assert "| two | gsm8k | – | – | – | – |" in to_markdown(make_comparison_tables(comparison)[-1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 1.0}, ["temperature is 0.6 in base and 1.0 in new"]),
        ({"max_think_tokens": 64, "top_p": 1.0}, ["top_p is 0.95 in base and 1.0 in new",
                                                  "max_think_tokens is 128 in base and 64 in new"]),
        ({"model": "other", "fingerprint": "else", "seed": 7}, []),
        ({"switch": "enable_thinking"}, []),  # both are auto: no mode is requested
    ],
)  # fmt: skip
def test_decoding_must_be_alike(change, named):
    assert describe_differences(BASE, replace(NEW, setting=replace(SETTING, **change))) == named


def test_how_the_mode_is_told_matters_where_it_is_told():
    forced = replace(NEW, requested="think", setting=replace(SETTING, switch="enable_thinking"))
    assert describe_differences(BASE, forced) == ["switch is None in base and enable_thinking in new"]


def test_other_problems_and_other_graders_are_refused_by_name():
    other = GRADER | {"seconds": 5.0, "sympy": "1.13.3"}
    fewer = row("new", [[1]] * 7, tokens=[1] * 7, problems=(*A, *B[:3]), grader=other)
    with pytest.raises(UserError, match=r"1 problems are in base only \(.*'b3'\)") as caught:
        check_alike([BASE, NEW, fewer])
    assert "the grader's seconds is 2.0 in base and 5.0 in new" in str(caught.value)
    assert "the grader's sympy is 1.14.0 in base and 1.13.3 in new" in str(caught.value)
    assert "boxed_only" not in str(caught.value)
    check_alike([BASE, NEW])


def test_a_forced_comparison_keeps_what_all_have_and_says_what_differs():
    fewer = row("fewer", [[1]] * 7, tokens=[1] * 7, problems=(*A, *B[:3]), setting=replace(SETTING, top_p=1.0))
    comparison = compare([BASE, NEW, fewer])
    assert comparison.sets == {"gsm8k": 4, "aime24": 3}
    assert comparison.rows[1].sets["aime24"].accuracy == 0  # without the problem that new had right
    assert [text.partition(" is")[0].partition(" problems")[0] for text in comparison.differences] == ["top_p", "1"]
    with pytest.raises(UserError, match="no problem is common to base, other"):
        compare([BASE, row("other", [[1]], tokens=[1], problems=[make_problem("z", "1")])])


def test_one_row_is_no_comparison():
    for rows in ([], [BASE]):
        check_alike(rows)
        with pytest.raises(UserError, match="nothing to be compared with"):
            compare(rows)


@pytest.fixture
def folders(tmp_path):
    right, wrong = "\\boxed{1}", "thought: hm. thought:\\boxed{9}"
    make_folder(tmp_path / "a/ev", {"auto": {0: [wrong], 1: [wrong]}, "think": {0: [wrong], 1: [wrong]}})
    make_folder(tmp_path / "b/ev", {"auto": {0: [right], 1: ["\\boxed{2}"]}})
    return tmp_path


def test_rows_are_read_and_named_apart(folders, monkeypatch):
    monkeypatch.chdir(folders)
    rows = read_rows(["a/ev", "b/ev:auto", "a/ev:think"])
    assert [one.name for one in rows] == ["a/ev", "b/ev", "a/ev:think"]
    assert [one.requested for one in rows] == ["auto", "auto", "think"]
    assert [sum(out.correct for out in one.outcomes) for one in rows] == [0, 2, 0]
    assert [one.name for one in read_rows(["a/ev", "a/ev:think"])] == ["ev", "ev:think"]
    assert len(rows[0].problems) == 2  # of six in the folder, those that were requested


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/ev", "b/ev:think"], r"'b/ev' holds no graded think responses: it has b/ev:auto"),
        (["a/ev:thinking", "b/ev"], "'a/ev:thinking': a folder holds auto, think, no_think, not 'thinking'"),
        (["a/ev", "./a/../a/ev"], "a row is given twice"),
        (["a/ev", "nowhere"], "'nowhere' holds no evaluation"),
    ],
)
def test_rows_that_are_not_there(folders, monkeypatch, names, message):
    monkeypatch.chdir(folders)
    with pytest.raises(UserError, match=message):
        read_rows(names)


def test_the_job_writes_markdown_and_returns_everything(folders, capsys):
    result = compare_job(
        [str(folders / "a/ev"), str(folders / "b/ev")], forced=False, markdown=folders / "out/table.md"
    )
    assert json.loads(json.dumps(result)) == result
    assert result["rows"][1]["mean_change"]["accuracy"]["interval"]["estimate"] == 1.0
    assert result["rows"][1]["mean_change"]["accuracy"]["verdict"] == "not distinguishable"  # two problems
    text = (folders / "out/table.md").read_text()
    assert "| b/ev | 100.0 / 5 / 100 | +100.0 | −75.0% |" in text
    assert "| a/ev | 0.0 / 20 / 0 | – | – |" in text
    assert "accuracy, % / mean tokens / no_think, %" in capsys.readouterr().out


PUBLISHED = {  # ΔAcc in points and ΔLength in percent, as the paper prints them
    "Original, NoThinking": ("−12.7", "−79.9%"), "DPO_shortest": ("+0.8", "−17.5%"), "OverThink": ("−0.8", "−16.5%"),
    "DAST": ("−0.6", "−42.1%"), "O1-Pruner": ("−1.0", "−33.9%"), "TLMRE": ("+2.0", "−25.3%"),
    "ModelMerging": ("−9.4", "−32.3%"), "RFT_MixThinking": ("−5.1", "−2.9%"),
    "AdaptThink, δ = 0.05": ("+2.4", "−53.0%"),
}  # fmt: skip


def test_the_papers_rows_give_the_changes_that_it_prints():
    base, *others = (RESULTS["1.5b"][name] for name in RESULTS["1.5b"])
    found = dict(zip([*RESULTS["1.5b"]][1:], (write_mean_changes(one, base) for one in others), strict=True))
    assert found == PUBLISHED


def test_the_paper_beside_ours_on_the_sets_that_both_have():
    table = make_paper_table(compare([BASE, NEW]), "7b")
    assert table.headings == ("", "gsm8k", "aime24", "ΔAcc", "ΔLength")
    assert table.rows[0] == ("base", "62.5 / 150 / 0", "12.5 / 1,000 / 0", "–", "–")
    assert table.rows[1] == ("new", "87.5 / 75 / 100", "25.0 / 900 / 100", "+18.8", "−30.0%")
    assert table.rows[-1] == (
        "paper: AdaptThink, δ = 0.05", "91.0 / 309 / 100", "55.6 / 8,599 / 6", "+2.6", "−35.6%",
    )  # fmt: skip
    unlike = [row(name, [[1]] * 4, tokens=[1] * 4, problems=A) for name in ("a", "b")]
    with pytest.raises(UserError, match="--paper: the paper has gsm8k, math500, aime24, these evaluations all"):
        make_paper_table(compare(unlike), "7b")


def test_markdown_is_harmless_whatever_a_folder_is_called():
    table = TextTable("t", ("", "x"), (("a|b*<c>", "1"),))
    assert to_markdown(table).splitlines()[-1] == "| a\\|b\\*&lt;c&gt; | 1 |"


def test_folders_are_named_by_as_many_parts_as_distinguish_them():
    paths = [Path("/runs/a/evaluation"), Path("/runs/b/evaluation"), Path("/other"), Path("/other")]
    assert name_folders(paths) == ["a/evaluation", "b/evaluation", "other", "other"]
    assert name_folders([Path("/runs/a"), Path("/runs/b")]) == ["a", "b"]
    assert name_folders([Path("/x"), Path("/y/x")]) == ["/x", "y/x"]


# ---- tables ---------------------------------------------------------------------------------------------------------


WIDE = TextTable(
    "t",
    ("", "", "accuracy, %", "mean tokens"),
    (("a-row-with-a-long-name:no_think", "Level 1", "100.0 (90.5–100.0)", "6.9 (6.6–7.0)"),
     ("a-row-with-a-long-name:no_think", "Level 2", "98.3 (90.9–100.0)", "12,073.0 (11,500.0–12,700.0)")),
    grouped=True,
)  # fmt: skip


def test_a_table_that_fits_is_laid_out_in_single_lines():
    assert list(lay_out(WIDE, 80)) == [
        ("                  accuracy, %                   mean tokens", True),
        ("─" * 59, False),
        ("a-row-with-a-long-name:no_think", True),
        ("  Level 1  100.0 (90.5–100.0)                 6.9 (6.6–7.0)", False),
        ("  Level 2   98.3 (90.9–100.0)  12,073.0 (11,500.0–12,700.0)", False),
    ]


def test_a_table_without_rows_is_its_headings():
    assert list(lay_out(TextTable("t", ("", ""), ()), 80)) == []
    assert [line for line, _ in lay_out(TextTable("t", ("", "x"), ()), 80)] == ["  x", "───"]


def test_a_narrow_table_breaks_neither_words_nor_intervals():
    assert [line for line, _ in lay_out(WIDE, 50)] == [
        "                  accuracy, %          mean tokens",
        "─" * 50,
        "a-row-with-a-long-name:no_think",
        "  Level 1  100.0 (90.5–100.0)        6.9 (6.6–7.0)",
        "  Level 2   98.3 (90.9–100.0)             12,073.0",
        "                               (11,500.0–12,700.0)",
    ]
    narrowest = [line for line, _ in lay_out(WIDE, 10)]
    assert {len(line) for line in narrowest if line.startswith("─")} == {7 + 2 + 12 + 2 + 19}
    assert [line.split() for line in narrowest[:2]] == [["accuracy,", "%", "mean", "tokens"], ["─" * 42]]


PAPER = TextTable(
    "accuracy, % / mean tokens / no_think, %",
    ("", *(f"Level {level}" for level in range(1, 6)), "ΔAcc"),
    (("e:think", *["100.0 / 22 / 0"] * 5, "–"), ("e", *["50.0 / 103 / 100"] * 5, "−10.0")),
)


def print_table(table, width, monkeypatch, capsys):
    monkeypatch.setattr(console, "_width", width)
    show_text_table(table)
    return capsys.readouterr().out.splitlines()


def test_columns_that_do_not_fit_become_a_list(monkeypatch, capsys):
    assert len(print_table(PAPER, 120, monkeypatch, capsys)) == 1 + 2 + 2 + 1
    lines = print_table(PAPER, 80, monkeypatch, capsys)
    assert lines[1:4] == ["e:think", "  Level 1  100.0 / 22 / 0", "  Level 2  100.0 / 22 / 0"]
    assert lines[-3:] == ["  Level 5  50.0 / 103 / 100", "  ΔAcc     −10.0", ""]
    assert print_table(WIDE, 40, monkeypatch, capsys)[1:4] == [
        "a-row-with-a-long-name:no_think, Level 1",
        "  accuracy, %  100.0 (90.5–100.0)",
        "  mean tokens  6.9 (6.6–7.0)",
    ]


@pytest.mark.parametrize("width", [60, 80])
def test_the_tables_of_a_comparison_fit_and_break_no_word(width, monkeypatch, capsys):
    for table in make_comparison_tables(compare([BASE, NEW])):
        lines = print_table(replace(table, note=""), width, monkeypatch, capsys)
        assert max(map(cell_len, lines)) <= width
        known = {word for text in (*table.headings, *chain.from_iterable(table.rows)) for word in text.split()}
        shown = {word for line in lines[1:] for word in line.split() if "─" not in word}
        assert {word.rstrip(",") for word in shown} <= {word.rstrip(",") for word in known}
