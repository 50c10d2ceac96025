"""What an adaptation says before it begins, keeps in its folder, and returns: of every kind of model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, Field

from tessera.adapt.asked import Asked
from tessera.adapt.look import Look
from tessera.files import write_json
from tessera.json_files import Strictly, read_own

LOOK, RETENTION = "look.json", "retention.json"
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted(Generic[Row]):
    """What came out.

    model   the folder to use
    rows    of each language, what was before and after
    table   the same to be shown: (title, columns, rows)
    tasks   {task: {model: main metric}}, mean over languages
    """

    model: Path
    rows: list[Row]
    table: tuple[str, list[str], list[list[str]]]
    tasks: dict[str, dict[str, float]]


class Extension(Strictly):
    """The pieces that are added, and the languages that they are learnt from."""

    pieces: int = Field(ge=0)
    languages: list[str]


class _Look(Strictly):
    """look.json, as far as it is read again."""

    extend: Extension


def planned(out: Path) -> Extension | None:
    """What was planned in the folder `out`; None where nothing was. Raises ValueError for a damaged file."""
    return read_own(_Look, out / LOOK).extend if (out / LOOK).is_file() else None


def keep_look(seen: dict[str, Any], extension: Extension, out: Path) -> None:
    """Writes what was seen of the model, and what is added to it."""
    write_json(out / LOOK, {**seen, "extend": extension.model_dump()}, sealed=True)


class _Retention(Strictly, Generic[Row]):
    """retention.json, as far as it is read again."""

    model_config = ConfigDict(strict=False)  # a list is a tuple

    of: str
    languages: list[Row]


def read_retention(out: Path, of: str, row: type[Row]) -> list[Row] | None:
    """The rows that were kept in the folder `out` of the model with this fingerprint; None where there are none."""
    found = read_own(_Retention[row], out / RETENTION) if (out / RETENTION).is_file() else None  # type: ignore[valid-type]
    return None if found is None or found.of != of else found.languages


def keep_retention(rows: Sequence[Any], tasks: dict[str, dict[str, float]], of: str, out: Path) -> None:
    """Writes rows, which are dataclasses, and the scores of tasks, of the model with this fingerprint."""
    said = {"of": of, "languages": [asdict(row) for row in rows], "tasks": tasks}
    write_json(out / RETENTION, said, sealed=True)


def advice(asked: Asked, seen: Look, pieces: int, needing: Sequence[str]) -> list[str]:
    """What people should know of the vocabulary before the hours are spent.

    needing  languages that are cut small
    """
    lines = []
    if pieces:
        lines.append(f"vocabulary: {pieces:,} pieces are added for {', '.join(needing) or 'the new text'}")
    if "trim" in seen.verdict.steps and not asked.trim:
        lines.append(f"{seen.verdict.reasons[0]}; say --trim to leave them out")
    return lines
