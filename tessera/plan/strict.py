"""What all models of a recipe have in common."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """Whether a phase's `from` means a folder rather than another phase."""
    return "/" in source or "\\" in source


def name_of(model: Path) -> str:
    """What results call a model: its folder, or the phase that it is the end of."""
    return model.parent.name if model.name == "final" else model.resolve().name


def refuse_twins(names: list[Any], what: str) -> None:
    """Raises ValueError where a name is there twice."""
    twins = sorted({str(n) for n in names if names.count(n) > 1})
    if twins:
        raise ValueError(f"two {what}s are called {twins[0]!r}; names must differ")
