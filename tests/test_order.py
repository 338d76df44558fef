"""No result depends on the order of the lines that it is computed from: the same bytes come out of shuffled files."""

import json
import random
from dataclasses import asdict

import pytest
from evaluations import SETTING

from adaptthink.dial.curve import measure
from adaptthink.dial.stored import calibrate
from adaptthink.evaluation.compare import compare, read_rows
from adaptthink.evaluation.mode_choice import assess_mode_choice
from adaptthink.evaluation.scores import summarise
from adaptthink.evaluation.store import read_decisions, read_outcomes, read_setting
from adaptthink.modes import Convention
from adaptthink.problems import make_problem
from adaptthink.reproduction.verdicts import compare_trainings, measure_accuracy_change, measure_length_change
from adaptthink.storage.records import to_json

FILES = ("problems.jsonl", "samples.jsonl", "verdicts.jsonl", "decisions.jsonl")
HEADERS = {"verdicts.jsonl": 1}  # lines that stay first
NUM_PROBLEMS = 40  # of which more than 13 differ, so that p-values are sampled


def write_evaluation(folder, seed):
    """An evaluation of two sets and three levels with token counts whose sums round differently in another order."""
    rng = random.Random(seed)
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(to_json(SETTING)))
    rows = {name: [] for name in FILES}
    rows["verdicts.jsonl"].append({"grader": {"version": 1}})
    for number in range(NUM_PROBLEMS):
        problem = make_problem(f"{number}?", "1", level=number % 3, source=f"set{number % 2}")
        id_ = problem.id
        rows["problems.jsonl"].append(asdict(problem))
        mass = rng.random() / 2
        rows["decisions.jsonl"].append({"problem_id": id_, "no_think_probability": mass, "think_probability": mass})
        for requested in ("auto", "think", "no_think"):
            for index in range(3):
                mode = requested if requested != "auto" else rng.choice(["think", "no_think"])
                key = {"problem_id": id_, "requested": requested, "index": index}
                sample = {"mode": mode, "thinking": None, "answer": rng.choice(["1", "Wait, 1"]), "finish": "stop"}
                sample |= {"tokens": rng.randint(1, 120), "thinking_tokens": 0, "seed": index}
                rows["samples.jsonl"].append(key | sample)
                verdicts = ["correct"] * (2 + seed) + ["wrong", "truncated"] + ["reference_unparsable"] * (number == 0)
                verdict = rng.choice(verdicts)
                rows["verdicts.jsonl"].append(key | {"verdict": verdict, "extracted": "1", "rule": "exact"})
    for name, content in rows.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))


def shuffle(folder, seed):
    for name in FILES:
        lines = (folder / name).read_text().splitlines(keepends=True)
        first = HEADERS.get(name, 0)
        rest = lines[first:]
        random.Random(f"{seed}{name}").shuffle(rest)
        (folder / name).write_text("".join(lines[:first] + rest))


def compute_everything(folders):
    """What evaluate, compare, calibrate and reproduce make of two evaluations, as JSON."""
    outcomes = [read_outcomes(folder) for folder in folders]
    dial = calibrate(
        measure(outcomes[0], read_decisions(folders[0])), read_setting(folders[0]), "s", tolerance=0.6, token_budget=100
    )
    by_seed = [{0: one, 1: two} for one, two in (outcomes, outcomes[::-1])]
    found = {
        "evaluate": summarise(outcomes[0]),
        "quality": assess_mode_choice(folders[0], convention=Convention.SWITCH, delta=0.05),
        "compare": compare(read_rows([f"{folder}:{mode}" for mode in ("auto", "think") for folder in folders])),
        "calibrate": to_json(dial) | {"date": ""},
        "reproduce": [
            compare_trainings(*by_seed, measure) for measure in (measure_accuracy_change, measure_length_change)
        ],
    }
    return {name: json.dumps(to_json(value)) for name, value in found.items()}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(found):
        write_evaluation(folder, seed)
    return found


@pytest.mark.slow
def test_shuffled_lines_give_the_same_bytes(folders):
    before = compute_everything(folders)
    assert json.loads(before["compare"])["rows"][1]["mean_change"]["accuracy"]["p_value"] < 1
    for seed in range(4):
        for number, folder in enumerate(folders):
            shuffle(folder, f"{seed}{number}")
        assert compute_everything(folders) == before
