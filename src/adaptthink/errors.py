"""The exceptions that people see, what happened, why, and what to do instead in one line, without passwords in it."""

from __future__ import annotations

import re
from typing import Any

SECRET = "***"
SECRET_CHARACTERS = 8  # at least; placeholders such as EMPTY are no secrets
_secrets: set[str] = set()
VALUE_CHARACTERS = 100  # of a value that a message repeats
MAX_CHARACTERS = 2000  # of a message, which may repeat somebody's data
_USER_INFO = re.compile(r"(?<=://)[^\s/?#]*@|\b[\w.%+-]+:[^\s/@:]+@(?=[\w.\[-]+(?::\d+)?\b)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # but tab and line end
_QUERY = re.compile(r"([?&;][^=&\s'\"]*(?:key|token|secret|pass|pwd|auth|sig)[^=&\s'\"]*=)[^&\s'\"#;]+", re.IGNORECASE)


def hide_secret(secret: str | None) -> None:
    """Let `redact` replace a secret that is used, such as a key, wherever a server or a file repeats it.

    >>> hide_secret("sk-0123456789")
    >>> redact("Incorrect API key provided: sk-0123456789")
    'Incorrect API key provided: ***'
    """
    if secret and len(secret) >= SECRET_CHARACTERS:
        _secrets.add(secret)


def redact(text: str) -> str:
    """Return a text with stars in place of secrets: of keys in use, and of users, passwords and keys in URLs.

    >>> redact("no answer from https://me:pass@host:8000/v1?api_key=abc&n=1")
    'no answer from https://***@host:8000/v1?api_key=***&n=1'
    """
    for secret in _secrets:
        text = text.replace(secret, SECRET)
    if "@" not in text and "=" not in text:
        return text
    return _QUERY.sub(rf"\g<1>{SECRET}", _USER_INFO.sub(f"{SECRET}@", text))


def redact_all(value: Any) -> Any:
    """Return a value as JSON holds it with every text in it redacted, names of objects included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(name): redact_all(item) for name, item in value.items()}
    return [redact_all(item) for item in value] if isinstance(value, list | tuple) else value


def escape_controls(text: str) -> str:
    r"""Return a text whose control characters, which a terminal would obey, are written as in source code.

    >>> print(escape_controls("unknown key 'a\x1b[2J'"))
    unknown key 'a\x1b[2J'
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def show_value(value: object) -> str:
    """Return a value of somebody's as a message repeats it: as in source code, and no longer than a line."""
    return shorten_middle(repr(value), VALUE_CHARACTERS)


def shorten_middle(text: str, length: int = MAX_CHARACTERS) -> str:
    """Return a text without its middle where it is longer: what is wrong stands at the begin, what to do at the end.

    >>> shorten_middle("a setting was 999999999; leave it out", 31)
    'a setting was 9…9; leave it out'
    """
    tail = length // 2
    return text if len(text) <= length else f"{text[: length - tail - 1]}…{text[-tail:]}"


class UserError(Exception):
    """Bad input. The command line prints its message and exits with status 2, without a traceback.

    >>> import adaptthink as at
    >>> try:
    ...     at.load("no/such/folder.here")
    ... except at.UserError as error:
    ...     print(type(error).__name__)
    UserError
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shorten_middle(redact(escape_controls(" ".join(str(message).splitlines())))))


class DivergedError(UserError):
    """A training whose loss, gradient or weights are not finite: no fault of the input, so it has its own status."""
