"""Remote files, at any URL that fsspec knows: read ahead in large blocks, every error with the place and what to do."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any, Final

from tessera.secrets import redact

WEB = ("http", "https")

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_PACKAGES |= {"abfss": "adlfs", "http": "aiohttp requests", "https": "aiohttp requests", "hf": "huggingface-hub"}
_BLOCK: Final = 2**23  # bytes asked for at once; smaller ones wait longer for the wire than they take


def scheme_of(url: str) -> str:
    """hf, s3, https ..."""
    return url.split("://")[0]


def system_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    scheme = scheme_of(url)
    if scheme not in known_implementations:
        raise ValueError(
            f"{redact(url)}: no place is called {scheme}://; give hf://, s3://, gs://, az://, https:// or a path"
        )
    try:
        with reaching(url):
            system, path = url_to_fs(url)
    except ImportError as error:
        raise ImportError(
            f"{redact(url)}: {scheme}:// needs a package; pip install {_PACKAGES.get(scheme, 'it')} ({error})"
        ) from None
    return system, str(path)


class RemoteFile(io.RawIOBase):
    """A file elsewhere, read ahead in large blocks; what goes wrong on the way names it."""

    def __init__(self, url: str, *, seeks: bool) -> None:
        super().__init__()
        self._url, self.taken = url, 0  # bytes that were read
        system, path = system_of(url)
        whole = scheme_of(url) in WEB and not seeks  # few web servers give parts of a file, all give all of it
        with reaching(url, gone=True):
            self._file = system.open(path, "rb", block_size=0 if whole else _BLOCK, cache_type="readahead")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        with reaching(self._url, gone=True):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.taken += len(data)
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
def reaching(url: str, *, gone: bool = False) -> Iterator[None]:
    """Every kind of place has errors of its own; all become one that says what to do.

    gone  whether a file that is not there is such an error too: it was listed before
    """
    try:
        yield
    except Exception as error:  # botocore's, aiohttp's and azure's have no common root
        if isinstance(error, ImportError) or (isinstance(error, FileNotFoundError) and not gone):
            raise
        raise ConnectionError(
            f"{redact(url)}: cannot be read from there ({type(error).__name__}: {redact(str(error).strip())[:300]}); "
            "look at the connection and at who may read it, then start again: files that are finished are kept"
        ) from error
