"""calibrate and decide from the command line, on small models: seconds, end to end."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from adaptthink import api
from adaptthink.cli.dial import describe_choice
from adaptthink.dial.decide import read_stored_dial
from adaptthink.dial.guarantee import Kind
from adaptthink.dial.stored import choose_dial_path, read_dial, write_dial
from adaptthink.errors import UserError
from adaptthink.models.loading import load_policy
from adaptthink.models.make_tiny import make_model

SMALL = ["--problems-per-level", "4", "--max-think-tokens", "24", "--max-no-think-tokens", "8"]
FILES = [
    "decisions.jsonl",
    "dial.json",
    "evaluation.json",
    "problems.jsonl",
    "samples.jsonl",
    "summary.json",
    "timings.jsonl",
    "verdicts.jsonl",
]
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # sys.argv is ours


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for variable in [name for name in os.environ if name.startswith("ADAPTTHINK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(run):
    """Run the command line as `conftest.run` does; standard error as lines, without transformers' progress."""

    def run_(*args):
        status, out, err = run(*args)
        lines = [line for line in err.splitlines() if line.strip() and not line.startswith("Loading weights")]
        return status, out, lines

    return run_


@pytest.fixture
def model_folder(tokenizer, tmp_path):
    folder = tmp_path / "model"
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_calibrate_then_decide(run, model_folder, tmp_path):
    command = ["calibrate", model_folder, *SMALL, "--tolerance", 60, "--output", "c"]
    status, out, err = run(*command, "--json", "result.json")
    assert (status, err) == (0, [])
    assert "at most 60 points below always thinking: no_think where P(no_think) >=" in out
    assert "held-out 10: limit" in out
    dial = read_dial(model_folder / "adaptthink.json", load_policy(str(model_folder)).fingerprint)
    assert (dial.num_problems, dial.problems, dial.setting.max_think_tokens) == (20, "arithmetic", 24)
    assert dial.threshold.certified  # an untrained model loses nothing: it is never right
    raw = json.loads((model_folder / "adaptthink.json").read_text())
    assert raw["threshold"]["no_think_probability"] == dial.threshold.no_think_probability
    stored = read_stored_dial(load_policy(str(model_folder)))
    assert stored.threshold.no_think_probability == dial.threshold.no_think_probability
    assert read_stored_dial(load_policy("tiny")) is None
    whole = read_dial(tmp_path / "c/dial.json")
    assert replace(whole, second_look=None) == dial  # with so few points nothing is thinned
    assert json.loads((tmp_path / "result.json").read_text())["fingerprint"] == dial.fingerprint
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == FILES

    status, out, err = run("decide", model_folder, "1+1=?", "[b]47+8=?", "--json", "modes.json")
    assert (status, err) == (0, [])
    result = json.loads((tmp_path / "modes.json").read_text())
    assert result["threshold"] == dial.threshold.no_think_probability
    assert [row["prompt"] for row in result["decisions"]] == ["1+1=?", "[b]47+8=?"]
    for line, row in zip(out.splitlines(), result["decisions"], strict=True):
        expected = "no_think" if row["no_think_probability"] >= result["threshold"] else "think"
        assert row["mode"] == expected
        assert line.split() == [
            f"{row['no_think_probability']:.6g}",
            expected,
            "threshold",
            f"{result['threshold']:g}",
            row["prompt"],
        ]
    status, out, _ = run("decide", model_folder, "1+1=?", "--threshold", 0)
    assert (status, out.split()[1:4]) == (0, ["no_think", "threshold", "0"])


def test_a_second_call_draws_nothing_and_a_larger_one_completes(run, model_folder, tmp_path):
    command = ["calibrate", model_folder, *SMALL, "--output", "c"]
    assert run(*command)[0] == 1  # too few for the default tolerance
    before = {name: (tmp_path / "c" / name).read_bytes() for name in FILES if name != "dial.json"}
    rows = [json.loads(line) for line in before["samples.jsonl"].splitlines()]
    assert sorted(row["requested"] for row in rows) == ["no_think"] * 20 + ["think"] * 20
    assert run(*command, "--tolerance", 60, "--token-budget", 20)[0] == 0
    assert {name: (tmp_path / "c" / name).read_bytes() for name in before} == before
    dial = read_dial(tmp_path / "c/dial.json")
    assert [choice.kind for choice in dial.choices] == [Kind.ACCURACY_LOSS, Kind.TOKEN_BUDGET]
    assert dial.threshold == dial.choices[1]
    assert run(*command, "--samples-per-problem", 2)[0] == 1
    assert len((tmp_path / "c/samples.jsonl").read_text().splitlines()) == 80


def test_an_evaluation_is_used_again(run, model_folder, tmp_path):
    assert run("evaluate", model_folder, *SMALL, "--output", "e")[0] == 0
    samples = (tmp_path / "e/samples.jsonl").read_bytes()
    assert run("calibrate", model_folder, *SMALL, "--tolerance", 60, "--output", "e")[0] == 0
    assert (tmp_path / "e/samples.jsonl").read_bytes() == samples


def test_what_is_not_certified_is_not_stored_and_changes_no_mode(run, model_folder, tmp_path):
    status, out, err = run("calibrate", model_folder, *SMALL, "--output", "c", "--json", "result.json")
    assert (status, err) == (1, [])
    assert "at most 1 point below always thinking: nothing certified on 10 problems (it takes at least 898" in out
    assert "not certified: at most 1 point below always thinking; no threshold is stored" in " ".join(out.split())
    assert json.loads((tmp_path / "result.json").read_text())["threshold"]["no_think_probability"] is None
    assert not (model_folder / "adaptthink.json").exists()
    status, _, err = run("decide", model_folder, "1+1=?")
    assert (status, len(err)) == (2, 1)
    status, _, err = run("decide", model_folder, "1+1=?", "--dial", "c/dial.json")
    assert status == 2
    assert "c/dial.json has no threshold: at most 1 point below always thinking: nothing certified" in err[0]
    shutil.copy(tmp_path / "c/dial.json", model_folder / "adaptthink.json")  # by hand
    policy = load_policy(str(model_folder))
    assert read_stored_dial(policy) is None
    with pytest.raises(UserError, match="has no threshold"):
        api.choose_threshold(policy)
    old = json.loads((tmp_path / "c/dial.json").read_text())  # an earlier version stored "always think" in its place
    old["threshold"]["no_think_probability"] = 2.0
    (model_folder / "adaptthink.json").write_text(json.dumps(old))
    assert read_stored_dial(policy) is None
    with pytest.raises(UserError, match="has no threshold"):
        api.choose_threshold(policy)


def test_a_model_without_a_folder_of_its_own_keeps_its_choice_too(run, tmp_path):
    assert run("calibrate", "tiny", *SMALL, "--output", "c")[0] == 1
    assert not (tmp_path / "c/adaptthink.json").exists()
    assert run("calibrate", "tiny", *SMALL, "--output", "c", "--tolerance", 99)[0] == 0
    assert (tmp_path / "c/adaptthink.json").exists()  # never into the package


def test_a_certified_dial_stays_unless_it_is_replaced_on_purpose(run, model_folder, tmp_path):
    stored, few = model_folder / "adaptthink.json", ["--problems-per-level", "3", *SMALL[2:]]
    assert run("calibrate", model_folder, *SMALL, "--tolerance", 60, "--output", "c")[0] == 0
    before = stored.read_bytes()
    status, out, _ = run("calibrate", model_folder, *SMALL, "--output", "c")  # one point: not certified
    text = " ".join(out.split())
    assert (status, stored.read_bytes()) == (1, before)
    assert f"the dial in {stored} (no_think where P(no_think) >=" in text
    assert "certified on 10 of 20 problems of arithmetic" in text
    status, out, _ = run("calibrate", model_folder, *few, "--tolerance", 70, "--output", "few")
    assert (status, stored.read_bytes()) == (0, before)
    assert "was certified on more problems and stays; to replace it give --overwrite" in " ".join(out.split())
    status, out, _ = run("calibrate", model_folder, *few, "--tolerance", 70, "--output", "few", "--overwrite")
    assert (status, read_dial(stored).num_problems) == (0, 15)
    assert "in place of no_think where P(no_think) >=" in " ".join(out.split())
    status, _, _ = run("calibrate", model_folder, *SMALL, "--tolerance", 65, "--output", "c")  # more problems: no flag
    assert (status, read_dial(stored).threshold.tolerance) == (0, 0.65)
    assert run("calibrate", model_folder, *SMALL, "--output", "c", "--overwrite")[0] == 1  # still nothing to store
    assert read_dial(stored).threshold.tolerance == 0.65


def test_an_earlier_dial_of_other_weights_or_a_damaged_one_is_replaced(run, model_folder):
    stored = model_folder / "adaptthink.json"
    command = ["calibrate", model_folder, *SMALL, "--tolerance", 60, "--output", "c"]
    assert run(*command)[0] == 0
    dial = json.loads(stored.read_text())
    for content in ("{", json.dumps(dial | {"fingerprint": "other", "num_problems": 5000})):
        stored.write_text(content)
        assert run(*command)[0] == 0
        assert read_dial(stored).fingerprint == dial["fingerprint"]


def test_always_thinking_is_said_in_words(run, model_folder, tmp_path):
    assert run("calibrate", model_folder, *SMALL, "--tolerance", 60, "--output", "c")[0] == 0
    dial = read_dial(model_folder / "adaptthink.json")
    choice = replace(dial.threshold, no_think_probability=2.0)
    always = replace(dial, threshold=choice, choices=(choice,))
    write_dial(model_folder / "adaptthink.json", always)
    status, out, _ = run("decide", model_folder, "1+1=?")
    assert (status, out.split()[1:4]) == (0, ["think", "always", "thinks"])
    assert "always thinks, the smallest threshold certified" in describe_choice(always.threshold)


def test_a_folder_that_cannot_be_written_to_keeps_its_files(model_folder, tmp_path, monkeypatch):
    assert choose_dial_path(str(model_folder), tmp_path) == model_folder / "adaptthink.json"
    assert choose_dial_path("tiny", tmp_path) == tmp_path / "adaptthink.json"
    assert choose_dial_path("tiny_long", tmp_path) == tmp_path / "adaptthink.json"
    assert choose_dial_path("org/name", tmp_path) == tmp_path / "adaptthink.json"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert choose_dial_path(str(model_folder), tmp_path) == tmp_path / "adaptthink.json"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("calibrate tiny --model other", "calibrate takes its model as an argument, not as --model"),
        ("calibrate tiny --tolerance 0", 'Invalid value "0.0" for --tolerance. Must be > 0'),
        (
            "calibrate tiny --token-budget 16384",
            "token_budget = 16384 is no limit: a response has at most 16384 tokens",
        ),
        ("decide tiny", "no prompt to decide on; give one or more"),
        ("decide tiny 1+1=?", "'tiny' is no model folder with a dial in it; give --threshold, or --dial"),
        ("decide tiny_long 1+1=?", "'tiny_long' is no model folder with a dial in it; give --threshold, or --dial"),
        ("decide runs/none/model 1+1=?", "no model folder 'runs/none/model': give an existing folder, a hub id"),
        ("decide tiny 1+1=? --dial nowhere.json", "no dial 'nowhere.json', so no threshold"),
        ("decide tiny 1+1=? --threshold 2", 'Invalid value "2.0" for --threshold. Must be <= 1'),
        ("decide tiny 1+1=? --threshold 0.5 --dial d.json", "--threshold and --dial both give the threshold"),
        ("decide model 1+1=?", "no dial 'model/adaptthink.json', so no threshold; make it: adaptthink calibrate MODEL"),
    ],
)
def test_bad_input(run, model_folder, args, message):
    status, out, err = run(*args.split())
    assert (status, out, len(err)) == (2, "", 1)
    assert err[0].startswith(f"adaptthink: {message}")


def test_a_dial_of_other_weights_is_refused(run, model_folder):
    assert run("calibrate", "tiny", *SMALL, "--tolerance", 99, "--output", "c")[0] == 0
    status, _, err = run("decide", model_folder, "1+1=?", "--dial", "c/adaptthink.json")
    assert status == 2
    assert "c/adaptthink.json: calibrated for other weights" in err[0]


def test_a_dry_run_shows_the_settings(run):
    status, out, _ = run("calibrate", "tiny", "--recipe", "toy_cpu", "--dry-run")
    assert status == 0
    assert "max_think_tokens = 128" in out
