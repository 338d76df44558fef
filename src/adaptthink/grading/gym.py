"""Score an answer to a reasoning-gym problem with the scorer of its own family (version 0.1.25 was tested).

The reference answer of such a problem is its entry as JSON, without the question. Two families, arc_agi and rearc, do
not survive that form (their scorers need tuples), and five score 0 on their own answer; `problems/gym.py` refuses all
of these.

A dozen of the scorers would run an answer as Python, by `eval` or by sympy's parser, which calls it: a model could do
what it likes. Both are replaced by functions that compute, and call nothing but elementary functions (`guard`).
"""

from __future__ import annotations

import ast
import functools
import json
import operator
import re
import sys
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

from adaptthink.errors import UserError

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip
FORMULA = re.compile(  # signs, numbers, variables of one letter, names of functions
    r"(?:[\s+\-*/^()!,=]|(?<![A-Za-z_])(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[A-Za-z]\d*(?!\w)|[A-Za-z]{2,}(?!\w))*"
)
FUNCTIONS = {
    "Abs", "acos", "asin", "atan", "cos", "cosh", "cot", "csc", "exp", "ln", "log", "pi", "sec", "sin", "sinh", "sqrt",
    "tan", "tanh",
}  # fmt: skip


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
    guard(sys.modules[scorer.__module__])
    return scorer


def guard(module: ModuleType) -> None:
    """Replace what a family's module would run an answer with."""
    names = vars(module)
    names["eval"] = evaluate
    for name, value in list(names.items()):
        if name == "parse_expr" and getattr(value, "__module__", "").startswith("sympy."):
            names[name] = functools.partial(parse_formula, value)
        elif isinstance(value, ModuleType) and value.__name__ == "sympy":
            names[name] = SimpleNamespace(
                **vars(value) | {"parse_expr": functools.partial(parse_formula, value.parse_expr)}
            )


def evaluate(text: str) -> Any:
    """Return the value of a Python literal, or of arithmetic with such; raises ValueError for anything else."""

    def compute(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value):
                return value
            case ast.List(elements) | ast.Tuple(elements):
                return [compute(one) for one in elements]
            case ast.UnaryOp(sign, value) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](compute(value))
            case ast.BinOp(left, sign, right) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](compute(left), compute(right))
        raise ValueError(f"{type(node).__name__} is neither a literal nor arithmetic")

    return compute(ast.parse(text.strip(), mode="eval").body)


def parse_formula(parse: Callable[..., Any], text: str, *arguments: Any, **options: Any) -> Any:
    """Do what sympy's `parse_expr` does, for variables of one letter and elementary functions alone.

    Raises ValueError for a text with anything else in it.
    """
    if not FORMULA.fullmatch(text) or not set(re.findall(r"[A-Za-z]{2,}", text)) <= FUNCTIONS:
        raise ValueError("this is no formula")
    return parse(text, *arguments, **options)


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
