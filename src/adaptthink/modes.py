"""How each model family opens and closes a thought, derived from its own chat template.

A prompt is rendered once in each mode and the two token sequences are compared. What they share is the prompt. The
first token that differs is the *decision token*: what AdaptThink samples half and half and learns to choose. Each
mode's *prefix* begins with its decision token; the tokens after it are forced and carry no loss.

A prefix forces what the template itself writes for the mode. Where the template writes nothing for thinking, the
prefix is `think_start` (w_start in the paper), all of it where it is several tokens: its first one decides. Four
conventions are known, see `Convention`.

Left out on purpose: a table of model names (a fine-tune may carry any template), thoughts that are not between
two markers (harmony channels), and graded effort (`reasoning_effort`): there are two modes here.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from adaptthink.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = (("<think>", "</think>"), ("<seed:think>", "</seed:think>"))
SWITCHES = ("enable_thinking", "thinking")
CLOCK = "strftime_now"  # the function by which chat templates write the day
NO_DATE = "has no effect: the chat template writes no date; leave it out"
DATED = "prompts change with the day, here {}: a reference store, an evaluation and a run keep that of their beginning"
ELSEWHERE = ("<|channel|>", "<|channel>", "to=self<|message|>")  # how templates without markers separate thinking
QUESTION, SECOND_QUESTION, ANSWER = "1+1=?", "5-3=?\n9+8=?", "=2."  # only characters that any vocabulary has


class Mode(StrEnum):
    """The two ways to answer.

    >>> import adaptthink as at
    >>> at.Mode("no_think")
    <Mode.NO_THINK: 'no_think'>
    """

    THINK = "think"
    NO_THINK = "no_think"


def choose_mode(no_think_probability: float, threshold: float) -> Mode:
    """Return the mode chosen by a threshold on P(no_think): no_think at or above the threshold, else think."""
    return Mode.NO_THINK if no_think_probability >= threshold else Mode.THINK


class Convention(StrEnum):
    """Where the decision is. The examples show: …prompt [decision] rest of the prefix."""

    OPEN_PROMPT = "open_prompt"  # DeepSeek-R1, Qwen3.5: …<think>\n [Alright]   or   …<think>\n [</think>] \n\n
    BLOCK = "block"  # Qwen3: …<think> [\n] Alright   or   …<think> [\n\n] </think> \n\n
    SWITCH = "switch"  # DeepSeek-V3.1, GLM-4.7: … [<think>]   or   … [</think>]
    APPENDED = "appended"  # a template without thinking: <think>\n is added to the prompt, then as OPEN_PROMPT


MEANING = {
    Convention.OPEN_PROMPT: "the prompt ends inside an opened thought",
    Convention.BLOCK: "the template writes an empty thought for no_think and nothing for think",
    Convention.SWITCH: "the template ends the prompt with the open or with the close marker",
    Convention.APPENDED: "the template knows no thinking; an opened thought is appended to the prompt",
}


@dataclass(frozen=True, slots=True)
class ThinkStart:
    """One way in which thinking begins: its tokens, the decision token first, and how often it is taken."""

    ids: tuple[int, ...]
    probability: float


@dataclass(frozen=True, slots=True)
class ThinkTemplate:
    """How one tokenizer's prompts lead into each mode; made by `probe`.

    The whole text of a mode is the chat template's think render, less `cut` at its end, plus that mode's text.
    """

    convention: Convention
    open: str
    close: str
    close_id: int
    think_prefix_ids: tuple[int, ...]
    no_think_prefix_ids: tuple[int, ...]
    switch: str | None  # the chat-template keyword that selects the mode; prompts are rendered with it set to True
    cut: str
    think_text: str
    no_think_text: str
    turn_end_ids: tuple[int, ...] = ()  # the added tokens that the template writes directly behind an answer
    date: str | None = None  # what a template that writes the day into prompts writes, YYYY-MM-DD; None: it writes none
    think_starts: tuple[ThinkStart, ...] = ()  # sampled from where thinking is requested; none: think_prefix_ids alone

    @property
    def think_id(self) -> int:
        """The decision token for think, of the first start where there are several."""
        return self.think_ids[0]

    @property
    def think_ids(self) -> tuple[int, ...]:
        """The decision tokens of all think starts."""
        return tuple(dict.fromkeys(start.ids[0] for start in self.think_starts)) or self.think_prefix_ids[:1]

    def sample_think_prefix(self, seed: int) -> tuple[int, ...]:
        """Return the forced first tokens of a requested thought; the same for the same seed."""
        if not self.think_starts:
            return self.think_prefix_ids
        weights = [start.probability for start in self.think_starts]
        return random.Random(seed).choices(self.think_starts, weights)[0].ids

    def compute_start_logprob(self, prefix_ids: Sequence[int]) -> float:
        """Return the log-probability of a forced prefix among those of its mode; 0 where its mode has one."""
        known = {start.ids: start.probability for start in self.think_starts}
        return math.log(known.get(tuple(prefix_ids), 1.0))

    @property
    def no_think_id(self) -> int:
        """The decision token for no_think."""
        return self.no_think_prefix_ids[0]

    def prefix_ids(self, mode: Mode) -> tuple[int, ...]:
        """Return the forced first tokens of a response in `mode`, the decision token first."""
        return self.think_prefix_ids if mode is Mode.THINK else self.no_think_prefix_ids

    def mode_of(self, response_ids: Sequence[int]) -> Mode:
        """Return NO_THINK if and only if the response begins with the no_think decision token."""
        decided = len(response_ids) > 0 and response_ids[0] == self.no_think_id
        return Mode.NO_THINK if decided else Mode.THINK


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; roles are those of the chat template: system, user, assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `doctor`."""

    name: str
    value: str
    ok: bool


def probe(
    tokenizer: PreTrainedTokenizerBase, *, think_start: str = "Alright", date: str | None = None
) -> ThinkTemplate:
    """Return the `ThinkTemplate` derived from the tokenizer's own chat template, verified on a second question.

    `think_start` is not used where the template itself shows how thinking begins (`Convention.SWITCH`). `date` is the
    day, YYYY-MM-DD, that a template writes into prompts if it writes one; default: today. Raises `UserError` if the
    template cannot work, with what was found, what is needed and what to do instead, and for a date without an effect.
    """
    if not think_start.strip():
        raise _bad_think_start(think_start, "it is blank")
    opening, closing, close_id = _markers(tokenizer)
    dated = CLOCK in tokenizer.get_chat_template()
    if date and not dated:
        raise UserError(f"prompt_date = {date} {NO_DATE}")
    date = (date or datetime.now().date().isoformat()) if dated else None
    switch = _switch(tokenizer, date)
    endings = [_ending(tokenizer, switch, mode, date) for mode in Mode]
    convention, cut, think_text, no_think_text = _compare(
        *endings, opening=opening, closing=closing, think_start=think_start, switched=switch is not None
    )
    prompt = _render(tokenizer, QUESTION, switch, date=date).removesuffix(cut)
    if QUESTION not in prompt:
        raise UserError(
            "the chat template drops the text of the question; needed: a template that takes a message's content as a"
            " string; set the tokenizer's chat_template to one"
        )
    think_ids, no_think_ids = encode(tokenizer, prompt + think_text), encode(tokenizer, prompt + no_think_text)
    start = count_shared(think_ids, no_think_ids)
    if convention is not Convention.SWITCH:
        # The first token of think_start is the first one that it changes, also where it merges with what precedes.
        first = count_shared(encode(tokenizer, prompt + think_text.removesuffix(think_start)), think_ids)
        _check_word(tokenizer, think_start, think_ids[: first + 1][-1])
    template = ThinkTemplate(
        convention=convention,
        open=opening,
        close=closing,
        close_id=close_id,
        think_prefix_ids=think_ids[start:],
        no_think_prefix_ids=no_think_ids[start:],
        switch=switch,
        cut=cut,
        think_text=think_text,
        no_think_text=no_think_text,
        turn_end_ids=_turn_end(tokenizer, switch, date),
        date=date,
    )
    if not template.think_prefix_ids or close_id not in template.no_think_prefix_ids:
        raise _bad_think_start(think_start, "no_think begins with the same token, so nothing tells the modes apart")
    if not all(check.ok for check in _check_prefixes(tokenizer, template, SECOND_QUESTION)):
        raise UserError(
            f"the tokens after the question change with the question (its prompts end in {endings[0]!r}); needed: a"
            " prompt that ends in the same tokens for any question; check the chat template and the normalizer"
        )
    return template


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, question: str | Sequence[Message]
) -> tuple[int, ...]:
    """Return the ids of the rendered chat prompt up to, but excluding, the decision token; with BOS never doubled.

    `question` is one question, or a conversation that ends in one; thinking in its earlier answers is dropped.
    """
    return encode_rendered(tokenizer, template, _prompt(tokenizer, template, question))


def encode_rendered(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, prompt: str) -> tuple[int, ...]:
    """Return what `encode_prompt` does, for a prompt that is rendered already (see `is_rendered`)."""
    # The whole text is encoded and then cut: encoded alone, the prompt might end in other tokens.
    whole = encode(tokenizer, prompt.removesuffix(template.cut) + template.no_think_text)
    size = len(template.no_think_prefix_ids)
    if whole[-size:] != template.no_think_prefix_ids:
        raise UserError(
            f"the no_think prompt ends in the tokens {whole[-size:]}; needed: {template.no_think_prefix_ids}, as probed"
            " before; encode with the tokenizer that was probed"
        )
    return whole[:-size]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Return the ids of a rendered text. BOS is added only if the template left it out and the tokenizer wants it."""
    ids = _plain_ids(tokenizer, text)
    wanted = tokenizer("")["input_ids"][:1]
    return (*wanted, *ids) if wanted == [tokenizer.bos_token_id] and ids[:1] != wanted else tuple(ids)


def render(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, messages: Sequence[Message]) -> str:
    """Return the text of a conversation's prompt, in the form for think; thinking in earlier answers is dropped.

    A developer's message is the system's where the template knows no developer. Raises UserError for a message that the
    template leaves out.
    """
    turns = drop_earlier_thinking(template, messages)
    if any(turn.role == "developer" for turn in turns) and not _knows_developer(tokenizer, template):
        turns = [Message("system" if turn.role == "developer" else turn.role, turn.content) for turn in turns]
    text = _render(tokenizer, turns, template.switch, date=template.date)
    roles = [turn.role for turn in turns]
    lost = set() if roles == ["user"] else set(_find_lost(tokenizer, template, roles))
    # An assistant's text may be shortened, by what the template takes for thinking.
    lost |= {i for i, turn in enumerate(turns) if turn.role != "assistant" and turn.content.strip() not in text}
    for index in sorted(lost):
        if turns[index].content.strip():
            raise UserError(
                f"the chat template leaves out message {index + 1} of {len(turns)} (role {messages[index].role}), or "
                "changes its text; send one system message at most, as the first, and else only user and assistant"
            )
    return text


def _find_lost(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, roles: Sequence[str]) -> list[int]:
    """Return the indices of the messages that the template leaves out of a conversation of these roles."""
    turns = [Message(role, f"message {index}.") for index, role in enumerate(roles)]
    text = _render(tokenizer, turns, template.switch, date=template.date)
    return [index for index, turn in enumerate(turns) if turn.content not in text]


def _knows_developer(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate) -> bool:
    """Return whether the template renders a developer's message."""
    try:
        return not _find_lost(tokenizer, template, ["developer", "user"])
    except UserError:  # it refuses the role
        return False


def is_rendered(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, text: str) -> bool:
    """Return whether a text ends as the chat template's own prompts do, so that the next token decides the mode."""
    _, _, ending = _prompt(tokenizer, template, QUESTION).rpartition(QUESTION)
    return text.removesuffix(template.cut).endswith(ending)


def drop_earlier_thinking(template: ThinkTemplate, messages: Sequence[Message]) -> list[Message]:
    """Return the messages without the thinking in the assistant's texts."""
    answers = []
    for message in messages:
        content = message.content
        opened = content.lstrip().startswith(template.open)
        if message.role == "assistant" and (opened or template.close in content):
            content = (split_response(content, template)[1] or "").lstrip()
        answers.append(Message(message.role, content))
    return answers


def split_response(text: str, template: ThinkTemplate) -> tuple[str | None, str | None]:
    """Return (thinking, answer) of a text, both as written: what is before and after the first close marker.

    For texts alone, such as a conversation's earlier turns; a completion is read by its tokens (`sampling.reading`).
    A leading open marker is dropped. The thinking is None if it is blank, the answer is None if the thinking never
    closed. Decode `text` with its special tokens: some tokenizers count the markers among them.
    """
    return split_text(text, template.open, template.close)


def split_text(text: str, opening: str, closing: str) -> tuple[str | None, str | None]:
    """Return (thinking, answer) by a pair of markers (see `split_response`)."""
    before, closed, after = text.partition(closing)
    thinking, answer = (before, after) if closed else (text, None)
    head, opened, rest = thinking.partition(opening)
    if opened and not head.strip():
        thinking = rest
    return (thinking if thinking.strip() else None), answer


def describe(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate) -> list[Check]:
    """Return what was found, one line each; `ok` is False where this tokenizer and `template` do not agree."""
    prompt = _prompt(tokenizer, template, QUESTION)
    num_bos = sum(1 for _ in takewhile(lambda token: token == tokenizer.bos_token_id, encode(tokenizer, prompt)))
    close_ids = _plain_ids(tokenizer, template.close)
    decided = template.no_think_id not in template.think_ids
    switch = f"{template.switch}=True" if template.switch else "no switch"
    return [
        Check("convention", f"{template.convention} ({switch}): {MEANING[template.convention]}", ok=True),
        Check("prompt ends in", repr(prompt[-60:]), ok=True),
        Check("think decision", ", ".join(_show(tokenizer, token) for token in template.think_ids), ok=decided),
        Check("no_think decision", _show(tokenizer, template.no_think_id), ok=decided),
        *_check_prefixes(tokenizer, template, QUESTION),
        Check("close token", _show(tokenizer, template.close_id), ok=close_ids == [template.close_id]),
        Check("BOS", f"{num_bos} at the start of the prompt", ok=num_bos <= 1),
        *([Check("date", DATED.format(template.date), ok=True)] if template.date else []),
    ]


def _compare(
    think: str, no_think: str, *, opening: str, closing: str, think_start: str, switched: bool
) -> tuple[Convention, str, str, str]:
    """Return the convention and the texts `cut`, `think_text` and `no_think_text`, from how the prompts end."""
    base, opened, space = think.rpartition(opening)
    before, closed, after = no_think.rpartition(closing)
    closes = bool(closed) and not after.strip()
    if opened and not space.strip():
        if closes and before == base:
            return Convention.SWITCH, opening + space, opening + space, closing + after
        # A prompt that is deployed opened stays as it is; only what follows the family's own close is taken over.
        return Convention.OPEN_PROMPT, "", think_start, closing + (after if closes else "")
    if not switched and not closes:
        return Convention.APPENDED, "", f"{opening}\n{think_start}", f"{opening}\n{closing}"
    block = no_think[len(think) :] if no_think.startswith(think) else ""
    lead, _, rest = block.partition(opening)
    inside, closed, after = rest.partition(closing)
    if closed and not (lead + inside + after).strip():
        # An empty block has the white space of both its ends; the model begins its thinking with the first half.
        return Convention.BLOCK, "", lead + opening + inside[: (len(inside) + 1) // 2] + think_start, block
    raise UserError(
        f"the chat template ends its prompt in {think[-40:]!r} for think and {no_think[-40:]!r} for no_think; needed: a"
        f" prompt that ends in {opening}, or a switch ({' or '.join(SWITCHES)}) that makes it end in {closing}; choose"
        " a model with such a template or set the tokenizer's chat_template"
    )


def _markers(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, int]:
    """Return the first known pair of markers that are one token each, and the id of the one that closes."""
    try:
        source = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            "the tokenizer has no chat template; needed: one; use the chat or reasoning variant of the model, or give"
            " it a cold start (adaptthink sft)"
        ) from error
    for sign in ELSEWHERE:
        if sign in source:
            raise UserError(
                f"the chat template separates thinking by {sign!r}; needed: thoughts between an open and a close"
                f" marker; choose a model that writes {' … '.join(MARKERS[0])}"
            )
    for opening, closing in MARKERS:
        open_ids, close_ids = _plain_ids(tokenizer, opening), _plain_ids(tokenizer, closing)
        if len(open_ids) == len(close_ids) == 1 and tokenizer.unk_token_id not in open_ids + close_ids:
            return opening, closing, close_ids[0]
    sizes = " and ".join(f"{marker} is {len(_plain_ids(tokenizer, marker))} token(s)" for marker in MARKERS[0])
    raise UserError(
        f"the tokenizer does not know the markers of a thought ({sizes}); needed: one known token each for"
        f" {' or '.join(' … '.join(pair) for pair in MARKERS)}; choose a reasoning model, or give this one a cold start"
        " (adaptthink sft)"
    )


def _switch(tokenizer: PreTrainedTokenizerBase, date: str | None) -> str | None:
    """Return the keyword that the chat template reacts to, if any."""
    for switch in SWITCHES:
        think, no_think = (_render(tokenizer, QUESTION, switch, mode=mode, date=date) for mode in Mode)
        if think != no_think:
            return switch
    return None


def _ending(tokenizer: PreTrainedTokenizerBase, switch: str | None, mode: Mode, date: str | None) -> str:
    """Return the generation prompt, the text that the template adds before an answer.

    A switch may also write elsewhere, in the system prompt or after the question. One prompt has to serve both modes,
    so that part is always the one for think.
    """
    text = _render(tokenizer, QUESTION, switch, mode=mode, date=date)
    before = _render(tokenizer, QUESTION, switch, mode=mode, answering=False, date=date)
    # Some templates add it always, or end a conversation without generation prompt with a token of their own.
    return text[len(before) :] if text != before and text.startswith(before) else text.rpartition(QUESTION)[2]


def _turn_end(tokenizer: PreTrainedTokenizerBase, switch: str | None, date: str | None) -> tuple[int, ...]:
    """Return the added tokens that a rendered answer is followed by, up to the next text.

    The answer is followed by another question: some templates let the next turn's first token end a turn (GLM).
    """
    turns = [Message("user", QUESTION), Message("assistant", ANSWER), Message("user", SECOND_QUESTION)]
    try:
        text = _render(tokenizer, turns, switch, answering=False, date=date)
    except UserError:  # a template for one question
        return ()
    _, found, after = text.partition(ANSWER)
    written = [token for token in _plain_ids(tokenizer, after) if str(tokenizer.decode([token])).strip()]
    return tuple(takewhile(tokenizer.added_tokens_decoder.__contains__, written)) if found else ()


def _prompt(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, question: str | Sequence[Message]) -> str:
    """Return the text that both modes share."""
    messages = [Message("user", question)] if isinstance(question, str) else question
    return render(tokenizer, template, messages).removesuffix(template.cut)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    question: str | Sequence[Message],
    switch: str | None,
    *,
    mode: Mode = Mode.THINK,
    answering: bool = True,
    date: str | None = None,
) -> str:
    """Render one question or a conversation. The switch is always set, since some templates default to no_think."""
    turns = [Message("user", question)] if isinstance(question, str) else question
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    shown = "one user message" if len(turns) == 1 else f"messages of {', '.join(turn.role for turn in turns)}"
    options: dict[str, Any] = {switch: mode is Mode.THINK} if switch else {}
    if date:
        options["chat_template"] = _stop_clock(tokenizer.get_chat_template(), date)
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answering, **options))
    except Exception as error:  # a chat template is third-party code and may raise anything
        raise UserError(
            f"the chat template fails on {shown} ({' '.join(str(error).split())}); needed: a template that"
            f" renders {'a plain question' if len(turns) == 1 else 'these'}; set the tokenizer's chat_template to one"
        ) from error


def _stop_clock(source: str, date: str) -> str:
    """Return a chat template in which the function that reads the clock is a macro that writes `date` at 0:00."""
    day = datetime.fromisoformat(date)
    codes = sorted(set(re.findall("%-?[A-Za-z]", source)))
    written = "".join(f".replace({code!r}, {day.strftime(code)!r})" for code in codes)
    return f"{{% macro {CLOCK}(format) %}}{{{{ format{written} }}}}{{% endmacro %}}{{{{ '' }}}}{source}"


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of leading tokens that are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _check_prefixes(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, question: str) -> list[Check]:
    """Check that the tokens of the prompt, then of the prefix, are those of the whole text in both modes."""
    text = _prompt(tokenizer, template, question)
    think, no_think = (encode(tokenizer, text + ending) for ending in (template.think_text, template.no_think_text))
    prompt = no_think[: -len(template.no_think_prefix_ids)]
    checks = []
    for mode, whole in ((Mode.THINK, think), (Mode.NO_THINK, no_think)):
        ids = template.prefix_ids(mode)
        shown = " ".join(_show(tokenizer, token) for token in ids)
        checks.append(Check(f"{mode} prefix", shown, ok=whole[: len(prompt) + len(ids)] == (*prompt, *ids)))
    return checks


def _check_word(tokenizer: PreTrainedTokenizerBase, think_start: str, token: int) -> None:
    """Raise UserError if the first token of think_start is special, unknown, white space or a part of a character."""
    text = str(tokenizer.decode([token]))
    if token in tokenizer.added_tokens_decoder or not text.strip() or "\ufffd" in text:
        raise _bad_think_start(think_start, f"its first token is {_show(tokenizer, token)}")


def _bad_think_start(think_start: str, found: str) -> UserError:
    return UserError(
        f"think_start {think_start!r}: {found}; needed: a text whose first token is an ordinary word; set think_start"
        " to how the model's thinking begins, such as 'Alright' or 'Okay'"
    )


def _show(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return f"{tokenizer.decode([token])!r} ({token})"
