"""Where a corpus lies: on this machine, or at any URL that fsspec knows (hf://, s3://, gs://, az://, https://).

    text/                                     a folder, with all below it
    text/*/train                              what a glob finds: files, and folders with all below them
    hf://datasets/org/name/data/*/train       the same elsewhere
    https://site.org/fao_Latn.jsonl.zst       one file: the web has no folders

Who may read is said where the store's own tools look for it (HF_TOKEN, AWS_PROFILE ...; FSSPEC_S3_ANON=true for what is
open to all), never in a recipe.
"""

import fnmatch
import glob
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from tessera.plan.corpus import Source
from tessera.plan.errors import some
from tessera.secrets import is_redacted, redact
from tessera.sources.remote import WEB, RemoteFile, reaching, scheme_of, system_of

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".warc", ".wet")
COMPRESSIONS = {".zst": "zstd", ".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zstd": "zstd", ".gzip": "gzip"}

_SPELLINGS = {".ndjson": ".jsonl", ".jsonlines": ".jsonl"}
_SHOWN_KINDS = ".jsonl, .txt, .csv, .tsv, .warc, .wet (each also .zst, .gz, .bz2, .xz) and .parquet"
_REMOVED = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}_removed")
_CHECKSUMS = ("blobid", "xethash", "etag", "md5hash", "contentmd5", "digest")
_TIMES = ("lastmodified", "mtime", "updated", "uploadedat", "created")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a corpus; small, and the same in every process that it is sent to."""

    url: str  # a path where it is on this machine; it may hold credentials, so show and store `str(file)`
    size: int  # in bytes; 0 where a web server does not say
    version: str  # what changes when the file does: when it was written, or a checksum, as the place has it

    def __str__(self) -> str:
        return redact(self.url)

    @property
    def local(self) -> Path | None:
        return None if "://" in self.url else Path(self.url)

    @property
    def path(self) -> PurePosixPath:
        """Folders and name, without what a URL has before and after them."""
        if self.local is None and scheme_of(self.url) in WEB:
            return PurePosixPath(urlsplit(self.url).path)
        return PurePosixPath(self.url.split("://")[-1])

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return kind_of(self.name)

    @property
    def compression(self) -> str | None:
        """zstd, gzip, bz2 or xz."""
        return COMPRESSIONS.get(self.path.suffix.lower())

    @property
    def stamp(self) -> str:
        """Which file this is and in what state: another stamp, another content."""
        return f"{self} {self.size} {self.version}"

    def open(self) -> Any:
        """A binary file to read and seek in. Raises ConnectionError, also later, where a place cannot be reached."""
        if self.local:
            return open(self.url, "rb")
        return io.BufferedReader(RemoteFile(self.url, seeks=self.kind == ".parquet"), 2**20)


class Listing(NamedTuple):
    """The files of a source, and what lies there too and is not read."""

    files: list[File]  # in sorted order, each once
    left_out: dict[str, list[str]]  # {why: names}

    def __str__(self) -> str:
        return "; ".join(f"{len(names)} {why} ({some(names, 3)})" for why, names in self.left_out.items())


def files(source: Source) -> list[File]:
    """The files of a source in sorted order, each once; see `listing`."""
    return listing(source).files


def listing(source: Source) -> Listing:
    """What a source holds.

    Left out are hidden files, files that `exclude` names and, in a folder, those of kinds that are not read: a .json is
    settings more often than text, so it must be asked for, unless there is nothing else. Folders called
    `fao_Latn_removed` hold what the filters of FineWeb2 threw out: they are read only where the path says so.

    Raises ValueError where there is none or one cannot be read, ImportError where a package is missing for its place,
    ConnectionError where a place cannot be reached.
    """
    found = entries(source.path, source.name)
    where = source.path.removeprefix("file://")
    removed_too = any(
        _REMOVED.fullmatch(p) or (glob.has_magic(p) and "_removed" in p) for p in where.replace(os.sep, "/").split("/")
    )
    tables = not any(entry.role == "inside" and kind_of(entry.file.name) not in ("", ".json") for entry in found)
    kept, left_out = [], dict[str, list[str]]()
    for entry in found:
        why = _why_left_out(entry, source, removed_too, tables)
        if not why:
            kept.append(entry.file)
        elif why != "excluded":  # as asked
            left_out.setdefault(why, []).append(entry.file.name)
    result = Listing(kept, left_out)
    if not kept:
        here = "; log in first where it is not open to all" if "://" in where else f" (from {Path.cwd()})"
        there = f"; left out: {result}" if left_out else ""
        raise ValueError(
            f"source {source.name!r}: no file at {redact(source.path)!r}; give a file, a folder or a glob of "
            f"{_SHOWN_KINDS}{here}{there}"
        )
    for file in kept:
        if not file.kind:
            raise ValueError(f"source {source.name!r}: {file}: unknown kind of file; known are {_SHOWN_KINDS}")
    return result


Role = Literal["asked for", "inside", "hidden", "linked"]
_ASKED: Final = "asked for"


class Entry(NamedTuple):
    """A file that was found, and how: itself, or in a folder; or a name that is not looked into."""

    file: File
    role: Role


def entries(where: str, name: str) -> list[Entry]:
    """What a path, a folder, a glob or a URL names, in sorted order, each once; `name` is the source's in errors."""
    where = where.removeprefix("file://")
    if is_redacted(where):
        raise ValueError(
            f"source {name!r}: {where!r} lacks the credential that it was given with, which no run keeps; "
            "give the recipe that has it, or set `path` again (--set corpus.sources.NAME.path=URL)"
        )
    found = {entry.file.url: entry for entry in (_elsewhere if "://" in where else _here)(where, name)}
    return sorted(found.values(), key=lambda entry: entry.file.url.replace(os.sep, "/").split("/"))


def _why_left_out(entry: Entry, source: Source, removed_too: bool, json_too: bool) -> str:
    file = entry.file
    if any(fnmatch.fnmatch(file.name, pattern) for pattern in source.exclude):
        return "excluded"
    if entry.role in ("hidden", "linked"):
        return "hidden" if entry.role == "hidden" else "linked folders that are read already"
    if not removed_too and any(_REMOVED.fullmatch(part) for part in file.path.parts):
        return "in folders called _removed"
    if entry.role == "inside" and not file.kind:
        return "of kinds that are not read"
    if entry.role == "inside" and file.path.suffix.lower() == ".json" and not json_too:
        return "that may be settings; ask for them as FOLDER/*.json"
    return ""


# -------------------------------------------------------------------------------------------------------- this machine


def _here(where: str, source: str) -> Iterator[Entry]:
    where = os.path.expanduser(where)
    seen: set[tuple[int, int]] = set()  # folders, whatever they are called
    for hit in [where] if os.path.exists(where) else glob.glob(where, recursive=True):
        if os.path.isdir(hit):
            yield from _folder(hit, source, seen)
        else:
            yield Entry(_file_here(hit, source), "asked for")


def _folder(folder: str, source: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    """All below a folder; then what its links lead to, unless that was read."""
    links = []
    for place, below, names in os.walk(folder):
        seen.add(_identity(place))
        hidden = [name for name in (*below, *names) if name.startswith(".")]
        yield from (Entry(File(os.path.join(place, name), 0, ""), "hidden") for name in hidden)
        below[:] = [name for name in below if not name.startswith(".")]
        links += [path for name in below if os.path.islink(path := os.path.join(place, name))]
        for name in names:
            if not name.startswith("."):
                yield Entry(_file_here(os.path.join(place, name), source), "inside")
    for link in sorted(links):
        if _identity(link) in seen:
            yield Entry(File(link, 0, ""), "linked")
        else:
            yield from _folder(link, source, seen)


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _file_here(path: str, source: str) -> File:
    try:
        status = os.stat(path)
    except OSError:  # also a link to itself
        if not kind_of(os.path.basename(path)):
            return File(path, 0, "")
        raise ValueError(f"source {source!r}: {path}: a link to a file that is not there") from None
    return File(str(Path(path)), status.st_size, str(status.st_mtime_ns))


def kind_of(name: str, kinds: Sequence[str] = KINDS) -> str:
    """What a file holds by its name, however that is spelled, one of `kinds`; "" where it is none of them."""
    stem, suffix = os.path.splitext(name.lower())
    packed = suffix in COMPRESSIONS
    kind = os.path.splitext(stem)[1] if packed else suffix
    kind = _SPELLINGS.get(kind, kind)
    return "" if kind not in kinds or (kind == ".parquet" and packed) else kind


# ----------------------------------------------------------------------------------------------------------- elsewhere


def _elsewhere(url: str, source: str) -> Iterator[Entry]:
    scheme = scheme_of(url)
    if "::" in url:
        raise ValueError(f"source {source!r}: {redact(url)!r} is a chain of places; give one of them")
    system, path = system_of(url)
    with reaching(url):
        try:
            found: list[tuple[str, Any, Role]]
            found = [(path, system.info(path), _ASKED)] if scheme in WEB else _listed(system, path)
        except FileNotFoundError:
            return
    for name, info, role in found:
        size = info.get("size")
        yield Entry(File(name if "://" in name else f"{scheme}://{name}", int(size or 0), _version(info)), role)


def _listed(system: Any, path: str) -> list[tuple[str, Any, Role]]:
    """(path, what is known of it, how it was found) of each file, in as few questions as there can be."""
    parts = path.split("/")
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    root, pattern = "/".join(parts[:fixed]), parts[fixed:]
    if not pattern:
        info = system.info(root)
        if info["type"] != "directory":
            return [(info["name"], info, _ASKED)]
    elif len(pattern) == 1 and pattern != ["**"]:  # a folder may hold much more below than beside what is asked for
        found: list[tuple[str, Any, Role]] = []
        for info in system.ls(root, detail=True):
            if _fits(PurePosixPath(info["name"]).name, pattern[0]):
                folder = info["type"] == "directory"
                found += _listed(system, info["name"].rstrip("/")) if folder else [(info["name"], info, _ASKED)]
        return found
    everything = (
        (*item, _role(item[0].split("/")[fixed:], pattern)) for item in system.find(root, detail=True).items()
    )
    return [(name, info, role) for name, info, role in everything if role]


def _role(parts: list[str], pattern: list[str]) -> Role | None:
    """Whether a path fits a glob, or lies in a folder that does."""
    if not pattern:
        return "hidden" if _hidden(parts) else "inside" if parts else _ASKED
    if pattern[0] == "**":
        splits = range(len(parts) + 1) if parts else ()  # without any left, the file itself is no folder
        roles = [_role(parts[n:], pattern[1:]) for n in splits if not _hidden(parts[:n])]
        best: tuple[Role, ...] = (_ASKED, "inside", "hidden")
        return next((role for role in best if role in roles), None)
    return _role(parts[1:], pattern[1:]) if parts and _fits(parts[0], pattern[0]) else None


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))


def _hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def _version(info: dict[str, Any]) -> str:
    """The best of what a place says: a checksum, else a time."""
    known = {re.sub(r"[^a-z0-9]", "", str(key).lower()): value for key, value in info.items()}
    return next((f"{key}={known[key]}" for key in _CHECKSUMS + _TIMES if known.get(key)), "")
