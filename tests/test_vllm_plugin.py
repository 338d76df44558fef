"""What the vLLM plugin does to logits and makes of texts, without vLLM; `test_vllm_plugin_real.py` runs it there."""

import math
from dataclasses import replace

import pytest
import torch
from test_modes import CHATML, build, from_trl, needs_trl
from vllm_server import SETTING, store_dial

from adaptthink.dial.stored import STORED
from adaptthink.errors import UserError
from adaptthink.integrations.vllm.markers import Markers, Opening, TextSplitter, find_markers, find_opening, split_text
from adaptthink.integrations.vllm.steps import (
    Ban,
    Choose,
    Force,
    Raise,
    ServerSettings,
    ThinkArgs,
    apply_step,
    begin,
    find_template,
    read_args,
    read_settings,
    read_threshold,
)
from adaptthink.models.loading import load_tokenizer
from adaptthink.modes import Message, encode, encode_prompt, render

QUESTION = "9-3+77=?"
OTHER = 16  # "1", of the embedded tokenizer


@pytest.fixture(scope="module")
def tiny():
    return load_tokenizer("tiny")


def rendered(tokenizer, served, **switch):
    """The tokens of what vLLM's chat endpoint would render."""
    options = {served.template.switch: True} if served.template.switch else {}
    messages = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options | switch)
    return encode(tokenizer, text)


def follow(state, choose):
    """Generate until nothing is done any more: a forced token, else what `choose` gives for the step."""
    generated = []
    while not state.done and len(generated) < 60:
        step = state.take_step(generated)
        generated.append(step.token if isinstance(step, Force) else choose(step))
    return generated


# ---- what a request says -------------------------------------------------------------------------------------------


def test_what_a_request_says():
    assert read_args(None) is None
    assert read_args({"other": 1}) is None
    said = read_args({"x_think_mode": "auto", "x_think_threshold": 0.4, "x_think_budget": 200, "other": 1})
    assert (said.mode, said.threshold, said.budget) == ("auto", 0.4, 200)
    assert read_args({"x_think_threshold": 1}).threshold == 1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"x_think_mode": "always"}, "x_think_mode = 'always'"),
        ({"x_think_mode": 1}, "x_think_mode = 1"),
        ({"x_think_threshold": 1.5}, r"x_think_threshold = 1\.5"),
        ({"x_think_threshold": -0.1}, "x_think_threshold"),
        ({"x_think_threshold": math.nan}, "x_think_threshold"),
        ({"x_think_threshold": "0.4"}, "x_think_threshold"),
        ({"x_think_budget": 0}, "x_think_budget = 0"),
        ({"x_think_budget": 2.5}, "x_think_budget"),
        ({"x_think_budget": True}, "x_think_budget"),
        ({"x_think_budgets": 5}, "did you mean 'x_think_budget'"),
        ({"x_think": "think"}, "unknown key 'x_think'"),
        ({"x_think_mode": "think", "x_think_threshold": 0.5}, "no effect"),
        ({"x_think_mode": "no_think", "x_think_budget": 5}, "no effect"),
        ({"x_think_mode": "never", "x_think_budget": 0}, "x_think_mode.*x_think_budget"),
    ],
)
def test_bad_values_are_refused_by_name(said, message):
    with pytest.raises(UserError, match=message):
        read_args(said)


def test_settings_of_a_server():
    assert read_settings({}).mode is None
    assert read_settings({"adaptthink": {"mode": "auto", "force_think": "ban"}}).force_think == "ban"
    with pytest.raises(UserError, match=r"additional-config.*mode = 'maybe'"):
        read_settings({"adaptthink": {"mode": "maybe"}})
    with pytest.raises(UserError, match="think_starts"):
        read_settings({"adaptthink": {"think_starts": "Okay"}})


# ---- the dial -------------------------------------------------------------------------------------------------------


def test_the_certified_threshold_beside_the_weights_is_taken_and_what_is_not_checked_is_said(tmp_path):
    assert read_threshold(tmp_path) == (None, "")
    store_dial(tmp_path, 0.4)
    threshold, note = read_threshold(tmp_path)
    assert threshold == 0.4
    assert "at most 2 points below always thinking" in note
    assert "Not checked" in note
    assert SETTING.fingerprint in note
    store_dial(tmp_path, None, certified=False)
    threshold, note = read_threshold(tmp_path)
    assert threshold is None
    assert "no threshold is certified" in note
    (tmp_path / STORED).write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        read_threshold(tmp_path)


# ---- the steps ------------------------------------------------------------------------------------------------------


def test_the_embedded_model_decides_with_its_first_token(tiny):
    served = find_template(tiny, ServerSettings())
    assert served.lead == ()
    assert tiny.decode(served.ending) == "<|assistant|><think>\n"
    no_think, think = served.template.no_think_id, served.template.think_id
    prompt = rendered(tiny, served)
    assert prompt == encode_prompt(tiny, served.template, QUESTION)

    def first(**said):
        return begin(served, ThinkArgs(**said), prompt, seed=0).take_step([])

    assert first(mode="no_think") == Force(no_think)
    assert first(mode="think") == Force(think)
    assert first() is None
    assert first(budget=9) is None
    assert first(threshold=0.25) == Choose(no_think, 0.25, Force(think))
    banned = replace(served, force_think="ban")
    assert begin(banned, ThinkArgs(mode="think"), prompt, seed=0).take_step([]) == Ban(no_think)
    assert begin(banned, ThinkArgs(threshold=0.5), prompt, seed=0).take_step([]) == Choose(no_think, 0.5, Ban(no_think))
    dialled = replace(served, threshold=0.7)
    assert begin(dialled, ThinkArgs(), prompt, seed=0).take_step([]).threshold == 0.7
    assert begin(dialled, ThinkArgs(threshold=0.2), prompt, seed=0).take_step([]).threshold == 0.2
    assert begin(dialled, ThinkArgs(mode="think"), prompt, seed=0).take_step([]) == Force(think)


def test_nothing_is_done_after_the_decision(tiny):
    served = find_template(tiny, ServerSettings())
    for said in ({"mode": "no_think"}, {"mode": "think"}, {"threshold": 0.5}, {}):
        for first in (served.template.no_think_id, served.template.think_id, OTHER):
            state = begin(served, ThinkArgs(**said), rendered(tiny, served), seed=0)
            state.take_step([])
            assert state.take_step([first]) is None
            assert state.done


@needs_trl
@pytest.mark.parametrize(
    ("name", "lead", "think", "no_think"),
    [
        ("deepseek_r1_distill", [], ["Alright"], ["</think>"]),
        ("qwen3", ["<think>"], ["<think>", "\n", "Alright"], ["<think>", "\n\n", "</think>", "\n\n"]),
        ("qwen3_6", [], ["Alright"], ["</think>", "\n\n"]),
        ("qwen3_instruct_2507", ["<think>", "\n"], ["<think>", "\n", "Alright"], ["<think>", "\n", "</think>"]),
    ],
)
def test_each_convention_is_forced_whole_behind_what_vllm_renders(name, lead, think, no_think):
    tokenizer = from_trl(name)
    served = find_template(tokenizer, ServerSettings())
    assert [tokenizer.decode([token]) for token in served.lead] == lead
    prompt, template = rendered(tokenizer, served), served.template
    for mode, expected in (("think", think), ("no_think", no_think)):
        state = begin(served, ThinkArgs(mode=mode), prompt, seed=0)
        forced = [token for token in follow(state, lambda step: OTHER) if token != OTHER]
        assert [tokenizer.decode([token]) for token in forced] == expected
        # All of it is what this package itself would have the model read.
        whole = (*prompt, *forced)
        assert whole == encode_prompt(tokenizer, template, QUESTION) + template.prefix_ids(state.mode)
        # A prompt that has the lead already goes on from there.
        state = begin(served, ThinkArgs(mode=mode), encode_prompt(tokenizer, template, QUESTION), seed=0)
        assert [t for t in follow(state, lambda step: OTHER) if t != OTHER] == forced[len(lead) :]
    # Where the threshold chose, the rest of the mode's prefix follows; where the model did, it goes its own way.
    for first, expected in ((template.no_think_id, no_think), (template.think_id, think)):
        state = begin(served, ThinkArgs(threshold=0.5), prompt, seed=0)
        forced = follow(state, lambda step, first=first: first if isinstance(step, Choose) else OTHER)
        assert [tokenizer.decode([token]) for token in forced if token != OTHER] == expected
        state = begin(served, ThinkArgs(), prompt, seed=0)
        assert follow(state, lambda step, first=first: first)[len(lead) :][:1] == [first]
        assert state.take_step([*served.lead, first]) is None


def test_a_conversation_ends_as_a_question_does(tiny):
    served = find_template(tiny, ServerSettings())
    turns = [Message("user", "1+1=?"), Message("assistant", "<think>\nx</think>2"), Message("user", QUESTION)]
    state = begin(served, ThinkArgs(mode="think"), encode(tiny, render(tiny, served.template, turns)), seed=0)
    assert state.take_step([]) == Force(served.template.think_id)


@needs_trl
@pytest.mark.parametrize("name", ["qwen3", "qwen3_6"])
def test_a_prompt_that_has_decided(name):
    tokenizer = from_trl(name)
    served = find_template(tokenizer, ServerSettings())
    closed = rendered(tokenizer, served, enable_thinking=False)
    assert begin(served, ThinkArgs(mode="no_think"), closed, seed=0) is None
    assert begin(served, ThinkArgs(budget=5), closed, seed=0) is None
    for said in ({"mode": "think"}, {"mode": "auto"}, {"threshold": 0.4}):
        with pytest.raises(UserError, match="has decided for no_think already"):
            begin(served, ThinkArgs(**said), closed, seed=0)
    opened = encode_prompt(tokenizer, served.template, QUESTION) + served.template.think_prefix_ids
    assert begin(served, ThinkArgs(mode="think"), opened, seed=0) is None
    state = begin(served, ThinkArgs(budget=5), opened, seed=0)
    assert state.take_step([OTHER] * 4) == Raise(served.template.close_id, 10.0)
    assert state.take_step([OTHER] * 5) == Force(served.template.close_id)
    with pytest.raises(UserError, match="has decided for think already"):
        begin(served, ThinkArgs(mode="no_think"), opened, seed=0)


@needs_trl
def test_a_template_that_writes_the_decision_itself_leaves_none():
    tokenizer = build(CHATML.replace("ENDING", "{{ '<think>' if enable_thinking else '</think>' }}"))
    served = find_template(tokenizer, ServerSettings())
    assert served.template.convention == "switch"
    thinking = rendered(tokenizer, served)
    assert begin(served, ThinkArgs(mode="think"), thinking, seed=0) is None
    with pytest.raises(UserError, match="has decided for think already"):
        begin(served, ThinkArgs(mode="auto"), thinking, seed=0)
    state = begin(served, ThinkArgs(mode="no_think"), encode_prompt(tokenizer, served.template, QUESTION), seed=0)
    assert state.take_step([]) == Force(served.template.close_id)


def test_a_prompt_that_ends_otherwise_is_refused(tiny):
    served = find_template(tiny, ServerSettings())
    for text in ("47+8=?", "<|user|>47+8=?", "<|user|>47+8=?<|assistant|><think>\n12"):
        with pytest.raises(UserError, match="does not end as the chat template's own prompts do"):
            begin(served, ThinkArgs(mode="think"), encode(tiny, text), seed=0)


# ---- the budget -----------------------------------------------------------------------------------------------------


def test_a_budget_raises_the_close_token_and_then_forces_it(tiny):
    served = find_template(tiny, ServerSettings())
    close, think = served.template.close_id, served.template.think_id
    state = begin(served, ThinkArgs(mode="think", budget=20), rendered(tiny, served), seed=0)
    thought, steps = [], []
    for _ in range(21):
        steps.append(state.take_step(thought))
        thought.append(think)
    assert steps[0] == Force(think)
    assert steps[1:16] == [None] * 15
    assert steps[16:] == [Raise(close, d) for d in (10.0, 7.5, 5.0, 2.5)] + [Force(close)]
    assert not state.done
    assert state.take_step([think] * 20 + [close]) is None
    assert state.done


def test_a_thought_that_has_ended_has_no_budget_any_more(tiny):
    served = find_template(tiny, ServerSettings())
    close, think = served.template.close_id, served.template.think_id
    for length in (1, 5, 17):
        state = begin(served, ThinkArgs(mode="think", budget=20), rendered(tiny, served), seed=0)
        generated = [think] * length
        for _ in range(length + 1):
            state.take_step(generated[: _ + 1])
        for end in range(40):
            assert state.take_step([*generated, close] + [think] * end) is None
    # A request that vLLM had put aside goes on with what it had generated.
    state = begin(served, ThinkArgs(mode="think", budget=20), rendered(tiny, served), seed=0)
    assert state.take_step([think, close, *[OTHER] * 25]) is None
    # The model that chose no_think has none either.
    state = begin(served, ThinkArgs(budget=3), rendered(tiny, served), seed=0)
    assert [state.take_step(([close] + [think] * 9)[:size]) for size in range(10)] == [None] * 10


def test_a_budget_counts_behind_the_lead():
    tokenizer = build(CHATML.replace("ENDING", ""))
    served = find_template(tokenizer, ServerSettings())
    assert len(served.lead) == 2
    state = begin(served, ThinkArgs(mode="think", budget=10), rendered(tokenizer, served), seed=0)
    generated = [*served.lead, served.template.think_id, *[OTHER] * 9]
    assert state.take_step(generated[:-1]) == Raise(served.template.close_id, 5.0)
    assert state.take_step(generated) == Force(served.template.close_id)


def test_tokens_that_vllm_has_not_copied_yet(tiny):
    """Scheduling ahead, vLLM writes -1 for them where it does not know that a processor reads them."""
    served = find_template(tiny, ServerSettings())
    state = begin(served, ThinkArgs(mode="think", budget=20), rendered(tiny, served), seed=0)
    assert state.take_step([]) == Force(served.template.think_id)
    with pytest.raises(UserError, match="--logits-processors"):
        state.take_step([-1])
    state = begin(served, ThinkArgs(mode="think"), rendered(tiny, served), seed=0)
    assert state.take_step([-1]) is None


# ---- logits ---------------------------------------------------------------------------------------------------------

LOGITS = [0.5, 2.0, -1.0, 0.0]


def applied(step, times=1, dtype=torch.float32):
    logits = torch.tensor([LOGITS, LOGITS], dtype=dtype)
    for _ in range(times):
        apply_step(logits[0], step)
    assert logits[1].tolist() == LOGITS
    return logits[0].softmax(-1).tolist()


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


@pytest.mark.parametrize("times", [1, 2])  # vLLM may load a processor twice: by its entry point and by name
def test_steps_on_logits(times):
    assert applied(Force(2), times) == [0, 0, 1, 0]
    banned = applied(Ban(1), times)
    assert banned[1] == 0
    assert banned == pytest.approx(softmax([0.5, -math.inf, -1.0, 0.0]))
    assert applied(Raise(2, 0.5), times) == pytest.approx(softmax([0.5, 2.0, 1.5, 0.0]))
    assert applied(Raise(2, 0.0), times) == pytest.approx(softmax([0.5, 2.0, 2.0, 0.0]))
    assert applied(Raise(2, 10.0), times) == pytest.approx(softmax(LOGITS))
    assert applied(Raise(1, 5.0), times) == pytest.approx(softmax(LOGITS))


@pytest.mark.parametrize("times", [1, 2])
def test_a_threshold_on_the_probability_at_temperature_1(times):
    probability = softmax(LOGITS)[0]
    assert 0.15 < probability < 0.16
    assert applied(Choose(0, 0.15, Force(3)), times) == [1, 0, 0, 0]
    assert applied(Choose(0, 0.16, Force(3)), times) == [0, 0, 0, 1]
    assert applied(Choose(0, 0.0, Force(3)), times) == [1, 0, 0, 0]
    assert applied(Choose(0, 1.01, Force(3)), times) == [0, 0, 0, 1]
    assert applied(Choose(0, 0.16, Ban(0)), times) == pytest.approx(softmax([-math.inf, 2.0, -1.0, 0.0]))


def test_a_probability_at_the_threshold_is_no_think():
    logits = torch.zeros(2)
    apply_step(logits, Choose(1, 0.5, Force(0)))
    assert logits.softmax(-1).tolist() == [0, 1]


def test_a_token_that_another_rule_has_excluded_can_be_forced():
    logits = torch.tensor([0.0, -torch.inf])
    apply_step(logits, Force(1))
    assert logits.softmax(-1).tolist() == [0, 1]


# ---- texts ----------------------------------------------------------------------------------------------------------

MARKERS = Markers("<think>", "</think>", 7, 8)
T, A, E = Opening.THINKING, Opening.ANSWER, Opening.EITHER


@pytest.mark.parametrize(
    ("opening", "text", "thinking", "answer"),
    [
        (T, "47+8\n</think>\n\n55", "47+8", "\n\n55"),
        (T, "</think>55", None, "55"),  # the answer begins with the close token
        (T, "\n\n</think>\n\n55", None, "\n\n55"),
        (T, "<think>\n47</think>55", "47", "55"),
        (T, "47+8", "47+8", None),
        (T, "47 <b", "47 <b", None),
        (T, "</think>", None, None),
        (T, "a</think>b</think>c", "a", "b</think>c"),
        (T, "", None, None),
        (A, "55", None, "55"),  # the prompt has closed the thought
        (A, " 5 </think>", None, " 5 </think>"),
        (E, "<think>\n47</think>\n55", "47", "\n55"),
        (E, "</think>55", None, "55"),
        (E, "55", None, "55"),
        (E, "\n <55", None, "\n <55"),
        (E, "<", None, "<"),
        (E, "<think>47", "47", None),
    ],
)
def test_texts_are_split_alike_whole_and_in_any_pieces(opening, text, thinking, answer):
    assert split_text(MARKERS, opening, text) == (thinking, answer)
    for size in range(1, 9):
        splitter, pieces = TextSplitter(MARKERS, opening), []
        for start in range(0, len(text), size):
            pieces.append(splitter.add(text[start : start + size]))
            assert pieces[-1][0] == "" or pieces[-1][0] in text
        pieces.append(splitter.end())
        assert tuple("".join(part) or None for part in zip(*pieces, strict=True)) == (thinking, answer)


def test_what_a_prompt_leaves_to_be_generated():
    added = {5, 6, 7, 8}  # 5 and 6 begin turns
    assert find_opening(MARKERS, [5, 1, 6, 7, 2], added) is T
    assert find_opening(MARKERS, [5, 1, 6, 7, 2, 8, 2], added) is A
    assert find_opening(MARKERS, [5, 1, 6, 7, 2, 8, 3, 5, 1, 6, 2], added) is E  # an earlier turn's
    assert find_opening(MARKERS, [1, 2], added) is E
    assert find_opening(MARKERS, [], added) is E


def test_markers_of_a_vocabulary(tiny):
    assert find_markers(tiny.get_vocab()) == Markers("<think>", "</think>", 298, 299)
    assert find_markers({"<seed:think>": 1, "</seed:think>": 2, "<think>": 3}).close_id == 2
    assert find_markers({"<think>": 3}) is None
