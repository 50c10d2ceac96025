"""Inference with OpenVINO or ONNX Runtime: an exported model behind the interface of an Encoder.

    runtime = Runtime.open(folder)
    hidden = runtime(tokens, starts)          # [T, C], as model.encoder.Encoder gives them

Documents come and go end to end; inside they are padded, those of similar length together.
"""

# Shapes: T tokens of N documents end to end, C hidden size, P width of a vector, B rows of L tokens in one call.

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.model import hub
from tessera.model.precision import compute_dtype
from tessera.plan.architecture import EncoderConfig
from tessera.plan.shipped import pip_line

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Call = Callable[[Ints, Ints, str], Floats]  # input_ids, attention_mask [B, L], the output that is wanted
Dtype = Literal["auto", "float32", "bfloat16"]

FILES = {"openvino": "openvino_model.xml", "onnx": "model.onnx"}
INPUTS = ("input_ids", "attention_mask")
STATES, VECTORS, LOGITS = "last_hidden_state", "sentence_embedding", "logits"  # as runtimes look for them
ABOUT = "tessera_export.json"  # what the graph gives, what it was checked against, what it was quantized with

_CALL_TOKENS = 4096  # of one call, padding included
_WASTE = 0.1  # share of a call's tokens that may be padding


class Runtime(nn.Module):
    """A graph in a folder, ready to run on the CPU. Calls do not change it; threads may share it.

    config   as in config.json
    engine   openvino or onnx
    outputs  of last_hidden_state, sentence_embedding, logits
    dtype    in which it computes; what is int8 in the graph stays so
    """

    def __init__(self, config: EncoderConfig, engine: str, dtype: torch.dtype, outputs: tuple[str, ...], call: Call):
        super().__init__()
        self.config, self.engine, self.dtype, self.outputs, self.call = config, engine, dtype, outputs, call

    @classmethod
    def open(cls, folder: str | Path, *, dtype: Dtype = "auto", threads: int | None = None) -> Self:
        """The graph that `tessera export` or `tessera quantize` wrote.

        dtype    auto is bfloat16 under OpenVINO where the processor multiplies in it, float32 elsewhere
        threads  of the runtime; None: those of torch

        Raises ValueError for a folder without a graph and for bfloat16 under ONNX Runtime, which has none on a CPU;
        ImportError where the runtime is not installed.
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
        start = _openvino if engine == "openvino" else _onnx
        outputs, call = start(folder / FILES[engine], number, threads or torch.get_num_threads())
        return cls(hub.read_config(folder), engine, number, outputs, call)

    def forward(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """tokens [T], starts [N+1] -> hidden states [T, C], float32; logits [T, V] where the graph gives those."""
        wanted = LOGITS if self.outputs == (LOGITS,) else STATES
        found = torch.empty(0)
        for rows, ids, mask in self._calls(tokens, starts):
            given = self.call(ids, mask, wanted)
            if not len(found):
                found = torch.empty(len(tokens), given.shape[2])
            for row, number in enumerate(rows):
                begin, end = int(starts[number]), int(starts[number + 1])
                found[begin:end] = torch.from_numpy(given[row, : end - begin])
        return found

    def vectors(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """tokens [T], starts [N+1] -> the vector of each document [N, P], pooled as it was exported, float32."""
        if VECTORS not in self.outputs:
            raise ValueError(f"this graph gives {', '.join(self.outputs)}; export it with embeddings as its output")
        parts = [(rows, self.call(ids, mask, VECTORS)) for rows, ids, mask in self._calls(tokens, starts)]
        found = torch.empty(len(starts) - 1, parts[0][1].shape[1] if parts else 0)
        for rows, given in parts:
            found[rows] = torch.from_numpy(given)
        return found

    def _calls(self, tokens: Tensor, starts: Tensor) -> Iterator[tuple[list[int], Ints, Ints]]:
        """(numbers of the documents, input_ids, attention_mask), the longest first."""
        ids, edges = tokens.cpu().numpy(), starts.cpu().numpy()
        lengths = np.diff(edges)
        if len(lengths) and lengths.max() > self.config.max_position_embeddings:
            raise ValueError(
                f"a document has {lengths.max()} tokens, more than the model's {self.config.max_position_embeddings}"
            )
        padding = self.config.pad_token_id or 0
        for rows in together(lengths):
            yield rows, *padded([ids[edges[number] : edges[number + 1]] for number in rows], padding)


def padded(documents: Sequence[NDArray[np.integer]], padding: int = 0) -> tuple[Ints, Ints]:
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
    """Which engine runs what is in the folder; None where it holds no graph."""
    return next((engine for engine, name in FILES.items() if (folder / name).is_file()), None)


def refuse_without_states(model: nn.Module, folder: Path | None) -> None:
    """Raises ValueError for a graph that was exported for its logits and so gives no embeddings."""
    if isinstance(model, Runtime) and STATES not in model.outputs:
        raise ValueError(
            f"{folder}: this graph gives {', '.join(model.outputs)}, so it fills masks and has no embeddings; export "
            "the model with --output embeddings for those"
        )


# ----------------------------------------------------------------------------------------------------------- engines


def _openvino(path: Path, dtype: torch.dtype, threads: int) -> tuple[tuple[str, ...], Call]:
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
    own = threading.local()  # a request holds the numbers of one call

    def call(ids: Ints, mask: Ints, wanted: str) -> Floats:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        own.request.infer(dict(zip(INPUTS, (ids, mask), strict=True)))
        return np.array(own.request.get_tensor(wanted).data, np.float32)  # a copy: the next call writes there

    return tuple(output.get_any_name() for output in compiled.outputs), call


def _onnx(path: Path, dtype: torch.dtype, threads: int) -> tuple[tuple[str, ...], Call]:
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(f"an ONNX graph needs onnxruntime; {pip_line('export')}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def call(ids: Ints, mask: Ints, wanted: str) -> Floats:
        found = session.run([wanted], dict(zip(INPUTS, (ids, mask), strict=True)))[0]
        assert isinstance(found, np.ndarray)
        return found

    return tuple(output.name for output in session.get_outputs()), call
