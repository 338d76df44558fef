"""How each model family opens and closes a thought, found by asking its own chat template.

A prompt is rendered once in each mode and the two token sequences are compared. What they share is the prompt. The
first token that differs is the *decision token*: what AdaptThink samples half and half and learns to choose. Each
mode's *prefix* begins with its decision token; the tokens after it are forced and carry no loss.

A prefix forces what the template itself writes for the mode. Where the template writes nothing for thinking, the
first token of the think opener (w_start in the paper) stands for it. Four conventions are known, see `Convention`.

Left out on purpose: a table of model names (a fine-tune may carry any template), thoughts that do not sit between
two markers (harmony channels), and graded effort (`reasoning_effort`): there are two modes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from adaptthink.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = (("<think>", "</think>"), ("<seed:think>", "</seed:think>"))
SWITCHES = ("enable_thinking", "thinking")
ELSEWHERE = ("<|channel|>", "<|channel>", "to=self<|message|>")  # a template that holds one of these has no markers
QUESTIONS = ("1+1=?", "5-3=?\n9+8=?")  # the first is rendered, the second verifies; every vocabulary has them


class Mode(StrEnum):
    THINK = "think"
    NO_THINK = "no_think"


class Convention(StrEnum):
    """Where the decision was found. The examples show `prompt ⟨decision⟩ rest of the prefix`."""

    OPEN_PROMPT = "open_prompt"  # DeepSeek-R1, Qwen3.5: …<think>\n ⟨Alright⟩   or   …<think>\n ⟨</think>⟩ \n\n
    BLOCK = "block"  # Qwen3: …<think> ⟨\n⟩ Alright   or   …<think> ⟨\n\n⟩ </think> \n\n
    SWITCH = "switch"  # DeepSeek-V3.1, GLM-4.7: … ⟨<think>⟩   or   … ⟨</think>⟩
    APPENDED = "appended"  # no thinking in the template: <think>\n is added to the prompt, then as OPEN_PROMPT


MEANING = {
    Convention.OPEN_PROMPT: "the prompt ends inside an opened thought",
    Convention.BLOCK: "the template writes an empty thought for no_think and nothing for think",
    Convention.SWITCH: "the template ends the prompt with the open or with the close marker",
    Convention.APPENDED: "the template knows no thinking; an opened thought is appended to the prompt",
}


@dataclass(frozen=True, slots=True)
class ThinkTemplate:
    """How one tokenizer's prompts lead into each mode; made by `probe`.

    The whole text of a mode is the think render of the chat template, less `cut` at its end, plus that mode's text.
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

    @property
    def think_id(self) -> int:
        """The decision token for think."""
        return self.think_prefix_ids[0]

    @property
    def no_think_id(self) -> int:
        """The decision token for no_think."""
        return self.no_think_prefix_ids[0]

    def prefix_ids(self, mode: Mode) -> tuple[int, ...]:
        """Return the forced first tokens of a response in `mode`."""
        return self.think_prefix_ids if mode is Mode.THINK else self.no_think_prefix_ids

    def mode_of(self, response_ids: Sequence[int]) -> Mode:
        """Return NO_THINK if and only if the response begins with the no_think decision token."""
        return Mode.NO_THINK if response_ids and response_ids[0] == self.no_think_id else Mode.THINK


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `describe`."""

    name: str
    value: str
    ok: bool


def probe(tokenizer: PreTrainedTokenizerBase, *, think_opener: str = "Alright") -> ThinkTemplate:
    """Derive the `ThinkTemplate` from the tokenizer's own chat template and verify it on a second question.

    Raises `UserError` with what was found, what is needed and what to do instead.
    """
    if not think_opener.strip():
        raise _bad_opener(tokenizer, think_opener, "it is blank")
    opening, closing = _markers(tokenizer)
    switch, think, no_think = _renders(tokenizer, QUESTIONS[0])
    convention, cut, think_text, no_think_text = _compare(
        tokenizer, switch, _tail(think), _tail(no_think), opening, closing, think_opener
    )
    close_id = _single_id(tokenizer, closing)
    prompt = think.removesuffix(cut)
    think_ids, no_think_ids = _encode(tokenizer, prompt + think_text), _encode(tokenizer, prompt + no_think_text)
    start, stop = _shared(think_ids, no_think_ids), len(think_ids)
    if convention is not Convention.SWITCH:
        # The opener's first token is the first one that the opener changes, merged with what precedes it or not.
        stop = 1 + _shared(_encode(tokenizer, prompt + think_text.removesuffix(think_opener)), think_ids)
        token = think_ids[stop - 1]
        if token in tokenizer.all_special_ids or "\ufffd" in tokenizer.decode([token]):
            raise _bad_opener(tokenizer, think_opener, f"its first token is {_token(tokenizer, token)}, not a word")
    template = ThinkTemplate(
        convention=convention,
        open=opening,
        close=closing,
        close_id=close_id,
        think_prefix_ids=think_ids[start:stop],
        no_think_prefix_ids=no_think_ids[start:],
        switch=switch,
        cut=cut,
        think_text=think_text,
        no_think_text=no_think_text,
    )
    if not template.think_prefix_ids or close_id not in template.no_think_prefix_ids:
        raise _bad_opener(tokenizer, think_opener, "it begins as no_think does, so no token tells the modes apart")
    if not all(check.ok for check in _forced(tokenizer, template, QUESTIONS[1])):
        raise _refusal(
            tokenizer,
            f"the tokens of the prefixes change with the question around {_tail(think)!r}",
            "a prompt that ends in the same tokens whatever is asked",
            "check the tokenizer's normalizer and its chat template",
        )
    return template


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, question: str) -> tuple[int, ...]:
    """Return the ids of the rendered chat prompt up to, but excluding, the decision token; BOS at most once."""
    # Taken from the whole text, since a prompt cut off before its decision may end in other tokens.
    whole = _encode(tokenizer, _prompt(tokenizer, template, question) + template.no_think_text)
    size = len(template.no_think_prefix_ids)
    if whole[-size:] != template.no_think_prefix_ids:
        raise _refusal(
            tokenizer,
            f"the prompt continues with the tokens {whole[-size:]} in no_think",
            f"the prefix {template.no_think_prefix_ids} that was probed",
            "probe the tokenizer that you encode with",
        )
    return whole[:-size]


def split_response(text: str, template: ThinkTemplate) -> tuple[str | None, str | None]:
    """Return (thought, answer), as written: around the last close marker, and less a leading open marker.

    The thought is None if nothing was thought, the answer is None if the thought never closed. `text` is decoded with
    its special tokens, as some tokenizers count the markers among them.
    """
    before, closed, after = text.rpartition(template.close)
    thought, answer = (before, after) if closed else (text, None)
    head, opened, rest = thought.partition(template.open)
    if opened and not head.strip():
        thought = rest
    return (thought if thought.strip() else None), answer


def describe(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate) -> list[Check]:
    """Say what was found, for a human to check; `ok` is False where this tokenizer and `template` do not agree."""
    prompt = _prompt(tokenizer, template, QUESTIONS[0])
    ids = _encode(tokenizer, prompt)
    bos = next((place for place, token in enumerate(ids) if token != tokenizer.bos_token_id), len(ids))
    eos = tokenizer.eos_token_id
    forced = {*template.think_prefix_ids, *template.no_think_prefix_ids}
    decided = template.think_id != template.no_think_id
    switched = f"rendered with {template.switch}=True" if template.switch else "the template has no switch"
    return [
        Check("convention", f"{template.convention}: {MEANING[template.convention]}; {switched}", ok=True),
        Check("prompt ends", repr(prompt[-60:]), ok=QUESTIONS[0] in prompt),
        Check("think decision", _token(tokenizer, template.think_id), decided),
        Check("no_think decision", _token(tokenizer, template.no_think_id), decided),
        *_forced(tokenizer, template, QUESTIONS[0]),
        Check(
            "close token",
            _token(tokenizer, template.close_id),
            ok=_single_id(tokenizer, template.close) == template.close_id,
        ),
        Check("BOS", f"{bos} at the start of the prompt" if bos else "none, as the tokenizer wants it", ok=bos <= 1),
        Check("end token", "none" if eos is None else _token(tokenizer, eos), ok=eos is not None and eos not in forced),
    ]


def _compare(
    tokenizer: PreTrainedTokenizerBase,
    switch: str | None,
    think: str,
    no_think: str,
    opening: str,
    closing: str,
    opener: str,
) -> tuple[Convention, str, str, str]:
    """Return the convention and the texts `cut`, `think_text`, `no_think_text`, from what follows the question."""
    base, opened, space = think.rpartition(opening)
    opens = bool(opened) and not space.strip()
    before, closed, after = no_think.rpartition(closing)
    closes = bool(closed) and not after.strip()
    if opens and closes and before == base:
        return Convention.SWITCH, opened + space, opened + space, closed + after
    if opens:
        # A prompt that is deployed opened stays opened; only what follows the family's own close is taken over.
        return Convention.OPEN_PROMPT, "", opener, closing + (after if closes else "")
    if switch is None and not closes:
        return Convention.APPENDED, "", f"{opening}\n{opener}", f"{opening}\n{closing}"
    lead, _, inside = before.removeprefix(think).partition(opening)
    if closes and no_think.startswith(think) and not lead.strip() and not inside.strip():
        # The empty thought has the white space of both its ends, so half of it is what the model writes at one.
        return Convention.BLOCK, "", lead + opening + inside[: (len(inside) + 1) // 2] + opener, no_think[len(think) :]
    raise _refusal(
        tokenizer,
        f"the prompt ends in {think[-40:]!r} for think and in {no_think[-40:]!r} for no_think (switch: {switch})",
        f"one that ends in {opening}, or a switch ({', '.join(SWITCHES)}) whose no_think prompt ends in {closing}",
        "choose a model of a known convention or set the tokenizer's chat_template to one",
    )


def _renders(tokenizer: PreTrainedTokenizerBase, question: str) -> tuple[str | None, str, str]:
    """Return the keyword that the template reacts to and the question rendered in both modes (alike if none)."""
    for switch in SWITCHES:
        think, no_think = (_render(tokenizer, question, {switch: value}) for value in (True, False))
        if think != no_think:
            return switch, think, no_think
    plain = _render(tokenizer, question, {})
    return None, plain, plain


def _render(tokenizer: PreTrainedTokenizerBase, question: str, switches: dict[str, bool]) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True, **switches
        )
    except Exception as error:  # a chat template is somebody's program and may fail in any way
        raise _refusal(
            tokenizer,
            f"the chat template fails on one user message ({' '.join(str(error).split())})",
            "a template that renders a plain question",
            "set the tokenizer's chat_template to one that does",
        ) from error
    if not isinstance(text, str) or question.strip() not in text:
        raise _refusal(
            tokenizer,
            "the chat template drops the question's text",
            "a template that takes a message's content as a string",
            "use the model's text-only template",
        )
    return text


def _prompt(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, question: str) -> str:
    """Return the text that both modes share, rendered as for think: a template may default to no_think."""
    return _render(tokenizer, question, {template.switch: True} if template.switch else {}).removesuffix(template.cut)


def _tail(text: str) -> str:
    """Return what follows the question. A switch that also rewrites the system prompt is left as it is for think."""
    return text.rpartition(QUESTIONS[0])[2]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Tokenise a rendered text. BOS is added only if the template left it out and the tokenizer wants it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    wanted: list[int] = tokenizer("")["input_ids"][:1]
    return (*wanted, *ids) if wanted == [tokenizer.bos_token_id] and ids[:1] != wanted else tuple(ids)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of leading tokens that are alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _forced(tokenizer: PreTrainedTokenizerBase, template: ThinkTemplate, question: str) -> list[Check]:
    """Check that prompt and prefix together are the tokens of the whole text, in both modes."""
    text = _prompt(tokenizer, template, question)
    wholes = {mode: _encode(tokenizer, text + getattr(template, f"{mode}_text")) for mode in Mode}
    prompt = wholes[Mode.NO_THINK][: -len(template.no_think_prefix_ids)]
    checks = []
    for mode, whole in wholes.items():
        forced = template.prefix_ids(mode)
        value = " ".join(_token(tokenizer, token) for token in forced)
        checks.append(Check(f"{mode} prefix", value, ok=whole[: len(prompt) + len(forced)] == (*prompt, *forced)))
    return checks


def _markers(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the first known pair of markers that are one token each."""
    try:
        source = tokenizer.get_chat_template()
    except ValueError as error:
        raise _refusal(
            tokenizer, "it has no chat template", "one", "use the chat or reasoning variant of the model"
        ) from error
    for sign in ELSEWHERE:
        if sign in source:
            raise _refusal(
                tokenizer,
                f"its thoughts are kept apart by {sign!r}",
                "thoughts between an open and a close marker",
                "choose a model that writes <think> … </think>",
            )
    for opening, closing in MARKERS:
        if _single_id(tokenizer, opening) is not None and _single_id(tokenizer, closing) is not None:
            return opening, closing
    sizes = [f"{marker} is {len(_plain_ids(tokenizer, marker))} tokens" for marker in MARKERS[0]]
    raise _refusal(
        tokenizer,
        f"no markers of a thought ({', '.join(sizes)})",
        f"one token for each of {' or '.join(' … '.join(pair) for pair in MARKERS)}",
        "choose a reasoning model, or add both as special tokens and train their embeddings first",
    )


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _single_id(tokenizer: PreTrainedTokenizerBase, marker: str) -> int | None:
    """Return the id of a marker that is one known token, else None."""
    ids = _plain_ids(tokenizer, marker)
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None


def _token(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return f"{tokenizer.decode([token])!r} ({token})"


def _bad_opener(tokenizer: PreTrainedTokenizerBase, opener: str, found: str) -> UserError:
    return _refusal(
        tokenizer,
        f"think_opener = {opener!r}: {found}",
        "an opener whose first token is an ordinary word of the model's thoughts",
        "set think_opener to how its thoughts begin, such as 'Alright' or 'Okay'",
    )


def _refusal(tokenizer: PreTrainedTokenizerBase, found: str, needed: str, instead: str) -> UserError:
    return UserError(f"{tokenizer.name_or_path or 'this tokenizer'}: {found}; needed: {needed}; {instead}")
