"""Tracing: a padded forward pass as an ONNX graph with batch and length free, and OpenVINO's graph out of that one.

OpenVINO's graph is made from the ONNX one: read from PyTorch directly it is no faster, and that of one small model
failed at its first call.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from tessera.export.padded import PaddedEmbedder, PaddedMaskedLM, PaddedTask, PaddedTransformers
from tessera.huggingface.transformers_model import TransformersConfig
from tessera.inference.runtime import FILES
from tessera.plan.architecture import EncoderConfig
from tessera.plan.shipped import pip_line

To = Literal["onnx", "openvino"]
Padded = PaddedEmbedder | PaddedMaskedLM | PaddedTask | PaddedTransformers

TEXTS = (  # several scripts, and a text of nothing; lengths come from LENGTHS
    "",
    "A small tile of a mosaic.",
    "Ein Haus am Fluss, und dahinter der Wald.",
    "Он читает старую книгу у окна.",
    "市場で魚を買いました。",
    "كتاب قديم على الطاولة",
    "Ἐν ἀρχῇ ἦν ὁ λόγος 👍🏽",
)
LENGTHS = (1, 2, 7, 63, 64, 65, 129, 200, 700)  # tokens: below, at and above a block, beyond the window on both sides
_TWO_GIGABYTES = 2**31 - 2**24  # what one ONNX file may hold, with room for its graph


def need(to: str, *more: str) -> None:
    """Raises ValueError for an unknown engine, ImportError with the line to type where a package is missing."""
    if to not in FILES:
        raise ValueError(f"to is {to!r}; give onnx or openvino")
    for package in ("onnx", "onnxruntime", "onnxscript", *(["openvino"] if to == "openvino" else []), *more):
        if find_spec(package) is None:
            raise ImportError(f"export needs {package}; {pip_line('export')}")


def about(config: EncoderConfig | TransformersConfig, to: To, output: str) -> dict[str, Any]:
    """What is written down of a graph, and of an encoder that is none of our own families, for `Runtime.open`."""
    encoder = {"encoder": asdict(config)} if isinstance(config, TransformersConfig) else {}
    return {"engine": to, "output": output, **encoder}


def write_graph(padded: Padded, folder: Path, to: To) -> None:
    """The graph of the model alone, float32. Raises ValueError for a class of transformers that cannot be traced."""
    with quiet():
        trace(padded, folder / FILES["onnx"])
        if to == "openvino":
            import openvino

            graph = openvino.convert_model(folder / FILES["onnx"])
            openvino.save_model(graph, folder / FILES["openvino"], compress_to_fp16=False)
            del graph
            for path in folder.glob(FILES["onnx"] + "*"):
                path.unlink()


def trace(padded: Padded, path: Path) -> None:
    """The ONNX graph; beyond two gigabytes its weights lie in a file beside it. Raises ValueError as `write_graph`."""
    try:
        program = _program(padded.eval())
    except Exception as error:  # of whatever kind torch's exporter raises over code that is not written for it
        if not isinstance(padded.config, TransformersConfig):
            raise
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"transformers' {padded.config.model_type} cannot be traced as a graph ({type(error).__name__}: {said})"
        ) from error
    size = sum(weight.nbytes for weight in padded.state_dict().values())
    program.save(path, external_data=size > _TWO_GIGABYTES)


def _program(padded: Padded) -> Any:
    """torch's ONNX program, batch and length free."""
    free = torch.export.Dim.DYNAMIC
    length = min(37, padded.config.max_position_embeddings)
    example = torch.arange(2 * length).reshape(2, -1) % padded.config.vocab_size
    given = (example, torch.ones_like(example), torch.zeros_like(example))[: len(padded.inputs)]
    with torch.no_grad():
        program = torch.onnx.export(
            padded,
            given,
            dynamo=True,
            dynamic_shapes={name: {0: free, 1: free} for name in padded.inputs},
            input_names=list(padded.inputs),
            output_names=list(padded.outputs),
            verbose=False,
        )
    assert program is not None
    return program


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say about packages that nobody asked for; logging is afterwards as it was.

    A conversion that fails in OpenVINO leaves the root logger at ERROR, with a filter and a handler of its own: what
    tessera warns of later in the same process would not be heard.
    """
    root = logging.root
    before, level, filters, handlers = root.manager.disable, root.level, root.filters[:], root.handlers[:]
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers
