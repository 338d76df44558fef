"""The exceptions that people see, what happened, why, and what to do instead in one line, without passwords in it."""

from __future__ import annotations

import re
from typing import Any

SECRET = "***"
_USER_INFO = re.compile(r"(?<=://)[^\s/?#]*@|\b[\w.%+-]+:[^\s/@:]+@(?=[\w.\[-]+(?::\d+)?\b)")
_QUERY = re.compile(r"([?&;][^=&\s'\"]*(?:key|token|secret|pass|pwd|auth|sig)[^=&\s'\"]*=)[^&\s'\"#;]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return a text with stars in place of what URLs in it hold as secrets: user and password, keys and tokens.

    >>> redact("no answer from https://me:pass@host:8000/v1?api_key=abc&n=1")
    'no answer from https://***@host:8000/v1?api_key=***&n=1'
    """
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
        super().__init__(redact(str(message)))


class DivergedError(UserError):
    """A training whose loss, gradient or weights are not finite: no fault of the input, so it has its own status."""
