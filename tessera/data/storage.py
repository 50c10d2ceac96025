"""Where a corpus lies: on this machine, or at any URL that fsspec knows (hf://, s3://, gs://, az://, https://).

    text/                                     a folder, with all below it
    text/*/train                              what a glob finds: files, and folders with all below them
    hf://datasets/org/name/data/*/train       the same elsewhere
    https://site.org/fao_Latn.jsonl.zst       one file: the web has no folders

Who may read is said where the store's own tools look for it (HF_TOKEN, AWS_PROFILE ...; FSSPEC_S3_ANON=true for what is
open to all), never in a recipe.
"""

import contextlib
import fnmatch
import glob
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

from tessera.plan.corpus import Source

KINDS = (".jsonl", ".json", ".parquet", ".txt", ".warc", ".wet")
COMPRESSIONS = {".zst": "zstd", ".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}

_SHOWN_KINDS = ".jsonl, .txt, .warc, .wet (each also .zst, .gz, .bz2, .xz) and .parquet"
_WEB = ("http", "https")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_PACKAGES |= {"abfss": "adlfs", "http": "aiohttp requests", "https": "aiohttp requests", "hf": "huggingface-hub"}
_REMOVED = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}_removed")
_CHECKSUMS = ("blobid", "xethash", "etag", "md5hash", "contentmd5", "digest")
_TIMES = ("lastmodified", "mtime", "updated", "uploadedat", "created")
_BLOCK: Final = 2**23  # bytes asked for at once; smaller ones wait longer for the wire than they take


@dataclass(frozen=True, slots=True)
class File:
    """One file of a corpus; small, and the same in every process that it is sent to."""

    url: str  # a path where it is on this machine
    size: int  # in bytes; 0 where a web server does not say
    version: str  # what changes when the file does: when it was written, or a checksum, as the place has it

    def __str__(self) -> str:
        return self.url

    @property
    def local(self) -> Path | None:
        return None if "://" in self.url else Path(self.url)

    @property
    def path(self) -> PurePosixPath:
        """Folders and name, without what a URL has before and after them."""
        if self.local is None and _scheme(self.url) in _WEB:
            return PurePosixPath(urlsplit(self.url).path)
        return PurePosixPath(self.url.split("://")[-1])

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return _kind(self.name)

    @property
    def compression(self) -> str | None:
        """zstd, gzip, bz2 or xz."""
        return COMPRESSIONS.get(self.path.suffix)

    @property
    def stamp(self) -> str:
        """Which file this is and in what state: another stamp, another content."""
        return f"{self.url} {self.size} {self.version}"

    def open(self) -> Any:
        """A binary file to read and seek in. Raises ConnectionError, also later, where a place cannot be reached."""
        if self.local:
            return open(self.url, "rb")
        return io.BufferedReader(_Elsewhere(self.url, seeks=self.kind == ".parquet"), 2**20)


def files(source: Source) -> list[File]:
    """The files of a source in sorted order, each once.

    Left out are hidden files, files that `exclude` names and, in a folder, those of kinds that are not read. Folders
    called `fao_Latn_removed` hold what the filters of FineWeb2 threw out: they are read only where the path says so.

    Raises ValueError where there is none or one cannot be read, ImportError where a package is missing for its place,
    ConnectionError where a place cannot be reached.
    """
    where = source.path.removeprefix("file://")
    found = {file.url: file for file in (_elsewhere(source) if "://" in where else _here(where, source))}
    kept = [file for file in found.values() if not any(fnmatch.fnmatch(file.name, p) for p in source.exclude)]
    if not any(
        _REMOVED.fullmatch(p) or (glob.has_magic(p) and "_removed" in p) for p in where.replace(os.sep, "/").split("/")
    ):
        kept = [file for file in kept if not any(_REMOVED.fullmatch(part) for part in file.path.parts)]
    if not kept:
        here = "; log in first where it is not open to all" if "://" in where else f" (from {Path.cwd()})"
        raise ValueError(
            f"source {source.name!r}: no file at {source.path!r}; give a file, a folder or a glob of "
            f"{_SHOWN_KINDS}{here}"
        )
    for file in kept:
        if not file.kind:
            raise ValueError(f"source {source.name!r}: {file}: unknown kind of file; known are {_SHOWN_KINDS}")
    return sorted(kept, key=lambda file: file.url.replace(os.sep, "/").split("/"))


# -------------------------------------------------------------------------------------------------------- this machine


def _here(where: str, source: Source) -> Iterator[File]:
    where = os.path.expanduser(where)
    for hit in [where] if os.path.exists(where) else glob.glob(where, recursive=True):
        if not os.path.isdir(hit):
            yield _file_here(hit, source)
            continue
        for folder, folders, names in os.walk(hit):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (_file_here(os.path.join(folder, n), source) for n in names if n[0] != "." and _kind(n))


def _file_here(path: str, source: Source) -> File:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ValueError(f"source {source.name!r}: {path}: a link to a file that is not there") from None
    return File(str(Path(path)), status.st_size, str(status.st_mtime_ns))


def _kind(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    packed = suffix in COMPRESSIONS
    kind = os.path.splitext(stem)[1] if packed else suffix
    if kind not in KINDS or (kind == ".json" and not packed) or (kind == ".parquet" and packed):
        return ""  # a bare .json is one document of settings more often than lines of them
    return kind


# ----------------------------------------------------------------------------------------------------------- elsewhere


def _elsewhere(source: Source) -> Iterator[File]:
    url, scheme = source.path, _scheme(source.path)
    if "::" in url:
        raise ValueError(f"source {source.name!r}: {url!r} is a chain of places; give one of them")
    system, path = _system(url)
    with _reaching(url):
        try:
            found = [(path, system.info(path))] if scheme in _WEB else _listed(system, path)
        except FileNotFoundError:
            return
    for name, info in found:
        size = info.get("size")
        yield File(name if "://" in name else f"{scheme}://{name}", int(size or 0), _version(info))


def _listed(system: Any, path: str) -> list[tuple[str, Any]]:
    """(path, what is known of it) of each file, in as few questions as there can be."""
    parts = path.split("/")
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    root, pattern = "/".join(parts[:fixed]), parts[fixed:]
    if not pattern:
        info = system.info(root)
        if info["type"] != "directory":
            return [(info["name"], info)]
    elif len(pattern) == 1 and pattern != ["**"]:  # a folder may hold much more below than beside what is asked for
        found: list[tuple[str, Any]] = []
        for info in system.ls(root, detail=True):
            if _fits(PurePosixPath(info["name"]).name, pattern[0]):
                folder = info["type"] == "directory"
                found += _listed(system, info["name"].rstrip("/")) if folder else [(info["name"], info)]
        return found
    everything = system.find(root, detail=True).items()
    return [(name, info) for name, info in everything if _asked_for(name.split("/")[fixed:], pattern)]


def _asked_for(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path fits a glob, or lies in a folder that does."""
    if not pattern:
        return not _hidden(parts) and (not parts or bool(_kind(parts[-1])))
    if pattern[0] == "**":
        splits = range(len(parts) + 1) if parts else ()  # without any left, the file itself is no folder
        return any(_asked_for(parts[n:], pattern[1:]) for n in splits if not _hidden(parts[:n]))
    return bool(parts) and _fits(parts[0], pattern[0]) and _asked_for(parts[1:], pattern[1:])


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))


def _hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def _version(info: dict[str, Any]) -> str:
    """The best of what a place says: a checksum, else a time."""
    known = {re.sub(r"[^a-z0-9]", "", str(key).lower()): value for key, value in info.items()}
    return next((f"{key}={known[key]}" for key in _CHECKSUMS + _TIMES if known.get(key)), "")


def _scheme(url: str) -> str:
    return url.split("://")[0]


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    scheme = _scheme(url)
    if scheme not in known_implementations:
        raise ValueError(f"{url}: no place is called {scheme}://; give hf://, s3://, gs://, az://, https:// or a path")
    try:
        with _reaching(url):
            system, path = url_to_fs(url)
    except ImportError as error:
        raise ImportError(
            f"{url}: {scheme}:// needs a package; pip install {_PACKAGES.get(scheme, 'it')} ({error})"
        ) from None
    return system, str(path)


class _Elsewhere(io.RawIOBase):
    """A file elsewhere, read ahead in large blocks; what goes wrong on the way names it."""

    def __init__(self, url: str, *, seeks: bool) -> None:
        super().__init__()
        self._url = url
        system, path = _system(url)
        whole = _scheme(url) in _WEB and not seeks  # few web servers give parts of a file, all give all of it
        with _reaching(url, gone=True):
            self._file = system.open(path, "rb", block_size=0 if whole else _BLOCK, cache_type="readahead")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        with _reaching(self._url, gone=True):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


@contextlib.contextmanager
def _reaching(url: str, *, gone: bool = False) -> Iterator[None]:
    """Every kind of place has errors of its own; all become one that says what to do.

    gone  whether a file that is not there is such an error too: it was listed before
    """
    try:
        yield
    except Exception as error:  # botocore's, aiohttp's and azure's have no common root
        if isinstance(error, ImportError) or (isinstance(error, FileNotFoundError) and not gone):
            raise
        raise ConnectionError(
            f"{url}: cannot be read from there ({type(error).__name__}: {str(error).strip()[:300]}); look at the "
            "connection and at who may read it, then start again: files that are finished are kept"
        ) from error
