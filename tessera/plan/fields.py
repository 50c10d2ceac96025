"""Fields of a recipe: strict models, names, and numbers as people write them (`2.3T` tokens, `50MB`, a share)."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tessera.plan.errors import TRUTH

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Strict(BaseModel):
    """Unknown keys are errors, values do not change after they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, data: Any) -> Any:
        for key, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field is not None and field.annotation is not bool:
                raise ValueError(f"{key} is {value}; {TRUTH}")
        return data


def is_folder(source: str) -> bool:
    """Whether the name of a model means a folder, rather than a phase or a name elsewhere."""
    return "/" in source or "\\" in source


def refuse_twins(names: list[Any], what: str) -> None:
    """Raises ValueError where a name is there twice."""
    twins = sorted({str(n) for n in names if names.count(n) > 1})
    if twins:
        raise ValueError(f"two {what}s are called {twins[0]!r}; names must differ")


_THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_tokens(value: Any) -> int:
    """`4M` -> 4,000,000. A whole number, or a number followed by k, M, B (10^9) or T (10^12)."""
    return _parse(value, _THOUSANDS, "a token count is a whole number or one with k, M, B or T, as in 100B")


def parse_bytes(value: Any) -> int:
    """`50MB` -> 50,000,000. A whole number, or a number followed by B, kB, MB, GB or TB (powers of 1,000)."""
    return _parse(value, {"": 1, **_BYTES}, "a size is a whole number or one with B, kB, MB, GB or TB, as in 50MB")


def show_tokens(count: int) -> str:
    """The shortest exact way to write a token count: 2300000000000 -> `2.3T`."""
    for suffix, unit in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= unit and count * 1000 % unit == 0:
            return f"{count // unit}.{count % unit * 1000 // unit:03}".rstrip("0").rstrip(".") + suffix
    return str(count)


def _parse(value: Any, units: dict[str, int], allowed: str) -> int:
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number; {allowed}")
    found = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+]?[0-9]{1,2})?)\s*([A-Za-z]*)\s*", str(value))
    if not found or found[2] not in units:
        raise ValueError(f"cannot read {value!r}; {allowed}")
    exact = Decimal(found[1]) * units[found[2]]  # not in floats, so that 2.3T is just that
    whole = int(exact)
    if whole != exact:
        raise ValueError(f"{value!r} is not a whole number; {allowed}")
    return whole


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a number; give a share between 0 and 1")
    if isinstance(value, str) and value.strip().endswith("%"):
        raise ValueError(f"{value!r} is a percentage; it is a share, so give a value between 0 and 1")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number; give a share between 0 and 1") from None
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{number} is not a share; give a value between 0 and 1")
    return number


def _inner_share(value: Any) -> float:
    number = _share(value)
    if number in (0.0, 1.0):
        raise ValueError(f"{number} is at the edge; give a value above 0 and below 1")
    return number


Tokens = Annotated[int, BeforeValidator(parse_tokens), Field(gt=0)]
"""A count of tokens, at least 1."""

TokensOrNone = Annotated[int, BeforeValidator(parse_tokens), Field(ge=0)]
"""A count of tokens; 0 means "not at all"."""

Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
"""A size in bytes, at least 1."""

Share = Annotated[float, BeforeValidator(_share)]
"""A share of a whole, in [0, 1]."""

Ratio = Annotated[float, BeforeValidator(_inner_share)]
"""A share of a whole, in (0, 1)."""
