"""Checksums (SHA-256): whatever a stage wrote is compared with what was written when another stage reads it.

    a folder           manifest.json in it: size and SHA-256 of every other file
    a single file      NAME.sha256 beside it, as `sha256sum --check` reads it
    JSON and YAML      in the file itself, so that it travels with it: the key `sha256`, a last line `# sha256 ...`

What has no checksum, as the files of others and of older versions, is taken as it is. A file is read for its checksum
once in a process, until it changes.
"""

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST, BESIDE, KEY = "manifest.json", ".sha256", "sha256"

_SETTLED = 2_000_000_000  # nanoseconds: the clock of a file system ticks so coarsely that a younger file may yet change
_LAST_LINE = re.compile(r"^# sha256 (.*)\n?\Z", re.MULTILINE)
_TIMES = ("seconds", "seconds_now")
_HASH = re.compile(r"[0-9a-f]{64}")
_known: dict[tuple[int, ...], str] = {}


class Damaged(ValueError):
    """A file that is not what was written."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of one that has not changed, as it was found before."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if key in _known:
            return _known[key]
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED:
        _known[key] = found
    return found


def seal(folder: Path) -> None:
    """Writes the manifest of a folder: the size and SHA-256 of every other file in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    _write(folder, {path.relative_to(folder).as_posix(): (sha256(path), path.stat().st_size) for path in files})


def _write(folder: Path, listed: dict[str, tuple[str, int]]) -> None:
    manifest = {name: {"bytes": size, "sha256": hash_} for name, (hash_, size) in listed.items()}
    _put(folder / MANIFEST, json.dumps(manifest, indent=1))


def seal_again(path: Path) -> None:
    """Writes the checksum of a file that was changed anew where a manifest names it; all others stay what they were."""
    for folder, name, listed in _manifests(path):
        if name in listed:
            _write(folder, {**listed, name: (sha256(path), path.stat().st_size)})


def seal_file(path: Path) -> None:
    """Writes the checksum of a file beside it."""
    _put(path.with_name(path.name + BESIDE), f"{sha256(path)}  {path.name}\n")


def _put(path: Path, text: str) -> None:
    """Writes a checksum whole or not at all: half of one, as a kill leaves it, would call a good file damaged."""
    # Its own way of what files.atomic_file does, which is above; files.remove_leftovers knows the name.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.writing")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def check(path: Path) -> bool:
    """Whether a file has a checksum: beside it, in the manifest of its folder, or in that of the folder around.

    Raises Damaged, naming the file, where it is not what was written.
    """
    beside = path.with_name(path.name + BESIDE)
    if beside.is_file():
        _compare(path, _beside(beside))
        return True
    if (named := _named(path)) is None:
        return False
    _compare(path, *named)
    return True


def _named(path: Path) -> tuple[str, int] | None:
    """(SHA-256, bytes) of a file by the manifest that names it."""
    for folder, name, listed in _manifests(path):
        if name in listed:
            return listed[name]
        lost = next((other for other in listed if not (folder / other).is_file()), None)
        if name == path.name and lost is not None:
            raise Damaged(f"{path.parent / lost}: is missing, though {MANIFEST} names it; {_AGAIN}")
    return None


def _manifests(path: Path) -> Iterator[tuple[Path, str, dict[str, tuple[str, int]]]]:
    """(folder, name of the file in it, what its manifest lists): of the folder of a file, and of the one around it, as
    a step of a pipeline lies in a model's; what is called so there may be anything, as of a page of the web."""
    own = path.absolute().parent
    if (own / MANIFEST).is_file():
        yield own, path.name, _listed(own / MANIFEST)
    around = own.parent
    if around != own and (around / MANIFEST).is_file():
        try:
            listed = _listed(around / MANIFEST)
        except Damaged:
            return
        yield around, f"{own.name}/{path.name}", listed


def damage(folder: Path) -> str | None:
    """The first file of a folder that is not what its manifest says, and how; None where all are, or there is none."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        listed = _listed(folder / MANIFEST)
    except Damaged as error:
        return str(error)
    return next((wrong for name, said in listed.items() if (wrong := _differs(folder / name, *said))), None)


def check_folder(folder: Path) -> bool:
    """Whether a folder has a manifest. Raises Damaged, naming the first file of it that is not what was written."""
    if (wrong := damage(folder)) is not None:
        raise Damaged(f"{wrong}; {_AGAIN}")
    return (folder / MANIFEST).is_file()


_AGAIN = (
    "copy it again from where it is whole, or remove it and start again: it is made anew (if the change is meant, "
    f"remove its checksum: {MANIFEST} there, or the file beside it that ends in {BESIDE})"
)


def _compare(path: Path, expected: str, size: int | None = None) -> None:
    if (wrong := _differs(path, expected, size)) is not None:
        raise Damaged(f"{wrong}; {_AGAIN}")


def _differs(path: Path, expected: str, size: int | None) -> str | None:
    if not path.is_file():
        return f"{path}: is missing"
    if size is not None and path.stat().st_size != size:
        return f"{path}: has {path.stat().st_size} bytes, {size} were written"
    if sha256(path) != expected:
        return f"{path}: its bytes have changed since it was written (SHA-256 differs)"
    return None


def _beside(path: Path) -> str:
    found = path.read_bytes()[:64].decode("ascii", "replace")
    if not _HASH.fullmatch(found):
        raise Damaged(f"{path}: is no checksum; remove it if {path.name.removesuffix(BESIDE)} beside it is known good")
    return found


def _listed(manifest: Path) -> dict[str, tuple[str, int]]:
    """(SHA-256, bytes) of each file that a manifest names."""
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise Damaged(f"{manifest}: is not JSON") from None
    listed = {}
    for name, entry in found.items() if isinstance(found, dict) else [("", None)]:
        way = PurePosixPath(name)
        match entry:
            case {"bytes": int(size), "sha256": str(hash_)} if not way.is_absolute() and ".." not in way.parts:
                listed[name] = (hash_, size)
            case _:
                raise Damaged(f"{manifest}: is no list of files with their bytes and sha256")
    return listed


# ------------------------------------------------------------------------------------------------------ within the file


def sealed_json(data: dict[str, Any]) -> dict[str, Any]:
    """JSON-like data with the checksum of all of it as its last key."""
    plain = json.loads(json.dumps({key: value for key, value in data.items() if key != KEY}))
    return {**plain, KEY: _of_json(plain)}


def opened_json(data: Any, path: Path) -> Any:
    """What was sealed, without its checksum. Raises Damaged where it is not what was written."""
    if not isinstance(data, dict) or not isinstance(given := data.get(KEY), str):
        return data
    rest = {key: value for key, value in data.items() if key != KEY}
    if given != _of_json(rest):
        raise Damaged(
            f"{path}: is not what was written (its checksum differs); copy it again from where it is whole, remove it "
            f'so that it is made anew, or delete its key "{KEY}" if the change is meant'
        )
    return rest


def _of_json(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_timeless(data), sort_keys=True).encode()).hexdigest()


def _timeless(data: Any) -> Any:
    """All but how long something took: what says the same has the same checksum."""
    if isinstance(data, dict):
        return {key: _timeless(value) for key, value in data.items() if key not in _TIMES}
    return [_timeless(value) for value in data] if isinstance(data, list) else data


def sealed_text(text: str) -> str:
    """YAML with the checksum of all of it in a last line, which is a comment."""
    return f"{text}# sha256 {hashlib.sha256(text.encode()).hexdigest()}\n"


def check_text(path: Path) -> bool:
    """Whether a text file ends with its checksum. Raises Damaged where it is not what was written."""
    text = path.read_bytes().decode("utf-8", "replace")
    found = _LAST_LINE.search(text)
    if found is None:
        return False
    if found[1] != hashlib.sha256(text[: found.start()].encode()).hexdigest():
        raise Damaged(
            f"{path}: is not what was written (its checksum differs); copy it again from where it is whole, or delete "
            "its last line if the change is meant"
        )
    return True
