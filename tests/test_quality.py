"""Mode choice by hand; the regret that is honest, against truths that a simulation knows."""

import json

import numpy as np
import pytest
from evaluations import make_folder, outcome, outcomes

from adaptthink import api
from adaptthink.cli.compare import show_mode_choice
from adaptthink.errors import UserError
from adaptthink.evaluation.mode_choice import (
    assess_mode_choice,
    check_calibration,
    compare_with_better_mode,
    compare_with_pass_rates,
    compare_with_think,
    compute_pass_rates,
    cross_fit,
    find_better_mode,
    find_bin,
    measure_implicit_thinking,
    measure_mass,
    measure_no_think_by_level,
    pair_forced,
    score_by_chosen_mode,
)
from adaptthink.evaluation.store import Decision
from adaptthink.modes import Convention, Mode


def think(rights, tokens=20):
    return outcomes(rights, requested="think", tokens=tokens)


def no_think(rights, tokens=5):
    return outcomes(rights, requested="no_think", mode=Mode.NO_THINK, tokens=tokens)


def auto(choices, level="1"):
    """Auto's responses from {"p": [(mode, right), …]}."""
    return [
        outcome(problem, right, index=index, mode=mode, tokens=20 if mode is Mode.THINK else 5, level=level)
        for problem, values in choices.items()
        for index, (mode, right) in enumerate(values)
    ]


T, N = Mode.THINK, Mode.NO_THINK


@pytest.mark.parametrize(
    ("with_thought", "without", "tokens", "better"),
    [
        ([1, 1], [1, 1], (20, 5), N),  # alike: the shorter one
        ([1, 1], [1, 1], (5, 20), T),
        ([1, 1], [1, 1], (5, 5), N),
        ([1] * 20, [1] * 19 + [0], (20, 5), N),  # 0.05 apart is within delta
        ([1] * 10, [1] * 9 + [0], (20, 5), T),
        ([1, 0], [1, 1], (5, 20), N),
    ],
)
def test_better_mode_by_hand(with_thought, without, tokens, better):
    mode = find_better_mode(think({"p": with_thought}, tokens[0]), no_think({"p": without}, tokens[1]), 0.05)
    assert mode is better


def test_cross_fitting_scores_no_sample_with_its_own_choice():
    # Whichever sample is left out, the others point to the mode in which it failed; all together tie.
    scored = cross_fit(think({"p": [1, 0, 1, 0]}), no_think({"p": [0, 1, 0, 1]}), 0.05)
    assert [(one.mode, one.index, one.correct) for one in scored] == [(N, 0, 0), (T, 1, 0), (N, 2, 0), (T, 3, 0)]


def test_cross_fitting_with_more_samples_in_one_mode():
    # two folds: think 1 and 3 with no_think 1 choose for think 0 and 2 or no_think 0, and the other way round
    scored = cross_fit(think({"p": [1, 1, 0, 1]}), no_think({"p": [0, 1]}), 0.05)
    assert [(one.mode, one.index) for one in scored] == [(N, 0), (T, 1), (T, 3)]


def test_regret_and_hybrid_accuracy_by_hand():
    forced = pair_forced(think({"p": [1, 1], "q": [1, 1]}), no_think({"p": [1, 1], "q": [0, 0]}))
    found = compare_with_better_mode(
        auto({"p": [(N, 1), (T, 1)], "q": [(N, 0), (T, 1)], "other": [(N, 1)]}), forced, 0.05
    )
    assert found.hybrid_accuracy.estimate == 0.5  # no_think for p, think for q, each chosen once out of two
    assert found.hybrid_accuracy.num_problems == 2
    assert found.regret.interval.estimate == pytest.approx((0 + 0.5) / 2)
    assert found.naive_regret == pytest.approx(0.25)
    assert found.regret_tokens.interval.estimate == pytest.approx((5 + 20) / (12.5 + 12.5) - 1)


def test_one_sample_in_a_mode_gives_no_honest_regret():
    forced = pair_forced(think({"p": [1], "q": [1, 1]}), no_think({"p": [0, 0], "q": [0]}))
    found = compare_with_better_mode(auto({"p": [(T, 1)], "q": [(T, 1)]}), forced, 0.05)
    assert (found.regret, found.regret_tokens) == (None, None)
    assert found.hybrid_accuracy.estimate == 1
    assert compare_with_better_mode([], forced, 0.05) is None


def simulate(rng, with_thought, without, samples, choice):
    """One evaluation: true accuracies by problem and mode, and auto's choice; returns what was found."""
    names = [str(n) for n in range(len(with_thought))]

    def sample(chances):
        return {name: (rng.random(samples) < p).astype(int).tolist() for name, p in zip(names, chances, strict=True)}

    tried = np.where(choice, without, with_thought)
    chosen = auto({
        name: [(N if direct else T, right) for right in values]
        for (name, values), direct in zip(sample(tried).items(), choice, strict=True)
    })  # fmt: skip
    forced = pair_forced(think(sample(with_thought)), no_think(sample(without)))
    return compare_with_better_mode(chosen, forced, 0.05)


def test_regret_is_unbiased_where_the_naive_one_is_not():
    """Both modes are equally good on every problem, so that there is nothing to regret."""
    rng = np.random.default_rng(0)
    chances = rng.random(1200)
    found = simulate(rng, chances, chances, 4, rng.random(1200) < 0.5)
    assert found.regret.interval.high - found.regret.interval.low < 0.05
    assert found.regret.verdict == "not distinguishable"
    assert found.naive_regret > 0.05


def test_true_regret_lies_between_the_two():
    rng = np.random.default_rng(1)
    with_thought, without, choice = rng.random(1200), rng.random(1200), rng.random(1200) < 0.5
    true = np.mean(np.maximum(with_thought, without) - np.where(choice, without, with_thought))
    assert true == pytest.approx(1 / 6, abs=0.01)  # E[max] of two uniform numbers, less E of one
    found = simulate(rng, with_thought, without, 4, choice)
    assert found.regret.interval.high < true < found.naive_regret
    assert found.regret.interval.estimate > true - 0.06
    nearer = simulate(rng, with_thought, without, 16, choice)
    assert nearer.regret.interval.estimate == pytest.approx(true, abs=0.02)
    assert nearer.naive_regret == pytest.approx(true, abs=0.02)


def test_no_think_share_by_level():
    chosen = [*auto({"p": [(N, 1), (T, 1)], "q": [(N, 0), (N, 1)]}, "2"), *auto({"r": [(T, 1)]}, "10")]
    assert [(level, share.estimate) for level, share in measure_no_think_by_level(chosen).items()] == [
        ("2", 0.75),
        ("10", 0),
    ]


def test_pass_rates_by_hand():
    assert [find_bin(rate) for rate in (0, 0.1, 0.49, 0.5, 0.99, 1)] == [
        "0", "(0, 0.5)", "(0, 0.5)", "[0.5, 1)", "[0.5, 1)", "1",
    ]  # fmt: skip
    rates = compute_pass_rates(think({"never": [0, 0], "half": [1, 0], "always": [1, 1], "also": [1]}))
    assert rates == {"never": 0, "half": 0.5, "always": 1, "also": 1}
    chosen = auto({"never": [(T, 0)], "half": [(T, 1), (N, 1)], "always": [(N, 1)], "also": [(T, 1)], "new": [(T, 1)]})
    found = compare_with_pass_rates(chosen, "r", rates)
    assert {name: share.estimate for name, share in found.bins.items()} == {"0": 0, "[0.5, 1)": 0.5, "1": 0.5}
    assert found.unknown == 1
    with pytest.raises(UserError, match=r"the reference \(r\) has none of these problems"):
        compare_with_pass_rates(chosen, "r", {"elsewhere": 1.0})
    assert compare_with_pass_rates(chosen, "r", {}) is None


def test_against_think_by_hand():
    found = compare_with_think(
        auto({"p": [(N, 1)], "q": [(T, 0)], "alone": [(N, 1)]}), think({"p": [1, 0], "q": [1, 1]})
    )
    assert found.accuracy.interval.estimate == pytest.approx(0.5 - 0.75)
    assert found.tokens.interval.estimate == pytest.approx(12.5 / 20 - 1)
    assert compare_with_think(auto({"p": [(N, 1)]}), think({"p": [1]})).tokens is None  # of a single problem
    assert compare_with_think(auto({"p": [(N, 1)]}), []) is None


def test_accuracy_by_chosen_mode_is_labelled():
    found = score_by_chosen_mode(auto({"p": [(N, 1), (T, 0)], "q": [(N, 0), (N, 1)]}))
    assert (found.think.estimate, found.no_think.estimate) == (0, 0.75)
    assert found.label == "selected, not comparable"
    assert score_by_chosen_mode(auto({"p": [(T, 1)]})).no_think is None


def test_calibration_of_a_model_that_knows():
    forced = pair_forced(think({"p": [1, 1], "q": [1, 1]}), no_think({"p": [1, 1], "q": [0, 0]}))
    right = check_calibration(
        {"p": Decision(1.0, 0.0), "q": Decision(0.0, 1.0), "else": Decision(0.5, 0.5)}, forced, 0.05
    )
    wrong = check_calibration({"p": Decision(0.0, 1.0), "q": Decision(1.0, 0.0)}, forced, 0.05)
    assert (right.error, wrong.error) == (0, 1)
    assert (
        check_calibration({"p": Decision(0.0, 1.0), "q": Decision(1.0, 0.0)}, forced, 1.0).error == 0.5
    )  # it pays everywhere
    assert check_calibration({}, forced, 0.05) is None


def test_only_a_switch_can_leak():
    decisions = {"p": Decision(0.6, 0.395), "q": Decision(0.5, 0.4), "r": Decision(0.2, 0.1)}
    switch = measure_mass(decisions, Convention.SWITCH)
    assert (switch.mean, switch.least) == (pytest.approx((0.995 + 0.9 + 0.3) / 3), pytest.approx(0.3))
    assert switch.leaking.estimate == pytest.approx(2 / 3)
    assert switch.examples == ("r", "q")
    for convention in (Convention.OPEN_PROMPT, Convention.APPENDED, Convention.BLOCK):
        found = measure_mass(decisions, convention)
        assert (found.others_think, found.leaking, found.examples) == (True, None, ())


def test_implicit_thinking_by_level_with_examples(tmp_path):
    problems = make_folder(
        tmp_path / "e",
        {
            "auto": {0: ["Wait, \\boxed{1}", "\\boxed{1}"], 1: ["\\boxed{2}"], 2: ["thought: Wait.thought:\\boxed{3}"]},
            "no_think": {0: ["\\boxed{1}"], 3: ["2 + 2 = 4 " * 9 + "\\boxed{4}"]},
        },
    )
    found = measure_implicit_thinking(tmp_path / "e")
    assert (
        found["auto"].share.estimate == found["auto"].by_keywords.estimate == 0.25
    )  # a problem's half, of two problems
    assert found["auto"].share.num_problems == 2  # the third thinks openly
    assert found["auto"].levels["1"].estimate == 0.25
    assert found["auto"].examples == (problems[0].id,)
    assert (found["no_think"].share.estimate, found["no_think"].by_keywords.estimate) == (0.5, 0)
    assert found["no_think"].examples == (problems[3].id,)


RIGHT, WRONG = [f"\\boxed{{{n + 1}}}" for n in range(6)], "\\boxed{77}"


def thinking(answer):
    return f"thought: so thought:{answer}"


@pytest.fixture
def folder(tmp_path):
    make_folder(
        tmp_path / "e",
        {
            "auto": {0: [RIGHT[0]] * 2, 1: [thinking(RIGHT[1])] * 2},
            "think": {0: [thinking(RIGHT[0])] * 2, 1: [thinking(RIGHT[1]), thinking(WRONG)]},
            "no_think": {0: [RIGHT[0]] * 2, 1: [WRONG] * 2},
        },
        decisions={0: (0.9, 0.1), 1: (0.2, 0.1)},
    )
    return tmp_path / "e"


def test_a_whole_folder(folder):
    choice = assess_mode_choice(folder, convention=Convention.SWITCH)
    assert choice.notes == ()
    assert choice.no_think_by_level["1"].estimate == 0.5
    assert choice.no_think_by_pass_rate.reference == "forced think of the same model"
    assert {name: one.estimate for name, one in choice.no_think_by_pass_rate.bins.items()} == {"[0.5, 1)": 0, "1": 1}
    assert choice.against_think.accuracy.interval.estimate == 0.25
    assert choice.better_mode.hybrid_accuracy.estimate == 1
    assert choice.mass.leaking.estimate == 0.5
    assert choice.calibration.error == pytest.approx((0.1 + 0.2) / 2)


def test_the_reference_is_another_folder_and_never_the_own_auto_row(folder, tmp_path):
    make_folder(
        tmp_path / "r", {"auto": {0: [thinking(WRONG)], 1: [thinking(RIGHT[1])]}, "think": {0: [thinking(RIGHT[0])]}}
    )
    rates = assess_mode_choice(folder, reference=tmp_path / "r").no_think_by_pass_rate
    assert rates.reference == f"auto of {tmp_path / 'r'}"
    assert {name: one.estimate for name, one in rates.bins.items()} == {"0": 1, "1": 0}
    own = assess_mode_choice(folder, reference=folder / ".." / "e").no_think_by_pass_rate
    assert own.reference == "forced think of the same model"
    make_folder(tmp_path / "n", {"no_think": {0: [RIGHT[0]]}})
    with pytest.raises(UserError, match="holds neither auto nor think responses"):
        assess_mode_choice(folder, reference=tmp_path / "n")


def test_what_a_folder_cannot_say_is_named(tmp_path):
    make_folder(tmp_path / "auto", {"auto": {0: [RIGHT[0]], 1: [WRONG]}})
    choice = assess_mode_choice(tmp_path / "auto")
    assert (choice.against_think, choice.better_mode, choice.mass, choice.calibration) == (None,) * 4
    assert [note.partition(":")[0] for note in choice.notes] == [
        "no forced think and no forced no_think",
        "the model shows no probabilities of its first token",
        "no forced think and no --difficulty-from",
    ]
    make_folder(tmp_path / "two", {"auto": {0: [RIGHT[0]]}, "think": {0: [thinking(WRONG)]}})
    choice = assess_mode_choice(tmp_path / "two")
    assert choice.against_think.accuracy.interval.estimate == 1
    assert choice.notes[0] == "no forced no_think: no better mode or calibration; evaluate with all --modes"
    make_folder(
        tmp_path / "one",
        {"auto": {0: [RIGHT[0]]}, "think": {0: [thinking(WRONG)]}, "no_think": {0: [RIGHT[0]]}},
        decisions={0: (0.5, 0.5)},
    )
    choice = assess_mode_choice(tmp_path / "one")
    assert choice.better_mode.regret is None
    assert [note.partition(":")[0] for note in choice.notes] == [
        "one sample in each forced mode",
        "how thinking begins is not known here",
    ]


def test_mode_choice_is_written_and_printed(folder, capsys):
    show_mode_choice(api.assess_choice(folder, Convention.OPEN_PROMPT, None, 0.1))
    written = json.loads((folder / "quality.json").read_text())
    assert written["delta"] == 0.1
    assert written["against_think"]["accuracy"]["verdict"] == "not distinguishable"
    assert written["mass"]["leaking"] is None
    assert written["chosen_accuracy"]["label"] == "selected, not comparable"
    assert len(written["calibration"]["bins"]) == 2
    out = capsys.readouterr().out
    for text in ("chose the better mode, %", "think too", "selected, not comparable"):
        assert text in " ".join(out.split())
