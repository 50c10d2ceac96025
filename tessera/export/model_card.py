"""Model card of an exported folder: the lines that run it, and its numerical parity with the model it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.inference.runtime import LOGITS, STATES, VECTORS

_COSINE = 0.99999  # least that float32 must reach, of every token and every vector
_DIFFERENCE = 1e-3  # and the most it may be off
_ROUNDED = {VECTORS: 0.999, STATES: 0.99, LOGITS: 0.99}  # least that bfloat16 must reach; single tokens lose more
_ROUNDED_LOGIT = 0.25  # most that bfloat16 may move a logit of a head


@dataclass(frozen=True, slots=True)
class Check:
    """One text or document, from the graph and from our model in float32."""

    text: str  # its beginning, or what it is
    tokens: int
    batch: int  # texts that were in the call
    dtype: str  # in which the graph was run
    output: str
    cosine: float  # the lowest of its tokens', where the output is one of tokens
    difference: float  # the largest |a - b| / (|b| + root mean square of b); of a head |a - b| / max(1, |b|)
    head: bool = False  # whether it is of the logits of the head of a task: one of these has no direction, only a size

    @property
    def ok(self) -> bool:
        """False also where something is no number."""
        if self.head:
            return self.difference <= (_DIFFERENCE if self.dtype == "float32" else _ROUNDED_LOGIT)
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
ids, mask{names} = (numpy.array([getattr(text, part) for text in batch]) for part in ("ids", "attention_mask"{parts}))
{call}
"""
_CALL = {
    "onnx": """\
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
found = session.run(["{output}"], {{"input_ids": ids, "attention_mask": mask{given}}})[0]""",
    "openvino": """\
model = openvino.compile_model(folder + "/openvino_model.xml", "CPU")
found = model({{"input_ids": ids, "attention_mask": mask{given}}})["{output}"]""",
}


def lines(to: str, output: str, length: int, more: Sequence[str] = ()) -> str:
    """Python that runs an exported folder without tessera, given `folder` and `texts`; the answer is in `found`.

    more  token_type_ids, where the graph reads those
    """
    package = "onnxruntime" if to == "onnx" else "openvino"
    given = "".join(f', "{name}": types' for name in more)
    names, parts = (", types", ', "type_ids"') if more else ("", "")
    call = _CALL[to].format(output=output, given=given)
    return _RUN.format(package=package, length=length, call=call, names=names, parts=parts)


def card(
    to: str, output: str, name: str, length: int, notes: str, *, what: str = "A text encoder", more: Sequence[str] = ()
) -> str:
    """README.md of an exported folder."""
    inputs = ", ".join(["input_ids", *(["attention_mask"] if more else [])])
    last = more[0] if more else "attention_mask"
    code = f'folder, texts = ".", ["one text", "another"]\n{lines(to, output, length, more)}'
    return (
        f"# {name}\n\n{what}, for {'ONNX Runtime' if to == 'onnx' else 'OpenVINO'}, exported with tessera. "
        f"Inputs are {inputs} and {last}, int64, of any batch and any length up to "
        f"{length}.\n\n```python\n{code}```\n\n{notes}\n"
    )


def refuse_different(checks: Sequence[Check]) -> None:
    """Raises ValueError with the worst where the graph differs from our model by more than it may."""
    wrong = [check for check in checks if not check.ok]
    if not wrong:
        return
    worst = max(wrong, key=lambda check: check.difference) if wrong[0].head else min(wrong, key=lambda c: c.cosine)
    raise ValueError(
        f"nothing was written: in {worst.dtype} the graph differs from our model in {len(wrong)} of "
        f"{len(checks)} comparisons; worst {worst.output} of {worst.text!r} ({worst.tokens} tokens): cosine "
        f"{worst.cosine:.6f}, difference {worst.difference:.2g}. Please report it, with the model's config.json"
    )


def largest(checks: Sequence[Check]) -> str:
    """The largest difference of a logit in each number format, as a table."""
    formats = dict.fromkeys(check.dtype for check in checks)
    worst = {name: max(check.difference for check in checks if check.dtype == name) for name in formats}
    return (
        f"Largest difference from a logit of the model it was made of, in parts of its size where that is more than 1, "
        f"over {len(checks)} comparisons:\n\n| computed in | difference |\n|---|---|\n"
        + "\n".join(f"| {name} | {difference:.1e} |" for name, difference in worst.items())
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
