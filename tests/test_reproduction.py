"""Claims against made-up runs whose truth is known, and the commands that the real ones are made of."""

import csv
import itertools
import json
import math
from html import unescape

import pytest

from adaptthink.cli import reproduce as reproduce_jobs
from adaptthink.cli.job_queue import Command, Job, run_jobs
from adaptthink.cli.reproduce import FULL, QUICK, list_stages, reproduce_job
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import EvaluateConfig, PresampleConfig, TrainConfig
from adaptthink.errors import UserError
from adaptthink.evaluation.statistics import Interval, difference_of_groups
from adaptthink.evaluation.store import Outcome
from adaptthink.grading import Verdict
from adaptthink.modes import Mode
from adaptthink.report import write_report
from adaptthink.reproduction.claims import check_claims, check_implicit_thinking, check_pilot, check_ratio
from adaptthink.reproduction.runs import MAIN, Design, Runs
from adaptthink.reproduction.tables import Reproduction, make_tables
from adaptthink.reproduction.verdicts import Claim, average_seeds
from adaptthink.storage.records import from_json, to_json

SEEDS = (0, 1, 2)


def claim(low, high, by_seed=(), *, above=True, bound=0.0):
    return Claim("", "", "", "", "points", (low + high) / 2, low, high, by_seed, bound, above)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (claim(1, 3, (2, 2, 2)), "reproduced"),
        (claim(1, 3, (5, 4, -1)), "undecided"),  # one seed points the other way
        (claim(-1, 3, (1, 1, 1)), "undecided"),
        (claim(-3, -1, (-2, -2, -2)), "not reproduced"),
        (claim(-3, -1, (-2, -2, -2), above=False), "reproduced"),
        (claim(1, 3, (2, 2, 2), above=False), "not reproduced"),
        (claim(-4, -2, (-3,), bound=-5), "reproduced"),
        (claim(-4, -2, (-3,), bound=-1), "not reproduced"),
        (claim(-math.inf, math.inf, (2,), bound=1), "undecided"),
    ],
)
def test_a_verdict_follows_from_interval_and_seeds(given, verdict):
    assert given.verdict == verdict


def test_over_seeds_by_hand():
    interval = average_seeds([1.0, 2.0, 3.0])
    assert interval.estimate == 2
    assert interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)  # t, two degrees of freedom
    assert average_seeds([1.0]).high == math.inf


def test_a_difference_of_groups_by_hand():
    found = difference_of_groups(Interval(0.5, 0.4, 0.7, 0.95, 10), Interval(0.1, 0.0, 0.2, 0.95, 20))
    assert found.estimate == pytest.approx(0.4)
    assert found.low == pytest.approx(0.4 - math.hypot(0.1, 0.1))
    assert found.high == pytest.approx(0.4 + math.hypot(0.2, 0.1))


def outcomes(requested, mode_of, right, tokens, *, per_level=100):
    """One outcome a problem; `mode_of`, `right` and `tokens` are functions of the level (and the problem's number)."""
    return [
        Outcome(
            f"{level}-{number}", str(level), requested, 0, mode_of(level),
            Verdict.CORRECT if right(level, number) else Verdict.WRONG, tokens(level) + number % 3, 0,
        )
        for level, number in itertools.product(range(1, 6), range(per_level))
    ]  # fmt: skip


def think(level):
    return Mode.THINK


def no_think(level):
    return Mode.NO_THINK


def by_level(level):
    return Mode.NO_THINK if level <= 3 else Mode.THINK


def made_up_runs(*, grpo_mode=think, price=True):
    original = [
        *outcomes("think", think, lambda level, number: number % 10 or level < 4, lambda level: 40 * level),
        *outcomes("no_think", no_think, lambda level, number: level < 4, lambda level: 7),
    ]

    def trained(mode_of, right=lambda level, number: True):
        choose = outcomes("auto", mode_of, right, lambda level: 7 if mode_of(level) is Mode.NO_THINK else 40 * level)
        return dict.fromkeys(SEEDS, choose)

    def rising(slope):
        rows = [{"step": step, "probe_no_think_logprob": -10 + slope * (step - 1)} for step in (1, 30, 60)]
        return {seed: [row | {"step": row["step"]} for row in rows] for seed in SEEDS}

    wrong_where_hard = (lambda level, number: level < 4) if price else (lambda level, number: True)
    return Runs(
        original_chain=original,
        original_story=original,
        chain={
            MAIN: trained(by_level),
            "grpo": trained(grpo_mode),
            "delta_0": trained(think),
            "delta_0.1": trained(no_think, wrong_where_hard),
        },
        story=trained(by_level),
        implicit={seed: {f"p{number}": [0.0] for number in range(100)} for seed in SEEDS},
        metrics={MAIN: rising(0.1), "grpo": rising(0.0), "ratio_sequence": rising(0.0), "ratio_token": rising(0.0)},
    )


@pytest.fixture(scope="module")
def as_in_the_paper():
    """Runs that show what the paper shows, and the claims held against them."""
    runs = made_up_runs()
    return runs, tuple(check_claims(runs))


def test_runs_that_show_what_the_paper_shows(as_in_the_paper):
    found = {one.name: one for one in as_in_the_paper[1]}
    verdicts = {name: one.verdict for name, one in found.items() if not name.startswith("ratio")}
    assert set(verdicts.values()) == {"reproduced"}
    # by hand: three levels at 7 + 0..2 tokens instead of 40, 80 and 120 + 0..2, two levels unchanged
    shift = sum(number % 3 for number in range(100)) / 100
    change = sum((7 + shift) / (40 * level + shift) - 1 for level in (1, 2, 3)) / 5
    assert found["main: shorter"].estimate == pytest.approx(100 * change)
    assert found["main: more accurate"].estimate == pytest.approx(100 * 2 * 0.1 / 5)
    assert found["main: thinks where it is hard"].estimate == pytest.approx(100)
    assert found["delta: at a price"].estimate == pytest.approx(-40)
    assert found["main: shorter"].by_seed == pytest.approx([100 * change] * 3)


def test_a_ratio_that_starts_is_ahead_on_every_seed(as_in_the_paper):
    one = next(one for one in as_in_the_paper[1] if one.name.startswith("ratio"))
    assert one.by_seed == pytest.approx([5.9] * 3)
    assert one.verdict == "reproduced"


def test_runs_that_show_the_opposite():
    found = {one.name: one.verdict for one in check_claims(made_up_runs(grpo_mode=by_level, price=False))}
    assert found["sampling: plain GRPO never tries"] == "not reproduced"
    assert found["sampling: and stays long"] == "undecided"
    assert found["delta: at a price"] != "reproduced"


def written(folder, runs, claims):
    """Write what the command writes of runs."""
    content = to_json(Reproduction(FULL, claims, make_tables(runs)))
    (folder / "reproduction.json").write_text(json.dumps(content))
    return content


@pytest.mark.slow
def test_the_report_shows_every_claim_and_the_numbers_of_every_picture(tmp_path, as_in_the_paper):
    content = written(tmp_path, *as_in_the_paper)
    html, markdown = write_report(tmp_path, figure_folder=tmp_path / "figures")
    for claim in content["claims"]:
        assert claim["statement"] in unescape(html.read_text())
        assert claim["paper"] in markdown.read_text()
    assert markdown.read_text().count("**reproduced**") == len(content["claims"])
    rows = list(csv.DictReader((tmp_path / "figures" / "delta-accuracy.csv").open()))
    # by hand: at δ = 0 always right, the original on 90% of levels 4 and 5; there never right at δ = 0.1
    ours = {float(row["delta"]): float(row["value"]) for row in rows if row["where"] == "here"}
    assert ours == pytest.approx({0: 4, 0.05: 4, 0.1: -36})
    assert [float(row["value"]) for row in rows if row["where"] == "paper"][3] == 2.4  # the main result, δ = 0.05
    [last] = [
        row for row in csv.DictReader((tmp_path / "figures" / "ratios.csv").open())
        if (row["training"], row["seed"], row["step"]) == ("main", "1", "60.0")
    ]  # fmt: skip
    assert float(last["value"]) == pytest.approx(-4.1)


def test_a_result_comes_back_as_it_was_written(as_in_the_paper):
    """One seed leaves the ratios without an interval: JSON has no infinity, and null stands for it."""
    runs, claims = as_in_the_paper
    of_one_seed = check_ratio({name: {0: by_seed[0]} for name, by_seed in runs.metrics.items()})
    result = Reproduction(QUICK, (*claims, *of_one_seed), make_tables(runs))
    assert math.inf in {claim.high for claim in result.claims}
    assert from_json(Reproduction, json.loads(json.dumps(to_json(result), allow_nan=False))) == result


def test_a_damaged_result_is_one_line(tmp_path, as_in_the_paper):
    content = written(tmp_path, *as_in_the_paper)
    del content["tables"]["story"]
    (tmp_path / "reproduction.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"reproduction\.json: damaged \(tables\.story: Field required\)"):
        write_report(tmp_path)


@pytest.mark.parametrize("design", [FULL, QUICK])
def test_every_command_of_a_design_has_settings_that_resolve(design, tmp_path):
    jobs = [job for stage in list_stages(tmp_path, design) for job in stage]
    schemas = {"train": TrainConfig, "presample": PresampleConfig, "evaluate": EvaluateConfig}
    for command in (command for job in jobs for command in job.commands):
        name, *rest = command.arguments
        recipes = [part for part in rest if part == "reproduce" or part.startswith("reproduce/")]
        assert recipes[0] == "reproduce"
        config = resolve(name, schemas[name], recipes=recipes)
        if name == "train" and "grpo" in recipes[-1]:
            assert (config.method, config.no_think_share) == ("grpo", 0)
            assert config.samples_per_problem * config.problems_per_step == 320
    assert len({job.name for job in jobs}) == len(jobs)
    assert len(design.seeds) == (3 if design is FULL else 1)


@pytest.mark.slow
def test_a_failed_command_is_named_and_stops_the_others(tmp_path):
    bad = Job("bad", (Command(("report", str(tmp_path / "nowhere")), tmp_path / "never"),))
    with pytest.raises(
        UserError, match=r"bad failed: adaptthink: .*no training to report.*the same command goes on from here"
    ):
        run_jobs([bad], tmp_path / "logs")
    assert "adaptthink report" in (tmp_path / "logs" / "bad.txt").read_text()


def test_what_is_done_is_not_run_again(tmp_path):
    (tmp_path / "done").touch()
    run_jobs([Job("done", (Command(("no such command",), tmp_path / "done"),))], tmp_path / "logs")
    assert not (tmp_path / "logs" / "done.txt").exists()


@pytest.mark.slow
def test_the_whole_command_in_miniature(tmp_path, monkeypatch):
    """Two steps of the main training, twice: the second time nothing is left to run. Claims and report: see above."""
    monkeypatch.setattr(reproduce_jobs, "QUICK", Design((0,), (MAIN,), 2, 40, 2))
    monkeypatch.setattr(
        reproduce_jobs,
        "check_claims",
        lambda runs: [*check_pilot(runs.original_chain), check_implicit_thinking(runs.implicit)],
    )
    monkeypatch.setattr(reproduce_jobs, "write_report", lambda run: (run / "report.html", run / "report.md"))
    monkeypatch.setattr(reproduce_jobs, "make_tables", lambda runs: {"main": len(runs.chain[MAIN][0])})
    result = reproduce_job(tmp_path / "run", quick=True, clean=False)
    assert result["tables"] == {"main": 30}  # ten problems in each of three modes
    assert json.loads((tmp_path / "run" / "reproduction.json").read_text()) == result
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "logs").iterdir()}
    assert reproduce_job(tmp_path / "run", quick=True, clean=False) == result
    assert logs == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "logs").iterdir()}
    with pytest.raises(UserError, match="design was 'quick' and is now 'full'"):
        reproduce_job(tmp_path / "run", quick=False, clean=False)
