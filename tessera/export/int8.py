"""int8 weights and activations: a graph of ONNX Runtime or OpenVINO quantized, calibrated on batches of real text."""

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from tessera.export.tracing import To, quiet
from tessera.inference.runtime import FILES, INPUTS, SEGMENTS, Ints, padded
from tessera.inference.tokenize import Ids
from tessera.signals import on_own_stack

Inputs = dict[str, Ints]

BATCH = 8  # texts of a calibration step


def write_int8(source: Path, target: Path, to: To, weights_only: bool, calibrating: Sequence[Inputs]) -> None:
    """The graph in `source` in int8, into `target`; `calibrating`: inputs of calls, for openvino's activations."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        if to == "onnx":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            large = (source / (FILES["onnx"] + ".data")).exists()
            how = {"weight_type": QuantType.QInt8, "per_channel": True, "use_external_data_format": large}
            quantize_dynamic(source / FILES["onnx"], target / FILES["onnx"], **how)
            return
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        graph = openvino.Core().read_model(source / FILES["openvino"])
        if weights_only:
            graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
        else:
            kind = nncf.ModelType.TRANSFORMER
            dataset = nncf.Dataset(list(calibrating))
            graph = nncf.quantize(graph, dataset, subset_size=len(calibrating), model_type=kind)
        on_own_stack()
        openvino.save_model(graph, target / FILES["openvino"], compress_to_fp16=False)


def batches(ids: Sequence[Ids], segments: Sequence[Ids] = ()) -> list[Inputs]:
    """For calibration: so many texts a step whatever their length, the longest first."""
    order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
    found = []
    for first in range(0, len(order), BATCH):
        some = order[first : first + BATCH]
        inputs = dict(zip(INPUTS, padded([ids[n] for n in some]), strict=True))
        found.append({**inputs, **({SEGMENTS: padded([segments[n] for n in some])[0]} if segments else {})})
    return found


def size(folder: Path) -> int:
    """Bytes of the graph in a folder."""
    return sum(path.stat().st_size for name in ("openvino_model.*", "model.onnx*") for path in folder.glob(name))
