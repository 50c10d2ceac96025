"""Inference with OpenVINO or ONNX Runtime: an exported model behind the interface of an Encoder.

    runtime = Runtime.open(folder)
    hidden = runtime(tokens, starts)          # [T, C], as model.encoder.Encoder gives them

Documents come and go end to end; inside they are padded, those of similar length together.
"""

# Shapes: T tokens of N documents end to end, C hidden size, P width of a vector, B rows of L tokens in one call.

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from tessera import checksums
from tessera.huggingface import hub
from tessera.huggingface.transformers_model import TransformersConfig
from tessera.json_files import Strictly, read_as
from tessera.model.precision import compute_dtype
from tessera.plan.architecture import EncoderConfig
from tessera.plan.errors import one_line
from tessera.plan.shipped import pip_line
from tessera.signals import on_own_stack

Ints = NDArray[np.int64]
Tokens = NDArray[np.integer]
Floats = NDArray[np.float32]
Call = Callable[[dict[str, Ints], str], Floats]  # input_ids, attention_mask ... [B, L], the output that is wanted
Names = tuple[str, ...]
Dtype = Literal["auto", "float32", "bfloat16"]

FILES = {"openvino": "openvino_model.xml", "onnx": "model.onnx"}
INPUTS = ("input_ids", "attention_mask")
SEGMENTS = "token_type_ids"  # of a graph that tells the two texts of a pair apart
STATES, VECTORS, LOGITS = "last_hidden_state", "sentence_embedding", "logits"  # as runtimes look for them
ABOUT = "tessera_export.json"  # what the graph gives, what it was checked against, what it was quantized with

_CALL_TOKENS = 4096  # of one call, padding included
_WASTE = 0.1  # share of a call's tokens that may be padding


class Runtime(nn.Module):
    """A graph in a folder, ready to run on the CPU. Calls do not change it; threads may share it.

    config   as in config.json
    engine   openvino or onnx
    inputs   input_ids, attention_mask, and token_type_ids where it reads those
    outputs  of last_hidden_state, sentence_embedding, logits
    dtype    in which it computes; what is int8 in the graph stays so
    int8     whether its products are, as `tessera quantize` writes it
    """

    def __init__(
        self,
        config: EncoderConfig | TransformersConfig,
        engine: str,
        dtype: torch.dtype,
        inputs: Names,
        outputs: Names,
        call: Call,
        int8: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.engine, self.dtype, self.call, self.int8 = config, engine, dtype, call, int8
        self.inputs, self.outputs = inputs, outputs

    @classmethod
    def open(cls, folder: str | Path, *, dtype: Dtype = "auto", threads: int | None = None) -> Self:
        """The graph that `tessera export` or `tessera quantize` wrote.

        dtype    auto is bfloat16 under OpenVINO where the processor multiplies in it, float32 elsewhere
        threads  of the runtime; None: those of torch

        Raises ValueError for a folder without a graph, or with one that is not what was written, and for bfloat16
        under ONNX Runtime, which has none on a CPU; ImportError where the runtime is not installed.
        """
        folder = Path(folder)
        engine = kind(folder)
        if engine is None:
            raise ValueError(
                f"{folder}: neither {' nor '.join(FILES.values())} is there; write one with tessera export"
            )
        if engine == "onnx" and dtype == "bfloat16":
            raise ValueError(f"{folder}: ONNX Runtime has no bfloat16 on a CPU; give dtype float32, or export openvino")
        number = compute_dtype(dtype, torch.device("cpu")) if engine == "openvino" else torch.float32
        for path in sorted(folder.glob(f"{Path(FILES[engine]).stem}*")):  # the graph, and the weights beside it
            checksums.check(path)
        start = _openvino if engine == "openvino" else _onnx
        config, path = _config(folder), folder / FILES[engine]
        try:
            inputs, outputs, call = start(path, number, threads or torch.get_num_threads())
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # each library has errors of its own
            raise ValueError(f"{path}: is no graph that {engine} can read: {str(error).strip()[:200]}") from None
        return cls(config, engine, number, inputs, outputs, call, _in_int8(folder))

    def forward(self, tokens: Tensor, starts: Tensor, segments: Tensor | None = None) -> Tensor:
        """tokens [T], starts [N+1] -> hidden states [T, C], float32.

        Where the graph gives logits these: [T, V] of a masked language model, of the head of a task [T, K] where it
        scores tokens, [N, K] where it scores documents.

        segments  [T], of each token; a graph that does not tell them apart does not look at them
        """
        wanted = LOGITS if self.outputs == (LOGITS,) else STATES
        found = torch.empty(0)
        for rows, inputs in self._calls(tokens, starts, segments):
            given = self.call(inputs, wanted)
            if not len(found):
                found = torch.empty(len(tokens) if given.ndim == 3 else len(starts) - 1, given.shape[-1])
            if given.ndim == 2:
                found[rows] = torch.from_numpy(given)
                continue
            for row, number in enumerate(rows):
                begin, end = int(starts[number]), int(starts[number + 1])
                found[begin:end] = torch.from_numpy(given[row, : end - begin])
        return found

    def vectors(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """tokens [T], starts [N+1] -> the vector of each document [N, P], pooled as it was exported, float32."""
        if VECTORS not in self.outputs:
            raise ValueError(f"this graph gives {', '.join(self.outputs)}; export it with embeddings as its output")
        parts = [(rows, self.call(inputs, VECTORS)) for rows, inputs in self._calls(tokens, starts)]
        found = torch.empty(len(starts) - 1, parts[0][1].shape[1] if parts else 0)
        for rows, given in parts:
            found[rows] = torch.from_numpy(given)
        return found

    def _calls(
        self, tokens: Tensor, starts: Tensor, segments: Tensor | None = None
    ) -> Iterator[tuple[list[int], dict[str, Ints]]]:
        """(numbers of the documents, inputs), the longest first."""
        edges = starts.cpu().numpy()
        lengths = np.diff(edges)
        if len(lengths) and lengths.max() > self.config.max_position_embeddings:
            raise ValueError(
                f"a document has {lengths.max()} tokens, more than the model's {self.config.max_position_embeddings}"
            )
        ids = np.split(tokens.cpu().numpy(), edges[1:-1])
        told = None if segments is None else np.split(segments.cpu().numpy(), edges[1:-1])
        for rows in together(lengths):
            yield rows, self.given([ids[n] for n in rows], None if told is None else [told[n] for n in rows])

    def given(self, ids: Sequence[Tokens], segments: Sequence[Tokens] | None = None) -> dict[str, Ints]:
        """The inputs of a call: documents padded to one length; without segments these are 0."""
        inputs = dict(zip(INPUTS, padded(ids, self.config.pad_token_id or 0), strict=True))
        if SEGMENTS in self.inputs:
            inputs[SEGMENTS] = np.zeros_like(inputs[INPUTS[0]]) if segments is None else padded(segments)[0]
        return inputs


def _config(folder: Path) -> EncoderConfig | TransformersConfig:
    """What config.json says of our families; of another what was written down when it was exported."""
    if hub.is_ours(folder):
        return hub.read_config(folder)
    if not (folder / ABOUT).is_file():
        raise ValueError(
            f"{folder}: its graph was not written by tessera export, so nobody knows what it computes; give the folder "
            "with the model's weights"
        )
    said = read_as(_About, folder / ABOUT).encoder
    try:
        return TypeAdapter(TransformersConfig).validate_python(said)
    except ValidationError as error:
        raise ValueError(f"{folder / ABOUT}: encoder: {one_line(error)}") from None


def _in_int8(folder: Path) -> bool:
    """Whether it was quantized, by what was written down then."""
    return (folder / ABOUT).is_file() and read_as(_Quantized, folder / ABOUT).int8 is not None


class _Quantized(Strictly):
    int8: dict[str, Any] | None = None  # how


class _About(Strictly):
    encoder: dict[str, Any]  # of another family: its TransformersConfig


def padded(documents: Sequence[Tokens], padding: int = 0) -> tuple[Ints, Ints]:
    """Padding: input_ids and attention_mask [B, L], 1 where there is a token."""
    ids = np.full((len(documents), max(1, *map(len, documents))), padding, np.int64)
    mask = np.zeros_like(ids)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
        mask[row, : len(document)] = 1
    return ids, mask


def together(lengths: NDArray[np.int64]) -> Iterator[list[int]]:
    """Numbers of the documents that share a call, the longest first: little padding, and calls of a good size.

    Not data/packing.by_length: here a call costs its padding as well, so how much of it there is ends a batch too.
    """
    rows: list[int] = []
    real = 0
    for number in np.argsort(-lengths, kind="stable").tolist():
        if rows:
            padded = (len(rows) + 1) * int(lengths[rows[0]])
            if padded > _CALL_TOKENS or padded - real - lengths[number] > _WASTE * padded:
                yield rows
                rows, real = [], 0
        rows.append(number)
        real += int(lengths[number])
    if rows:
        yield rows


def kind(folder: Path) -> str | None:
    """Which engine runs what is in the folder; None where it holds no graph, or one of another tool beside weights."""
    if not (folder / ABOUT).is_file() and any(folder.glob("*.safetensors")):
        return None
    return next((engine for engine, name in FILES.items() if (folder / name).is_file()), None)


def copyable(folder: Path | None) -> Path:
    """The folder of a model that may be written anew with another pipeline. Raises ValueError for none, and for that of
    a graph, which has its pipeline in it."""
    if folder is None:
        raise ValueError("this Encoder was not read from a folder; write its model with huggingface.hub.save first")
    if kind(folder) is not None:
        raise ValueError(
            f"{folder} holds an exported graph; save the model that it was exported from, and export that again"
        )
    return folder


def refuse_without_states(model: nn.Module, folder: Path | None) -> None:
    """Raises ValueError for a graph that was exported for its logits and so gives no embeddings."""
    if isinstance(model, Runtime) and STATES not in model.outputs:
        raise ValueError(
            f"{folder}: this graph gives {', '.join(model.outputs)} (it fills masks, or has the head of a task) and no "
            "embeddings; export the model with --output embeddings for those"
        )


def refuse_without_logits(model: Runtime, folder: Path) -> None:
    """Raises ValueError for a graph that was exported for embeddings, without the head of its task."""
    if model.outputs != (LOGITS,):
        raise ValueError(
            f"{folder}: this graph gives {', '.join(model.outputs)} and has no head; export the model without "
            "--drop-head for what its head says"
        )


# ----------------------------------------------------------------------------------------------------------- engines


def _openvino(path: Path, dtype: torch.dtype, threads: int) -> tuple[Names, Names, Call]:
    try:
        import openvino
    except ImportError:
        raise ImportError(f"an OpenVINO graph needs openvino; {pip_line('export')}") from None
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype is torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    on_own_stack()
    own = threading.local()  # a request holds the numbers of one call

    def call(given: dict[str, Ints], wanted: str) -> Floats:
        first = not hasattr(own, "request")
        if first:
            own.request = compiled.create_infer_request()
        own.request.infer(given)
        if first:
            on_own_stack()
        return np.array(own.request.get_tensor(wanted).data, np.float32)  # a copy: the next call writes there

    known = {*INPUTS, SEGMENTS, STATES, VECTORS, LOGITS}  # a part of a graph may have several names
    inputs, outputs = (
        tuple(min(one.get_names(), key=lambda name: (name not in known, name)) for one in some)
        for some in (compiled.inputs, compiled.outputs)
    )
    return inputs, outputs, call


def _onnx(path: Path, dtype: torch.dtype, threads: int) -> tuple[Names, Names, Call]:
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(f"an ONNX graph needs onnxruntime; {pip_line('export')}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def call(given: dict[str, Ints], wanted: str) -> Floats:
        found = session.run([wanted], given)[0]
        assert isinstance(found, np.ndarray)
        return found

    inputs, outputs = (tuple(one.name for one in some) for some in (session.get_inputs(), session.get_outputs()))
    return inputs, outputs, call
