"""Model card of an exported folder: the lines that run it, and its numerical parity with the model it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.inference.runtime import LOGITS, STATES, VECTORS

_COSINE = 0.99999  # least that float32 must reach, of every token and every vector
_DIFFERENCE = 1e-3  # and the most it may be off
_ROUNDED = {VECTORS: 0.999, STATES: 0.99, LOGITS: 0.99}  # least that bfloat16 must reach; single tokens lose more


@dataclass(frozen=True, slots=True)
class Check:
    """One text or document, from the graph and from our model in float32."""

    text: str  # its beginning, or what it is
    tokens: int
    batch: int  # texts that were in the call
    dtype: str  # in which the graph was run
    output: str
    cosine: float  # the lowest of its tokens', where the output is one of tokens
    difference: float  # the largest |a - b| / (|b| + root mean square of b)

    @property
    def ok(self) -> bool:
        """False also where something is no number."""
        if self.dtype == "float32":
            return self.cosine >= _COSINE and self.difference <= _DIFFERENCE
        return self.cosine >= _ROUNDED[self.output]


_RUN = """\
import numpy
import {package}
import tokenizers

tokenizer = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.enable_padding()
tokenizer.enable_truncation({length})
batch = tokenizer.encode_batch(texts)
ids, mask = (numpy.array([getattr(text, part) for text in batch]) for part in ("ids", "attention_mask"))
{call}
"""
_CALL = {
    "onnx": """\
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
found = session.run(["{output}"], {{"input_ids": ids, "attention_mask": mask}})[0]""",
    "openvino": """\
model = openvino.compile_model(folder + "/openvino_model.xml", "CPU")
found = model({{"input_ids": ids, "attention_mask": mask}})["{output}"]""",
}


def lines(to: str, output: str, length: int) -> str:
    """Python that runs an exported folder without tessera, given `folder` and `texts`; the answer is in `found`."""
    package = "onnxruntime" if to == "onnx" else "openvino"
    return _RUN.format(package=package, length=length, call=_CALL[to].format(output=output))


def card(to: str, output: str, name: str, length: int, notes: str) -> str:
    """README.md of an exported folder."""
    return (
        f"# {name}\n\nA text encoder for {'ONNX Runtime' if to == 'onnx' else 'OpenVINO'}, exported with tessera. "
        "Inputs are input_ids and attention_mask, int64, of any batch and any length up to "
        f'{length}.\n\n```python\nfolder, texts = ".", ["one text", "another"]\n{lines(to, output, length)}```\n\n'
        f"{notes}\n"
    )


def lowest(checks: Sequence[Check]) -> str:
    """The lowest cosine of each output and number format, as a table."""
    worst: dict[tuple[str, str], float] = {}
    for check in checks:
        key = (check.output, check.dtype)
        worst[key] = min(worst.get(key, 1.0), check.cosine)
    return (
        f"Lowest cosine with the model it was made of, over {len(checks)} comparisons:\n\n"
        "| output | computed in | cosine |\n|---|---|---|\n"
        + "\n".join(f"| {out} | {dtype} | {cosine:.7f} |" for (out, dtype), cosine in worst.items())
    )


def by_text(checks: Sequence[Check]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table: of each text the worst over its batches and outputs, by number format."""
    formats = list(dict.fromkeys(check.dtype for check in checks))
    columns = [
        "text",
        "tokens",
        "batches",
        *(f"{name} {what}" for name in formats for what in ("cosine", "difference")),
    ]
    rows = []
    for text, tokens in dict.fromkeys((check.text, check.tokens) for check in checks):
        mine = [check for check in checks if (check.text, check.tokens) == (text, tokens)]
        row = [text or "(empty)", str(tokens), ", ".join(map(str, sorted({check.batch for check in mine})))]
        for name in formats:
            of = [check for check in mine if check.dtype == name]
            row += [f"{min(c.cosine for c in of):.6f}", f"{max(c.difference for c in of):.1e}"] if of else ["", ""]
        rows.append(row)
    return columns, rows
