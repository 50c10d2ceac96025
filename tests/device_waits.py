"""Counts what would make the processor wait for a GPU (a synchronization), on the GPU's code path run on a CPU."""

import traceback
from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"tolist", "cpu"}  # methods that bring a tensor to the host
# Operations whose result, or its shape, the host has to know.
KNOWING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "bincount",
    "equal",
    "is_nonzero",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Waits:
    """`with Waits() as waits:` counts them by the line of our code that waits."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self._modes = (_Methods(self.places), _Operations(self.places))

    @property
    def total(self) -> int:
        return sum(self.places.values())

    def __enter__(self) -> "Waits":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Methods(TorchFunctionMode):
    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in READS:
            self.places[_where(function.__name__)] += 1
        return function(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        unknown = name == "repeat_interleave" and kwargs.get("output_size") is None
        masked = name in INDEXING and any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1])
        if name in KNOWING or unknown or masked:
            self.places[_where(name)] += 1
        return function(*args, **kwargs)


def _where(what: str) -> str:
    """The innermost line of tessera, or of torch-optimi, that led here."""
    for frame in reversed(traceback.extract_stack()):
        if "/tessera/" in frame.filename or "/optimi/" in frame.filename:
            return f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {what}: {frame.line}"
    return f"elsewhere: {what}"
