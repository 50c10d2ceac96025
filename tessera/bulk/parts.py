"""Checkpointed batch inference over files: results in parts, each whole, so that an interrupted command goes on.

Rows are computed some thousand at a time. What comes of them is a part, a parquet file with a checksum in a folder
beside the output; a restart computes the parts that are missing. Where parts lie depends on the rows alone, so an
interrupted command ends with the same bytes as another.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tessera import checksums
from tessera.bulk.text_files import RowReader
from tessera.files import atomic_file, read_json, remove_folder, remove_leftovers, write_json
from tessera.progress import Progress, Say
from tessera.signals import Stopped

PART_ROWS = 4_096
_SETTINGS = "settings.json"

Settings = dict[str, Any]
"""What decides every byte of the output, but for the machine; another value is another output. Of a file of the input
it is the stamp: its size and version."""

Work = Callable[[list[Any], list[Any], Progress], pa.Table]
"""What is made of the ids and the rows of a part; the Progress counts its rows."""

# Numbers do not compress; a dictionary or statistics of them would only take time.
HOW_WRITTEN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


class Parts:
    """The parts of one output, in `NAME.parts` beside it; for whoever holds the output's lock."""

    def __init__(self, out: Path, settings: Settings) -> None:
        self.folder, self.settings = out.with_name(f"{out.name}.parts"), settings

    def check(self) -> None:
        """Raises ValueError where parts were begun with other settings, naming the first."""
        remove_leftovers(self.folder)
        place = self.folder / _SETTINGS
        begun = read_json(place) if place.is_file() else {}
        if not isinstance(begun, dict):
            raise ValueError(f"{place}: holds no settings; remove {self.folder} and start again")
        if any(self.paths()) and begun and (named := different(begun, self.settings)):
            raise ValueError(f"{self.folder} was begun with another {named}; go on with the same, or remove the folder")

    def fill(self, reader: RowReader, work: Work, on_progress: Progress, say: Say, what: str) -> int:
        """Computes and writes the parts that are not there; returns how many rows that were. `what`: is being done."""
        write_json(self.folder / _SETTINGS, self.settings, sealed=True)
        done, computed, rows = 0, 0, reader.found.rows
        try:
            for number, (ids, some) in enumerate(reader.parts(self.settings["part_rows"])):
                path = self.folder / f"{number:06}.parquet"
                if not path.is_file():

                    def report(part: int, of: int, what: str, begun: int = done) -> None:
                        on_progress(begun + part, rows, what)

                    table = work(ids, some, report)
                    with atomic_file(path, sealed=True) as draft:
                        pa.parquet.write_table(table, draft, **HOW_WRITTEN)
                    computed += len(some)
                done += len(some)
                on_progress(done, rows, what)
        except (KeyboardInterrupt, Stopped):
            say(
                f"stopped after {done:,} of {rows:,} {reader.noun}, which are kept in {self.folder}; "
                "the same command goes on"
            )
            raise
        return computed

    def paths(self) -> Iterator[Path]:
        """Of the parts, in order."""
        yield from sorted(self.folder.glob("*.parquet"))

    def tables(self) -> Iterator[pa.Table]:
        """The parts in order, one in memory at a time. Raises ValueError where one is not what was written."""
        for path in self.paths():
            checksums.check(path)
            yield pa.parquet.read_table(path)

    def remove(self) -> None:
        """Once the output is whole."""
        remove_folder(self.folder)


def different(before: Settings, settings: Settings) -> str:
    """Which setting differs, and how; empty where none does."""
    for name, value in settings.items():
        if before.get(name) != value:
            return f"{name}: it was {_shown(before.get(name))}, now it is {_shown(value)}"
    return ""


def _shown(value: Any) -> str:
    return repr(value) if not isinstance(value, list) else ", ".join(map(str, value[:3]))
