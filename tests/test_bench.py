"""The table of methods: rules and measures by hand, the page from made-up runs, and the command in miniature."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import make_folder, outcome

from adaptthink.benchmark import entries as table
from adaptthink.benchmark.answers import (
    Answers,
    Model,
    compute_utility,
    dial,
    is_for_reporting,
    is_for_tuning,
    measure_band,
    mix,
    mix_to_budget,
    pool,
)
from adaptthink.benchmark.budget_forcing import make_budget_responder
from adaptthink.benchmark.claims import Claim, Part, check_claims
from adaptthink.benchmark.entries import ENTRIES, SLOW, Entry, Family, Knob, list_entries
from adaptthink.benchmark.linear_probe import compute_features, fit_ridge
from adaptthink.benchmark.measure import About, KnobPoint, Result, compare_with_main, measure
from adaptthink.benchmark.runs import OWN, Found, count_reference_tokens, rank, read_entry, read_values, tune
from adaptthink.cli import bench as bench_jobs
from adaptthink.cli.bench import Plan, bench_job, make_design
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import EvaluateConfig, TrainConfig
from adaptthink.engines.base import ScriptedEngine
from adaptthink.errors import UserError
from adaptthink.evaluation.run import Query
from adaptthink.evaluation.scores import compute_tokens_per_correct
from adaptthink.evaluation.statistics import holm, mean_difference
from adaptthink.modes import probe
from adaptthink.problems import make_problem
from adaptthink.report.benchmark import spread_labels, write_page
from adaptthink.sampling.sampler import Sampler
from adaptthink.storage.records import from_json, to_json
from adaptthink.training.methods import check_method


def answers(correct, tokens, no_think=None):
    """Answers to problems "0", "1", …, one each."""
    columns = (correct, tokens, no_think or [0.0] * len(correct))
    return Answers(*({str(index): [float(value)] for index, value in enumerate(column)} for column in columns))


THINK, DIRECT = answers([1, 1, 1, 0], [40, 40, 60, 60]), answers([1, 1, 0, 0], [8, 8, 8, 8], [1, 1, 1, 1])
LEVELS = {"0": "1", "1": "1", "2": "2", "3": "2"}
LEANING = {"0": 0.9, "1": 0.5, "2": 0.5, "3": 0.1}
MODEL = Model(LEVELS, {"auto": THINK, "think": THINK, "no_think": DIRECT}, LEANING)


# ---- rules and measures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "tokens", "accuracy"),
    [
        (50, 50, 0.75),  # always thinking
        (49, 42, 0.75),  # problem 0 directly
        (42, 42, 0.75),
        (41, 21, 0.5),  # 1 and 2 lean alike, so they turn together
        (20, 8, 0.5),
    ],
)
def test_a_dial_by_hand(budget, tokens, accuracy):
    found = dial(MODEL, budget)
    assert (found.mean_tokens, found.accuracy) == (tokens, accuracy)


def test_no_dial_is_below_never_thinking():
    assert dial(MODEL, 7.9) is None
    assert not replace(MODEL, leaning={}).has_dial


def test_a_random_mix_by_hand():
    half = mix(MODEL, 0.5)
    assert half.correct == {"0": [1.0], "1": [1.0], "2": [0.5], "3": [0.0]}
    assert half.tokens["3"] == [34.0]
    assert half.no_think["0"] == [0.5]
    found = mix_to_budget(MODEL, 18.5)  # three quarters of the way from 50 to 8
    assert (found.mean_tokens, found.accuracy) == pytest.approx((18.5, 0.25 * 0.75 + 0.75 * 0.5))
    assert mix_to_budget(MODEL, 1.0).mean_tokens == 8


def test_cost_counts_the_tokens_of_wrong_answers():
    assert compute_tokens_per_correct(THINK.tokens, THINK.correct).estimate == pytest.approx(200 / 3)
    none = answers([0, 0], [5, 5])
    assert compute_tokens_per_correct(none.tokens, none.correct) is None


def test_utility_by_hand():
    assert compute_utility(THINK, 50.0)["2"] == [pytest.approx(1 - 0.1 * 60 / 50)]


def test_seeds_are_pooled_by_problem():
    assert pool([THINK, DIRECT]).tokens["0"] == [40.0, 8.0]


def test_a_band_adds_the_variances_of_seeds_and_problems():
    matrix = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    mean, low, high = measure_band(matrix)
    variance = np.var([0, 0.5, 1], ddof=1) / 3 + np.var([2 / 3, 1 / 3], ddof=1) / 2
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.5 - 1.96 * math.sqrt(variance), 0.5 + 1.96 * math.sqrt(variance)))
    assert measure_band(matrix[:1])[2] - 2 / 3 == pytest.approx(1.96 * math.sqrt(np.var([0, 1, 1], ddof=1) / 3))


def test_each_problem_is_in_one_half_and_the_halves_are_of_a_size():
    ids = [f"{number:016x}" for number in range(1000)]
    tuning = [one for one in ids if is_for_tuning(one)]
    assert 450 < len(tuning) < 550
    assert [one for one in ids if is_for_reporting(one)] == [one for one in ids if one not in tuning]


# ---- entries ---------------------------------------------------------------------------------------------------------


def test_every_listed_entry_has_settings_that_its_method_accepts(tmp_path):
    recipes = ("reproduce", "reproduce/bench")
    recipe = resolve("train", TrainConfig, recipes=recipes)
    offline = Plan(tmp_path, make_design(recipes, None), recipe).write_offline_recipe()
    for entry in list_entries():
        stored = entry.is_offline
        for value in entry.values if entry.is_trained and not entry.merges else ():
            words = entry.list_flags(value, recipe)
            flags = {flag[2:].replace("-", "_"): word for flag, word in zip(words[::2], words[1::2], strict=True)}
            config = resolve("train", TrainConfig, recipes=(str(offline),) if stored else recipes, flags=flags)
            check_method(config)
            samples = config.reference_samples if stored else config.samples_per_problem
            assert samples * config.problems_per_step == 160, entry.name
            assert samples >= entry.samples
            assert config.learning_rate == (1e-5 if SLOW in entry.flags else recipe.learning_rate)


def test_names_are_unique_and_every_knob_has_its_default_in_the_middle():
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry.default == entry.knob.values[1] for entry in ENTRIES if entry.knob)
    assert {entry.base for entry in ENTRIES} - {""} <= {entry.name for entry in ENTRIES}


def test_a_method_that_is_not_installed_is_not_listed(monkeypatch):
    new = Entry("new", "new", Family.LENGTH, "–", "--method nowhere:size=3")
    monkeypatch.setattr(table, "ENTRIES", (*ENTRIES, new, replace(ENTRIES[5], name="on_new", base="new")))
    names = [one.name for one in list_entries()]
    assert "gap" in names
    assert not {"new", "on_new"} & set(names)
    with pytest.raises(UserError, match="no entry 'new'; there are: original, random_mix, "):
        list_entries(["new"])


def test_an_entry_brings_the_one_that_it_starts_from(monkeypatch):
    first = Entry("first", "first", Family.LENGTH, "–", "--method grpo")
    second = replace(first, name="second", base="first", steps=0.5)
    monkeypatch.setattr(table, "ENTRIES", (second, first))
    assert [one.name for one in list_entries(["second"])] == ["second", "first"]
    assert second.count_steps(TrainConfig(steps=165)) == 82


# ---- without training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("1+1=2 so", "1+1=</think>2"),  # cut at four tokens and closed
        ("1+</think>2", "1+</think>2"),  # closed in time, and cut in its answer: it goes on, and is not closed again
        ("1</think>2", "1</think>2"),  # ended in time
    ],
)
def test_a_thought_is_cut_at_the_budget_and_closed(tokenizer, own, expected):
    def write(_, prefix):
        text = tokenizer.decode(prefix)
        rest = own if not prefix else "2" if text.endswith("</think>") else ""
        return (*tokenizer.encode(rest, add_special_tokens=False), tokenizer.eos_token_id)

    engine, template = ScriptedEngine(write), probe(tokenizer)
    sampler = Sampler(engine, tokenizer, template)
    taken = []
    query = Query(make_problem("1+1=?", "2"), "auto", 0)
    make_budget_responder(sampler, EvaluateConfig(max_no_think_tokens=3), 4)([query], taken.append)
    [sample] = taken
    assert f"{sample.thinking}</think>{sample.answer}" == expected
    cut = len(engine.requests) > 1
    assert cut == (own != "1</think>2")
    if cut:
        assert engine.requests[1].max_tokens == len(engine.requests[1].prefix_ids) + 3


def test_ridge_regression_is_least_squares_with_rows_for_the_penalty():
    rng = np.random.default_rng(0)
    features, target = rng.normal(3, 2, (40, 5)), rng.normal(size=40)
    scaled = (features - features.mean(0)) / features.std(0)
    rows = np.vstack([scaled, math.sqrt(2.0) * np.eye(5)])
    weights = np.linalg.lstsq(rows, np.append(target - target.mean(), np.zeros(5)), rcond=None)[0]
    new = rng.normal(3, 2, (7, 5))
    expected = target.mean() + (new - features.mean(0)) / features.std(0) @ weights
    assert fit_ridge(features, target, penalty=2.0)(new) == pytest.approx(expected)


def test_features_are_the_state_that_the_decision_is_sampled_from(random_policy):
    prompts = [(5, 6, 7), (8, 9)]
    features = compute_features(random_policy, prompts)
    head = random_policy.model.get_output_embeddings()
    for prompt, row in zip(prompts, features, strict=True):
        with torch.no_grad():
            logits = random_policy.model(input_ids=torch.tensor([prompt])).logits[0, -1]
            found = head(torch.tensor(row, dtype=torch.float32))
        assert torch.allclose(found, logits, atol=1e-4)


# ---- tuning ----------------------------------------------------------------------------------------------------------


def write_runs(run, by_folder, problems):
    """Write the original, and trainings whose auto answers are right on the problems that are named."""

    def rows(right):
        texts = {n: [f"thought:\\boxed{{{one.answer if one.id in right else 'x'}}}"] for n, one in enumerate(problems)}
        return {"auto": texts, "think": texts, "no_think": {n: ["\\boxed{x}"] for n in texts}}

    for folder, right in by_folder.items():
        make_folder(run / folder / "evaluation", rows(right), problems=problems)
        (run / folder / "evaluation" / "summary.json").write_text("{}")


def test_a_value_is_chosen_on_the_tuning_half_alone(tmp_path):
    problems = [make_problem(f"{n}+1=?", str(n + 1), level=1) for n in range(20)]
    halves = [{one.id for one in problems if part(one.id)} for part in (is_for_tuning, is_for_reporting)]
    assert all(len(half) > 2 for half in halves)
    write_runs(
        tmp_path,
        {"original/0": set(), "delta_0.02/0": halves[0], "delta_0.05/0": set(), "delta_0.1/0": halves[1]},
        problems,
    )
    [main] = list_entries(["adaptthink"])
    original = read_entry(tmp_path, ENTRIES[0], None, 0, bench_jobs.read_original(tmp_path))
    assert read_values(tmp_path) == {}
    tune(tmp_path, [main], 0, original)
    assert read_values(tmp_path) == {"adaptthink": 0.02}
    found = bench_jobs.read_found(tmp_path, [main, *list_entries(["delta_0.1"])], original)
    assert (found["adaptthink"].value, found["adaptthink"].num_tried) == (0.02, 3)
    assert rank(found.values(), original, 5) == ["adaptthink"]  # an ablation is not ranked


def test_stages_follow_from_each_other(tmp_path, monkeypatch):
    """Every value on the first seed, the chosen one on all, the best on two more; a second training after its first."""
    problems = [make_problem(f"{n}+1=?", str(n + 1), level=1) for n in range(20)]
    first = Entry("first", "first", Family.LENGTH, "–", "--method grpo --no-think-share 0", samples=8)
    second = Entry("second", "second", Family.MODE_CHOICE, "–", steps=0.5, base="first")
    knob = Knob("weight", "--weight {}", (0.3, 0.5, 0.7))
    mean = Entry("mean", "mean", Family.OFFLINE, "–", knob=knob, base="grpo", merges=True)
    by_name = {one.name: one for one in ENTRIES}
    kept = [by_name[name] for name in ("original", "random_mix", "adaptthink", "delta_0.1", "grpo")]
    monkeypatch.setattr(table, "ENTRIES", (*kept, mean, second, first))
    monkeypatch.setattr(bench_jobs, "NUM_BEST", 2)
    right = {"original": set(), "delta_0.1": {one.id for one in problems}, "second": {one.id for one in problems[2:]}}
    plan = Plan(tmp_path, make_design(("reproduce",), None), resolve("train", TrainConfig, recipes=["reproduce"]))
    stages, commands = [], {}
    for stage in bench_jobs.list_stages(plan, list_entries(), (0, 1), ("tune", "train", "best")):
        stages.append([job.name for job in stage if not job.is_done])
        for job in stage:
            commands[job.name] = job.commands
            folder = job.metrics.parent if job.metrics else tmp_path / job.name / "0"
            if not (folder / "evaluation").exists() and "reference" not in job.name:
                write_runs(tmp_path, {folder.relative_to(tmp_path): right.get(folder.parent.name, set())}, problems)
    assert stages[0] == ["original", "reference 0", "reference 1"]
    assert stages[1] == ["delta_0.02 0", "delta_0.05 0", "delta_0.1 0", "grpo 0"]
    assert stages[2] == ["mean_0.3 0", "mean_0.5 0", "mean_0.7 0"]
    assert [name for name in commands if name.startswith("delta_0.1 ")] == [
        f"delta_0.1 {seed}" for seed in (0, 1, 2, 3)
    ]
    assert not any(name.startswith(("delta_0.05 1", "grpo 2")) for name in commands)
    assert "grpo 1" in stages[3]
    assert stages[4] == ["mean_0.3 0", "mean_0.3 1", "second 0", "second 1"]
    assert commands["mean_0.7 0"][0].arguments == (
        "merge", "tiny", str(tmp_path / "grpo" / "0" / "model"), "--output", str(tmp_path / "mean_0.7" / "0" / "model"),
        "--json", str(tmp_path / "mean_0.7" / "0.json"), "--weight", "0.7",
    )  # fmt: skip
    assert stages[5] == ["reference 2", "reference 3"]
    assert (set(stages[6]), stages[7]) == (
        {"delta_0.1 2", "delta_0.1 3", "first 2", "first 3"}, ["second 2", "second 3"],
    )  # fmt: skip
    words = commands["second 1"][0].arguments
    assert words[words.index("--model") + 1] == str(tmp_path / "first" / "1" / "model")
    assert "--reference" not in words
    assert words[words.index("--steps") + 1] == "82"
    assert json.loads((tmp_path / "tuned.json").read_text()) == {
        "adaptthink": {"value": 0.1, "tried": 3, "seed": 0}, "mean": {"value": 0.3, "tried": 3, "seed": 0},
        "random_mix": {"value": 0.75, "tried": 3, "seed": 0},
    }  # fmt: skip


def test_forced_responses_in_the_store_count_for_those_who_train_on_them(tmp_path):
    row = {"id": "1", "tokens": [30, 50], "no_think": {"verdicts": ["correct"] * 2, "responses": [[1] * 7, [1] * 9]}}
    store = tmp_path / "0.jsonl"
    store.write_text(json.dumps({"settings": {}}) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    assert count_reference_tokens(store, no_think=False) == 80
    assert count_reference_tokens(store, no_think=True) == 96
    by_name = {one.name: one for one in ENTRIES}
    assert [name for name, one in by_name.items() if one.needs_no_think] == ["rft_mixthinking", "rft_no_think"]
    assert not by_name["rft_no_think"].is_ranked  # it is there for another's sake
    assert by_name["dast"].is_offline
    assert not by_name["merging"].is_offline


# ---- claims and the page ---------------------------------------------------------------------------------------------


def part(low, high, by_seed=(1.0,), **more):
    return Part("x", (low + high) / 2, low, high, by_seed, **more)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ((part(1, 3), part(2, 4, p_value=0.01)), "supported"),
        ((part(1, 3), part(2, 4, p_value=0.06)), "undecided"),
        ((part(1, 3), part(-4, -2)), "not supported"),
        ((part(1, 3), part(1, 3, (2.0, -1.0))), "undecided"),
        ((part(-4, -2, (-3.0,), above=False),), "supported"),
        ((), "undecided"),
    ],
)
def test_a_claim_holds_if_all_of_its_parts_do(parts, verdict):
    assert Claim("c", "s", parts).verdict == verdict


def made_up(run):
    """Runs of forty problems: thinking is always right at 40 tokens, no_think on the first half at 8."""
    ids = [f"{number:016x}" for number in range(40)]
    easy = set(ids[:20])

    def model(chosen):
        rows = []
        for problem in ids:
            for index in range(2):
                direct = outcome(problem, problem in easy, requested="no_think", index=index, tokens=8)
                thought = outcome(problem, True, requested="think", index=index, tokens=40)
                rows += [replace(direct, mode="no_think"), thought]
        modes = {
            mode: Answers(
                {one: [float(mode == "think" or one in easy)] * 2 for one in ids},
                {one: [40.0 if mode == "think" else 8.0] * 2 for one in ids},
                {one: [float(mode != "think")] * 2 for one in ids},
            )
            for mode in ("think", "no_think")
        }
        leaning = {one: 0.9 if one in chosen else 0.1 for one in ids}
        whole = Model({one: "1" if one in easy else "5" for one in ids}, modes, leaning, [])
        kept = dial(replace(whole, modes={**modes}), 24.0 if chosen else 40.0)
        return replace(whole, modes={**modes, "auto": kept})

    original = {OWN: model(set())}
    by_name = {one.name: one for one in ENTRIES}
    good = {seed: {OWN: model(easy)} for seed in (0, 1, 2)}
    found = {
        "original": Found(by_name["original"], None, 0, {0: original}),
        "random_mix": Found(by_name["random_mix"], 0.5, 3, {0: {OWN: replace(original[OWN], modes={
            **original[OWN].modes, "auto": mix(original[OWN], 0.5)})}}),
        "adaptthink": Found(by_name["adaptthink"], 0.05, 3, good),
        "delta_0.05": Found(by_name["delta_0.05"], None, 0, good),
        "gap": Found(by_name["gap"], 0.05, 3, good),
        "grpo": Found(by_name["grpo"], None, 0, dict.fromkeys((0, 1, 2), original)),
    }  # fmt: skip
    for name in ("delta_0.05", "gap_0.05", "grpo"):
        for seed in (0, 1, 2):
            folder = run / name / f"{seed}"
            folder.mkdir(parents=True)
            rows = [{"step": step, "response_tokens": 100, "probe_no_think_logprob": -9.0} for step in (1, 2)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in (0, 1, 2):
        store = run / "references" / f"{seed}.jsonl"
        store.parent.mkdir(exist_ok=True)
        row = {"id": "a", "tokens": [10, 20], "no_think": {"verdicts": ["wrong"], "responses": [[1] * 5]}}
        store.write_text('{"settings": {}}\n' + f"{json.dumps(row)}\n" * 2, encoding="utf-8")
    return found, original


def test_claims_on_runs_whose_truth_is_known(tmp_path):
    found, _ = made_up(tmp_path)
    claims = {one.name: one for one in check_claims(found, {}, 40.0)}
    assert claims["mix"].verdict == "supported"
    assert claims["mix"].parts[0].estimate == pytest.approx(25.0)  # all right, against 100% and 50% mixed half and half
    assert claims["mix"].note.startswith(
        "of the 25.0 points of adaptthink over the original's mix, a mix of its own modes has 0%"
    )
    assert [one.estimate for one in claims["dial"].parts] == [0.0, 0.0]  # the same models
    assert [one.verdict for one in claims["sampling"].parts] == ["undecided", "supported"]
    assert claims["both"].verdict == claims["ratio"].verdict == claims["offline"].verdict == "undecided"


def test_comparisons_with_the_main_entry_are_adjusted_for_their_number(tmp_path):
    found, _ = made_up(tmp_path)
    against = compare_with_main(found, OWN, 40.0)
    assert "adaptthink" not in against
    utility = {
        name: compute_utility(pool(m.modes["auto"] for m in one.select().values()), 40.0) for name, one in found.items()
    }
    plain = {name: mean_difference(utility[name], utility["adaptthink"]) for name in against}
    assert {name: one.utility for name, one in against.items()} == holm(plain)
    assert against["grpo"].tokens.interval.estimate == 16


def test_the_page_shows_the_numbers_and_keeps_what_else_it_holds(tmp_path):
    found, original = made_up(tmp_path)
    result = measure(tmp_path, found, original, About("tiny", ("reproduce",), "2026-01-02", "a machine"))
    assert from_json(Result, json.loads(json.dumps(to_json(result)))) == result
    rows = {row.name: row for row in result.rows}
    auto = rows["adaptthink"].sets[OWN].modes["auto"]
    assert (auto.accuracy.estimate, sorted(auto.by_seed)) == (1.0, [0, 1, 2])
    assert {level: one.no_think for level, one in auto.by_level.items()} == {"1": 1.0, "5": 0.0}
    assert (rows["gap"].spent.reference, rows["gap"].spent.rollouts, rows["gap"].spent.tuning) == (
        60,
        200,
        0,
    )  # gap uses no forced ones
    assert rows["original"].spent is None
    page = tmp_path / "page.md"
    page.write_text("# A page\n\nBy hand.\n\n## Results on tiny\n\nold\n\n## Results on other\n\nkept\n")
    write_page(result, page)
    text = page.read_text()
    assert text.startswith("# A page\n\nBy hand.\n\n## Results on tiny\n\n2026-01-02, a machine")
    assert text.endswith("\n\n## Results on other\n\nkept\n")
    assert "old" not in text.split("## Results on other")[0].splitlines()
    [line] = [one for one in text.splitlines() if one.startswith("| AdaptThink | mode choice")][:1]
    assert "| δ = 0.05 (best of 3) | 3 | 100.0 (" in line
    assert "| AdaptThink | 100.0 | 0.0 |" in text
    assert (tmp_path / "page-tiny.png").read_bytes().startswith(b"\x89PNG")
    write_page(result, page)
    assert page.read_text() == text


def test_labels_do_not_lie_on_each_other():
    places = [("a", 10.0, 90.0), ("b", 11.0, 89.5), ("far", 40.0, 89.9), ("c", 12.0, 88.9), ("low", 10.0, 60.0)]
    found = {name: (x, y, height) for name, x, y, height in spread_labels(places, width=5.0, height=2.0)}
    assert {name: height for name, (_, _, height) in found.items()} == {
        "a": 90.0, "far": 89.9, "b": 88.0, "c": 86.0, "low": 60.0,
    }  # fmt: skip
    assert all((x, y) == (found[name][0], found[name][1]) for name, x, y in places)


# ---- the command -----------------------------------------------------------------------------------------------------

ENTRY_NAMES = ("original", "random_mix", "linear_probe", "budget_forcing", "adaptthink")


@pytest.mark.slow
def test_the_whole_command_in_miniature(tmp_path, monkeypatch, run):
    """Interrupted after the first stage, completed, and a third time with nothing left to run.

    The commands run in this process, which saves imports; `tests/test_reproduction.py` runs the queue as it is.
    """
    design = make_design(("reproduce",), None, steps=2, problems=40, evaluated=4)
    command, run = run, tmp_path / "run"

    def run_here(jobs, logs, at_once=None):
        logs.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            for one in job.commands:
                if not one.done.exists():
                    with (logs / f"{job.name.replace(' ', '-')}.txt").open("a") as log:
                        log.write(f"adaptthink {' '.join(one.arguments)}\n")
                    status, _, err = command(*one.arguments)
                    assert status == 0, err

    def run_one_stage(*args):
        run_here(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_jobs, "run_jobs", run_here)
    options = {"entries": ENTRY_NAMES, "seeds": (0,), "parts": ("untrained", "train")}
    with monkeypatch.context() as patch:
        patch.setattr(bench_jobs, "run_jobs", run_one_stage)
        with pytest.raises(KeyboardInterrupt):
            bench_job(run, design, **options)
    result = bench_job(run, design, **options)
    logs = {path: path.read_text().count("adaptthink ") for path in (run / "logs").glob("*.txt")}
    assert {path.stem for path in logs} == {"original", "reference-0", "delta_0.05-0"}
    assert bench_job(run, design, **options) == result == json.loads((run / "benchmark.json").read_text())
    assert logs == {path: path.read_text().count("adaptthink ") for path in (run / "logs").glob("*.txt")}
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {*ENTRY_NAMES, "delta_0.05"}  # which is the same training
    assert rows["adaptthink"]["sets"] == rows["delta_0.05"]["sets"]
    assert set(rows["budget_forcing"]["sets"]) == {"in distribution", "shifted"}
    assert set(rows["budget_forcing"]["sets"][OWN]["modes"]) == {"auto"}
    spent = rows["adaptthink"]["spent"]
    assert spent["rollouts"] == sum(
        json.loads(line)["response_tokens"] for line in (run / "delta_0.05/0/metrics.jsonl").read_text().splitlines()
    )
    assert "## Results on tiny" in (run / "benchmark.md").read_text()
    with pytest.raises(UserError, match="steps was 2 and is now 3"):
        bench_job(run, replace(design, steps=3), **options)


def test_values_that_another_benchmark_chose_are_taken_and_nothing_is_tuned(tmp_path, monkeypatch, capsys):
    found, original = made_up(tmp_path / "earlier")
    earlier = measure(tmp_path / "earlier", found, original, About("tiny", ("reproduce",), "2026-01-02", "a machine"))
    [row] = [one for one in earlier.rows if one.name == "adaptthink"]
    rows = [replace(one, value=0.02, num_tried=3) if one is row else one for one in earlier.rows]
    point = KnobPoint("adaptthink", 0.1, 0.9, 30.0, 0.8)
    path, run = tmp_path / "benchmark.json", tmp_path / "run"
    path.write_text(json.dumps(to_json(replace(earlier, rows=rows, knobs=[point]))))
    problems, names = [make_problem(f"{n}+1=?", str(n + 1), level=1) for n in range(20)], []

    def run_none(jobs, logs, at_once=None):
        names.extend(job.name for job in jobs)
        write_runs(run, {Path("original/0"): set(), Path("delta_0.02/0"): set()}, problems)

    monkeypatch.setattr(bench_jobs, "run_jobs", run_none)
    design = make_design(("reproduce",), None, path)
    result = bench_job(run, design, entries=["original", "adaptthink"], seeds=(0,), parts=("tune", "train"))
    assert names == ["original", "reference 0", "delta_0.02 0"]
    assert f"knob values are those of {path}; nothing is tuned" in capsys.readouterr().out
    assert {row["name"]: (row["value"], row["num_tried"]) for row in result["rows"]}["adaptthink"] == (0.02, 3)
    assert (result["about"]["tuned"], result["knobs"]) == ("tiny, 2026-01-02", [to_json(point)])
    assert "Knob values were chosen in an earlier benchmark (tiny, 2026-01-02)." in (run / "benchmark.md").read_text()
    with pytest.raises(UserError, match=r"tuned was .*benchmark\.json' and is now None"):
        bench_job(run, replace(design, tuned=None))
    path.write_text('{"about": 1}')
    with pytest.raises(UserError, match=r"benchmark\.json: damaged .*; tuned takes the result of another benchmark"):
        bench_job(run, design)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--entries", "adaptthin"), "no entry 'adaptthin'; there are: original, random_mix"),
        (("--seeds", "-1"), "--seeds -1: give one seed or more, each from 0 on"),
        (("--parts", "page"), "holds no evaluation of the model before training yet; leave out --parts page"),
        (("--parts", "tuning"), 'Invalid value "tuning" for --parts'),
        (("--steps", "0"), "Must be > 0"),
        (("--recipe", "reproduc"), "no recipe 'reproduc'"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, args, message):
    status, _, err = run("bench", tmp_path / "new", *args)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_another_folder_is_refused(run, tmp_path):
    (tmp_path / "config.json").write_text('{"design": "quick"}')
    status, _, err = run("bench", tmp_path)
    assert (status, "is the folder of a reproduction, and the folder of a benchmark is needed" in err) == (2, True)


def test_help_names_what_can_be_chosen(run):
    _, out, _ = run("bench", "--help")
    for text in ("RUN", "--recipe", "--entries", "--seeds", "[default: 0 1 2]", "--parts", "--quick", "--page PATH"):
        assert text in out
