"""Saving of fine-tuned models: a Hugging Face folder with its head, compared with transformers before it counts.

What AutoModelForSequenceClassification and its like make of the folder is held against our own logits on real rows, in
float32, before the folder gets its name; so are the scores of CrossEncoder.
"""

# Shapes: D documents, T tokens of them, K labels, n texts, h width of a vector.

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.data.examples import Labelled
from tessera.files import atomic_folder, write_json
from tessera.finetune.learner import Learner
from tessera.huggingface import hub
from tessera.huggingface.hf_files import config_json
from tessera.huggingface.task_heads import TaskModel
from tessera.huggingface.transformers_model import quietly
from tessera.inference.tokenize import Ids
from tessera.json_files import read_json
from tessera.model.encoder import pack
from tessera.model.task_config import TaskConfig
from tessera.plan.shipped import pip_line
from tessera.prediction.features import HEADS, Example

TOLERANCE = 1e-5  # of logits in float32, in parts of their size where that is more than 1
COMPARED = 16  # documents


def save(
    learner: Learner,
    source: Path,
    folder: Path,
    examples: Sequence[Example],
    *,
    labels: Sequence[str] = (),
    pair: bool = False,
    thresholds: Sequence[float] = (),
    card: str | None = None,
) -> float:
    """Writes a fine-tuned model, whole or not at all, and returns by how much transformers' logits differ at most.

    source      the folder that the model came from: its tokenizer goes along
    examples    rows of its kind on which both are compared; labels are not looked at
    labels      their names, in the order of the logits
    thresholds  multilabel: from which probability on each label holds

    Raises FileExistsError where `folder` holds something, ValueError where transformers has no class for this kind and
    family, or computes something else.
    """
    reader = learner.reader
    task = TaskConfig(
        kind=HEADS[reader.kind],
        labels=tuple(labels),
        pair=pair,
        thresholds=tuple(thresholds),
        labelling=reader.labelling,
        stride=reader.stride,
        no_answer=reader.no_answer,
    )
    model = TaskModel(learner.encoder, _scaled(learner), task).eval()
    with atomic_folder(Path(folder), sealed=True) as draft:
        hub.save(model, draft, source, card)
        tell_length(draft, reader.max_length)
        documents = [one for item in reader.items(examples[:COMPARED]) for one in item.documents][:COMPARED]
        difference = compare(model, draft, documents)
        if task.kind == "rerank":
            pairs = [(e.text, e.second or "") for e in examples[:COMPARED] if isinstance(e, Labelled)]
            difference = max(difference, _compare_scores(learner, draft, pairs))
    return difference


def _compare_scores(learner: Learner, folder: Path, pairs: Sequence[tuple[str, str]]) -> float:
    """The largest difference of scores, from 0 to 1, to those of sentence-transformers' CrossEncoder."""
    need_sentence_transformers()
    with quietly():
        from sentence_transformers import CrossEncoder

        theirs = CrossEncoder(str(folder), device="cpu", local_files_only=True)
        due = theirs.predict([list(pair) for pair in pairs], show_progress_bar=False)
    from tessera.prediction.predictor import Predictor

    mine = Predictor.from_pretrained(folder, device="cpu", dtype="float32").predict(pairs)
    worst = gap(np.array([[row["score"]] for row in mine]), np.asarray(due)[:, None])
    if not worst <= TOLERANCE:
        raise ValueError(f"nothing was written: CrossEncoder gives other scores, by up to {worst:.1e}")
    return worst


def gap(mine: NDArray[Any], due: NDArray[Any]) -> float:
    """The largest difference of two [n, h], in parts of the length of a row where that is more than 1."""
    return float((np.abs(mine - due) / np.maximum(np.linalg.norm(due, axis=1, keepdims=True), 1.0)).max())


def need_sentence_transformers() -> None:
    if find_spec("sentence_transformers") is None:
        raise ImportError(f"a folder is compared with sentence-transformers, which is not here; {pip_line('evaluate')}")


@torch.no_grad()
def _scaled(learner: Learner) -> Any:
    """The head; that of a regression gives the number itself, not what it learned in place of it."""
    head = learner.head
    if learner.reader.kind != "regress" or (learner.centre, learner.scale) == (0.0, 1.0):
        return head
    last = [part for part in head.modules() if isinstance(part, torch.nn.Linear) and part.out_features == 1][-1]
    last.weight.mul_(learner.scale)
    last.bias.mul_(learner.scale).add_(learner.centre)
    learner.centre, learner.scale = 0.0, 1.0
    return head


def tell_length(folder: Path, max_length: int) -> None:
    """Makes a folder say how many tokens its model reads of a text."""
    place = folder / "tokenizer_config.json"
    said = read_json(place) if place.is_file() else {}
    write_json(place, {**said, "model_max_length": max_length})


@torch.no_grad()
def compare(model: TaskModel, folder: Path, documents: Sequence[Ids]) -> float:
    """The largest difference of logits between a model and what transformers makes of its folder, on documents.

    Raises ValueError where it is more than TOLERANCE, or a weight is missing or unknown there.
    """
    import transformers

    name = next(iter(config_json(folder).get("architectures") or []), "")
    with quietly():
        theirs, told = getattr(transformers, name).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False, local_files_only=True
        )
    if wrong := [*told["missing_keys"], *told["unexpected_keys"]]:
        raise ValueError(f"{name} of transformers does not know the weights that were written: {wrong[0]}")
    worst = 0.0
    device = next(model.parameters()).device
    for document in documents:
        ids = torch.from_numpy(np.asarray(document, np.int64))[None]
        mine = model(*pack([document], device)).float().cpu()
        due = _their_logits(theirs.eval(), ids)
        worst = max(worst, float(((mine - due).abs() / due.abs().clamp(min=1.0)).max()))
    if not worst <= TOLERANCE:
        raise ValueError(f"nothing was written: {name} of transformers gives other logits, by up to {worst:.1e}")
    return worst


def _their_logits(model: Any, ids: Tensor) -> Tensor:
    """[1, K] of a document, [T, K] of its tokens."""
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if type(model).__name__.endswith("ForMultipleChoice"):
        return model(**{key: value[None] for key, value in given.items()}).logits
    found = model(**given)
    if "start_logits" in found:
        return torch.stack((found.start_logits[0], found.end_logits[0]), dim=-1)
    return found.logits[0] if found.logits.ndim == 3 else found.logits
