"""The main job from nothing to its report, in miniature of the miniature, through the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """
model = "tiny"
max_think_tokens = 60
max_no_think_tokens = 10
[train]
problems_per_level = 4
problems_per_step = 5
samples_per_problem = 4
steps = 3
reference_samples = 2
probe_every = 1
probe_problems_per_level = 2
checkpoint_every = 1
learning_rate = 1e-5
[evaluate]
problems_per_level = 6
"""
MODES = {"original_think", "original_no_think", "adaptthink", "adaptthink_think", "adaptthink_no_think"}


def adaptthink(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "adaptthink", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    (folder / "micro.toml").write_text(RECIPE)
    done = adaptthink(
        "demo", "--recipe", "micro.toml", "--output", "run", "--seed", "3", "--json", "copy.json", folder=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_summary_has_the_promised_form(folder):
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary == json.loads((folder / "copy.json").read_text())
    assert summary["seed"] == 3
    assert summary["delta"] == 0.05
    assert summary["objective"] == "sequence_mean"
    assert set(summary["modes"]) == MODES
    for mode in summary["modes"].values():
        assert set(mode["levels"]) == set("12345")
        for scores in (*mode["levels"].values(), mode["overall"]):
            assert set(scores) == {"accuracy", "mean_tokens", "no_think_share", "truncated_share", "n", "verdicts"}
            assert 0 <= scores["accuracy"] <= 1
        assert mode["overall"]["n"] == 30
    assert summary["modes"]["original_no_think"]["overall"]["no_think_share"] == 1
    assert summary["modes"]["adaptthink_think"]["overall"]["no_think_share"] == 0
    assert summary["peak_memory_mb"] > 100
    assert set(summary["seconds"]) >= {"reference", "train", "evaluate_original", "evaluate_trained", "total"}


def test_deltas_are_those_of_the_levels(folder):
    summary = json.loads((folder / "run" / "summary.json").read_text())
    new, old = (summary["modes"][name]["levels"] for name in ("adaptthink", "original_think"))
    accuracy = sum(new[level]["accuracy"] - old[level]["accuracy"] for level in old) / 5 * 100
    length = sum(new[level]["mean_tokens"] / old[level]["mean_tokens"] - 1 for level in old) / 5 * 100
    assert summary["delta_accuracy_points"] == pytest.approx(accuracy)
    assert summary["delta_length_percent"] == pytest.approx(length)


def test_everything_promised_is_in_the_run_folder(folder):
    run = folder / "run"
    for name in ("report.html", "report.md", "config.json", "manifest.json", "metrics.jsonl", "reference.jsonl"):
        assert (run / name).stat().st_size > 0, name
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    for name, num_samples in {"original": 2 * 30, "adaptthink": 3 * 30}.items():
        assert len((run / "evaluations" / name / "samples.jsonl").read_text().splitlines()) == num_samples
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000002", "step-000003"]


def test_the_folder_is_not_silently_overwritten(folder):
    again = adaptthink("demo", "--recipe", "micro.toml", "--output", "run", folder=folder)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "in use" in again.stderr


def test_the_saved_model_can_be_evaluated_and_diagnosed(folder):
    done = adaptthink(
        "evaluate", "run/model", "--recipe", "micro.toml", "--modes", "no_think", "--json", "e.json", folder=folder
    )
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((folder / "e.json").read_text())
    assert evaluation["modes"]["no_think"]["overall"]["no_think_share"] == 1
    done = adaptthink("doctor", "run/model", "--json", "d.json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "d.json").read_text())["ok"] is True


def test_training_resumes_from_the_command_line(folder):
    """Stop after two of three steps (as a crash would leave it), resume, and end at the same weights."""
    arguments = ("train", "micro.toml", "--seed", "3", "--output")
    assert adaptthink(*arguments, "whole", folder=folder).returncode == 0
    shutil.copytree(folder / "whole", folder / "broken")
    shutil.rmtree(folder / "broken" / "checkpoints" / "step-000003")
    shutil.rmtree(folder / "broken" / "model")
    resumed = adaptthink(*arguments, "broken", "--resume", folder=folder)
    assert resumed.returncode == 0, resumed.stderr
    whole, broken = ((folder / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken
    assert len(json.loads((folder / "broken" / "manifest.json").read_text())["attempts"]) == 2
