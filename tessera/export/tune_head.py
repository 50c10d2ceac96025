"""Tuning of a model with the head of a task: engines opened as a `Predictor`, and which of its answers change.

By language: of a hundred answers those that are what they are in float32 (agreement); and where rows say what is right,
the score before and after. Both as head_scores.py has them of each kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tessera.export import heads
from tessera.export.head_scores import right_answer, score
from tessera.export.int8 import Inputs
from tessera.export.quantize_head import calls
from tessera.export.tracing import To, write_graph
from tessera.files import write_json
from tessera.inference.runtime import ABOUT
from tessera.inference.tokenize import Ids
from tessera.inference.tuned import FOLDER, Choice
from tessera.prediction.predictor import Prediction, Predictor, Row
from tessera.prediction.requests import request


@dataclass(frozen=True, slots=True)
class Answerer:
    """A model with the head of a task, as `candidates.Source`; and rows to calibrate on."""

    folder: Path
    plain: Predictor
    calibrating: Sequence[Row]
    choice: Choice

    def opened(self, found: Choice, folder: Path) -> Predictor:
        """As `Predictor.from_pretrained` will open it."""
        made = Predictor.of_choice(found, self.folder, folder / FOLDER)
        return replace(made, reader=replace(made.reader, max_length=self.plain.reader.max_length))

    def network(self) -> nn.Module:
        """As of `Source`, like the rest."""
        return self.plain.model.encoder

    def documents(self) -> Sequence[Ids]:
        reader = self.plain.reader
        asked = [request(row, n, self.plain.kind, reader.tokenizer) for n, row in enumerate(self.calibrating)]
        return [ids for item in reader.items([one.example for one in asked]) for ids in item.documents]

    def calls(self) -> list[Inputs]:
        return calls(self.plain, self.calibrating)

    def write_graph(self, place: Path, to: To) -> None:
        write_graph(heads.padded(self.plain), place, to)
        write_json(place / ABOUT, heads.about(self.plain, to))


@dataclass(frozen=True, slots=True)
class Answers:
    """What an engine's answers lose beside float32, on the rows of a language."""

    rows: int
    agreement: float
    before: float | None  # the score in float32; None: nobody said what is right
    after: float | None

    @property
    def kept(self) -> float:
        return self.agreement

    @property
    def lost(self) -> float:
        """Points of the score."""
        return 0.0 if self.before is None or self.after is None else self.before - self.after


class HeadJudge:
    """Compares answers with those of float32, and with what is right where rows say so.

    rows  as `Predictor.predict` takes them, each with its language
    """

    kept = "agreement"

    def __init__(
        self,
        plain: Predictor,
        rows: Sequence[tuple[Row, str]],
        min_agreement: float,
        max_drop: float,
        *,
        labelled: bool,
    ) -> None:
        self.kind, self.min_agreement, self.max_drop, self.labelled = plain.kind, min_agreement, max_drop, labelled
        self.languages = np.array([language for _, language in rows])
        self.rows = [row for row, _ in rows]
        self.right: list[Prediction] = []
        if labelled:
            self.right = [right_answer(plain, row, n) for n, row in enumerate(self.rows) if isinstance(row, Mapping)]
        self.exact = plain.predict(self.rows)

    @property
    def bounds(self) -> dict[str, Any]:
        """As they are written down."""
        return {"min_agreement": self.min_agreement, "max_drop": self.max_drop, "rows": len(self.rows)}

    def __str__(self) -> str:
        if self.labelled:
            return f"lose at most {self.max_drop} points of the score on {len(self.rows)} rows"
        return f"keep {self.min_agreement} of 100 answers on {len(self.rows)} rows"

    def judged(self, predictor: Predictor) -> tuple[dict[str, Answers], str]:
        """The quality of an engine by language, and which bound it falls under."""
        found = predictor.predict(self.rows)
        by_language = {
            str(name): self._of(found, np.flatnonzero(self.languages == name)) for name in np.unique(self.languages)
        }
        return by_language, self._why_not({**by_language, "all": self._of(found, np.arange(len(found)))})

    def _of(self, found: Sequence[Prediction], places: Any) -> Answers:
        def some(several: Sequence[Prediction]) -> list[Prediction]:
            return [several[n] for n in places]

        return Answers(
            rows=len(places),
            agreement=score(self.kind, some(found), some(self.exact)),
            before=score(self.kind, some(self.exact), some(self.right)) if self.labelled else None,
            after=score(self.kind, some(found), some(self.right)) if self.labelled else None,
        )

    def _why_not(self, by_language: dict[str, Answers]) -> str:
        """As of `VectorJudge`. A rank or a correlation of one or two rows says nothing."""
        for language, found in by_language.items():
            one = 100.1 / found.rows
            if self.labelled and found.lost > max(self.max_drop, one):
                return f"{found.lost:.1f} points of the score lost in {language}"
            if not self.labelled and 100 - found.agreement > max(100 - self.min_agreement, one):
                return f"agreement {found.agreement:.1f} in {language}"
        return ""
