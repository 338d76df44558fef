"""vLLM's reasoning parser `adaptthink`: --reasoning-parser-plugin adaptthink.integrations.vllm.reasoning.

vLLM's parsers for R1 and Qwen3 take it that an answer begins with thinking. Here it may begin with the close token,
generated or forced, or the prompt may have closed the thought; both are an answer without thinking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser, ReasoningParserManager

from adaptthink.integrations.vllm.markers import Opening, TextSplitter, find_markers, find_opening, split_text
from adaptthink.modes import MARKERS, QUESTION


class AdaptThinkReasoningParser(ReasoningParser):
    """Splits one response; vLLM makes a parser for each. Raises ValueError for a tokenizer without markers."""

    def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        found = find_markers(self.vocab)
        if found is None:
            raise ValueError(
                f"the tokenizer knows none of the markers {', '.join(' … '.join(pair) for pair in MARKERS)}; serve a "
                "reasoning model, or leave --reasoning-parser out"
            )
        self.markers = found
        self.template_options = dict(kwargs.get("chat_template_kwargs") or {})
        self.opening: Opening | None = None
        self.splitter: TextSplitter | None = None

    @property
    def reasoning_start_str(self) -> str:
        """The open marker."""
        return self.markers.open

    @property
    def reasoning_end_str(self) -> str:
        """The close marker."""
        return self.markers.close

    def adjust_request(self, request: Any) -> Any:
        """Let special tokens be written, where the markers are among them: vLLM leaves these out by default."""
        if self.markers.close_id in self.model_tokenizer.all_special_ids:
            request.skip_special_tokens = False
        return request

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """Return whether a prompt, or a prompt with what follows it, ends in an answer."""
        return self._find_opening(input_ids) is Opening.ANSWER

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
        """Return whether the answer has begun: in the text that was split, else in the new tokens."""
        if self.splitter:
            return self.splitter.part is Opening.ANSWER
        return self.markers.close_id in delta_ids

    def adjust_initial_state_from_prompt(self, prompt_token_ids: Sequence[int]) -> None:
        """Take in what the prompt's end leaves to be generated."""
        self.opening = self._find_opening(prompt_token_ids)

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """Return the tokens behind the first close token."""
        close = self.markers.close_id
        return input_ids[input_ids.index(close) + 1 :] if close in input_ids else []

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """Return the number of tokens of the thinking, without its markers."""
        if self.opening is Opening.ANSWER:
            return 0
        close, opened = self.markers.close_id, self.markers.open_id in token_ids
        closed = close in token_ids
        thinking = token_ids[: list(token_ids).index(close)] if closed else token_ids
        if not (closed or opened or self.opening is Opening.THINKING):
            return 0
        return len(thinking) - opened

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """Return (thinking, answer) of a whole response."""
        self.opening = self._predict_opening(request)
        return split_text(self.markers, self.opening, model_output)

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """Return what is new; vLLM does not ask any more once the answer has begun."""
        self.splitter = self.splitter or TextSplitter(self.markers, self.opening or Opening.THINKING)
        thinking, answer = self.splitter.add(delta_text)
        return DeltaMessage(reasoning=thinking or None, content=answer or None) if thinking or answer else None

    def get_streaming_fallback_content(self, previous_text: str, request: Any) -> str:
        """Return the answer that was held back, at the end of a stream in which it had not clearly begun."""
        return self.splitter.end()[1] if self.splitter else ""

    def _find_opening(self, ids: Sequence[int]) -> Opening:
        return find_opening(self.markers, ids, self.model_tokenizer.added_tokens_decoder)

    def _predict_opening(self, request: Any) -> Opening:
        """Return what the prompt's end left: vLLM gives the prompt to parsers of streams only."""
        tokenizer = self.model_tokenizer
        if getattr(request, "continue_final_message", False):
            text = str(request.messages[-1].get("content"))
        else:
            options = {"add_generation_prompt": True} | self.template_options | {"continue_final_message": False}
            if getattr(request, "chat_template", None):
                options["chat_template"] = request.chat_template
            text = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False, **options)
        return self._find_opening(tokenizer.encode(text, add_special_tokens=False))


ReasoningParserManager.register_module("adaptthink", module=AdaptThinkReasoningParser)
