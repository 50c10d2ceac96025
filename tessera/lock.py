"""File locks (flock): one process at a time writes a run, or an output; a second one is told who is at work.

The kernel lets go of a lock when its process ends, however it ends, so none outlives a kill. Where files are shared by
machines without their locks, an owner is known to live by the time of the lock file, which it renews.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

_BEAT = 10.0  # seconds between two signs of life
_WATCHED = 35.0  # how long one from another machine is waited for
_FAR = 1 << 30  # the byte that Windows locks: nobody reads there
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


class AtWork(ValueError):
    """Another process is writing there."""


@contextlib.contextmanager
def hold(path: Path, what: str, *, beats: bool = True, watched: float = _WATCHED) -> Iterator[None]:
    """Holds the lock file `path` for this process; it is gone afterwards, with a folder that was made for it alone.

    what     is written, for the message
    beats    whether it may take long, so that other machines need signs of life
    watched  seconds in which an owner on another machine, who may be dead, should give one

    Raises AtWork naming the process, its machine and since when it is at work.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _open(path, what, watched if beats else 0.0)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(file, over), name="lock", daemon=True)
    try:
        _sign(file)
        if beats:
            heart.start()
        yield
    finally:
        over.set()
        if beats:
            heart.join()  # or it might touch whatever is opened next under this number
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)  # Windows removes no file that is open; an empty one is nobody's
            path.unlink()
        os.close(file)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def is_held(path: Path) -> bool:
    """Whether a process of this machine, or of one whose locks are seen here, holds the lock file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _lock(file.fileno()) is False  # closing lets go again


def _open(path: Path, what: str, watched: float) -> int:
    """The lock file, open and locked."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # left by another user, who may have died: the folder decides
            file = os.open(path, os.O_RDONLY)
            if _lock(file) is not False:
                os.close(file)
                path.unlink()
                continue
        try:
            got, owner = _lock(file), _owner(file)
            elsewhere = got is None or owner.get("host") != socket.gethostname()
            if got is False or (owner and elsewhere and watched and _lives(path, watched)):
                raise AtWork(_told(owner, what, path))
            if _same(file, path):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its owner removed it in this moment


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _lives(path: Path, watched: float) -> bool:
    """Whether the time of a lock file moves: compared with itself, for clocks of two machines differ."""
    first, left = _time(path), watched
    while left > 0 and _time(path) == first:
        time.sleep(min(1.0, left))
        left -= 1.0
    return _time(path) != first


def _time(path: Path) -> int:
    with contextlib.suppress(OSError), path.open("rb") as file:  # opened: network file systems then ask anew
        return os.fstat(file.fileno()).st_mtime_ns
    return 0


def _sign(file: int) -> None:
    """Writes down who is at work."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    told = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, json.dumps(told).encode())


def _owner(file: int) -> dict[str, Any]:
    """Who wrote a lock file; empty where nobody can be made out."""
    os.lseek(file, 0, os.SEEK_SET)
    try:
        found = json.loads(os.read(file, 4096))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _told(owner: dict[str, Any], what: str, path: Path) -> str:
    who = "another process"
    if owner:
        who = f"process {owner.get('process')!s:.20} on {owner.get('host')!s:.100}"
    since = f" since {owner['since']!s:.40}" if "since" in owner else ""
    return (
        f"{what}: {who} is at work here{since}; wait for it, end it, or give another place "
        f"(it holds {path}, which goes when it ends)"
    )


def _beat(file: int, over: threading.Event) -> None:
    while not over.wait(_BEAT):
        with contextlib.suppress(OSError):
            os.utime(file)


def _lock(file: int) -> bool | None:
    """Whether the lock could be taken; None where this file system has none."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, _FAR, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _NO_LOCKS else False
    return True
