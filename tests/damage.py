"""Damaged inputs for readers: seeded mutations of bytes and of JSON, and the loop that tries a reader on many of them.

A reader holds if it reads a damaged file, or says in a ValueError that names it what is wrong; nothing else comes out,
and it comes out soon.
"""

import copy
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e308, 10**12, 10**30, 10**400, float("nan"), float("inf"), -0.0),
    *("", "a", "\0", "\ud800", "../outside", "/etc/passwd", "C:\\x", "a" * 5000, "NaN", "1e999"),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [1, "a", None], [{}] * 3),
)
TRIED = {"damaged inputs": 0, "refused": 0, "kills": 0}  # in this run of the tests, shown at its end
_TEXTS = (b"", b"{", b"[]", b"null", b"\xff\xfe{\x00", b'{"a": NaN}', b'{"a": 1e999}')
_DEEP = (b"[" * 100_000, b'{"a":' * 50_000)


def _places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _places(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data[:20]):
            yield from _places(value, (*path, i))


def _within(data: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        data = data[part]
    return data


def damaged_json(data: Any, rng: random.Random) -> bytes:
    """JSON with one to three mutations of what it says, or of the text that says it."""
    if rng.random() < 0.02:
        return rng.choice(_TEXTS + _DEEP)
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(list(_places(data)))
        if not path:
            if rng.random() < 0.05:
                data = copy.deepcopy(rng.choice(_ODD))
            elif isinstance(data, dict):
                data[rng.choice(("new", "", "a.b", *map(str, data)))] = copy.deepcopy(rng.choice(_ODD))
            continue
        inside, last = _within(data, path[:-1]), path[-1]
        match rng.randrange(5):
            case 0:
                del inside[last]
            case 1:  # what another place of the same file holds
                inside[last] = copy.deepcopy(_within(data, rng.choice(list(_places(data)))))
            case 2 if isinstance(inside[last], int | float):
                inside[last] = inside[last] * rng.choice((-1, 0, 2, 1000, 10**9)) + rng.choice((0, 1, -1))
            case _:
                inside[last] = copy.deepcopy(rng.choice(_ODD))
    text = json.dumps(data).encode()
    return damaged_bytes(text, rng) if rng.random() < 0.1 else text


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with some flipped, cut out, doubled, or cut off; mostly near the start, where headers are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = int(len(out) * rng.random() ** rng.choice((1, 4)))
        match rng.randrange(5):
            case 0 if out:
                out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del out[at : at + rng.choice((1, 4, 64))]
            case 2:
                out[at:at] = out[at : at + rng.choice((1, 8, 32))]
            case 3:
                out[at:at] = rng.randbytes(rng.choice((1, 4, 16)))
            case _:
                del out[rng.choice((at, len(out) - 1)) :]
    return bytes(out)


def survives(
    read: Callable[[], Any],
    files: Sequence[Path],
    *,
    inputs: int,
    seconds: float,
    seed: int = 0,
    allowed: tuple[type[Exception], ...] = (ValueError,),
) -> dict[str, int]:
    """Damages one of `files` after another and calls `read` each time; returns how often it read and refused.

    inputs   mutations in all; fewer where `seconds` have passed
    allowed  what may be raised, if the text names a file or the folder; anything else fails with the damaged bytes

    A single call that takes more than a tenth of `seconds` of the processor fails as a hang. The files are put back.
    """
    rng, whole = random.Random(seed), {path: path.read_bytes() for path in files}
    parsed = {path: json.loads(data) for path, data in whole.items() if path.suffix == ".json"}
    counts, ends = {"read": 0, "refused": 0}, time.monotonic() + seconds
    try:
        for number in range(inputs):
            if time.monotonic() > ends:
                break
            path = files[number % len(files)]
            data = damaged_json(parsed[path], rng) if path in parsed else damaged_bytes(whole[path], rng)
            path.write_bytes(data)
            began = time.process_time()
            try:
                read()
                counts["read"] += 1
            except allowed as error:
                text = str(error)
                assert str(path.parent) in text, f"{path.name}: no file is named in {text!r}: {data[:2000]!r}"
                text.encode()  # can be printed
                assert len(text) < 4000, f"{path.name}: {len(text)} characters are no message: {text[:400]!r}"
                counts["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"{path.name}: {type(error).__name__}: {error}: {data[:2000]!r}") from error
            took = time.process_time() - began
            assert took < seconds / 10, f"{path.name}: took {took:.1f} seconds: {data[:2000]!r}"
            path.write_bytes(whole[path])
    finally:
        for path, data in whole.items():
            path.write_bytes(data)
        TRIED["damaged inputs"] += sum(counts.values())
        TRIED["refused"] += counts["refused"]
    return counts
