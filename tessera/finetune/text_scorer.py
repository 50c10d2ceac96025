"""A regression head fitted to marked texts on a frozen encoder, by ridge regression: how good a text is, for tiers.

fit(folder, texts, marks, out)  writes a folder that inference/text_scorer.py reads
"""

# Shapes: n texts, C hidden size.

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.corpus import documents
from tessera.files import atomic_folder, refuse_taken
from tessera.finetune.saved import tell_length
from tessera.huggingface import hub
from tessera.huggingface.task_heads import ClassificationDense, DocumentHead, TaskModel
from tessera.inference.engine import each
from tessera.inference.sentence_folder import tokenizer_length
from tessera.inference.text_scorer import Dtype
from tessera.model.encoder import Encoder
from tessera.model.pooling import pool
from tessera.model.precision import find_device
from tessera.model.task_config import SCORE
from tessera.plan.corpus import Columns, Source
from tessera.plan.shipped import pip_line
from tessera.progress import Progress
from tessera.tokenizer.tokenizer import Tokenizer

_PENALTIES = np.logspace(-4, 4, 17)  # times the mean variance of a feature


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a head foretells marks that it was not fitted to: the mark of each text, by a head fitted to all others.

    Source: leave-one-out residuals of ridge regression in closed form, Golub, Heath and Wahba 1979.
    """

    texts: int
    penalty: float  # the best of those that were tried, times the mean variance of a feature
    r2: float  # share of the marks' variance that is explained; 0 or less: no better than the mean mark
    correlation: float


def marked(path: str | Path, *, text: str = "text", mark: str = "score") -> tuple[list[str], list[float]]:
    """Texts and their marks from two columns of jsonl or parquet files, by path as a source of a recipe has it.

    Rows without either are left out. Raises ValueError as corpus.read.
    """
    columns = Columns(text=text, quality=mark)
    source = Source(name="marked", path=str(path), columns=columns, language="und", split="train")
    texts, marks = [], []
    for row in documents.read(source):
        if isinstance(row, documents.Document) and row.quality is not None:
            texts.append(row.text)
            marks.append(row.quality)
    return texts, marks


def fit(
    folder: str | Path,
    texts: Sequence[str],
    marks: Sequence[float],
    target: str | Path,
    *,
    pooling: Literal["mean", "cls"] = "mean",
    max_length: int = 512,
    dtype: Dtype = "auto",
    on_progress: Progress | None = None,
) -> Fit:
    """Fits a regression head to marked texts and writes it to `target` with the encoder, which is left as it is.

    folder      a model in the Hugging Face format, with its tokenizer
    marks       [n] numbers, such as 0 to 5
    max_length  tokens that are read of a text, now and by whoever loads `target`

    Ridge regression. For a EuroBERT it is on the pooled hidden states: two units of the dense layer before its
    classifier are enough to let a number through, because gelu(x) - gelu(-x) = x. The norm in a ModernBERT's head lets
    none through as it is, so there the regression is on what the trained masked-language-model head makes of the pooled
    hidden states. Needs scikit-learn, and memory for 3 n x C float64. Raises ValueError for marks without a meaning,
    FileExistsError where `target` holds something.
    """
    if find_spec("sklearn") is None:
        raise ImportError(f"fitting a head needs scikit-learn; {pip_line('evaluate')}")
    refuse_taken(Path(target))
    folder, wanted = Path(folder), np.asarray(marks, np.float64)
    if len(texts) != len(wanted):
        raise ValueError(f"{len(texts)} texts but {len(wanted)} marks; give one mark for each text")
    if len(texts) < 10 or not np.isfinite(wanted).all() or np.ptp(wanted) == 0:
        raise ValueError("a head is fitted to ten texts or more, with marks that are finite numbers and differ")
    encoder, head = _without_classifier(folder, pooling)
    config, model = encoder.config, TaskModel(encoder, head, SCORE)
    max_length = min(max_length, tokenizer_length(folder) or max_length, config.max_position_embeddings)
    model.to(find_device("auto"))

    def compute(tokens: Tensor, starts: Tensor) -> Tensor:
        hidden = encoder(tokens, starts)
        return head.features(hidden, starts) if config.mlm_transform else pool(hidden, starts, pooling)

    features = each(
        model,
        Tokenizer.load(folder),
        texts,
        compute,
        config.hidden_size,
        max_length=max_length,
        dtype=dtype,
        on_progress=on_progress,
        what="reading marked texts",
    )
    weight, centre, found = _ridge(features, wanted)
    _set_head(model.cpu().head, weight, centre, float(wanted.mean()))
    with atomic_folder(Path(target), sealed=True) as staging:
        hub.save(model, staging, folder, _card(found, pooling, max_length))
        tell_length(staging, max_length)
    return found


def _card(found: Fit, pooling: str, max_length: int) -> str:
    return (
        f"# A score for texts\n\nRidge regression ({pooling} pooling, {max_length} tokens) on {found.texts:,} marked "
        f"texts; leave-one-out R2 {found.r2:.3f}, correlation {found.correlation:.3f}.\n"
    )


def _without_classifier(folder: Path, pooling: Literal["mean", "cls"]) -> tuple[Encoder, DocumentHead]:
    """The encoder of the folder, and a regression head whose own layers are yet to be set."""
    head = DocumentHead(hub.read_config(folder), 1, pooling)
    if isinstance(head.transform, ClassificationDense):
        return hub.load_own_encoder(folder), head
    base = hub.load(folder)
    head.transform.load_state_dict(base.transform.state_dict())
    return base.encoder, head


def _ridge(features: NDArray[np.float32], marks: NDArray[np.float64]) -> tuple[Tensor, Tensor, Fit]:
    """(weight [C], mean feature [C], how good): a mark is foretold as mean mark + weight @ (feature - mean feature)."""
    from sklearn.linear_model import RidgeCV

    x = features.astype(np.float64)
    centre = x.mean(0)
    x -= centre
    unit = float(np.square(x).sum()) / x.shape[1]  # of the penalties: n times the mean variance of a feature
    if not unit:
        raise ValueError("the model gives all texts the same vector, so no marks can be fitted to it")
    # With a scoring, sklearn keeps the marks foretold without each text, else only their squared errors.
    ridge = RidgeCV(_PENALTIES * unit, scoring="neg_mean_squared_error", store_cv_results=True).fit(x, marks)
    best = int(np.argmin(np.abs(_PENALTIES * unit - ridge.alpha_)))
    foretold = ridge.cv_results_[:, best]
    how = Fit(
        texts=len(x),
        penalty=float(_PENALTIES[best]),
        r2=float(1 - np.square(marks - foretold).sum() / np.square(marks - marks.mean()).sum()),
        correlation=float(np.corrcoef(marks, foretold)[0, 1]),
    )
    return torch.from_numpy(ridge.coef_), torch.from_numpy(centre), how


@torch.no_grad()
def _set_head(head: Any, weight: Tensor, centre: Tensor, mean: float) -> None:
    """Makes the head compute mean + weight @ (feature - centre)."""
    last = head.classifier
    if isinstance(head.transform, ClassificationDense):
        dense = head.transform.dense
        for parameter in (*dense.parameters(), *last.parameters()):
            parameter.zero_()
        for row, sign in enumerate((1.0, -1.0)):
            dense.weight[row] = sign * weight
            dense.bias[row] = -sign * (weight @ centre)
            last.weight[0, row] = sign
        last.bias.fill_(mean)
    else:
        last.weight.copy_(weight[None])
        last.bias.fill_(mean - float(weight @ centre))
