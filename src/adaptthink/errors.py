"""The one exception that people see: what happened, why, and what to do instead, in one line."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The command line prints its message and exits with status 2, without a traceback.

    >>> import adaptthink as at
    >>> try:
    ...     at.load("no/such/folder.here")
    ... except at.UserError as error:
    ...     print(type(error).__name__)
    UserError
    """
