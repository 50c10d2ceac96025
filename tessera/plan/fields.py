"""Fields of a recipe: strict models, names, and numbers as people write them: `2.3T` tokens, `50MB`, shares, curves."""

import math
import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainSerializer, Tag, model_validator

TRUTH = "YAML reads yes, no, on, off, true and false as truth values; if text is meant, put it in quotes"
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


def hub_name(place: str) -> tuple[str, str | None] | None:
    """(name, revision) of what may be a model on the Hugging Face Hub: `jhu-clsp/mmBERT-small`, `name@revision`.

    None for what can only be a folder, as ./model. Whether a folder of that name lies here is not looked at.
    """
    found = re.fullmatch(r"(?![.~])([\w.-]+/[\w.-]+)(?:@([\w.-]+))?", place)
    return (found[1], found[2]) if found else None


def refuse_twins(names: list[Any], what: str) -> None:
    """Raises ValueError where a name is there twice."""
    twins = sorted({str(n) for n in names if names.count(n) > 1})
    if twins:
        raise ValueError(f"two {what}s are called {twins[0]!r}; names must differ")


MOST_TOKENS = 10**18  # arithmetic of floats holds for it, and the web has less
_TOKENS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_tokens(value: Any) -> int:
    """`4M` -> 4,000,000. A whole number, or a number followed by k, M, B (10^9) or T (10^12)."""
    count = _parse(value, _TOKENS, "a token count is a whole number or one with k, M, B or T, as in 100B")
    if count > MOST_TOKENS:
        raise ValueError(f"{str(value)[:40]!r} is more than {show_tokens(MOST_TOKENS)}; nobody has so many tokens")
    return count


def parse_bytes(value: Any) -> int:
    """`50MB` -> 50,000,000. A whole number, or a number followed by B, kB, MB, GB or TB (powers of 1,000)."""
    return _parse(value, _BYTES, "a size is a whole number or one with B, kB, MB, GB or TB, as in 50MB")


def show_tokens(count: int) -> str:
    """The shortest exact way to write a token count: 2300000000000 -> `2.3T`."""
    for suffix, unit in reversed(_TOKENS.items()):
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


def _part(value: Any) -> float:
    number = _share(value)
    if number == 0.0:
        raise ValueError(f"{number} is nothing; give a value above 0 and at most 1")
    return number


def _inner_share(value: Any) -> float:
    number = _share(value)
    if number in (0.0, 1.0):
        raise ValueError(f"{number} is at the edge; give a value above 0 and below 1")
    return number


def _positive(count: int) -> int:
    if count < 1:
        raise ValueError(f"Input should be greater than 0 (given: {count})")
    return count


Tokens = Annotated[int, BeforeValidator(parse_tokens), Field(gt=0)]
"""A count of tokens, at least 1."""

AUTO = 0
"""A count of tokens that is settled by the text (plan/fit.py); nothing else may be 0."""

TokensOrAuto = Annotated[
    int,
    BeforeValidator(lambda given: AUTO if given == "auto" else _positive(parse_tokens(given))),
    PlainSerializer(lambda count: "auto" if count == AUTO else count, return_type=Any),
]
"""A count of tokens, at least 1; or `auto`."""

TokensOrNone = Annotated[int, BeforeValidator(parse_tokens), Field(ge=0)]
"""A count of tokens; 0 means "not at all"."""

Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
"""A size in bytes, at least 1."""

Share = Annotated[float, BeforeValidator(_share)]
"""A share of a whole, in [0, 1]."""

Part = Annotated[float, BeforeValidator(_part)]
"""A share of a whole that is not nothing, in (0, 1]."""

Ratio = Annotated[float, BeforeValidator(_inner_share)]
"""A share of a whole, in (0, 1)."""


class Curve(Strict):
    """A share that moves with the planned tokens of its phase, from the first to the last."""

    from_: Share = Field(alias="from")
    to: Share
    shape: Literal["linear", "cosine"] = "linear"

    def __format__(self, spec: str) -> str:
        """Both ends, each written as a plain number would be: `0.3 -> 0.15`."""
        return f"{self.from_:{spec}} -> {self.to:{spec}}"

    def at(self, progress: float) -> float:
        """Its value once this part of the phase, 0 to 1, is read; a cosine starts and ends gently."""
        if self.shape == "cosine":
            progress = (1.0 - math.cos(math.pi * progress)) / 2.0
        return self.from_ + (self.to - self.from_) * progress


class RatioCurve(Curve):
    """A curve that never reaches 0 or 1."""

    from_: Ratio = Field(alias="from")
    to: Ratio


PLAIN, KEYS = Tag("<plain>"), Tag("<keys>")
PLAIN_OR_KEYS = Discriminator(lambda given: "<keys>" if isinstance(given, (dict, BaseModel)) else "<plain>")
"""Of a union of a plain value and a model: which is meant is seen at once, so only its own mistakes are reported."""

MovingShare = Annotated[Annotated[Share, PLAIN] | Annotated[Curve, KEYS], PLAIN_OR_KEYS]
"""A plain number, or a curve over the phase (annealing)."""

MovingRatio = Annotated[Annotated[Ratio, PLAIN] | Annotated[RatioCurve, KEYS], PLAIN_OR_KEYS]
"""The same in (0, 1)."""


def at(given: float | Curve, progress: float) -> float:
    """The value of a number, which is itself, or of a curve, at a part of the phase between 0 and 1."""
    return given.at(progress) if isinstance(given, Curve) else given


class Largest(Strict):
    """The languages with most tokens in the sources at hand."""

    largest: int = Field(ge=1)


def _kind_of_languages(given: Any) -> str | None:
    if isinstance(given, (list, tuple)):
        return "<list>"
    return "<largest>" if isinstance(given, (dict, Largest)) else "<all>" if given == "all" else None


Languages = Annotated[
    Annotated[Literal["all"], Tag("<all>")]
    | Annotated[Largest, Tag("<largest>")]
    | Annotated[tuple[str, ...], Tag("<list>")],
    Discriminator(
        _kind_of_languages,
        custom_error_type="languages",
        custom_error_message="give `all`, a list as in [fao_Latn, dan_Latn], or {largest: 60}",
    ),
]
"""All there are, some by name, or the largest."""
