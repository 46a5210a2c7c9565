"""One writer at a time."""

import errno
import os
import weakref
from pathlib import Path

from smilax.store.errors import StoreLocked

NAME = "lock"


class Lock:
    """An exclusive lock on a directory, held by this process until `release`, or until it dies in whatever way.

    The file stays when the lock is released: deleting it would let a third process lock a new one meanwhile.

    Raises:
        StoreLocked: if it is held already, by another process or by this one.
        OSError: if the file cannot be written, or the file system has no locks.
    """

    def __init__(self, directory: Path):
        # Not every platform has it, and one without can still read stores.
        import fcntl

        path = directory / NAME
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StoreLocked(f"{directory} is being written by process {holder}, which has to end first") from error
        self._fd: int | None = fd
        _held.add(self)

    def release(self) -> None:
        """Lets others write; can be called again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _after_fork() -> None:
    # A data loader's forked worker shares the lock, and would keep it after the run itself has been killed.
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
