"""What a path is, and the message for a wrong one."""

import json
import os
import sys

import pytest

from adaptthink.cli import app as cli
from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.storage.kinds import PathKind, expect, identify

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # sys.argv is ours

FILES = {  # what makes each path what it is
    "run/config.json": TrainConfig().model_dump(mode="json"),
    "run/reference.jsonl": {"settings": {"samples": 2}},
    "run/model/config.json": {"model_type": "qwen2"},
    "run/model/adaptthink.json": {"threshold": {}, "fingerprint": "a", "choices": []},
    "adapter/adapter_config.json": {"peft_type": "LORA"},
    "reproduction/config.json": {"design": "quick"},
    "benchmark/config.json": {"benchmark": "tiny"},
    "evaluation/evaluation.json": {"model": "tiny"},
    "evaluation/samples.jsonl": {"problem_id": "1", "requested": "auto"},
    "evaluation/verdicts.jsonl": {"grader": "1"},
    "scores.jsonl": {"scores": {"model": "tiny"}},
    "problems.jsonl": {"question": "1+1=?", "answer": "2"},
    "problems.json": [{"prompt": "1+1=?", "answer": "2"}],
    "numbers.json": [1, 2],
    "other/notes.json": {"mine": True},
}
KINDS = {
    "run": PathKind.RUN,
    "run/reference.jsonl": PathKind.STORE,
    "run/model": PathKind.MODEL,
    "run/model/adaptthink.json": PathKind.DIAL,
    "adapter": PathKind.ADAPTER,
    "reproduction": PathKind.REPRODUCTION,
    "benchmark": PathKind.BENCHMARK,
    "evaluation": PathKind.EVALUATION,
    "evaluation/samples.jsonl": PathKind.ROWS,
    "evaluation/verdicts.jsonl": PathKind.ROWS,
    "scores.jsonl": PathKind.SCORES,
    "problems.jsonl": PathKind.PROBLEMS,
    "problems.json": PathKind.PROBLEMS,
    "problems.csv": PathKind.PROBLEMS,
    "mine.toml": PathKind.RECIPE,
    "numbers.json": PathKind.OTHER,
    "cut.jsonl": PathKind.OTHER,
    "other": PathKind.OTHER,
    "nowhere": PathKind.NOTHING,
}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    for variable in [name for name in os.environ if name.startswith("ADAPTTHINK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) + "\n")
    with (tmp_path / "run/reference.jsonl").open("a") as file:
        file.write('{"id": "1"}\n')
    (tmp_path / "run/model/adaptthink.json").write_text(json.dumps(FILES["run/model/adaptthink.json"], indent=1))
    (tmp_path / "problems.csv").write_text("prompt,answer\n1+1=?,2\n")
    (tmp_path / "mine.toml").write_text("steps = 3\n")
    (tmp_path / "cut.jsonl").write_text('{"settings": {"samp')
    return tmp_path


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_every_kind_is_told_from_the_others(folder, name, kind):
    assert identify(folder / name) is kind


def test_what_is_wanted_what_is_missing_and_what_is_not_known_passes(folder):
    expect(folder / "run", "--output", PathKind.RUN)
    expect(folder / "run", "report", PathKind.EVALUATION, PathKind.RUN)
    expect(folder / "nowhere", "--output", PathKind.RUN)
    expect(folder / "other", "--output", PathKind.RUN)
    with pytest.raises(
        UserError, match="and an evaluation's folder or a training run's folder is needed; adaptthink ev"
    ):
        expect(folder / "problems.csv", "report", PathKind.EVALUATION, PathKind.RUN)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "evaluate tiny --difficulty-from run/reference.jsonl",
            "--difficulty-from: 'run/reference.jsonl' is a reference store, and an evaluation's folder is needed; "
            "adaptthink evaluate MODEL --output FOLDER makes one",
        ),
        (
            "train --reference evaluation",
            "--reference: 'evaluation' is an evaluation's folder, and a reference store is needed; "
            "adaptthink presample makes one",
        ),
        (
            "plan --gpus H100 --reference run",
            "--reference: 'run' is a training run's folder, and a reference store is needed; "
            "give 'run/reference.jsonl'",
        ),
        (
            "evaluate run",
            "model: 'run' is a training run's folder, and a model folder is needed; give 'run/model'",
        ),
        (
            "doctor evaluation",
            "model: 'evaluation' is an evaluation's folder, and a model folder is needed; "
            "adaptthink train leaves one in its run folder, under model",
        ),
        (
            "train --model run --dry-run",
            "model: 'run' is a training run's folder, and a model folder is needed; give 'run/model'",
        ),
        (
            "train problems.jsonl",
            "recipe: 'problems.jsonl' is a problem file, and a recipe is needed; recipes are TOML files",
        ),
        (
            "serve tiny --recipe run",
            "recipe: 'run' is a training run's folder, and a recipe is needed; recipes are TOM",
        ),
        (
            "presample --problems evaluation/samples.jsonl",
            "problems: 'evaluation/samples.jsonl' is a file out of an evaluation's folder, and a problem file is",
        ),
        ("presample --output evaluation", "--output: 'evaluation' is an evaluation's folder, and a reference store is"),
        ("calibrate tiny --output run", "--output: 'run' is a training run's folder, and an evaluation's folder is"),
        ("train --output evaluation", "--output: 'evaluation' is an evaluation's folder, and a training run's folder"),
        (
            "compare run",
            "compare: 'run' is a training run's folder, and an evaluation's folder is needed; adaptthink ev",
        ),
        (
            "report run/model",
            "report: 'run/model' is a model folder, and a training run's folder or an evaluation's fol",
        ),
        ("decide tiny 1+1=? --dial run/model", "--dial: 'run/model' is a model folder, and a calibrated threshold"),
        ("data check mine.toml", "problems: 'mine.toml' is a recipe, and a problem file is needed"),
        ("data check arithmetic --against run/reference.jsonl", "problems: 'run/reference.jsonl' is a reference store"),
    ],
)
def test_the_wrong_path_is_named_for_what_it_is(monkeypatch, capfd, folder, args, message):
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["adaptthink", *args.split()])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capfd.readouterr()
    assert (caught.value.code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith(f"adaptthink: {message}")
    assert sorted(folder.rglob("*")) == before


def test_a_shipped_recipe_is_found_beside_a_folder_of_its_name(folder, monkeypatch, capfd):
    (folder / "reproduction").rename(folder / "reproduce")
    monkeypatch.setattr(sys, "argv", ["adaptthink", "train", "reproduce", "--dry-run"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert "steps = 165" in capfd.readouterr().out
