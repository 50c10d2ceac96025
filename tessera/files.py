"""Atomic writes, and fingerprints: a file or folder stands under its name when it is finished, or not at all.

One fingerprint says which model a folder holds, one digest which settings: results and trials are known by them.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives an empty folder beside `target` to write into, which takes its name when the block ends well.

    An exception or a kill leaves `target` as it was. Everything is forced to disk before the name changes.
    Raises FileExistsError where `target` holds something, unless `replace`.
    """
    if not replace and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: there already; remove it, or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.writing")
    shutil.rmtree(staging, ignore_errors=True)
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
def atomic_file(target: Path, *, many: bool = False) -> Iterator[Path]:
    """Gives a path beside `target` to write a file to, which takes its name when the block ends well.

    many  whether other processes may be writing the same file: then each has a draft of its own

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
        os.replace(draft, target)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        _name_full_disk(error, target)
        raise


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


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8; what stood there before is replaced at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


_NUMBERS = re.compile(r'\[\n\s+([^][{}"]+?)\n\s*\]')  # no string holds a line break as it is


def write_json(path: Path, data: Any) -> None:
    """Writes JSON as `write_text` writes text, a list of numbers on one line.

    Raises ValueError for numbers that JSON does not know (nan, inf).
    """
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text))


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
    """Forces a file or a folder's list of names to disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


_WEIGHTS = ("*.safetensors", "*.onnx*", "openvino_model*")  # the latter of exported folders


def fingerprint(folder: Path) -> str:
    """Which model a folder holds: a hash of its configuration, weights and tokenizer.

    What else a vector depends on, as pooling and prompts, is part of the protocol of results that use it. Finished
    trials are known by this, so it stays as it is. Raises ValueError naming a file that is missing.
    """
    whole = hashlib.sha256()
    weights = [path for pattern in _WEIGHTS for path in sorted(folder.glob(pattern))]
    for path in (folder / "config.json", folder / "tokenizer.json", *weights):
        if not path.is_file():
            raise ValueError(f"{path}: is missing; a model to evaluate is a folder with its weights and its tokenizer")
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


def digest(what: Any) -> str:
    """A hash of plain data, as settings are; the order of keys does not count."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def model_name(folder: Path) -> str:
    """What results call a model: its folder, or the phase that it is the end of."""
    return folder.parent.name if folder.name == "final" else folder.resolve().name
