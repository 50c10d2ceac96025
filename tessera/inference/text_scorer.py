"""Quality scores of texts by a model with a regression head, one number for each text: how good it is, for tiers.

    scores(load(folder), texts)     here and now
    Scorer(folder)                  to hand down to corpus/ingest.py, whose workers load the model themselves

A folder is what AutoModelForSequenceClassification writes and reads with num_labels = 1.
"""

# Shapes: n texts, C hidden size.

import functools
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model
from tessera.huggingface.task_heads import TaskModel
from tessera.inference.engine import each
from tessera.inference.sentence_folder import tokenizer_length
from tessera.model.precision import find_device
from tessera.progress import Progress
from tessera.tokenizer.tokenizer import Tokenizer

Dtype = Literal["auto", "float32", "bfloat16"]

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that scores, with its tokenizer."""

    model: TaskModel
    tokenizer: Tokenizer
    max_length: int  # tokens that are read of a text: what both the model and the tokenizer's configuration allow


def load(folder: str | Path, device: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> Loaded:
    """A model that scores, from a folder with a regression head and a tokenizer.

    `model_max_length` in tokenizer_config.json says how many tokens are read of a text; where it says nothing, as many
    as the model has positions. Raises ValueError for a folder that is not that.
    """
    folder = find_model(folder)
    model = hub.load_regressor(folder).eval().to(find_device(device))
    most = model.config.max_position_embeddings
    return Loaded(model.to(find_device(device)), Tokenizer.load(folder), min(most, tokenizer_length(folder) or most))


def scores(
    loaded: Loaded,
    texts: Sequence[str],
    *,
    max_tokens: int = 16_384,
    dtype: Dtype = "auto",
    on_progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The number of each text, float32 [n]; of a long text its beginning is read.

    max_tokens  of a batch; a longer text makes a batch of its own. Changes speed and memory only
    dtype       of the matrix products of the encoder; "auto" is bfloat16 where the hardware has it

    Raises ValueError where a score is not a finite number.
    """
    found = each(
        loaded.model,
        loaded.tokenizer,
        texts,
        loaded.model,
        1,
        max_length=loaded.max_length,
        max_tokens=max_tokens,
        dtype=dtype,
        on_progress=on_progress,
        what="scoring",
    )[:, 0]
    if not np.isfinite(found).all():
        wrong = int((~np.isfinite(found)).argmax())
        raise ValueError(f"the model gives {found[wrong]} to the text that begins {texts[wrong][:80]!r}; is it broken?")
    return found


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores texts with the model of a folder, wherever it is sent: list of texts -> list of numbers.

    folder   as it is seen from the working directory of the process that made this
    threads  of torch; with another number of them a score differs in its last digits, so it is the same in each process

    Small enough to be sent to another process, on another machine that sees the same folder; the model is read at the
    first texts and stays for the next. Threads of one process take turns.
    """

    folder: str
    dtype: Dtype = "auto"
    threads: int = 1
    _directory: Path = field(default_factory=Path.cwd)

    def __call__(self, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        with _one_at_a_time:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                return scores(_kept(self._place), texts, dtype=self.dtype).tolist()
            finally:
                torch.set_num_threads(before)

    @property
    def _place(self) -> Path:
        return self._directory / self.folder

    def fingerprint(self) -> str:
        """What the scores depend on: sha256 of configuration, weights and tokenizer. Raises ValueError as `load`."""
        hub.read_config(self._place)
        digest = hashlib.sha256(self.dtype.encode())
        for path in sorted(self._place.iterdir()):
            if path.suffix in (".json", ".safetensors"):
                digest.update(path.name.encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def _kept(folder: Path) -> Loaded:
    return load(folder)
