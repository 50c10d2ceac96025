"""What `tessera adapt` is asked for, kept beside what it makes: the same command goes on, another one is refused."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tessera.files import refuse_taken, write_json
from tessera.json_files import Strictly, read_own
from tessera.plan.loading import changes
from tessera.secrets import redact

FILE = "adapt.json"


class AdaptError(ValueError):
    """An adaptation that cannot be made as asked, with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The arguments of an adaptation. Checks itself.

    model         a folder, or a name on the Hub
    text          of the new languages: files, folders, globs or URLs
    replay        text of languages that the model knows, read along so that they are kept
    watch         text of languages that are not read: what becomes of them is measured
    pairs         translations, for a model that makes vectors: files of a text and its translation
    language      of text whose files do not say it; None: as it is identified
    trim          leave out the rows that none of these languages uses
    extend        pieces that are added to the vocabulary; 0: none; None: as the verdict says, `PIECES` a language
    tokens        to read in all; None: the new text four times, at most 2M
    share         of the new text; the rest is of the replayed languages
    peak          the learning rate; None: by the width of the model
    average       weight of the trained model in the average with its start, which is what comes out; 1: no average;
                  None: a half. A model that makes vectors is not averaged
    tasks         measured before and after, as `tessera evaluate` takes them; `data` is their folder
    """

    model: str
    text: tuple[str, ...]
    replay: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    language: str | None = None
    column: str = "text"
    trim: bool = False
    extend: int | None = None
    tokens: int | None = None
    share: float = 0.7
    peak: float | None = None
    average: float | None = None
    tasks: tuple[str, ...] = ()
    data: str | None = None
    protocol: str = "quick"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.text:
            raise AdaptError("no text is given; name files or folders with text of the new language (--text)")
        if not 0.0 < self.share <= 1.0:
            raise AdaptError(f"share is {self.share}; it is the new text's share of what is read: above 0, at most 1")
        if not 0.0 < self.weight <= 1.0:
            raise AdaptError(f"average is {self.average}; it is the weight of the trained model: above 0, at most 1")
        if self.extend is not None and self.extend < 0:
            raise AdaptError(f"extend is {self.extend}; give the number of pieces to add, or 0 for none")
        if self.data is not None and not self.tasks:
            raise AdaptError("data is the folder of tasks, and no task is given (--task)")

    @property
    def weight(self) -> float:
        """Of the trained model in the average."""
        return 0.5 if self.average is None else self.average


def keep(asked: Asked, out: Path) -> None:
    """Notes what is asked for in `out`, unless it stands there."""
    if not (out / FILE).is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / FILE, _plain(asked), sealed=True)


def refuse_other(asked: Asked, out: Path) -> None:
    """Raises AdaptError where `out` holds something else, or an adaptation that was asked for otherwise."""
    if (out / FILE).is_file():
        now = _plain(asked)
        found = read_own(Strictly, out / FILE).model_dump()
        before = {"pairs": []} | {key: value for key, value in found.items() if key in now}
        if differing := changes(before, now):
            raise AdaptError(
                f"{out} holds an adaptation that was asked for otherwise (before -> now):\n  "
                + "\n  ".join(differing)
                + f"\nGive another folder (--out), or edit {out / 'adapt.yaml'} and run the first command again"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AdaptError(f"{out} is not empty and holds no {FILE}, so it is no adaptation; give another folder (--out)")
    else:
        refuse_taken(out)


def _plain(asked: Asked) -> dict[str, Any]:
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(asked).items()}
    shown = {key: [redact(path) for path in found[key]] for key in ("text", "replay", "watch", "pairs")}
    return {**found, **shown, "average": asked.weight}
