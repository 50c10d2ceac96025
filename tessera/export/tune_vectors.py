"""Tuning of a model that gives vectors: engines opened as an `Encoder`, and what their vectors lose beside float32.

By language: the cosine of each text with its vector in float32, and whether the second half of a text is still found by
its first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.bulk.nearest import nearest
from tessera.export.graph import padded
from tessera.export.heads import halves
from tessera.export.int8 import Inputs, batches
from tessera.export.real_text import Text
from tessera.export.tracing import To, about, write_graph
from tessera.files import write_json
from tessera.huggingface import hub
from tessera.huggingface.hub import AnyEncoder
from tessera.inference import tuned
from tessera.inference.encoder import Encoder
from tessera.inference.runtime import ABOUT
from tessera.inference.tokenize import Ids
from tessera.inference.tuned import Choice
from tessera.progress import silent

_HOW: dict[str, Any] = {"normalize": True, "prompt": "", "on_truncated": silent}  # a text's beginning is enough


@dataclass(frozen=True, slots=True)
class Embedder:
    """A model that gives vectors, as `candidates.Source`; and the ids of texts to calibrate on."""

    folder: Path
    plain: Encoder
    calibrating: Sequence[Ids]
    choice: Choice

    def opened(self, found: Choice, folder: Path) -> Encoder:
        """As `Encoder.from_pretrained` will open it."""
        model, device, dtype, threads = tuned.opened(found, folder, lambda: hub.load_encoder(self.folder), None)
        plain = self.plain
        made = Encoder(
            model, plain.tokenizer, plain.pipeline, device=device, dtype=dtype, source=self.folder, threads=threads
        )
        made.tuned, made.max_seq_length = found, plain.max_seq_length
        return made

    def network(self) -> AnyEncoder:
        """As of `Source`, like the rest."""
        return hub.load_encoder(self.folder).eval()

    def documents(self) -> Sequence[Ids]:
        return self.calibrating

    def calls(self) -> list[Inputs]:
        return batches(self.calibrating)

    def write_graph(self, place: Path, to: To) -> None:
        network = self.network()
        write_graph(padded(network, self.plain.pipeline), place, to)
        write_json(place / ABOUT, about(network.config, to, "embeddings"))


@dataclass(frozen=True, slots=True)
class Quality:
    """What an engine's vectors lose beside float32, on the texts of a language."""

    texts: int
    lowest_cosine: float
    median_cosine: float
    before: float  # of a hundred texts, those whose second half is found by the first; in float32
    after: float

    @property
    def kept(self) -> float:
        return self.lowest_cosine

    @property
    def lost(self) -> float:
        """Points of retrieval."""
        return self.before - self.after


class VectorJudge:
    """Compares vectors with those of float32."""

    kept = "lowest cosine"

    def __init__(self, plain: Encoder, texts: Sequence[Text], min_cosine: float, max_drop: float) -> None:
        self.min_cosine, self.max_drop = min_cosine, max_drop
        self.languages = np.array([language for _, language in texts])
        self.whole = [text for text, _ in texts]
        self.sides = [self.whole, *map(list, zip(*map(halves, self.whole), strict=True))]
        self.exact = [plain.encode(side, **_HOW) for side in self.sides]

    @property
    def bounds(self) -> dict[str, Any]:
        """As they are written down."""
        return {"min_cosine": self.min_cosine, "max_drop": self.max_drop, "texts": len(self.whole)}

    def __str__(self) -> str:
        return (
            f"keep a cosine of {self.min_cosine} and lose at most {self.max_drop} points of retrieval on "
            f"{len(self.whole)} texts"
        )

    def judged(self, encoder: Encoder) -> tuple[dict[str, Quality], str]:
        """The quality of an engine by language, and which bound it falls under."""
        found = [encoder.encode(side, **_HOW) for side in self.sides]
        cosines, right = (found[0] * self.exact[0]).sum(1), np.arange(len(self.whole))
        before, after = (nearest(side[1], side[2], 1)[0][:, 0] == right for side in (self.exact, found))

        def quality(rows: Any) -> Quality:
            return Quality(
                texts=int(rows.sum()),
                lowest_cosine=float(cosines[rows].min()),
                median_cosine=float(np.median(cosines[rows])),
                before=100 * float(before[rows].mean()),
                after=100 * float(after[rows].mean()),
            )

        by_language = {str(name): quality(self.languages == name) for name in np.unique(self.languages)}
        return by_language, self._why_not({**by_language, "all": quality(right >= 0)})

    def _why_not(self, by_language: dict[str, Quality]) -> str:
        """Which bound is not held, and where; one text more or less is no loss, however few there are of a language."""
        for language, found in by_language.items():
            if not found.lowest_cosine >= self.min_cosine:
                return f"cosine {found.lowest_cosine:.5f} in {language}"
            if found.lost > max(self.max_drop, 100.1 / found.texts):
                return f"{found.lost:.1f} points of retrieval lost in {language}"
        return ""
