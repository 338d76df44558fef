"""Think starts: what requested thoughts begin with, a text of the user's, or what the reference model itself used.

A reference store keeps the first token of each of its samples. Where `think_start` is the path of such a store,
thoughts begin with these tokens, sampled as often as the reference used them, so that none of them wears out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adaptthink.errors import UserError
from adaptthink.modes import Convention, ThinkStart, ThinkTemplate, probe
from adaptthink.storage.jsonl import read_lines, read_records
from adaptthink.storage.records import Count, from_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STORE = ".jsonl"  # the end of a path; no text that thinking begins with ends so
LEAST_SHARE = 0.01  # of the samples that began with a token; rarer ones are left out


def probe_configured(tokenizer: PreTrainedTokenizerBase, think_start: str, date: str | None = None) -> ThinkTemplate:
    """Return the template (`modes.probe`) with its think start, or with those of a reference store.

    Raises UserError for a store without first tokens, and for a template that writes itself how thinking begins.
    """
    if not think_start.endswith(STORE):
        return probe(tokenizer, think_start=think_start, date=date)
    counts = read_first_tokens(Path(think_start))
    words = Counter({token: count for token, count in counts.items() if token not in tokenizer.added_tokens_decoder})
    if not words:
        raise UserError(f"reference store '{think_start}' holds no sample that thinks; give think_start a text")
    template = probe(tokenizer, think_start=str(tokenizer.decode([max(words, key=words.__getitem__)])), date=date)
    if template.convention not in (Convention.OPEN_PROMPT, Convention.APPENDED):
        raise UserError(
            f"think_start = '{think_start}' is a store, and this chat template writes itself how thinking begins; give "
            "a text, or leave it out"
        )
    del words[template.no_think_id]
    kept = {token: count for token, count in words.items() if count >= LEAST_SHARE * words.total()}
    total = sum(kept.values())
    order = sorted(kept, key=lambda token: (-kept[token], token))
    return replace(template, think_starts=tuple(ThinkStart((token,), kept[token] / total) for token in order))


def read_first_tokens(path: Path) -> Counter[int]:
    """Count the first tokens of a store's samples; raises UserError for what holds none."""
    if not path.is_file():
        raise UserError(f"think_start = '{path}': no such reference store; give an existing one, or a text")
    counts: Counter[int] = Counter()
    for first_ids in read_records(read_lines(path), lambda row: from_json(tuple[Count, ...], row.get("first_ids", ()))):
        counts.update(first_ids)
    if not counts:
        raise UserError(
            f"think_start = '{path}' holds no first tokens; it is no reference store, or one of an older version: "
            "pre-sample again, or give a text"
        )
    return counts
