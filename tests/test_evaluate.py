"""Scores and deltas against hand-computed numbers; what is sampled, and what of it is kept."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
from lock_holder import another_holds
from pydantic import ValidationError

from adaptthink.config.schema import EvaluateConfig
from adaptthink.engines.base import Completion, Finish, ScriptedEngine
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.evaluation import run as run_module
from adaptthink.evaluation.run import (
    Query,
    decide_missing,
    make_policy_responder,
    make_policy_setting,
    make_sample,
    make_sample_counter,
    sample_missing,
)
from adaptthink.evaluation.scores import compare_scores, map_levels, summarise
from adaptthink.evaluation.store import (
    Outcome,
    Timing,
    grade_folder,
    lock_folder,
    open_folder,
    open_samples,
    read_decisions,
    read_outcomes,
    read_samples,
    read_throughput,
    write_timing,
)
from adaptthink.grading import AnswerKind, Verdict
from adaptthink.modes import Mode
from adaptthink.problems import Problem, make_problem
from adaptthink.sampling.grader import AnswerGrader
from adaptthink.sampling.sampler import Sampler


def outcome(level, tokens, verdict=Verdict.CORRECT, mode=Mode.THINK, *, problem=None, index=0):
    name = problem or f"{level} {tokens} {verdict}"
    return Outcome(name, str(level), "auto", index, mode, verdict, tokens, 0)


def test_summary_by_hand():
    evaluation = summarise(
        [
            outcome(1, 10),
            outcome(1, 20, Verdict.WRONG, Mode.NO_THINK),
            outcome(2, 40, Verdict.TRUNCATED),
            outcome(2, 50),
            outcome(2, 60),
        ]
    )
    one, two, overall = evaluation.levels["1"], evaluation.levels["2"], evaluation.overall
    assert (one.accuracy, one.mean_tokens, one.no_think_share, one.truncated_share, one.n) == (0.5, 15, 0.5, 0, 2)
    assert one.verdicts == {"correct": 1, "wrong": 1}
    assert (two.accuracy, two.truncated_share) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (overall.accuracy, overall.mean_tokens, overall.no_think_share, overall.n) == (0.6, 36, 0.2, 5)
    assert overall.accuracy_interval[0] < 0.6 < overall.accuracy_interval[1]
    assert overall.tokens_interval[0] < 36 < overall.tokens_interval[1]


def test_intervals_are_clustered_by_problem():
    def ends(problems):
        everything = [
            outcome(1, 10, Verdict.CORRECT if problem % 2 else Verdict.WRONG, problem=str(problem), index=index)
            for index in range(40 // problems)
            for problem in range(problems)
        ]
        return summarise(everything).overall.accuracy_interval

    (low, high), (low_of_few, high_of_few) = ends(40), ends(4)
    assert high - low < 0.33
    assert high_of_few - low_of_few > 0.6  # forty responses to four problems say little more than four


def test_nothing_to_summarise_is_an_error():
    for outcomes in ([], [outcome(1, 3, Verdict.REFERENCE_UNPARSABLE)]):
        with pytest.raises(ValueError, match="no graded responses"):
            summarise(outcomes)


def test_responses_that_cannot_be_graded_are_counted_and_left_out():
    evaluation = summarise(
        [outcome(1, 10), outcome(1, 90, Verdict.REFERENCE_UNPARSABLE), outcome(2, 90, Verdict.TIMEOUT)]
    )
    assert evaluation.ungradable == 1
    assert evaluation.levels["1"].n == 1
    assert evaluation.levels["1"].tokens_interval is None  # of a single problem
    assert evaluation.overall.accuracy == 0.5


def test_levels_are_in_order_of_their_numbers_and_names_come_last():
    levels = summarise([outcome(level, 1) for level in ("stem", 10, 2, "all", 1)]).levels
    assert list(levels) == ["1", "2", "10", "all", "stem"]


def test_a_problem_weighs_the_same_however_many_responses_it_has():
    """One problem right in four responses of 10 tokens, one wrong in a single response of 40, truncated."""
    often = [outcome(1, 10, mode=Mode.NO_THINK, problem="often", index=index) for index in range(4)]
    overall = summarise([*often, outcome(1, 40, Verdict.TRUNCATED, problem="once")]).overall
    assert (overall.accuracy, overall.mean_tokens) == (0.5, 25)
    assert (overall.no_think_share, overall.truncated_share, overall.n) == (0.5, 0.5, 5)


def test_deltas_are_means_over_levels_as_in_the_paper():
    """The paper's own 1.5B rows: 1,000 problems of each set, as many right as reported, all of the mean length."""

    def row(*sets):
        return [
            outcome(level, tokens, Verdict.CORRECT if n < right else Verdict.WRONG, problem=f"{level}/{n}")
            for level, (right, tokens) in enumerate(sets, 1)
            for n in range(1000)
        ]

    old = row((790, 978), (806, 4887), (294, 12073))
    new = row((831, 480), (820, 1782), (310, 6679))
    change = compare_scores(new, old, map_levels(old))
    assert 100 * change.accuracy.interval.estimate == pytest.approx(2.4, abs=0.05)
    assert 100 * change.tokens.interval.estimate == pytest.approx(-53.0, abs=0.05)
    for changed, before in ((new, old[:-1]), (new[:-1], old)):
        with pytest.raises(ValueError, match="must have the same problems: 1 are in one only"):
            compare_scores(changed, before, map_levels(old))


def test_changes_by_hand():
    old = [outcome(level, 20, Verdict.WRONG, problem=f"{level}{n}") for level in (1, 2) for n in "ab"]
    new = [
        *(outcome(1, 10, problem=f"1{n}") for n in "ab"),
        outcome(2, 30, problem="2a"),
        outcome(2, 20, Verdict.WRONG, problem="2b"),
    ]
    by_level = compare_scores(new, old, map_levels(old))
    assert by_level.accuracy.interval.estimate == pytest.approx((1 + 0.5) / 2)
    assert by_level.tokens.interval.estimate == pytest.approx((-0.5 + 0.25) / 2)
    together = compare_scores(new, old)
    assert together.tokens.interval.estimate == pytest.approx(70 / 80 - 1)
    assert compare_scores(new[:3], old[:3], map_levels(old)).tokens is None  # one problem of level 2


POOL = [make_problem(f"{n}+1=?", str(n + 1), level=1) for n in range(5)]


@pytest.fixture
def sampler(random_policy):
    engine = NativeEngine(random_policy.model, random_policy.eos_ids)
    return Sampler(engine, random_policy.tokenizer, random_policy.template)


def evaluate(sampler, folder, requested, on_timing=lambda timing: None, **settings):
    config = EvaluateConfig(max_think_tokens=9, max_no_think_tokens=4, **settings)
    seen = []
    setting = make_policy_setting("random", "weights", config, {"Alright": 1.0})
    respond = make_policy_responder(sampler, config, on_timing=on_timing)
    count = make_sample_counter(config)
    sample_missing(respond, folder, setting, POOL, requested, count, on_sample=seen.append)
    return seen


def test_a_set_may_have_its_own_number_of_samples():
    problems = [make_problem(f"{n}?", "1", source=source) for n, source in enumerate(("gsm8k/test", "aime24/test"))]
    count = make_sample_counter(EvaluateConfig(samples_per_problem=2, samples_by_set="aime24=16"))
    assert [count(problem) for problem in problems] == [2, 16]
    for wrong in ("aime24", "aime24=0", "aime24=x", "=3", "aime24=1,aime24=2"):
        with pytest.raises(ValidationError):
            EvaluateConfig(samples_by_set=wrong)


def test_requested_modes_are_obeyed(sampler, tmp_path):
    evaluate(sampler, tmp_path / "e", ("think", "no_think"), samples_per_problem=2)
    samples = list(read_samples(tmp_path / "e"))
    assert {sample.key for sample in samples} == {
        (problem.id, requested, index) for problem in POOL for requested in ("think", "no_think") for index in (0, 1)
    }
    for sample in samples:
        assert sample.mode == sample.requested
        assert sample.tokens <= (4 if sample.requested == "no_think" else 9)
    assert len({sample.seed for sample in samples}) == 2  # one for each requested mode


def test_what_is_there_is_not_sampled_again_and_the_rest_is_as_it_would_have_been(sampler, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    evaluate(sampler, whole, ("auto", "no_think"), samples_per_problem=3)
    evaluate(sampler, parts, ("auto",), samples_per_problem=1)
    seen = evaluate(sampler, parts, ("auto", "no_think"), samples_per_problem=3)
    assert seen.count(None) == 5
    assert len(seen) == 30
    assert sorted(read_samples(parts), key=str) == sorted(read_samples(whole), key=str)


def test_a_killed_evaluation_goes_on(sampler, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    evaluate(sampler, whole, ("auto",), samples_per_problem=2)
    evaluate(sampler, cut, ("auto",), samples_per_problem=2)
    content = (cut / "samples.jsonl").read_bytes()
    (cut / "samples.jsonl").write_bytes(content[: len(content) // 2])
    seen = evaluate(sampler, cut, ("auto",), samples_per_problem=2)
    assert 0 < seen.count(None) < 10
    assert sorted(read_samples(cut), key=str) == sorted(read_samples(whole), key=str)


def test_the_tokens_per_second_are_those_of_whole_parts(sampler, tmp_path, monkeypatch):
    """By a clock that the test moves: 2 s for the part of each mode, however often the folder is completed."""
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=count(0, 2).__next__))
    folder = tmp_path / "e"
    keep = partial(write_timing, folder)
    evaluate(sampler, folder, ("auto", "no_think"), samples_per_problem=2, on_timing=keep)
    evaluate(sampler, folder, ("auto", "no_think"), samples_per_problem=3, on_timing=keep)
    samples = list(read_samples(folder))
    tokens = {name: sum(one.tokens for one in samples if one.requested == name) for name in ("auto", "no_think")}
    assert read_throughput(folder) == {name: total / 4 for name, total in tokens.items()}
    assert all("seconds" not in line for line in (folder / "samples.jsonl").read_text().splitlines())
    write_timing(folder, Timing("think", 1, 5, 0.0))
    assert "think" not in read_throughput(folder)
    path = folder / "timings.jsonl"
    path.write_text(path.read_text().replace('"seconds": 2', '"seconds": -2', 1))
    with pytest.raises(UserError, match=r"timings\.jsonl, line 1: damaged \(seconds: "):
        read_throughput(folder)


def test_another_setting_is_refused_by_name(sampler, tmp_path):
    evaluate(sampler, tmp_path / "e", ("auto",))
    with pytest.raises(
        UserError, match=r"temperature was 0\.6 and is now 1\.0; return to the old ones or give another path"
    ):
        evaluate(sampler, tmp_path / "e", ("auto",), temperature=1.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no evaluation"):
        evaluate(sampler, tmp_path / "other", ("auto",))


def test_a_second_process_is_refused_and_touches_nothing(sampler, tmp_path):
    folder = tmp_path / "e"
    evaluate(sampler, folder, ("auto",))
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"half a li')  # as if the other one were just writing
    config = EvaluateConfig(max_think_tokens=9, max_no_think_tokens=4)
    setting = make_policy_setting("random", "weights", config, {"Alright": 1.0})
    with another_holds(folder / "samples.jsonl"):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with (
            pytest.raises(UserError, match=r"evaluation folder '.*e' is in use by another process"),
            lock_folder(folder, setting),
        ):
            pytest.fail("both write it")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    other = tmp_path / "other"
    with lock_folder(other, setting):
        evaluate(sampler, other, ("auto",))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no evaluation"), lock_folder(tmp_path / "mine", setting):
        pytest.fail("it is none")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_decisions_are_the_models_own_at_temperature_1(sampler, tmp_path):
    evaluate(sampler, tmp_path, ("auto",), temperature=0.5)
    decide_missing(sampler, tmp_path, POOL[:2])
    decide_missing(sampler, tmp_path, POOL)
    decisions = read_decisions(tmp_path)
    assert len((tmp_path / "decisions.jsonl").read_text().splitlines()) == 5
    ids = [sampler.template.no_think_id, sampler.template.think_id]
    for problem in POOL:
        [[no_think, think]] = sampler.engine.next_token_logprobs([sampler.encode_prompt(problem)], ids)
        assert decisions[problem.id].no_think_probability == pytest.approx(math.exp(no_think), rel=1e-5)
        assert decisions[problem.id].think_probability == pytest.approx(math.exp(think), rel=1e-5)


def read(random_policy, text, finish=Finish.STOP):
    sampler = Sampler(ScriptedEngine(lambda prompt, prefix: ()), random_policy.tokenizer, random_policy.template)
    ids = tuple(random_policy.tokenizer(text, add_special_tokens=False)["input_ids"])
    if finish is Finish.STOP:
        ids = (*ids, random_policy.eos_ids[0])
    response = sampler.read(Completion(ids, (0.0,) * len(ids), finish))
    return make_sample(Query(POOL[0], "auto", 0), response, 7)


def test_a_response_is_kept_in_its_two_parts(random_policy):
    thinking = read(random_policy, "1+1=2</think>\\boxed{2}")
    assert (thinking.thinking, thinking.answer, thinking.mode) == ("1+1=2", "\\boxed{2}", Mode.THINK)
    assert thinking.tokens - thinking.thinking_tokens == 2 + len(
        random_policy.tokenizer("\\boxed{2}", add_special_tokens=False)["input_ids"]
    )
    answered = read(random_policy, "</think>\\boxed{2}")
    assert (answered.thinking, answered.answer, answered.mode) == (None, "\\boxed{2}", Mode.NO_THINK)
    assert answered.thinking_tokens == 0
    cut = read(random_policy, "1+1=", Finish.LENGTH)
    assert (cut.thinking, cut.answer, cut.thinking_tokens) == ("1+1=", None, cut.tokens)
    cut = read(random_policy, "1+1=2</think>\\box", Finish.LENGTH)
    assert (cut.thinking, cut.answer) == ("1+1=2", "\\box")


def write(folder, answers):
    """Make a folder with given answers to the first problem, whose reference answer is 1."""
    sample_missing(
        lambda queries, take: [take(sample) for sample in answers],
        folder,
        make_policy_setting("m", "f", EvaluateConfig(), {"Alright": 1.0}),
        POOL,
        ("auto",),
        lambda problem: len(answers),
    )


def sample_with(random_policy, text, index, finish=Finish.STOP):
    return replace(read(random_policy, text, finish), index=index)


def test_another_grader_grades_again_and_samples_nothing(random_policy, tmp_path):
    texts = ["</think>\\boxed{1}", "</think>the answer is 1", "</think>\\boxed{2}"]
    samples = [sample_with(random_policy, text, index) for index, text in enumerate(texts)]
    cut = sample_with(random_policy, "</think>\\boxed{1}", 3, Finish.LENGTH)
    write(tmp_path, [*samples, cut])
    before = (tmp_path / "samples.jsonl").read_bytes()

    def verdicts(**settings):
        grade_folder(tmp_path, AnswerGrader(**settings))
        return [outcome.verdict.value for outcome in read_outcomes(tmp_path)]

    assert verdicts() == ["correct", "unparsed", "wrong", "truncated"]
    assert verdicts(boxed_only=False) == ["correct", "correct", "wrong", "truncated"]
    assert len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 5
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_grading_that_was_interrupted_goes_on(random_policy, tmp_path, monkeypatch):
    write(tmp_path, [sample_with(random_policy, "</think>\\boxed{1}", index) for index in range(5)])
    grade_folder(tmp_path)
    path = tmp_path / "verdicts.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    with pytest.raises(UserError, match="not graded"):
        read_outcomes(tmp_path)
    path.write_text("".join(lines[:3]) + lines[3][:20])
    counted = []
    grade_folder(tmp_path, on_grade=counted.append)
    assert sum(counted) == 3
    assert [one.verdict for one in read_outcomes(tmp_path)] == [Verdict.CORRECT] * 5


def grade_again(folder):
    counted = []
    grade_folder(folder, on_grade=counted.append)
    return sum(counted), [one.verdict.value for one in read_outcomes(folder)]


def test_a_verdict_belongs_to_its_reference_answer(random_policy, tmp_path):
    """The answer in the folder is edited by hand, and then put back."""
    texts = ["</think>\\boxed{1}", "</think>\\boxed{7}"]
    samples = [sample_with(random_policy, text, index) for index, text in enumerate(texts)]
    write(tmp_path, samples)
    assert grade_again(tmp_path) == (2, ["correct", "wrong"])
    path = tmp_path / "problems.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"answer": "1"', '"answer": "7"'))
    with pytest.raises(UserError, match="graded against another reference answer"):
        read_outcomes(tmp_path)
    write(tmp_path, [])  # the same problems do not undo it
    assert grade_again(tmp_path) == (2, ["wrong", "correct"])
    assert grade_again(tmp_path) == (0, ["wrong", "correct"])
    path.write_text(whole)
    assert grade_again(tmp_path) == (2, ["correct", "wrong"])


@pytest.mark.parametrize("change", [{"answer": "7"}, {"answer": "B", "kind": AnswerKind.CHOICE}])
def test_a_problem_with_an_id_of_its_own_may_get_another_answer(random_policy, tmp_path, change):
    problem = Problem("00000000000000aa", "1+0=?", "1")
    setting = make_policy_setting("m", "f", EvaluateConfig(), {"Alright": 1.0})
    open_folder(tmp_path, setting, [problem, *POOL])
    texts = ["</think>\\boxed{1}", f"</think>\\boxed{{{change['answer']}}}"]
    with open_samples(tmp_path) as keep:
        for index, text in enumerate(texts):
            keep(replace(sample_with(random_policy, text, index), problem_id=problem.id))
    assert grade_again(tmp_path) == (2, ["correct", "wrong"])
    open_folder(tmp_path, setting, [replace(problem, **change), *POOL])
    assert len((tmp_path / "problems.jsonl").read_text().splitlines()) == 1 + len(POOL)
    assert grade_again(tmp_path)[0] == 2
    assert [one.verdict.value for one in read_outcomes(tmp_path)][1] == "correct"
    assert grade_again(tmp_path)[0] == 0


def test_another_kind_of_answer_is_another_reference_answer(random_policy, tmp_path):
    setting, [first, *rest] = make_policy_setting("m", "f", EvaluateConfig(), {"Alright": 1.0}), POOL
    write(tmp_path, [sample_with(random_policy, "</think>\\boxed{A}", 0)])
    assert grade_again(tmp_path) == (1, ["wrong"])
    open_folder(tmp_path, setting, [replace(first, kind=AnswerKind.CHOICE), *rest])
    assert grade_again(tmp_path) == (1, ["reference_unparsable"])


def test_half_a_character_is_kept_and_graded(random_policy, tmp_path):
    """A server may send one, and Python's UTF-8 refuses it: the sample must not be lost."""
    half = replace(sample_with(random_policy, "</think>\\boxed{1}", 0), answer="\ud83d \\boxed{1\ud83d}")
    write(tmp_path, [half])
    assert [one.answer for one in read_samples(tmp_path)] == [half.answer]
    grade_folder(tmp_path)
    assert len(read_outcomes(tmp_path)) == 1


def test_a_damaged_line_is_named(random_policy, tmp_path):
    write(tmp_path, [sample_with(random_policy, "</think>\\boxed{1}", 0)])
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"problem_id": "x"}) + "\n")
    with pytest.raises(UserError, match=r"samples\.jsonl, line 2: damaged"):
        list(read_samples(tmp_path))
