"""The page at / and its files: the same for everyone, without a key, and with nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adaptthink.models.embedded import is_embedded
from adaptthink.problems.arithmetic import Split, generate_problems

FOLDER = Path(__file__).parent / "page"
MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
# A browser runs no other script and calls no other server, whatever a model writes; `trusted-types` forbids markup from
# text, as by innerHTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
EXAMPLES_PER_LEVEL = 8
ARITHMETIC = (
    "This small model adds and subtracts, one question at a time, and knows nothing else. As it comes with the package "
    "it nearly always thinks: its P(no_think) is mostly below 0.001. Move the threshold down there to see it answer "
    "directly, or teach it when to think with “adaptthink train”."
)
QUESTIONS = ("What is 17 × 24?", "What is the derivative of x² · sin x?", "How many primes are below 60?")


def is_public(path: str) -> bool:
    """Return whether a route needs no key."""
    return path in ("/", "/health") or path.startswith("/page/")


def make_page_routes(tokenizer: Any) -> list[Route]:
    """Return the routes of the page, with examples that a model with this tokenizer can answer."""
    files = {f"/page/{path.name}": path for path in sorted(FOLDER.iterdir())}
    files["/"] = files.pop("/page/index.html")
    routes = [make_route(path, file.read_bytes(), MEDIA_TYPES[file.suffix]) for path, file in files.items()]
    examples = JSONResponse(list_examples(tokenizer)).body
    return [*routes, make_route("/page/examples.json", bytes(examples), "application/json")]


def make_route(path: str, content: bytes, media_type: str) -> Route:
    """Return the route of one file."""

    async def send(_: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    return Route(path, send)


def list_examples(tokenizer: Any) -> dict[str, Any]:
    """Return what the page offers to ask, and whether the model understands a question after others."""
    if not is_embedded(tokenizer):
        questions = [{"prompt": prompt, "level": None, "answer": None} for prompt in QUESTIONS]
        return {"about": "", "conversation": True, "examples": questions}
    problems = generate_problems(EXAMPLES_PER_LEVEL, seed=0, split=Split.EVALUATION)
    examples = [{"prompt": one.prompt, "level": one.level, "answer": one.answer} for one in problems]
    return {"about": ARITHMETIC, "conversation": False, "examples": examples}
