"""One process at a time writes a thing: a lock of the operating system, which ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from adaptthink.errors import UserError

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # errors of file systems without locks


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of `path` now; one that was killed holds none."""
    path = path.resolve()
    try:
        with path.with_name(path.name + ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of `path`, the empty file `<name>.lock` beside it; `what` is its name for people.

    Links are followed, so that one thing has one lock by all of its names. Raises UserError at once if it is held
    already. On a file system without locks it warns, and locks nothing.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the file whose mere presence is a lock, to which the library falls back: that would outlive a killed process.
    lock = FileLock(path.with_name(path.name + ".lock"), timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{what} is in use by another process (it holds '{lock.lock_file}'); wait until that has ended, or stop it"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(f"no locks on the file system of {what}: make sure that no other process uses it", stacklevel=3)
    try:
        yield
    finally:
        if lock.is_locked:  # only its holder may delete it; who opened it before sees that and has no lock
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
