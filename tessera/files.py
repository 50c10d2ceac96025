"""Atomic writes, and fingerprints: a file or folder stands under its name when it is finished, or not at all.

One fingerprint says which model a folder holds, one digest which settings: results and trials are known by them. What
was written with a checksum is compared with it when it is read (checksums.py).
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tessera import checksums, lock
from tessera.secrets import is_url, redact

LOCK = ".lock"  # within a folder that one process at a time works in
_OURS = re.compile(r"\..+\.(writing|removing|writing\.mode|new)")  # what a kill leaves of the functions below
_OF_MANY = re.compile(r"\..+\.[0-9a-f]{16}\.writing")
_A_DAY = 86_400  # seconds after which a draft of one process among many is nobody's


@contextlib.contextmanager
def atomic_folder(target: Path, *, replace: bool = False, sealed: bool = False) -> Iterator[Path]:
    """Gives an empty folder beside `target` to write into, which takes its name when the block ends well.

    sealed  whether it gets a manifest, the checksum of each file, which readers look at: what a verb makes has one

    An exception or a kill leaves `target` as it was. Everything is forced to disk before the name changes.
    Raises FileExistsError where `target` holds something, unless `replace`, and lock.AtWork where another process is
    writing it.
    """
    refuse_url(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    one = lock.hold(target.with_name(f".{target.name}{LOCK}"), str(target), beats=False)
    with one, _written(target, replace) as staging:
        yield staging
        if sealed:
            checksums.seal(staging)


def refuse_taken(target: Path) -> None:
    """Raises FileExistsError where a folder to be written holds something: for whoever works long before it writes."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: there already; remove it, or choose another name")
    _refuse_closed(target)


def refuse_unwritable(target: Path) -> None:
    """Raises OSError where a file cannot be written: for whoever works long before it writes."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, so no file can have this name", str(target))
    _refuse_closed(target)


def refuse_url(target: Path) -> None:
    """Raises ValueError where an output is a URL: as a path it would be a folder of that name."""
    if is_url(target):
        raise ValueError(f"{redact(str(target))}: is a URL, and outputs are written to this machine; give a path")


def _refuse_closed(target: Path) -> None:
    refuse_url(target)
    above = next(folder for folder in (*target.absolute().parents,) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "may not be written to" if above.is_dir() else "is a file"
        raise PermissionError(errno.EACCES, f"{why}, so {target} cannot be made in it", str(above))


@contextlib.contextmanager
def _written(target: Path, replace: bool) -> Iterator[Path]:
    if not replace:
        refuse_taken(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.writing")
    for left in (staging, target.with_name(f".{target.name}.removing")):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        mode = staging.stat().st_mode & 0o666  # a folder is made by umask, or by the access list of the one it is in
        for path in (*staging.rglob("*"), staging):
            _set_mode(path, mode)
            sync(path)
        if replace:
            remove_folder(target)
        os.replace(staging, target)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        _name_full_disk(error, target)
        raise
    sync(target.parent)


@contextlib.contextmanager
def atomic_file(target: Path, *, many: bool = False, sealed: bool = False) -> Iterator[Path]:
    """Gives a path beside `target` to write a file to, which takes its name when the block ends well.

    many    whether other processes may be writing the same file: then each has a draft of its own
    sealed  whether its checksum is left beside it

    What stood there before is replaced at once; an exception or a kill leaves it as it was.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.writing" if many else f".{target.name}.writing")
    try:
        yield draft
        if draft.stat().st_mode & 0o077 == 0:
            probe = draft.with_name(f"{draft.name}.mode")
            probe.touch()
            _set_mode(draft, probe.stat().st_mode & 0o666)
            probe.unlink()
        sync(draft)
        if sealed:  # the old one goes first: a kill in between leaves a file without a checksum, not with a wrong one
            target.with_name(target.name + checksums.BESIDE).unlink(missing_ok=True)
        os.replace(draft, target)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        _name_full_disk(error, target)
        raise
    if sealed:
        checksums.seal_file(target)


_FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded", errno.EFBIG: "File too large"}


def no_room(error: BaseException) -> int | None:
    """ENOSPC, EDQUOT or EFBIG where an error says that there is no room to write; libraries have it in their text."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.errno
    found = re.search(r"(?:os error|[Ee]rrno) (\d+)", str(error))
    if found and int(found[1]) in _FULL:
        return int(found[1])
    return next((number for number, words in _FULL.items() if words.lower() in str(error).lower()), None)


def _name_full_disk(error: BaseException, target: Path) -> None:
    """Raises an OSError that says which file has no room, whatever the library that wrote it said."""
    if isinstance(error, Exception) and (number := no_room(error)) is not None:
        raise OSError(number, os.strerror(number), str(target)) from error


def _set_mode(path: Path, mode: int) -> None:
    """Gives a file the mode of any new file here: some writers (safetensors) keep theirs to themselves, as 0600."""
    if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)


def remove_folder(folder: Path) -> None:
    """Deletes a folder if it is there; a kill in the middle never leaves half of it under its name."""
    hidden = folder.with_name(f".{folder.name}.removing")
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        os.replace(folder, hidden)
        shutil.rmtree(hidden)


def remove_leftovers(folder: Path, begin: str = "") -> None:
    """Deletes what killed processes left in a folder and below it; for whoever holds the lock of the folder.

    begin  of their names, where the lock is of some files only

    Only what the functions here make, by its name; not what another process is writing now.
    """
    for place, folders, names in os.walk(folder):
        for name in (name for name in (*folders, *names) if _OURS.fullmatch(name) and name.startswith(begin)):
            path = Path(place, name)
            if _OF_MANY.fullmatch(name) and time.time() - path.stat().st_mtime < _A_DAY:
                continue
            if lock.is_held(path.with_suffix(LOCK)):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        folders[:] = [name for name in folders if not _OURS.fullmatch(name)]


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8; what stood there before is replaced at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")  # the same bytes on every system


_NUMBERS = re.compile(r'\[\n\s+([^][{}"]+?)\n\s*\]')  # no string holds a line break as it is


def write_json(path: Path, data: Any, *, sealed: bool = False) -> None:
    """Writes JSON as `write_text` writes text, a list of numbers on one line.

    sealed  whether an object gets a key more, the checksum of all others, which `read_json` looks at

    Raises ValueError for numbers that JSON does not know (nan, inf).
    """
    data = checksums.sealed_json(data) if sealed else data
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text))


def link_folder(link: Path, target: Path) -> None:
    """Makes `link` lead to the folder `target`, at once: a symbolic link where the system allows one.

    Windows does so for administrators only, some network disks for nobody. There `link` becomes a folder of the same
    files: of hard links, which take no room, or of copies where the disk has no such links or is another one. Readers
    see no difference, since files are replaced and not written to.
    """
    new = link.with_name(f".{link.name}.new")
    _remove_link(new)
    inside = target.resolve()
    try:
        new.symlink_to(os.path.relpath(inside, link.parent.resolve()), target_is_directory=True)
    except (OSError, NotImplementedError, ValueError):  # ValueError: another drive
        if not inside.is_dir():
            raise FileNotFoundError(f"{target}: is no folder, so {link} cannot lead to it") from None
        shutil.copytree(inside, new, copy_function=_same_file)
    if not link.is_symlink() or not new.is_symlink():  # a folder cannot be replaced at once; a link by a link can
        _remove_link(link)
    os.replace(new, link)


def _same_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target)


def _remove_link(link: Path) -> None:
    if link.is_symlink() or link.is_file():
        link.unlink()
    else:
        remove_folder(link)


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises checksums.Damaged, naming the file, where it is not JSON or not what was written; FileNotFoundError.
    """
    if path.is_file():
        checksums.check(path)
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text, parse_constant=_no_number)
        refuse_halves(text, found)
    except (ValueError, RecursionError) as error:
        why = "it is too deep" if isinstance(error, RecursionError) else str(error)
        raise checksums.Damaged(
            f"{path}: is not whole JSON ({why[:200]}): it was being written, or is damaged; copy it again from where "
            "it is whole, or remove it so that it is made anew"
        ) from None
    return checksums.opened_json(found, path)


_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # as JSON writes a surrogate


def refuse_halves(text: str, found: Any) -> None:
    """Raises ValueError where JSON, as text and as found in it, holds half a character, which nothing can write."""
    if _HALF.search(text):  # perhaps of a pair, which is a character
        try:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("ascii", "backslashreplace").decode()
            raise ValueError(f"{half} is half a character") from None


def keep_damaged(path: Path) -> Path | None:
    """Puts JSON aside that is not what was written, as NAME.damaged, before it is made anew; None where it is whole."""
    try:
        read_json(path)
    except FileNotFoundError:
        return None
    except checksums.Damaged:
        aside = path.with_name(path.name + ".damaged")
        os.replace(path, aside)
        return aside
    return None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number that JSON knows")


def csv_cells(row: Iterable[Any]) -> list[Any]:
    """The cells of a row of CSV, safe to open in a spreadsheet: a text that would begin a formula there is quoted.

    Numbers stay numbers, also those written as text. Source: OWASP, "CSV injection".
    """
    return [f"'{cell}" if isinstance(cell, str) and _begins_formula(cell) else cell for cell in row]


def _begins_formula(cell: str) -> bool:
    if not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return False
    try:
        float(cell)
    except ValueError:
        return cell != "-"
    return False


def sync(path: Path) -> None:
    """Forces a file or a folder's list of names to disk; Windows cannot open folders, and syncs what may be written."""
    if os.name == "nt" and path.is_dir():
        return
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


_WEIGHTS = ("*.safetensors", "*.onnx*", "openvino_model*")  # the latter of exported folders


def fingerprint(folder: Path) -> str:
    """Which model a folder holds: a hash of its configuration, weights and tokenizer.

    What else a vector depends on, as pooling and prompts, is part of the protocol of results that use it. Finished
    trials are known by this, so it stays as it is. Raises ValueError naming a file that is missing, or damaged.
    """
    whole = hashlib.sha256()
    weights = [path for pattern in _WEIGHTS for path in sorted(folder.glob(pattern))]
    for path in (folder / "config.json", folder / "tokenizer.json", *weights):
        if not path.is_file():
            raise ValueError(f"{path}: is missing; a model to evaluate is a folder with its weights and its tokenizer")
        checksums.check(path)
        whole.update(bytes.fromhex(checksums.sha256(path)))
    return whole.hexdigest()[:16]


def digest(what: Any) -> str:
    """A hash of plain data, as settings are; the order of keys does not count."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def model_name(folder: Path) -> str:
    """What results call a model: its folder, or the phase that it is the end of."""
    return folder.parent.name if folder.name == "final" else folder.resolve().name
