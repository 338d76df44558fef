"""Streams say what a whole reading says: deltas of tokens as they come, against the reader of whole completions."""

import random
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel
from tokenizers.pre_tokenizers import ByteLevel as ByteLevelSplit
from transformers import PreTrainedTokenizerFast

from adaptthink.engines.base import Completion, Finish
from adaptthink.modes import Mode, probe
from adaptthink.sampling.reading import apply_stops, read_response
from adaptthink.serving.generation import Delta, Ended, Part
from adaptthink.serving.streaming import ChoiceReader, StopReader, TextReader


@pytest.fixture(scope="module")
def byte_tokenizer():
    """One token for each byte, so that every character beyond ASCII is split."""
    alphabet = sorted(ByteLevelSplit.alphabet())
    inner = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = ByteLevelSplit(add_prefix_space=False), ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_never_half_a_character(byte_tokenizer):
    text = "aé€🙂 e\u0301 你好\ufffd."
    reader = TextReader(byte_tokenizer)
    pieces = [reader.add(token) for token in byte_tokenizer.encode(text)]
    assert "".join(pieces) + reader.end() == text
    assert [piece for piece in pieces if piece][:4] == ["a", "é", "€", "🙂"]
    assert [len(piece) for piece in pieces[:10]] == [1, 0, 1, 0, 0, 1, 0, 0, 0, 1]


def test_half_a_character_at_the_end_is_given_as_the_decoder_writes_it(byte_tokenizer):
    reader = TextReader(byte_tokenizer)
    assert [reader.add(token) for token in byte_tokenizer.encode("x🙂")[:-1]] == ["x", "", "", ""]
    assert reader.end() == "\ufffd"
    assert reader.end() == ""


def test_bytes_that_are_no_text_are_read_as_a_whole_would_be(byte_tokenizer):
    for seed in range(30):
        ids = random.Random(seed).choices(range(256), k=40)
        reader = TextReader(byte_tokenizer)
        assert "".join(map(reader.add, ids)) + reader.end() == byte_tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("pieces", "stops", "given", "found"),
    [
        (["ab", "c"], ["x"], ["ab", "c"], None),
        (["a#", "#b"], ["##"], ["a", ""], "##"),
        (["a#", "b"], ["##"], ["a", "#b"], None),
        (["a\n", "\n", "b"], ["\n\n"], ["a", "", ""], "\n\n"),
        (["aab"], ["ab", "b"], ["a"], "ab"),  # the earliest
        (["aa", "ab"], ["aab"], ["", "a"], "aab"),  # its beginning comes twice
        (["ab"], [""], ["ab"], None),
        (["EN", "DED"], ["END"], ["", ""], "END"),
    ],
)
def test_stop_texts_across_pieces(pieces, stops, given, found):
    reader = StopReader(stops)
    written = []
    for piece in pieces:
        written.append("" if reader.stopped else reader.add(piece))
    assert (written, reader.found) == (given, found)


def read_all(reader, ids, finish):
    events = []
    for position, token in enumerate(ids):
        events += reader.add(token, finish if position == len(ids) - 1 else None)
        if reader.stopped:
            break
    return events


WORDS = ["Alright", "\n", " ", "<think>", "</think>", "9", "+", "=?", "\\boxed{", "5}", ";", "<|eos|>"]


@pytest.mark.parametrize("seed", range(120))
def test_deltas_make_what_a_whole_reading_says(tokenizer, seed):
    template = probe(tokenizer)
    draw = random.Random(seed)
    text = "".join(draw.choices(WORDS, k=draw.randrange(1, 14)))
    ids = tokenizer.encode(text, add_special_tokens=False)
    finish = draw.choice(list(Finish))
    whole = read_response(tokenizer, template, Completion(tuple(ids), (0.0,) * len(ids), finish))
    *deltas, ended = read_all(ChoiceReader(3, tokenizer, template, [], plain=False), ids, finish)
    expected = replace(apply_stops(whole, []), thinking=whole.thinking.strip() if whole.thinking else None)
    assert ended == Ended(3, expected)
    for part, written in ((Part.THINKING, expected.thinking), (Part.ANSWER, expected.answer)):
        assert "".join(delta.text for delta in deltas if delta.part is part) == (written or "")
    assert all(isinstance(delta, Delta) and delta.text for delta in deltas)


def test_a_stop_ends_the_choice_with_the_tokens_it_took(tokenizer):
    template = probe(tokenizer)
    ids = tokenizer.encode("1;2</think>3;4;5<|eos|>", add_special_tokens=False)
    events = read_all(ChoiceReader(0, tokenizer, template, [";"], plain=False), ids, Finish.STOP)
    response = events[-1].response
    assert (response.thinking, response.answer, response.finish) == ("1;2", "3", Finish.STOP)
    assert (response.tokens, response.thinking_tokens) == (6, 3)


def test_a_continued_text_is_all_answer_but_for_what_was_forced(tokenizer):
    template = probe(tokenizer)
    ids = tokenizer.encode("</think> 5</think>6<|eos|>", add_special_tokens=False)
    events = read_all(ChoiceReader(0, tokenizer, template, [], plain=True, forced=1), ids, Finish.STOP)
    response = events[-1].response
    assert (response.thinking, response.answer, response.mode) == (None, " 5</think>6", Mode.NO_THINK)
    assert (response.tokens, response.thinking_tokens) == (len(ids), 0)
