"""The public face: its names, what importing it loads, the examples in its docstrings, and what a user brings."""

import doctest
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import adaptthink as at
from adaptthink.callbacks import Callback
from adaptthink.cli.plan import plan_job
from adaptthink.config.resolve import check, resolve
from adaptthink.config.schema import PresampleConfig, VerlConfig
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.models.loading import load_policy

NAMES = [
    "Callback",
    "Completion",
    "Engine",
    "EvaluationResult",
    "Finish",
    "Grade",
    "Mode",
    "OnlineDial",
    "Policy",
    "Problem",
    "Progress",
    "Request",
    "Response",
    "Run",
    "UserError",
    "Verdict",
    "calibrate",
    "compare",
    "decide",
    "doctor",
    "evaluate",
    "grade",
    "load",
    "load_problems",
    "make_problem",
    "make_traces",
    "presample",
    "score",
    "serve",
    "sft",
    "trackers",
    "train",
]
SMALL = {"max_think_tokens": 48, "max_no_think_tokens": 16}
TRAINING = SMALL | {
    "steps": 1, "problems_per_step": 2, "samples_per_problem": 2, "reference_samples": 1, "temperature": 1.0,
}  # fmt: skip
SUMS = [{"prompt": f"{a}+{b}=?", "answer": a + b, "level": 1} for a in range(20, 40, 2) for b in (3, 5)]


def test_the_public_names():
    assert sorted(at.__all__) == NAMES
    assert {name: getattr(at, name) for name in NAMES}.keys() == set(NAMES)
    assert set(NAMES) <= set(dir(at))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = at.nothing


def test_importing_it_loads_nothing_heavy():
    code = (
        "import adaptthink as at, sys; at.UserError; at.Callback; "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_no_public_name_is_hidden_by_a_package():
    """A subpackage that is imported becomes an attribute of the package, and hides what has its name."""
    found = {module.name for module in pkgutil.iter_modules(at.__path__)}
    assert found.isdisjoint(at.__all__)


def test_it_is_typed():
    assert (Path(at.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_an_example_that_runs(name, tmp_path, monkeypatch):
    """Two are skipped: `serve`'s would not end, and the trackers' need their packages."""
    monkeypatch.chdir(tmp_path)
    [test] = doctest.DocTestFinder(recurse=False).find(getattr(at, name), name)
    assert test.examples
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert failed == 0


@pytest.mark.slow
def test_nothing_is_printed_and_peft_is_not_loaded_where_it_is_not_asked_for(tmp_path):
    code = f"""
import adaptthink as at
problems = {SUMS!r}
run = at.train("tiny", problems, output={str(tmp_path / "run")!r}, **{TRAINING!r})
at.evaluate(run.model, problems[:2], modes=["no_think"], **{SMALL!r})
assert "peft" not in __import__("sys").modules  # no adapter is asked for
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def off_by_one(problem, response):
    """Half a point for a number that is off by one."""
    answer = response.answer.strip().removeprefix("\\boxed{").removesuffix("}")
    distance = abs(int(answer) - int(problem.answer))
    return 1.0 if distance == 0 else 0.5 if distance == 1 else 0.0


async def wants_a_short_answer(problem, response):
    return len(response.answer) < 4


def test_an_own_reward_holds_in_presampling_training_and_evaluation(tmp_path):
    """Every answer of the embedded model is boxed, so this reward is 0 everywhere."""
    reference = at.presample("tiny", SUMS, samples=2, reward=wants_a_short_answer, **SMALL)
    assert {row.reward for row in reference.values()} == {0.0}
    run = at.train(
        "tiny",
        SUMS,
        reference,
        output=tmp_path / "run",
        reward=wants_a_short_answer,
        **TRAINING | {"reference_samples": 2},
    )
    assert run.metrics[0]["reward_no_think"] == run.metrics[0]["reward_think"] == 0
    result = at.evaluate(run.model, SUMS[:3], modes=["no_think"], reward=wants_a_short_answer, **SMALL)
    assert result.modes["no_think"].overall.accuracy == 0
    again = at.evaluate(run.model, SUMS[:3], modes=["no_think"], reward=off_by_one, output=result.folder, **SMALL)
    assert again.modes["no_think"].overall.accuracy > 0.5  # graded anew, and nothing sampled
    header = json.loads((result.folder / "verdicts.jsonl").read_text().splitlines()[0])
    assert header["grader"] == {"reward": "test_api:off_by_one", "seconds": 10.0}


def test_a_store_of_one_reward_is_refused_by_another(tmp_path):
    store = tmp_path / "reference.jsonl"
    at.presample("tiny", SUMS[:2], samples=1, reward=off_by_one, output=store, **SMALL)
    for other in (None, wants_a_short_answer):
        with pytest.raises(at.UserError, match="reward was 'test_api:off_by_one'"):
            at.presample("tiny", SUMS[:2], samples=1, reward=other, output=store, **SMALL)


def test_problems_without_answers_need_a_reward():
    prompts = [{"prompt": one["prompt"]} for one in SUMS[:2]]
    with pytest.raises(at.UserError, match="problem 1: 'answer' is missing"):
        at.evaluate("tiny", prompts, modes=["no_think"], **SMALL)
    result = at.evaluate("tiny", prompts, modes=["no_think"], reward=lambda problem, response: 0.5, **SMALL)
    assert result.modes["no_think"].overall.accuracy == 0.5


class Counting(NativeEngine):
    """An engine of one's own: here the native one, counted."""

    calls = 0

    def generate(self, requests, **options):
        self.calls += len(requests)
        return super().generate(requests, **options)


def test_an_own_engine():
    policy = load_policy("tiny")
    engine = Counting(policy.model, policy.eos_ids)
    at.evaluate(policy, SUMS[:3], modes=["no_think"], engine=engine, **SMALL)
    assert engine.calls == 3


class TwoMethods:
    """What an engine must have, and no more."""

    def __init__(self, engine):
        self.generate, self.next_token_logprobs = engine.generate, engine.next_token_logprobs


def test_a_model_trains_alike_by_its_name_and_loaded(tmp_path):
    """By its name it generates before transformers' modules are there."""
    by_name = at.train("tiny", SUMS, output=tmp_path / "name", **TRAINING | {"steps": 2})
    loaded = at.train(at.load("tiny"), SUMS, output=tmp_path / "loaded", **TRAINING | {"steps": 2})
    assert type(by_name.model.model) is type(loaded.model.model)
    left, right = (
        [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in run.metrics]
        for run in (by_name, loaded)
    )
    assert left == right
    saved = [folder / "model/model.safetensors" for folder in (tmp_path / "name", tmp_path / "loaded")]
    assert saved[0].read_bytes() == saved[1].read_bytes()


def test_an_engine_of_two_methods_serves_for_all_but_training(tmp_path):
    policy = load_policy("tiny")
    engine = TwoMethods(NativeEngine(policy.model, policy.eos_ids))
    at.presample(policy, SUMS[:2], samples=1, engine=engine, **SMALL)
    at.evaluate(policy, SUMS[:2], engine=engine, **SMALL)
    with pytest.raises(at.UserError, match="TwoMethods has no load_weights"):
        at.train(policy, SUMS, output=tmp_path / "run", engine=engine, **TRAINING)


class Notes(Callback):
    def __init__(self):
        self.notes = []

    def on_start(self, command, settings, output):
        self.notes.append(("start", command))

    def on_progress(self, progress):
        self.notes.append(("progress", progress.completed == progress.total))

    def on_step(self, metrics):
        self.notes.append(("step", metrics["step"]))

    def on_end(self, result):
        self.notes.append(("end", result is not None))


def test_callbacks_get_everything_in_order(tmp_path):
    notes = Notes()
    at.train("tiny", SUMS, output=tmp_path / "run", callbacks=[notes], **TRAINING)
    assert notes.notes[0] == ("start", "train")
    assert notes.notes[-2:] == [("step", 1), ("end", True)]
    assert ("progress", True) in notes.notes


def test_a_failed_job_ends_for_its_callbacks_too(tmp_path):
    notes = Notes()
    with pytest.raises(at.UserError, match="problems to train on"):
        at.train("tiny", SUMS, output=tmp_path / "run", callbacks=[notes], **TRAINING | {"problems_per_step": 500})

    def broken(problem, response):
        return "no number"

    with pytest.raises(at.UserError, match="returned 'no number'"):
        at.train("tiny", SUMS, output=tmp_path / "run", callbacks=[notes], reward=broken, **TRAINING)
    assert notes.notes[-1] == ("end", False)


def test_unknown_settings_are_refused_with_the_nearest_name():
    with pytest.raises(at.UserError, match="unknown key 'learning_rat'; did you mean 'learning_rate'"):
        at.train("tiny", SUMS, output="nowhere", learning_rat=1)


@pytest.mark.slow
def test_the_example_with_an_own_reward_runs(tmp_path):
    script = Path(__file__).parents[1] / "examples/own_reward.py"
    ran = subprocess.run([sys.executable, script, tmp_path / "run"], capture_output=True, text=True, check=True)
    assert "step 4: mean reward" in ran.stdout
    assert (tmp_path / "run/model/model.safetensors").is_file()


def count_rows(store):
    return len(store.read_text().splitlines()) - 1  # the first line holds the settings


def test_only_the_problems_of_the_steps_get_a_reference(tmp_path, monkeypatch, capsys):
    """presample, plan and train agree on how many, and a longer training completes the store."""
    monkeypatch.chdir(tmp_path)
    file, store = tmp_path / "sums.jsonl", tmp_path / "ref.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in SUMS))  # 20, of which one is held out
    settings = {"probe_problems_per_level": 1, "reference_samples": 1, "problems_per_step": 2, "steps": 3} | SMALL
    assert len(at.presample("tiny", str(file), output=store, **settings)) == count_rows(store) == 6
    plan = plan_job(check(VerlConfig, settings | {"problems": str(file)}), "H100")
    assert plan["plan"]["reference_problems"] == 6
    assert "the reference: 1 sample of each of 6 problems" in " ".join(capsys.readouterr().out.split())
    before = store.read_bytes()
    rest = {"samples_per_problem": 2, "temperature": 1.0} | settings
    at.train("tiny", str(file), store, output=tmp_path / "a", **rest)
    assert store.read_bytes() == before
    at.train("tiny", str(file), store, output=tmp_path / "b", **rest | {"steps": 4})
    assert store.read_bytes().startswith(before)
    assert count_rows(store) == 8
    at.train("tiny", str(file), output=tmp_path / "c", **rest | {"steps": 1})
    assert count_rows(tmp_path / "c/reference.jsonl") == 2
    assert len(at.presample("tiny", str(file), output=store, all_problems=True, reference_samples=1, **SMALL)) == 19
    assert len(at.presample("tiny", SUMS[:3], samples=1, **SMALL)) == 3
    assert len(at.presample("tiny", SUMS, **settings)) == 6


def test_a_reference_that_does_not_exist_is_no_new_store(tmp_path):
    with pytest.raises(UserError, match=r"no reference store at '.*typo.jsonl'; make one with: adaptthink presample"):
        at.train("tiny", SUMS, tmp_path / "typo.jsonl", output=tmp_path / "run", **TRAINING)
    assert list(tmp_path.iterdir()) == []


def test_presample_takes_the_steps_of_a_recipes_training(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("seed = 1\n[presample]\nreference_samples = 2\n[train]\nsteps = 7\nseed = 2\nengine = 'vllm'\n")
    config = resolve("presample", PresampleConfig, recipes=[recipe])
    assert (config.steps, config.problems_per_step, config.seed, config.engine) == (7, 128, 1, "native")
    with pytest.raises(UserError, match="steps has no effect: all_problems samples them all"):
        resolve("presample", PresampleConfig, recipes=[recipe], flags={"all_problems": True, "steps": 3})
    assert resolve("presample", PresampleConfig, recipes=[recipe], flags={"all_problems": True}).all_problems
