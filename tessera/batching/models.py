"""Served models: what a folder is decides what it answers; heads on one frozen trunk share it.

    models = open_models(["runs/topics", "e5=/models/e5-small"])

A folder with the head of a task answers for that task; any other gives embeddings, and fills masks where the head of
its masked language model is there.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tessera.batching.heads import MaskHead, StatesHead, TaskHead, VectorHead
from tessera.batching.worker import Trunk
from tessera.huggingface import hub
from tessera.huggingface.hf_files import config_json, refuse_adapter
from tessera.huggingface.task_heads import TaskModel
from tessera.huggingface.transformers_model import TransformersEncoder
from tessera.inference import runtime, sentence_folder, tuned
from tessera.inference.encoder import Encoder
from tessera.inference.fill_mask import MaskFiller
from tessera.model.task_config import names_task
from tessera.packed.bert import PackedBert
from tessera.packed.encoder import PackedEncoder
from tessera.prediction.predictor import Predictor
from tessera.secrets import is_url
from tessera.tokenizer.tokenizer import Tokenizer

Dtype = Literal["auto", "float32", "bfloat16"]
Answers = Literal["embeddings", "fill", "classes", "number", "scores", "tags", "spans", "options"]
_OF_KIND: dict[str, Answers] = {
    "classify": "classes", "multilabel": "classes", "regress": "number", "rerank": "scores", "tag": "tags",
    "span": "spans", "choose": "options",
}  # fmt: skip

_OF_HEADS = (  # what a config.json says of a head and not of the encoder beneath
    "architectures", "id2label", "label2id", "num_labels", "problem_type", "task", "sentence_transformers",
    "classifier_dropout", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "return_dict",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Served:
    """One folder under its name.

    answers  what it can be asked for
    engine   what computes it, and why, in words
    trunk    its network, which others may share
    """

    name: str
    answers: tuple[Answers, ...]
    engine: str
    trunk: Trunk
    tokenizer: Tokenizer
    max_length: int
    encoder: Encoder | None = None
    predictor: Predictor | None = None
    filler: MaskFiller | None = None
    vectors: VectorHead | None = None
    states: StatesHead | None = None
    task: TaskHead | None = None
    masks: MaskHead | None = None
    shares: str = ""  # the name of the model whose trunk this is

    @property
    def kind(self) -> str:
        """classify, tag ... of a folder with the head of a task; else embed."""
        return self.predictor.kind if self.predictor else "embed"

    @property
    def labels(self) -> tuple[str, ...]:
        """Of its head."""
        return self.predictor.labels if self.predictor else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """On what all models run."""

    device: str = "auto"
    dtype: Dtype = "auto"
    attention: str = "auto"
    max_length: int | None = None  # tokens of a text; None: as each folder says
    threads: int | None = None  # of what was tuned with others; None: its own


def open_models(given: Sequence[str], how: How) -> list[Served]:
    """The models of folders, in their order; each is a folder, a name on the Hub, or NAME=FOLDER.

    Raises ValueError as Encoder and Predictor do, and where two have one name.
    """
    names = [_name(one) for one in given]
    if twice := [name for name, _ in names if sum(name == other for other, _ in names) > 1]:
        raise ValueError(f"two models are called {twice[0]!r}; give one of them another name: NAME=FOLDER")
    known: dict[str, tuple[str, nn.Module, Trunk]] = {}  # by fingerprint: whose it is, its weights, what runs
    threads = torch.get_num_threads()
    try:
        return [_open(name, folder, how, known, several=len(given) > 1) for name, folder in names]
    finally:
        torch.set_num_threads(threads)  # what was tuned with others takes them as it runs


def _name(given: str) -> tuple[str, Path]:
    """(name, folder)."""
    name, equals, place = given.partition("=")
    if not equals or Path(given).is_dir() or is_url(given):
        name, place = "", given
    folder = sentence_folder.local(place)
    own = name or Path(place).absolute().name
    if own in ("final", "best") or own.startswith("checkpoint-"):  # of a run, whose folder has the name
        own = name or folder.absolute().parent.name
    return own, folder


def _open(
    name: str, folder: Path, how: How, known: dict[str, tuple[str, nn.Module, Trunk]], *, several: bool
) -> Served:
    """One folder; its trunk is one that is there already where the weights are equal."""
    ends_in_vectors = sentence_folder.ends_in_vectors(folder)
    if not ends_in_vectors and names_task(config_json(folder)):
        return _task(name, folder, how, known, several=several)
    pipeline, inside = sentence_folder.read(folder)
    refuse_adapter(inside)
    chosen, shares = _chosen(inside, how, head=False), ""
    if runtime.kind(inside) is not None or _alone(chosen):
        encoder = Encoder.from_pretrained(folder, dtype=how.dtype, threads=how.threads)
        engine = encoder.engine
        trunk = Trunk(engine.model, engine.device, engine.dtype, chosen)
    else:
        weights = hub.load_encoder(inside, how.attention, drop_head=False)
        more: dict[str, Any] = {"device": how.device, "dtype": how.dtype if chosen is None else chosen.dtype}
        print_ = _fingerprint(weights) if several else ""
        encoder = Encoder(weights, Tokenizer.load(inside), pipeline, source=inside, **more)
        engine = encoder.engine
        trunk = Trunk(engine.model, engine.device, engine.dtype, chosen)
        if several:
            shares, _, trunk = known.setdefault(f"{print_} {trunk.dtype}", (name, weights, trunk))
            if shares != name:
                engine.model = trunk.model
    filler = _filler(encoder, inside)
    graph = engine.model if isinstance(engine.model, runtime.Runtime) else None
    embeds = graph is None or runtime.STATES in graph.outputs
    return Served(
        name=name,
        answers=(*(("embeddings",) if embeds else ()), *(("fill",) if filler else ())),
        engine=_engine(trunk),
        trunk=trunk,
        tokenizer=encoder.tokenizer,
        max_length=min(how.max_length or encoder.max_seq_length, encoder.max_seq_length),
        encoder=encoder,
        filler=filler,
        vectors=VectorHead(engine) if embeds else None,
        states=StatesHead() if embeds else None,
        masks=MaskHead(filler) if filler else None,
        shares="" if shares == name else shares,
    )


def _task(
    name: str, folder: Path, how: How, known: dict[str, tuple[str, nn.Module, Trunk]], *, several: bool
) -> Served:
    refuse_adapter(folder)
    chosen, shares = _chosen(folder, how, head=True), ""
    number = how.dtype if chosen is None else chosen.dtype
    more: dict[str, Any] = {"device": how.device, "dtype": number, "max_length": how.max_length}
    if chosen is not None and _alone(chosen):
        predictor = Predictor.of_choice(chosen, folder, folder / tuned.FOLDER, max_length=how.max_length)
        trunk = Trunk(predictor.encoder, predictor.device, predictor.dtype, chosen)
    elif runtime.kind(folder) is not None:
        predictor = Predictor.from_pretrained(folder, **{**more, "device": "auto"})
        trunk = Trunk(predictor.encoder, predictor.device, predictor.dtype)
    else:
        model = hub.load_task(folder, how.attention)
        print_ = _fingerprint(model.encoder) if several else ""
        predictor = Predictor.of(model, Tokenizer.load(folder), folder, **more)
        trunk = Trunk(predictor.encoder, predictor.device, predictor.dtype, chosen)
        shares, weights, trunk = (
            known.setdefault(f"{print_} {trunk.dtype}", (name, model.encoder, trunk)) if several else ("", model, trunk)
        )
        if shares not in ("", name):
            predictor = _on(trunk, weights, predictor)
    return Served(
        name=name,
        answers=(_OF_KIND[predictor.kind],),
        engine=_engine(trunk),
        trunk=trunk,
        tokenizer=predictor.reader.tokenizer,
        max_length=predictor.reader.max_length,
        predictor=predictor,
        task=TaskHead(predictor),
        shares="" if shares == name else shares,
    )


def _chosen(folder: Path, how: How, *, head: bool) -> tuned.Choice | None:
    """What `tessera tune` chose, with the threads that are asked for in place of its own."""
    found = tuned.choice(folder, how.device, how.dtype, how.attention, head=head)
    return found.model_copy(update={"threads": how.threads}) if found is not None and how.threads else found


def _alone(chosen: tuned.Choice | None) -> bool:
    """Whether an engine is of one folder alone, so that its trunk cannot be shared."""
    return chosen is not None and chosen.engine != "packed"


def _on(trunk: Trunk, weights: nn.Module, predictor: Predictor) -> Predictor:
    """The predictor over a trunk that is equal to its own, whose memory is given back."""
    model = predictor.model
    if isinstance(model.encoder, TransformersEncoder):  # its head holds on to the whole class of transformers
        theirs = dict(weights.named_parameters())
        for own, values in model.encoder.named_parameters():
            if own in theirs and "pooler" not in own:
                values.data = theirs[own].data
        return replace(predictor, encoder=trunk.model)
    stand_in: Any = trunk.model  # it has the `config`, which is all that is asked of it
    return replace(predictor, model=TaskModel(stand_in, model.head, model.task), encoder=trunk.model)


def _fingerprint(encoder: Any) -> str:
    """Of weights and shape of an encoder; a pooler and what is said of labels belong to the head."""
    if isinstance(encoder, TransformersEncoder):
        shape: Any = {k: v for k, v in encoder.model.config.to_dict().items() if k not in _OF_HEADS}
    else:
        shape = encoder.config
    digest = hashlib.sha256(f"{type(encoder).__name__} {shape}".encode())
    for name, values in sorted(encoder.named_parameters()):
        if "pooler" not in name:
            digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
            digest.update(values.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _filler(encoder: Encoder, folder: Path) -> MaskFiller | None:
    """What fills masks, where the folder has the head of a masked language model."""
    model = encoder.engine.model
    if isinstance(model, runtime.Runtime) and runtime.kind(folder) is not None:
        there = runtime.LOGITS in model.outputs
    elif hub.is_ours(folder):
        there = hub.has_head(folder)
    else:
        there = next(iter(config_json(folder).get("architectures") or []), "").endswith("ForMaskedLM")
    return MaskFiller.of(model, encoder.tokenizer, folder, encoder.max_seq_length) if there else None


def _engine(trunk: Trunk) -> str:
    """What computes, and why, in words."""
    if trunk.tuned is not None:
        one = trunk.tuned
        return f"{one.name}, {one.threads} threads: tessera tune found it fastest here for {one.goal}"
    number = str(trunk.dtype).removeprefix("torch.")
    if isinstance(trunk.model, runtime.Runtime):
        name = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}[trunk.model.engine]
        products = "int8" if trunk.model.int8 else number
        return f"{name} in {products}: the folder holds its graph"
    if isinstance(trunk.model, PackedEncoder | PackedBert):
        return f"PyTorch, unpadded, weights packed in {number}: no exported graph in the folder, a CPU"
    where = f"PyTorch, unpadded, in {number} on {trunk.device}: no exported graph in the folder"
    if isinstance(trunk.model, TransformersEncoder):
        where += f", and a {trunk.model.config.model_type}, which transformers runs"
    return where
