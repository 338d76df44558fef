"""Damaged files: each is read as what it says, or refused in one line; what has a hash is never read as something else.

A few seconds by default; `pytest --hypothesis-profile thorough tests/test_bad_input.py` looks much longer.
"""

import copy
import json
import shutil
from functools import partial

import pyarrow as pa
import pytest
import torch
from evaluations import make_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from report_folders import made_up_dial, make_run
from waiting import WAIT_SECONDS

import adaptthink as at
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import EvaluateConfig, PresampleConfig, TrainConfig
from adaptthink.dial.decide import Score
from adaptthink.dial.scores import complete_scores
from adaptthink.dial.stored import read_dial, write_dial
from adaptthink.engines.base import Finish
from adaptthink.errors import MAX_CHARACTERS, UserError
from adaptthink.evaluation.compare import compare, read_rows
from adaptthink.evaluation.mode_choice import assess_mode_choice
from adaptthink.evaluation.store import (
    grade_folder,
    open_folder,
    read_decisions,
    read_outcomes,
    read_problems,
    read_setting,
)
from adaptthink.grading import Grade, Limits, Rule, Verdict
from adaptthink.grading.lines import grade_file
from adaptthink.models.loading import TINY, load_tokenizer
from adaptthink.modes import Mode
from adaptthink.problems import make_problem
from adaptthink.report.evaluation import read_evaluations
from adaptthink.report.run import read_run
from adaptthink.sampling.reading import Response
from adaptthink.sampling.sampler import Rollout
from adaptthink.storage.kinds import identify
from adaptthink.storage.runs import MetricsLog, open_run, read_metrics
from adaptthink.training.checkpoint import find_checkpoint, load_checkpoint, read_metrics_digests, save_checkpoint
from adaptthink.training.credit import Credit
from adaptthink.training.dump import Dump, load_weights, read_dump, write_dump
from adaptthink.training.reference import make_header, make_store_settings, open_references, read_references

EXAMPLES = 25  # of each kind of file, unless a profile asks for more
some = settings(
    settings() if settings().max_examples > 100 else settings(max_examples=EXAMPLES, derandomize=True, database=None),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
PROBLEMS = [make_problem(f"{n}+1=?", str(n + 1), level=1, source="sums/test") for n in range(6)]
CONFIG = TrainConfig(steps=4)
COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


# ---- valid files ----------------------------------------------------------------------------------------------------


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_rows():
    rows = [{"prompt": f"{n}+{n}=?", "answer": str(2 * n), "level": n % 3} for n in range(4)]
    rows[1]["prompt"] = [{"role": "system", "content": "be short"}, {"role": "user", "content": "1+1=?"}]
    return rows


def make_recipe(folder):
    (folder / "r.toml").write_text(
        'model = "tiny"\nseed = 3\nthink_start = "Alright"\n[train]\nsteps = 5\nlearning_rate = 1e-4\n'
        'method = "gap"\n[evaluate]\nproblems_per_level = 7\ntop_p = 0.9\nendpoint = ["http://a:1"]\n'
    )


def make_table(folder, name):
    rows = make_rows()
    del rows[1]
    table = pa.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        parquet.write_table(table, folder / name)
    elif name.endswith(".arrow"):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        sign = "\t" if name.endswith(".tsv") else ","
        cells = [[*rows[0]], *([str(value) for value in row.values()] for row in rows)]
        (folder / name).write_text("\n".join(map(sign.join, cells)) + "\n")


def make_json(folder, name):
    text = json.dumps(make_rows()) if name.endswith(".json") else "".join(json.dumps(r) + "\n" for r in make_rows())
    data = text.encode()
    (folder / name).write_bytes(pa.compress(data, codec="gzip", asbytes=True) if name.endswith(".gz") else data)


def make_saved(folder):
    """A data set as `datasets` saves it."""
    make_table(folder, "data-00000-of-00001.arrow")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


def make_responses(folder):
    write_lines(folder / "r.jsonl", [{"response": f"\\boxed{{{n}}}", "gold": str(n), "kind": "math"} for n in range(4)])


def make_store(folder):
    config = PresampleConfig(reference_samples=2, no_think_samples=1)
    no_think = {"verdicts": ["correct"], "responses": [[4, 5]]}
    rows = [
        {"id": one.id, "verdicts": ["correct", "wrong"], "tokens": [3, 2], "first_ids": [9, 7]}
        | {"responses": [[9, 8, 7], [7, 7]], "no_think": no_think}
        for one in PROBLEMS
    ]
    write_lines(folder / "s.jsonl", [make_header(make_store_settings(config, "weights")), *rows])


def make_evaluation(folder):
    answers = {n: [f"thought:{n}\\boxed{{1}}" if n % 2 else f"\\boxed{{{n + 1}}}"] for n in range(len(PROBLEMS))}
    make_folder(
        folder / "e",
        {"auto": answers, "think": answers, "no_think": answers},
        problems=PROBLEMS,
        decisions=dict.fromkeys(answers, (0.5, 0.4)),
    )
    choice = assess_mode_choice(folder / "e", convention=None)
    (folder / "e" / "quality.json").write_text(json.dumps(at.api.to_json(choice)))
    outcomes = read_outcomes(folder / "e")
    modes = {mode: at.api.summarise(one for one in outcomes if one.requested == mode) for mode in ("auto", "think")}
    (folder / "e" / "summary.json").write_text(json.dumps({"config": {}, "modes": at.api.to_json(modes), "advice": []}))


def make_checkpoints(folder):
    """A run of two steps, as far as it goes on from its files."""
    run = folder / "run"
    open_run(run, CONFIG.model_dump(mode="json"), made_from={"the weights": "12"})
    log, model = MetricsLog(run / "metrics.jsonl"), torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (1, 2):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        log.write({"step": step, "loss": 0.5 / step})
        save_checkpoint(run / "checkpoints", step, model, optimizer, keep=2, metrics=log.digests)
    log.close()


def make_dump(folder):
    response = Response(Mode.THINK, None, None, Finish.STOP, 2, 0)
    grade = Grade(Verdict.WRONG, None, Rule.FORM)
    rollouts = [Rollout(one, (1, 2), (3, 4), (-0.5, float("nan")), 1, response, grade) for one in PROBLEMS[:2]]
    torch.manual_seed(0)
    dump = Dump(3, "loss nan", CONFIG, rollouts, [Credit(0.1, 0.2, 0.3, 2)] * 2)
    write_dump(folder / "step", torch.nn.Linear(3, 2), dump)


def make_scores(folder):
    list(complete_scores(folder / "s.jsonl", {"model": "m"}, PROBLEMS, score))


def score(first, batch):
    return [Score(first + n, one.id, one.prompt, 0.25, 0.5, -0.7, Mode.THINK) for n, one in enumerate(batch)]


def make_online(folder):
    dial = at.OnlineDial(thresholds=(0.9, 0.5))
    for share in (0.95, 0.6, 0.2):
        dial.give_feedback(dial.decide(share).number, correct=1.0)
    dial.decide(0.7, name="waits")
    dial.write(folder / "o.json")


def make_tokenizer_folder(folder):
    for name in COPIED:
        shutil.copyfile(TINY / name, folder / name)


# ---- readers --------------------------------------------------------------------------------------------------------


def read_recipe(folder):
    recipes = [folder / "r.toml"]
    return resolve("train", TrainConfig, recipes=recipes), resolve("evaluate", EvaluateConfig, recipes=recipes)


def read_problem_file(folder, name=""):
    identify(folder / name)
    return [(one.messages, one.answer, one.level) for one in at.load_problems(str(folder / name))]


def read_responses(folder):
    return grade_file(folder / "r.jsonl", None, Limits(WAIT_SECONDS), lambda number: None).verdicts


def read_store(folder):
    identify(folder / "s.jsonl")
    found, opened = list(read_references(folder / "s.jsonl")), open_references(folder / "s.jsonl")
    return found, [(opened[name], opened.read_responses(name)) for name in opened]


def read_evaluation(folder):
    path = folder / "e"
    identify(path)
    read = (read_setting(path), read_problems(path), read_outcomes(path), read_decisions(path))
    compared = compare(read_rows([f"{path}:auto", f"{path}:think"]))
    return *read, assess_mode_choice(path, convention=None), compared, read_evaluations([path])[0].evaluations


def read_run_folder(folder):
    identify(folder / "r")
    found = read_run(folder / "r")
    return found.evaluations, found.changes, found.steps, found.transcripts, found.dial, found.config


def resume_run(folder):
    """Everything that a resumed training takes from its folder; None if it says that it passes over a checkpoint."""
    run, warnings = folder / "run", []
    open_run(run, CONFIG.model_dump(mode="json"), made_from={"the weights": "12"}, resume=True)
    step = find_checkpoint(run / "checkpoints", warn=warnings.append)
    log, model = MetricsLog(run / "metrics.jsonl", keep_steps=step), torch.nn.Linear(3, 2)
    log.check(read_metrics_digests(run / "checkpoints", step))
    log.close()
    optimizer, weights = torch.optim.AdamW(model.parameters()), None
    if step:
        load_checkpoint(run / "checkpoints", step, model, optimizer)
        state = optimizer.state_dict()["state"]
        weights = [one.tolist() for one in model.parameters()], [state[n]["exp_avg"].tolist() for n in state]
    rows = read_metrics(run / "metrics.jsonl")
    return (step, weights, rows) if not warnings else None


def replay_dump(folder):
    dump, model = read_dump(folder / "step"), torch.nn.Linear(3, 2)
    load_weights(folder / "step", model)
    return repr(dump), [one.tolist() for one in model.parameters()]  # NaN is not equal to itself


def read_scores(folder):
    return list(complete_scores(folder / "s.jsonl", {"model": "m"}, PROBLEMS, score))


def read_online(folder):
    return at.OnlineDial.read(folder / "o.json")


def read_tokenizer(folder):
    tokenizer = load_tokenizer(str(folder))
    return tokenizer.get_vocab(), tokenizer.chat_template


TABLES, TEXTS = ("p.csv", "p.tsv", "p.parquet", "p.arrow"), ("p.jsonl", "p.json", "p.jsonl.gz")
FILES = {  # how a valid one is made, and how it is read
    "recipe": (make_recipe, read_recipe),
    **{name: (partial(make_table, name=name), partial(read_problem_file, name=name)) for name in TABLES},
    **{name: (partial(make_json, name=name), partial(read_problem_file, name=name)) for name in TEXTS},
    "saved data set": (make_saved, read_problem_file),
    "responses": (make_responses, read_responses),
    "store": (make_store, read_store),
    "evaluation": (make_evaluation, read_evaluation),
    "run": (lambda folder: make_run(folder / "r", 3), read_run_folder),
    "resumed run": (make_checkpoints, resume_run),
    "dump": (make_dump, replay_dump),
    "dial": (lambda folder: write_dial(folder / "d.json", made_up_dial()), lambda folder: read_dial(folder / "d.json")),
    "online dial": (make_online, read_online),
    "scores": (make_scores, read_scores),
    "tokenizer": (make_tokenizer_folder, read_tokenizer),
}
HASHED = {"resumed run": (".safetensors", "optimizer.json", "metrics.jsonl", "metrics.json"), "dump": (".safetensors",)}


# ---- damages --------------------------------------------------------------------------------------------------------


VALUES = (
    None, True, -1, 0, 2.5, 1e308, float("inf"), float("nan"), 10**30, "", "x", "\ud800", "\x1b[2J", [], {}, [1],
    {"a": 1}, "9" * 5000,
)  # fmt: skip
RAW = ("1e400", "9" * 5000, "[" * 100_000, '{"a":' * 100_000, "nul", "01", '"\\ud800"', "2.0")


def list_places(value, at=()):
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from list_places(item, (*at, key))


def change_value(draw, text):
    """Put something else in one place of a JSON text, or remove it, or add to it."""
    root = [copy.deepcopy(json.loads(text))]
    *way, last = draw(st.sampled_from([(0, *place) for place in list_places(root[0])]))
    here = root
    for key in way:
        here = here[key]
    kind = draw(st.sampled_from(("value", "value", "raw", "remove", "add")))
    if kind == "remove" and way:
        del here[last]
    elif kind == "add" and isinstance(here[last], dict):
        here[last]["unknown"] = 1
    elif kind == "raw":
        here[last] = "HERE"
        return json.dumps(root[0]).replace('"HERE"', draw(st.sampled_from(RAW)), 1)
    else:
        here[last] = draw(st.sampled_from(VALUES))
    return json.dumps(root[0])


def change_bytes(draw, content):
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    lines = content.splitlines(keepends=True) or [b""]
    line = draw(st.integers(0, len(lines) - 1))
    flipped = bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) if content else b""
    return draw(
        st.sampled_from(
            (
                content[:at] + flipped + content[at + 1 :],
                content[:at],
                content[:at] + b"\0" * 64 + content[at + 64 :],
                content[:at] + b"\xe4" + content[at:],
                b"",
                b"\xef\xbb\xbf" + content,
                content.decode("latin-1").encode("utf-16"),
                b"".join([*lines[:line], lines[line], *lines[line:]]),
                b"".join([*lines[:line], *lines[line + 1 :]]),
                content.rstrip(b"\n"),
            )
        )
    )


def damage(draw, path):
    """Damage a file; returns what was done."""
    kind = draw(st.sampled_from(("value", "value", "bytes", "bytes", "folder", "missing")))
    if kind in ("folder", "missing"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    elif kind == "value" and path.suffix in (".json", ".jsonl"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        number = draw(st.integers(0, len(lines) - 1))
        lines[number] = change_value(draw, lines[number])
        path.write_text("\n".join(lines) + "\n")
    else:
        kind = "bytes"
        path.write_bytes(change_bytes(draw, path.read_bytes()))
    return f"{path.name}: {kind}"


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    make, read = FILES[name]
    valid, work = tmp_path / "valid", tmp_path / "work"
    valid.mkdir()
    make(valid)
    paths = sorted(path.relative_to(valid) for path in valid.rglob("*") if path.is_file())
    shutil.copytree(valid, work)
    good, outcomes = read(work), set()

    @some
    @given(st.data())
    def check(data):
        shutil.rmtree(work)
        shutil.copytree(valid, work)
        path = work / data.draw(st.sampled_from(paths))
        done = damage(data.draw, path)
        try:
            found = read(work)
        except UserError as error:
            line = str(error)
            assert "\n" not in line, done
            assert line.isprintable(), done
            assert 20 < len(line) <= MAX_CHARACTERS, done
            outcomes.add("refused")
        else:
            outcomes.add("read")
            if path.name.endswith(HASHED.get(name, ())):
                assert found in (good, None), done  # None: an earlier checkpoint, and it is said

    check()
    assert "refused" in outcomes


# ---- what one part of a folder says of another ----------------------------------------------------------------------


@pytest.fixture
def evaluation(tmp_path):
    make_evaluation(tmp_path)
    return tmp_path / "e"


def test_lost_samples_are_not_passed_over_and_their_verdicts_are_made_again(evaluation):
    path = evaluation / "samples.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:-2]))
    with pytest.raises(UserError, match=r"holds 2 verdicts on samples that its samples\.jsonl has lost"):
        read_outcomes(evaluation)
    held = open_folder(evaluation, read_setting(evaluation), PROBLEMS)
    assert len(held) == len(whole) - 2
    changed = [line.replace("\\\\boxed", "") for line in whole[-2:]]  # sampled again, and otherwise
    path.write_text("".join([*whole[:-2], *changed]))
    grade_folder(evaluation)
    verdicts = [one.verdict for one in read_outcomes(evaluation)]
    assert verdicts.count(Verdict.UNPARSED) == 2


def test_a_folder_in_place_of_a_file_is_not_the_same_as_no_file(evaluation):
    assert len(read_decisions(evaluation)) == len(PROBLEMS)
    (evaluation / "decisions.jsonl").unlink()
    assert read_decisions(evaluation) == {}
    (evaluation / "decisions.jsonl").mkdir()
    with pytest.raises(UserError, match=r"decisions\.jsonl: cannot be read \(Is a directory\)"):
        read_decisions(evaluation)


def test_a_misspelt_name_is_not_passed_over_where_there_is_a_default(evaluation):
    path = evaluation / "samples.jsonl"
    path.write_text(path.read_text().replace('"beside"', '"besode"', 1))
    with pytest.raises(UserError, match=r"samples\.jsonl, line 1: damaged \(besode: Unexpected keyword argument\)"):
        read_outcomes(evaluation)


def test_lengths_of_a_store_are_those_of_its_responses(tmp_path):
    make_store(tmp_path)
    path = tmp_path / "s.jsonl"
    path.write_text(path.read_text().replace('"tokens": [3, 2]', '"tokens": [3, 4]', 1))
    with pytest.raises(UserError, match=r"line 2: damaged .tokens are not the lengths of the responses"):
        list(read_references(path))


def test_the_threshold_in_use_is_one_that_was_chosen(tmp_path):
    path = tmp_path / "d.json"
    write_dial(path, made_up_dial())
    stored = json.loads(path.read_text())
    stored["threshold"]["no_think_probability"] = 0.0
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="the threshold is none of the choices"):
        read_dial(path)


def test_a_message_obeys_no_escape_sequence_and_repeats_no_more_than_a_page(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('"\\u001b[2J" = 1\n')
    with pytest.raises(UserError, match=r"unknown key '\\x1b\[2J'"):
        resolve("train", TrainConfig, recipes=[path])
    path.write_text(f'seed = "{"9" * 9000}x"\n')
    with pytest.raises(UserError, match=r"^seed = '9+…9+x': unable to parse") as caught:
        resolve("train", TrainConfig, recipes=[path])
    assert len(str(caught.value)) < 250
    assert (
        str(UserError(f"a{'9' * 9000}z\n")) == f"a{'9' * (MAX_CHARACTERS // 2 - 2)}…{'9' * (MAX_CHARACTERS // 2 - 1)}z"
    )
