"""Real chat templates of many families, each on a small byte-level tokenizer that is built here."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from adaptthink.errors import UserError
from adaptthink.models.make_tiny import make_tokenizer
from adaptthink.modes import (
    Convention,
    Message,
    Mode,
    ThinkTemplate,
    describe,
    encode_prompt,
    encode_rendered,
    is_rendered,
    probe,
    split_response,
)
from adaptthink.modes import render as render_conversation

QUESTION = "What is 12 + 30?"
MARKERS = ("<think>", "</think>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nENDING{% endif %}"
)
WORDS = re.compile(r"<[|｜][^<>\s'\"{}]+[|｜]>")

# The wheel of trl carries the templates of many families. find_spec locates it without importing it.
TRL = importlib.util.find_spec("trl")
FOLDER = Path(TRL.origin).parent / "chat_templates" if TRL and TRL.origin else None
TEMPLATES = {path.stem: path for path in sorted(FOLDER.glob("*.jinja"))} if FOLDER else {}
needs_trl = pytest.mark.skipif(not TEMPLATES, reason="the chat templates come with trl, which is not installed")


def build(
    template: str | None,
    *,
    markers: tuple[str, ...] = MARKERS,
    bos: str | None = None,
    adds_bos: bool = False,
    eos: str | None = "<|im_end|>",
    words: tuple[str, ...] = ("ĊĊ", "Alright", "Okay"),
) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each of `words` is one token: `ĊĊ`, the two line breaks, as in Qwen's."""
    vocabulary = {sign: index for index, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    pattern = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = dict.fromkeys([*WORDS.findall(template or ""), *markers, *filter(None, (bos, eos))])
    tokenizer.add_special_tokens([AddedToken(sign, special=True, normalized=False) for sign in special])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, chat_template=template)


def from_trl(name: str, **options) -> PreTrainedTokenizerFast:
    return build(TEMPLATES[name].read_text(encoding="utf-8"), **options)


def render(tokenizer, question: str = QUESTION, **options) -> str:
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


def encode(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer, ids) -> list[str]:
    return [tokenizer.decode([token]) for token in ids]


def assert_sound(tokenizer, template: ThinkTemplate, question: str = QUESTION) -> None:
    """What holds for every accepted tokenizer: one prompt, one decision token, nothing re-tokenised, one BOS."""
    prompt = encode_prompt(tokenizer, template, question)
    think, no_think = template.prefix_ids(Mode.THINK), template.prefix_ids(Mode.NO_THINK)
    assert (think[0], no_think[0]) == (template.think_id, template.no_think_id)
    assert template.think_id != template.no_think_id
    assert template.close_id in no_think
    assert template.close_id not in think
    for forced in (think, no_think):
        whole = tokenizer.decode(prompt + forced)
        assert encode(tokenizer, whole) == prompt + forced
        assert question in whole
    if tokenizer.bos_token_id is not None:
        assert prompt.count(tokenizer.bos_token_id) == 1
        assert prompt[0] == tokenizer.bos_token_id
    assert template.mode_of(think) is Mode.THINK
    assert template.mode_of(no_think) is Mode.NO_THINK
    assert all(check.ok for check in describe(tokenizer, template))


IM = "<|im_start|>assistant\n"
DEEPSEEK = "12 + 30?<｜Assistant｜>"
OPENED = (["Alright"], ["</think>"])
QWEN3_5 = (["Alright"], ["</think>", "\n\n"])
FAMILIES = {
    # name: (BOS, convention, switch, end of the prompt, (think prefix, no_think prefix))
    "deepseek_r1_distill": ("<｜begin▁of▁sentence｜>", "open_prompt", None, DEEPSEEK + "<think>\n", OPENED),
    "deepseekv3": ("<｜begin▁of▁sentence｜>", "open_prompt", None, DEEPSEEK + "<think>\n", OPENED),
    "qwen3": (None, "block", "enable_thinking", IM + "<think>", (["\n", "Alright"], ["\n\n", "</think>", "\n\n"])),
    "qwen3_5_think": (None, "open_prompt", "enable_thinking", IM + "<think>\n", QWEN3_5),
    "qwen3_5_nothink": (None, "open_prompt", "enable_thinking", IM + "<think>\n", QWEN3_5),
    "qwen3_6": (None, "open_prompt", "enable_thinking", IM + "<think>\n", QWEN3_5),
    "qwen3_8": (None, "open_prompt", "enable_thinking", IM + "<think>\n", QWEN3_5),
    "nemotron_3_nano": ("<s>", "open_prompt", "enable_thinking", IM + "<think>\n", OPENED),
    "nemotron_3_super": ("<s>", "open_prompt", "enable_thinking", IM + "<think>\n", OPENED),
    "nemotron_3_ultra": ("<s>", "open_prompt", "enable_thinking", IM + "<think>\n", OPENED),
    "nemotron_3_5_lightning": ("<s>", "open_prompt", "enable_thinking", IM + "<think>\n", OPENED),
    "glm4moe": (None, "block", "enable_thinking", "12 + 30?<|assistant|>\n<think>", OPENED),
    "qwen3_instruct_2507": (None, "appended", None, IM + "<think>\n", OPENED),
    "llama3_1": ("<|begin_of_text|>", "appended", None, "assistant<|end_header_id|>\n\n<think>\n", OPENED),
}


@needs_trl
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    bos, convention, switch, end, (think, no_think) = FAMILIES[name]
    tokenizer = from_trl(name, bos=bos, adds_bos=bos is not None)
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert (template.convention, template.switch, template.open, template.close) == (convention, switch, *MARKERS)
    assert tokenizer.decode(encode_prompt(tokenizer, template, QUESTION)).endswith(end)
    assert decode(tokenizer, template.think_prefix_ids) == think
    assert decode(tokenizer, template.no_think_prefix_ids) == no_think
    assert template.think_id == tokenizer.convert_tokens_to_ids(think[0].replace("\n", "Ċ"))
    assert template.no_think_id == tokenizer.convert_tokens_to_ids(no_think[0].replace("\n", "Ċ"))


@needs_trl
@pytest.mark.parametrize("name", ["deepseek_r1_distill", "qwen3_5_nothink", "qwen3_6", "nemotron_3_nano"])
def test_an_opened_prompt_stays_as_rendered(name):
    tokenizer = from_trl(name, bos=FAMILIES[name][0], adds_bos=FAMILIES[name][0] is not None)
    rendered = encode(tokenizer, render(tokenizer, enable_thinking=True))
    prompt = encode_prompt(tokenizer, probe(tokenizer), QUESTION)
    assert prompt[-len(rendered) :] == rendered
    assert set(prompt[: -len(rendered)]) <= {tokenizer.bos_token_id}


@needs_trl
@pytest.mark.parametrize("question", [QUESTION, "one\n\ntwo\n", " ", "日本 🙂", "what does </think> mean?"])
def test_block_is_the_templates_own_no_think_render(question):
    tokenizer = from_trl("qwen3")
    template = probe(tokenizer)
    prompt = encode_prompt(tokenizer, template, question)
    own = encode(tokenizer, render(tokenizer, question, enable_thinking=False))
    assert prompt + template.no_think_prefix_ids == own
    thinking = render(tokenizer, question, enable_thinking=True) + "<think>\nAlright"
    assert prompt + template.think_prefix_ids == encode(tokenizer, thinking)


def test_block_without_a_token_for_two_line_breaks():
    block = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    tokenizer = build(CHATML.replace("ENDING", block), words=("Alright",))
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert tokenizer.decode(encode_prompt(tokenizer, template, QUESTION)).endswith(IM + "<think>\n")
    assert decode(tokenizer, template.think_prefix_ids) == ["Alright"]
    assert decode(tokenizer, template.no_think_prefix_ids) == ["\n", "</think>", "\n", "\n"]


def test_block_with_more_white_space_gives_half_of_it_to_the_thought():
    block = "{% if enable_thinking is false %}<think>\n\n\n\n</think>{% endif %}"
    tokenizer = build(CHATML.replace("ENDING", block))
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert tokenizer.decode(encode_prompt(tokenizer, template, QUESTION)).endswith(IM + "<think>\n\n")
    assert decode(tokenizer, template.think_prefix_ids) == ["Alright"]
    assert decode(tokenizer, template.no_think_prefix_ids) == ["\n\n", "</think>"]


@needs_trl
def test_glm_says_nothink_after_the_question_and_the_prompt_does_not():
    tokenizer = from_trl("glm4moe")
    assert "/nothink" in render(tokenizer, enable_thinking=False)
    assert "/nothink" not in tokenizer.decode(encode_prompt(tokenizer, probe(tokenizer), QUESTION))


SWITCHED = {
    "deepseek v3.1": "{% if thinking %}<think>{% else %}</think>{% endif %}",
    "glm 4.7": "{{ '</think>' if (enable_thinking is defined and not enable_thinking) else '<think>' }}",
}


@pytest.mark.parametrize("name", SWITCHED)
def test_switch(name):
    tokenizer = build(CHATML.replace("ENDING", SWITCHED[name]))
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert template.convention is Convention.SWITCH
    assert template.switch in ("thinking", "enable_thinking")
    assert decode(tokenizer, template.think_prefix_ids) == ["<think>"]
    assert decode(tokenizer, template.no_think_prefix_ids) == ["</think>"]
    prompt = encode_prompt(tokenizer, template, QUESTION)
    assert tokenizer.decode(prompt).endswith(IM)
    for value, mode in ((True, Mode.THINK), (False, Mode.NO_THINK)):
        own = render(tokenizer, **{template.switch: value})
        assert prompt + template.prefix_ids(mode) == encode(tokenizer, own)


def test_a_switch_that_also_rewrites_the_system_prompt():
    system = "<|im_start|>system\n{{ '/no_think' if enable_thinking is false else '/think' }}<|im_end|>\n"
    block = "{% if enable_thinking is false %}<think>\n\n</think>\n{% endif %}"
    tokenizer = build(system + CHATML.replace("ENDING", block))
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert template.convention is Convention.BLOCK
    assert "/think<|im_end|>" in tokenizer.decode(encode_prompt(tokenizer, template, QUESTION))
    assert decode(tokenizer, template.no_think_prefix_ids) == ["\n\n", "</think>", "\n"]


def test_a_no_think_block_with_words_gives_what_follows_its_close_marker():
    block = "<think>\n{% if enable_thinking is false %}Okay, done.\n</think>\n\n{% endif %}"
    tokenizer = build(CHATML.replace("ENDING", block))
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert template.convention is Convention.OPEN_PROMPT
    assert decode(tokenizer, template.no_think_prefix_ids) == ["</think>", "\n\n"]


def test_the_embedded_tokenizer():
    tokenizer = make_tokenizer()
    template = probe(tokenizer)
    question = "47+8-3=?"
    assert_sound(tokenizer, template, question)
    assert template.convention is Convention.OPEN_PROMPT
    assert decode(tokenizer, template.think_prefix_ids) == ["Alright"]
    assert decode(tokenizer, template.no_think_prefix_ids) == ["</think>"]
    assert encode_prompt(tokenizer, template, question) == encode(tokenizer, render(tokenizer, question))
    assert render(tokenizer, question) == "<|bos|><|user|>47+8-3=?<|assistant|><think>\n"


def test_other_markers():
    tokenizer = build(CHATML.replace("ENDING", ""), markers=("<seed:think>", "</seed:think>"))
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert (template.convention, template.open) == (Convention.APPENDED, "<seed:think>")
    assert split_response("<seed:think>a</seed:think>b", template) == ("a", "b")


def test_tokens_that_merge_across_the_end_of_the_prompt():
    tokenizer = build(CHATML.replace("ENDING", "<think> "), words=("ĠAlright",))
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert tokenizer.decode(encode_prompt(tokenizer, template, QUESTION)).endswith("<think>")
    assert decode(tokenizer, template.think_prefix_ids) == [" Alright"]
    assert decode(tokenizer, template.no_think_prefix_ids) == [" ", "</think>"]


def test_a_template_that_always_adds_the_generation_prompt():
    tokenizer = build("<|user|>{{ messages[0]['content'] }}<|assistant|><think>\n")
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert template.convention is Convention.OPEN_PROMPT


def test_a_template_that_ends_the_conversation_where_no_answer_is_to_come():
    ending = "{% if add_generation_prompt %}<think>\n{% else %}{{ eos_token }}{% endif %}"
    tokenizer = build("<|user|>{{ messages[0]['content'] }}" + ending)
    assert probe(tokenizer).convention is Convention.OPEN_PROMPT


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("writes_bos", [True, False])
def test_bos_is_never_doubled(writes_bos, adds_bos):
    source = ("{{ bos_token }}" if writes_bos else "") + CHATML.replace("ENDING", "<think>\n")
    tokenizer = build(source, bos="<s>", adds_bos=adds_bos)
    ids = encode_prompt(tokenizer, probe(tokenizer), QUESTION)
    assert ids.count(tokenizer.bos_token_id) == int(writes_bos or adds_bos)


def test_a_think_start_of_several_tokens_is_forced_whole_and_its_first_one_decides():
    tokenizer = build(CHATML.replace("ENDING", "<think>\n"), words=("ĊĊ", "Al", "right", "Okay"))
    template = probe(tokenizer, think_start="Okay, so")
    assert_sound(tokenizer, template)
    assert decode(tokenizer, template.think_prefix_ids)[:2] == ["Okay", ","]
    assert tokenizer.decode(template.think_prefix_ids) == "Okay, so"
    template = probe(tokenizer)
    assert_sound(tokenizer, template)
    assert decode(tokenizer, template.think_prefix_ids) == ["Al", "right"]
    assert decode(tokenizer, [template.think_id]) == ["Al"]


def refusal(tokenizer, **options) -> str:
    with pytest.raises(UserError) as caught:
        probe(tokenizer, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "needed:" in message
    return message


@pytest.mark.parametrize("think_start", ["", " \n", "</think>", "<think>", "<|im_end|>", "日本", "\nAlright"])
def test_think_starts_refused(think_start):
    message = refusal(build(CHATML.replace("ENDING", "<think>\n")), think_start=think_start)
    assert f"think_start {think_start!r}" in message
    assert ("it is blank" in message) == (not think_start.strip())


@needs_trl
@pytest.mark.parametrize(
    ("name", "markers", "message"),
    [
        ("gptoss", MARKERS, "'<|channel|>'"),
        ("gptoss", (), "'<|channel|>'"),
        ("gemma4", MARKERS, "'<|channel>'"),
        ("gemma", (), "<think> is 7 token(s)"),
        ("llama3", (), "</think> is 8 token(s)"),
        ("deepseek_r1_distill", ("<think>",), "<think> is 1 token(s) and </think> is 8 token(s)"),
        ("llava_next", MARKERS, "drops the text"),
    ],
)
def test_families_refused(name, markers, message):
    assert message in refusal(from_trl(name, markers=markers))


GRANITE = "<|system|>{{ 'Think first.' if thinking else 'Answer.' }}" + CHATML.replace("ENDING", "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('roles\nmust alternate') }}", "(roles must alternate)"),
        ("{{ messages[0]['content'] + 1 }}", "the chat template fails"),
        (
            "{% if enable_thinking %}{{ messages[0]['content'] }}{% else %}{{ raise_exception('no') }}{% endif %}",
            "(no)",
        ),
        (GRANITE, "needed: a prompt that ends in <think>"),
        (CHATML.replace("ENDING", "<think>\n\n</think>\n\n"), "</think>"),
        (CHATML.replace("ENDING", "{% if not thinking %}<think>\nNo.\n</think>{% endif %}"), "No."),
    ],
)
def test_templates_refused(source, message):
    assert message in refusal(build(source))


def word_level(*words: str) -> PreTrainedTokenizerFast:
    """A vocabulary of single characters and `words`, the markers among them: ordinary words, not added tokens."""
    vocabulary = {word: index for index, word in enumerate(("<unk>", "Alright", *words, *"\n 123456789+-=?<>/"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"</?think>|[A-Za-z]+|[\s\S]"), "isolated")
    source = "{{ messages[0]['content'] }}\n<think>\n"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", chat_template=source)


def test_markers_may_be_ordinary_words():
    template = probe(word_level(*MARKERS))
    assert (template.think_prefix_ids, template.no_think_prefix_ids, template.close_id) == ((1,), (3,), 3)
    assert "no_think begins with the same token" in refusal(word_level(*MARKERS), think_start="</think>")


def test_what_is_unknown_is_neither_marker_nor_think_start():
    assert "does not know the markers" in refusal(word_level("<think>"))
    assert "its first token is '<unk>' (0)" in refusal(word_level(*MARKERS), think_start="Hmm")


def test_tokens_that_depend_on_the_question_are_refused():
    ending = "<think> {% if messages[0]['content'] != '1+1=?' %}Ok{% endif %}"
    tokenizer = build(CHATML.replace("ENDING", ending), words=("ĠOkAlright", "Alright"))
    assert "change with the question" in refusal(tokenizer)


# With markers in the vocabulary. `_training` variants follow their original.
PINNED = {
    Convention.OPEN_PROMPT: "deepseek_r1_distill deepseekv3 nemotron_3_5_lightning nemotron_3_nano nemotron_3_super"
    " nemotron_3_ultra qwen3_5_nothink qwen3_5_think qwen3_6 qwen3_8",
    Convention.BLOCK: "glm4moe qwen3",
    Convention.SWITCH: "",
    Convention.APPENDED: "cohere cohere2 gemma gemma3 lfm2 lfm2_2_5 lfm2_2_5_v2 lfm2_2_5_vl lfm2_v2 llama3 llama3_1"
    " llama3_2 phi3 phi3_5 qwen2_5 qwen2_5_vl qwen3_instruct_2507 qwen3_vl",
    None: "diffusion_gemma gemma4 gemma4_v2 gemma4_v3 gemma4_v4 gemma4_v5 gptoss idefics3 llava_next muse_glimmer"
    " smolvlm",
}


@needs_trl
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_is_accepted_soundly_or_refused_in_words(name):
    expected = [key for key, names in PINNED.items() if name.removesuffix("_training") in names.split()]
    tokenizer = from_trl(name, bos="<s>", adds_bos=True)
    if expected == [None]:
        refusal(tokenizer)
    else:
        template = probe(tokenizer)
        assert [template.convention] == expected
        assert_sound(tokenizer, template)
    refusal(from_trl(name, markers=()))


@pytest.fixture(scope="module")
def tiny() -> ThinkTemplate:
    return probe(make_tokenizer())


def test_mode_of(tiny):
    assert tiny.mode_of([tiny.no_think_id, 5]) is Mode.NO_THINK
    assert tiny.mode_of((tiny.think_id, tiny.no_think_id)) is Mode.THINK
    assert tiny.mode_of([9, 9]) is Mode.THINK
    assert tiny.mode_of([]) is Mode.THINK


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("Alright\n1+1=2\n</think>\\boxed{2}", "Alright\n1+1=2\n", "\\boxed{2}"),
        ("</think>\\boxed{2}", None, "\\boxed{2}"),
        ("\n\n</think>\n\n2", None, "\n\n2"),
        ("<think>\nso</think>2", "\nso", "2"),
        ("\n<think>so</think>2", "so", "2"),
        ("<think></think>", None, ""),
        ("a</think>b</think>c", "a", "b</think>c"),
        ("a <think> b</think>c", "a <think> b", "c"),
        ("never closed", "never closed", None),
        ("<think>never closed", "never closed", None),
        ("", None, None),
    ],
)
def test_split_response(tiny, text, thinking, answer):
    assert split_response(text, tiny) == (thinking, answer)


TURNS = [
    Message("system", "be brief"),
    Message("user", "1+1=?"),
    Message("assistant", "<think>\nhm</think>\n\n2"),
    Message("user", "2+2=?"),
    Message("assistant", "so\n</think>4"),
    Message("user", "3+3=?"),
    Message("assistant", "<think>\nnever closed"),
    Message("user", "a </think> b"),
]


def test_a_conversation_is_rendered_whole_with_the_answers_alone():
    tokenizer = build(CHATML.replace("ENDING", "<think>\n"))
    template = probe(tokenizer)
    assert tokenizer.decode(encode_prompt(tokenizer, template, TURNS)) == (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        "<|im_start|>user\n1+1=?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\n2+2=?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\n3+3=?<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>user\na </think> b<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


@needs_trl
@pytest.mark.parametrize("name", FAMILIES)
def test_conversations_of_real_families_end_as_their_questions_do(name):
    tokenizer = from_trl(name)
    template = probe(tokenizer)
    one = [Message("user", QUESTION)]
    assert encode_prompt(tokenizer, template, one) == encode_prompt(tokenizer, template, QUESTION)
    more = [Message("user", "1+1=?"), Message("assistant", "<think>\nsecret\n</think>\n\n2"), *one]
    ids = encode_prompt(tokenizer, template, more)
    text = tokenizer.decode(ids)
    assert "secret" not in text
    assert text.count(QUESTION) == 1
    ending = tokenizer.decode(encode_prompt(tokenizer, template, QUESTION)).rpartition(QUESTION)[2]
    assert text.endswith(ending)
    rendered = render_conversation(tokenizer, template, more)
    assert is_rendered(tokenizer, template, rendered)
    assert encode_rendered(tokenizer, template, rendered) == ids


@pytest.mark.parametrize("text", ["", "1+1=?", "<|user|>1+1=?<|assistant|>", "<|assistant|><think>\nAlright"])
def test_texts_that_do_not_lead_to_a_decision(tiny, text):
    assert not is_rendered(make_tokenizer(), tiny, text)


def test_a_conversation_that_the_template_refuses_is_said():
    source = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}" + CHATML
    tokenizer = build(source.replace("ENDING", "<think>\n"))
    turns = [Message("system", "be brief"), Message("user", QUESTION)]
    with pytest.raises(UserError, match=r"fails on messages of system, user \(one only\)"):
        encode_prompt(tokenizer, probe(tokenizer), turns)


LOSSY = {  # templates that leave messages out without an error, as real ones do
    "only known roles": CHATML.replace(
        "{% for m in messages %}", "{% for m in messages if m.role in ('system', 'user', 'assistant') %}"
    ),
    "the last system message": (
        "{% for m in messages %}{% if m.role == 'system' %}{% set ns = m.content %}{% endif %}{% endfor %}"
        "{% set found = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{% if found %}{{ found[-1].content }}{% endif %}"
        + CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role in ('user', 'assistant') %}")
    ),
    "no system message": CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"),
}


def converse(source, *turns):
    tokenizer = build(source.replace("ENDING", "<think>\n"))
    messages = [Message(*turn) for turn in turns] + [Message("user", QUESTION)]
    return tokenizer.decode(encode_prompt(tokenizer, probe(tokenizer), messages))


@pytest.mark.parametrize("template", ["only known roles", "the last system message"])
def test_a_developer_is_the_system_where_the_template_knows_none(template):
    assert "be brief" in converse(LOSSY[template], ("developer", "be brief"))
    assert "<|im_start|>developer\nbe brief" in converse(CHATML, ("developer", "be brief"))


@pytest.mark.parametrize(
    ("template", "turns", "index"),
    [
        ("the last system message", [("system", "one"), ("system", "two")], 1),
        ("the last system message", [("system", "same"), ("system", QUESTION)], 1),
        ("the last system message", [("developer", "one"), ("system", "two")], 1),
        ("only known roles", [("user", "1"), ("tool", "12")], 2),
        ("no system message", [("system", "1")], 1),  # which the question contains
    ],
)
def test_a_message_that_the_template_leaves_out_is_refused_by_its_role(template, turns, index):
    role = turns[index - 1][0]
    with pytest.raises(UserError, match=rf"leaves out message {index} of {len(turns) + 1} \(role {role}\)"):
        converse(LOSSY[template], *turns)


def test_a_text_that_the_template_changes_is_refused():
    source = CHATML.replace("m['content']", "m['content'] | replace('/no_think', '')")
    assert "be brief" in converse(source, ("system", " be brief\n"))
    with pytest.raises(UserError, match=r"message 1 of 2 \(role system\), or changes its text"):
        converse(source, ("system", "be brief /no_think"))
    assert "assistant" in converse(LOSSY["no system message"], ("system", " "))  # nothing is lost


def test_describe_names_everything(tiny):
    checks = {check.name: check.value for check in describe(make_tokenizer(), tiny)}
    assert list(checks) == [
        "convention",
        "prompt ends in",
        "think decision",
        "no_think decision",
        "think prefix",
        "no_think prefix",
        "close token",
        "BOS",
    ]
    assert checks["convention"].startswith("open_prompt (no switch)")
    assert checks["prompt ends in"].endswith("<|assistant|><think>\\n'")
    assert checks["think decision"] == f"'Alright' ({tiny.think_id})"
    assert checks["close token"] == f"'</think>' ({tiny.close_id})"


def failed(tokenizer, template) -> list[str]:
    return [check.name for check in describe(tokenizer, template) if not check.ok]


def test_describe_and_prompt_ids_notice_another_tokenizer(tiny):
    other = build(CHATML.replace("ENDING", "<think>\n"))
    assert failed(other, tiny) == ["think prefix", "no_think prefix", "close token"]
    with pytest.raises(UserError, match="as probed"):
        encode_prompt(other, tiny, QUESTION)


def test_describe_notices_doubled_bos_and_equal_decisions(tiny):
    source = "{{ bos_token }}{{ bos_token }}" + CHATML.replace("ENDING", "<think>\n")
    doubled = build(source, bos="<s>")
    assert failed(doubled, probe(doubled)) == ["BOS"]
    undecided = replace(tiny, think_prefix_ids=tiny.no_think_prefix_ids)
    assert failed(make_tokenizer(), undecided) == ["think decision", "no_think decision", "think prefix"]
