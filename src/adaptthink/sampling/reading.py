"""The one reader of responses: where the thinking ends and what the answer is, by token ids.

Training, evaluation, serving and the harnesses read a completion here, so the same tokens mean the same everywhere. The
thinking ends at the first close token; a no_think response begins with it (or with the template's empty block). A
close marker that is spelled in ordinary tokens is text, wherever it stands: a policy cannot end its thinking with it.

Tokens that were forced count as tokens of the response, as they do toward `Request.max_tokens`. So a response has the
same length and the same limit whether its mode was forced or chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptthink.engines.base import Completion, Finish
from adaptthink.modes import Mode, ThinkTemplate


@dataclass(frozen=True, slots=True)
class Response:
    """The text of a completion, split into thinking and answer; the token that ended it is in neither.

    `thinking` is None if it is blank, `answer` is None if the thinking never ended. Both are as written,
    but for a leading open marker. Of `tokens` in all, `thinking_tokens` precede the close token.

    >>> import adaptthink as at
    >>> cut = at.Response(at.Mode.THINK, "47+8=5", None, at.Finish.LENGTH, tokens=6, thinking_tokens=6)
    >>> cut.final_answer is None
    True
    """

    mode: Mode
    thinking: str | None
    answer: str | None
    finish: Finish
    tokens: int
    thinking_tokens: int

    @property
    def finished(self) -> bool:
        """Whether the response ended by itself, and was not cut at its max_tokens."""
        return self.finish is Finish.STOP

    @property
    def final_answer(self) -> str | None:
        """What is graded: the answer of a response that ended by itself, None for one that was cut."""
        return self.answer if self.finished else None


def read_response(tokenizer: Any, template: ThinkTemplate, completion: Completion) -> Response:
    """Return the response of one completion."""
    ids = drop_end(completion)
    close = ids.index(template.close_id) if template.close_id in ids else None
    thinking = decode(tokenizer, ids[:close])
    unopened = thinking.lstrip().removeprefix(template.open)
    if unopened != thinking.lstrip():
        thinking = unopened
    written = thinking if thinking.strip() else None
    whole = len(completion.token_ids) if close is None else close
    return Response(
        mode=template.mode_of(completion.token_ids),
        thinking=written,
        answer=None if close is None else decode(tokenizer, ids[close + 1 :]),
        finish=completion.finish,
        tokens=len(completion.token_ids),
        thinking_tokens=0 if written is None else whole,
    )


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Return the text of tokens, special tokens included."""
    return str(tokenizer.decode(token_ids, skip_special_tokens=False))


def drop_end(completion: Completion) -> tuple[int, ...]:
    """Return a completion's tokens without the one that ended it."""
    return completion.token_ids[:-1] if completion.finish is Finish.STOP else completion.token_ids


def apply_stops(response: Response, stops: Sequence[str]) -> Response:
    """Cut the answer at the first of `stops` in it; stops in the thinking are ignored.

    White space before the answer belongs to neither part, so a stop of two line breaks does not remove the answer.
    """
    if response.answer is None:
        return response
    answer = response.answer.lstrip()
    kept = cut_at(answer, stops)
    return replace(response, answer=kept, finish=response.finish if kept == answer else Finish.STOP)


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return the text up to the first of `stops` in it."""
    return text[: min((text.index(stop) for stop in stops if stop and stop in text), default=len(text))]


def join_response(response: Response, template: ThinkTemplate, prompt: str) -> str:
    """Return thinking and answer as one text with both markers, also where the prompt's text opened the thinking."""
    _, opened, space = prompt.rpartition(template.open)
    opening = opened + space if opened and not space.strip() else template.open
    head = opening + (response.thinking or "")
    return head if response.answer is None else f"{head}{template.close}{response.answer}"
