"""The main job from nothing to its report, in miniature of the miniature, through the command line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import WAIT_SECONDS

import adaptthink as at
from adaptthink.cli import jobs, pipeline
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import EvaluateConfig, TrainConfig
from adaptthink.engines.base import ScriptedEngine
from adaptthink.evaluation.scores import Evaluation, summarise
from adaptthink.storage.records import from_json, to_json

pytestmark = pytest.mark.slow
FEW_STEPS = (Path(__file__).parents[1] / "few_steps.toml").read_text()
RECIPE = FEW_STEPS.replace("[train]\n", "[train]\nprobe_every = 1\ncheckpoint_every = 1\n")
METRICS_OF_SETTINGS = {  # that this recipe does not have, or that come only where something is wrong
    "alarms", "skipped", "mismatch_masked", "probe_accuracy", "probe_mean_tokens", "probe_sampled_no_think_share",
    "generate_roofline_seconds", "update_roofline_seconds",
}  # fmt: skip
MODES = {"original_think", "original_no_think", "adaptthink", "adaptthink_think", "adaptthink_no_think"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    (folder / "micro.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "adaptthink", "demo", "--recipe", "micro.toml", "--output", "run", "--seed", "3"]
    command += ["--json", "copy.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def adaptthink(folder, run, monkeypatch):
    """Run a command in the demo's folder, in this process: what a new one has to import takes most of its time."""
    monkeypatch.chdir(folder)
    return run


def test_the_reference_names_all_that_a_run_leaves(folder):
    """docs/reference/metrics.md has the names in metrics.jsonl and no others, files.md the files in the folder."""
    pages = Path(__file__).resolve().parents[2] / "docs" / "reference"
    rows = re.findall(r"^\| (`.+?`) \|", (pages / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = {name.strip("`") for row in rows for name in row.split(", ")}
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert set().union(*map(json.loads, lines)) - {"alarms"} == named - METRICS_OF_SETTINGS
    files = (pages / "files.md").read_text(encoding="utf-8").split("## Reference store")[0]
    for path in (folder / "run").iterdir():
        assert f"`{path.name}" in files, path.name


def test_summary_has_the_promised_form(folder):
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary == json.loads((folder / "copy.json").read_text())
    assert summary["seed"] == 3
    assert summary["delta"] == 0.05
    assert summary["method"] == "adaptthink"
    assert set(summary["modes"]) == MODES
    for mode in summary["modes"].values():
        assert set(mode["levels"]) == set("12345")
        for scores in (*mode["levels"].values(), mode["overall"]):
            assert set(scores) == {
                "accuracy", "accuracy_interval", "mean_tokens", "tokens_interval", "no_think_share",
                "no_think_interval", "truncated_share", "n", "verdicts", "tokens_per_correct",
                "tokens_per_correct_interval",
            }  # fmt: skip
            assert 0 <= scores["accuracy"] <= 1
        assert mode["overall"]["n"] == 30
    assert summary["modes"]["original_no_think"]["overall"]["no_think_share"] == 1
    assert summary["modes"]["adaptthink_think"]["overall"]["no_think_share"] == 0
    assert summary["peak_memory_mb"] > 100
    assert set(summary["seconds"]) >= {
        "reference",
        "train",
        "evaluate_original",
        "evaluate_trained",
        "calibrate",
        "total",
    }
    dial = json.loads((folder / "run/evaluations/adaptthink/dial.json").read_text())
    assert dial["threshold"]["certified"] is False  # with so few problems


def test_deltas_are_those_of_the_levels(folder):
    summary = json.loads((folder / "run" / "summary.json").read_text())
    new, old = (summary["modes"][name]["levels"] for name in ("adaptthink", "original_think"))
    accuracy = sum(new[level]["accuracy"] - old[level]["accuracy"] for level in old) / 5 * 100
    length = sum(new[level]["mean_tokens"] / old[level]["mean_tokens"] - 1 for level in old) / 5 * 100
    assert summary["delta_accuracy_points"] == pytest.approx(accuracy)
    assert summary["delta_length_percent"] == pytest.approx(length)
    change = summary["changes"]["adaptthink"]
    assert 100 * change["accuracy"]["interval"]["estimate"] == pytest.approx(accuracy)
    assert 100 * change["tokens"]["interval"]["estimate"] == pytest.approx(length)
    assert 100 * change["accuracy"]["interval"]["low"] <= accuracy <= 100 * change["accuracy"]["interval"]["high"]
    assert set(summary["changes"]) == MODES - {"original_think"}


def test_a_certified_threshold_has_a_row_of_its_own_and_the_headline(folder):
    """With a tolerance that fifteen problems can certify: what it answers the other fifteen with."""
    run = folder / "dialled"
    shutil.copytree(folder / "run", run)
    recipes = (str(folder / "micro.toml"),)
    evaluation = resolve("evaluate", EvaluateConfig, recipes=recipes, flags={"seed": 3})
    problems, model = jobs.load_evaluation_problems(evaluation), at.load(run / "model")
    engine = ScriptedEngine(lambda prompt, prefix: pytest.fail("sampled"))
    answers = pipeline.calibrate_run(model, engine, run, problems, evaluation, 90.0)
    assert len({one.problem_id for one in answers}) == 15
    dial = json.loads((run / "model" / "adaptthink.json").read_text())["threshold"]
    summary = json.loads((run / "summary.json").read_text())
    rows = {name: from_json(Evaluation, one) for name, one in summary["modes"].items()}
    original = {"original_think": "auto", "original_no_think": "no_think"}
    found = json.loads(
        json.dumps(
            to_json(
                pipeline.conclude(
                    run,
                    resolve("train", TrainConfig, recipes=recipes, flags={"seed": 3}),
                    rows | {pipeline.DIAL: summarise(answers)},
                    pipeline.compare_rows_of_run(run, original, answers),
                    {},
                )
            )
        )
    )
    point = dial["held_out"]["point"]
    overall = found["modes"][pipeline.DIAL]["overall"]
    assert overall["accuracy"] == pytest.approx(point["accuracy"])
    assert overall["mean_tokens"] == pytest.approx(point["mean_tokens"])
    assert overall["no_think_share"] == pytest.approx(point["no_think_share"])
    change = found["changes"][pipeline.DIAL]
    assert found["delta_accuracy_points"] == pytest.approx(100 * change["accuracy"]["interval"]["estimate"])
    page, text = ((run / name).read_text() for name in ("report.html", "report.md"))
    assert "at the threshold" in page
    assert "AdaptThink, dial" in page
    assert "at the threshold" in text


def test_the_model_card_says_how_it_was_made_and_how_good_it_is(folder):
    card = (folder / "run" / "model" / "README.md").read_text()
    assert "Backend: native" in card
    assert card.count("## Evaluation") == 1


def test_everything_promised_is_in_the_run_folder(folder):
    run = folder / "run"
    for name in ("report.html", "report.md", "config.json", "manifest.json", "metrics.jsonl", "reference.jsonl"):
        assert (run / name).stat().st_size > 0, name
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    for name, modes in {"original": {"auto", "no_think"}, "adaptthink": {"auto", "think", "no_think"}}.items():
        evaluation = run / "evaluations" / name
        assert len((evaluation / "samples.jsonl").read_text().splitlines()) == 30 * len(modes)
        assert set(json.loads((evaluation / "summary.json").read_text())["modes"]) == modes


def test_its_evaluations_stand_in_one_report(folder, adaptthink):
    evaluations = [f"run/evaluations/{name}" for name in ("original", "adaptthink")]
    status, _, err = adaptthink("report", *evaluations, "--output", "both", "--figures", "figures")
    assert status == 0, err
    page = (folder / "both" / "report.html").read_text()
    assert "Evaluations: original, adaptthink" in page
    assert "Not evaluated alike" not in page
    assert (folder / "figures" / "accuracy-and-tokens.png").is_file()


def test_an_evaluation_in_fewer_modes_does_not_drop_the_others_from_the_summary(folder, adaptthink):
    shutil.copytree(folder / "run" / "evaluations" / "adaptthink", folder / "copy")
    args = ("--recipe", "micro.toml", "--seed", "3", "--modes", "think", "--output", "copy", "--json", "think.json")
    status, _, err = adaptthink("evaluate", "run/model", *args)
    assert status == 0, err
    before, after = (
        json.loads((where / "summary.json").read_text())["modes"]
        for where in (folder / "run" / "evaluations" / "adaptthink", folder / "copy")
    )
    assert after == before
    assert set(json.loads((folder / "think.json").read_text())["modes"]) == {"think"}


def test_the_last_two_checkpoints_are_kept(folder):
    run = folder / "run"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000002", "step-000003"]


def test_the_folder_is_not_silently_overwritten(adaptthink):
    status, _, err = adaptthink("demo", "--recipe", "micro.toml", "--output", "run")
    assert status == 2
    assert err.count("\n") == 1
    assert "in use" in err


def test_the_saved_model_can_be_evaluated_and_diagnosed(folder, adaptthink):
    args = ("--recipe", "micro.toml", "--modes", "no_think", "--json", "e.json")
    status, _, err = adaptthink("evaluate", "run/model", *args)
    assert status == 0, err
    evaluation = json.loads((folder / "e.json").read_text())
    assert evaluation["modes"]["no_think"]["overall"]["no_think_share"] == 1
    status, _, err = adaptthink("doctor", "run/model", "--json", "d.json")
    assert status == 0, err
    assert json.loads((folder / "d.json").read_text())["ok"] is True


def test_training_resumes_from_the_command_line(folder, adaptthink):
    """Stop after two of three steps (as a crash would leave it), resume, and end at the same weights."""
    arguments = ("train", "micro.toml", "--seed", "3", "--output")
    status, out, err = adaptthink(*arguments, "whole")
    assert status == 0, err
    assert "report whole/report.html" in out
    page = (folder / "whole" / "report.html").read_text()
    assert "The training has ended. Its model has not been evaluated" in page
    assert page.count("<figure>") == 10
    status, out, err = adaptthink("watch", "whole")
    assert (status, err) == (0, "")
    assert re.findall(r"^ *(\d/3)", out, re.MULTILINE) == ["1/3", "2/3", "3/3"]
    assert "the training has ended after 3 steps" in out
    shutil.copytree(folder / "whole", folder / "broken")
    shutil.rmtree(folder / "broken" / "checkpoints" / "step-000003")
    shutil.rmtree(folder / "broken" / "model")
    status, _, err = adaptthink(*arguments, "broken", "--resume")
    assert status == 0, err
    whole, broken = ((folder / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken
    assert len(json.loads((folder / "broken" / "manifest.json").read_text())["attempts"]) == 2
    (folder / "broken" / "model" / "adaptthink.json").write_text("a dial")
    assert adaptthink(*arguments, "broken", "--resume")[0] == 0  # nothing is left to do
    assert (folder / "broken" / "model" / "adaptthink.json").read_text() == "a dial"
