"""JSON files read by a strict schema: errors name the file, the place in it, and what is wrong there.

A schema is a pydantic model on `Strictly`, one a file. Whatever a file holds, what comes out of here is what the schema
says or a ValueError: lists that lie too deep in each other, numbers too long to be read and half characters included.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tessera import checksums, files
from tessera.plan.errors import one_line

Schema = TypeVar("Schema", bound=BaseModel)
SHOWN = 200  # characters of what a file says, in a message


class Strictly(BaseModel):
    """Schemas of foreign files: no value is turned into another kind, fields that are not named may be there."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


def shown(value: Any) -> str:
    """A value out of a file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError where there is no such file, or something else in it."""
    data = read_any(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object")
    return data


def read_any(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError where there is none, no JSON in it, or not what its checksum says."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; give a folder in the Hugging Face format")
    checksums.check(path)
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        files.refuse_halves(text, found)
        return found
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is no file of a model: its lists or objects lie too deep in each other") from None


def read_as(schema: type[Schema], path: Path) -> Schema:
    """A JSON file by its schema. Raises ValueError naming the file, the place in it and what is wrong there."""
    return fit(schema, read_json(path), path)


def read_own(schema: type[Schema], path: Path) -> Schema:
    """A JSON file that tessera wrote, by its schema. Raises ValueError as `read_as`, and where it has changed since."""
    return fit(schema, files.read_json(path), path)


def fit(schema: type[Schema], data: Any, path: Path) -> Schema:
    """What a file holds, by its schema. Raises ValueError as `read_as`."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        text = one_line(error)
        text = text if len(text) <= 2 * SHOWN else text[: 2 * SHOWN] + " ..."
        text = text.encode("utf-8", "backslashreplace").decode()  # half a character cannot be printed
        raise ValueError(f"{path}: {text}") from None
