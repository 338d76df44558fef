"""Score an answer to a reasoning-gym problem with the scorer of its own family (version 0.1.25 was tested).

The reference answer of such a problem is its entry as JSON, without the question. Two families, arc_agi and rearc, do
not survive that form (their scorers need tuples), and five score 0 on their own answer; `problems/gym.py` refuses all
of these.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from adaptthink.errors import UserError


def load_library() -> Any:
    """Return the module `reasoning_gym`; raises UserError with the command that installs it."""
    try:
        import reasoning_gym  # noqa: PLC0415  (optional, and it takes a second)
    except ImportError:
        raise UserError(
            "reasoning_gym problems need the package reasoning-gym: pip install '.[gym]' in the project's folder"
        ) from None
    return reasoning_gym


def make_reference_json(entry: Mapping[str, Any]) -> str:
    """Return an entry as the reference answer of a problem: answer and metadata, without its index in the dataset.

    Raises TypeError or ValueError for an entry that cannot be written as JSON.
    """
    metadata = {key: value for key, value in entry["metadata"].items() if key != "source_index"}
    return json.dumps({"answer": entry["answer"], "metadata": metadata}, ensure_ascii=False)


@functools.cache
def load_scorer(family: str) -> Callable[[str, dict[str, Any]], float]:
    """Return a family's own `score_answer`; raises ValueError for an unknown family."""
    load_library()
    from reasoning_gym.factory import get_score_answer_fn  # noqa: PLC0415

    scorer: Callable[[str, dict[str, Any]], float] = get_score_answer_fn(family)
    return scorer


def score_entry(response_answer: str, reference_answer: str) -> float:
    """Return the score of an answer, from 0 to 1, by its family's scorer.

    The scorers are third-party code: they may take long, and raise anything on an answer of unexpected form.
    Raises ValueError for a reference answer that is no entry.
    """
    entry = json.loads(reference_answer)
    if not isinstance(entry, dict) or not isinstance(entry.get("metadata"), dict):
        raise ValueError("the reference answer of a reasoning_gym problem is JSON with 'answer' and 'metadata'")
    return float(load_scorer(str(entry["metadata"].get("source_dataset")))(response_answer, entry))


def scores_itself(reference_answer: str) -> bool:
    """Return whether an entry's own answer scores 1 against it; raises as `score_entry`."""
    return score_entry(json.loads(reference_answer)["answer"], reference_answer) == 1
