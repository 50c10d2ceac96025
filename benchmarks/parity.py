"""How far our numbers lie from those of transformers, on the presets at full size with random weights.

    python benchmarks/parity.py [preset ...]

Documents of 3 to 700 tokens, packed for us and one at a time for transformers, both in float32; then ours in bfloat16
against our float32. The last line is one JSON object.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.pooling import pool
from tessera.model.precision import autocast
from tessera.plan.architecture import PRESETS

LENGTHS = (3, 700, 41, 128, 129, 17, 300, 64)


def main(presets: list[str]) -> None:
    """Prints a row for each preset."""
    columns = ("preset", "parameters", "hidden states", "logits", "cosine of bfloat16")
    print(f"{columns[0]:<15} {columns[1]:>12} {columns[2]:>15} {columns[3]:>10} {columns[4]:>20}")
    rows = {}
    for preset in presets:
        row = measure(preset)
        rows[preset] = row
        print(
            f"{preset:<15} {row['parameters']:>12,} {row['hidden_states']:>15.1e} {row['logits']:>10.1e} "
            f"{row['bfloat16_cosine']:>20.6f}",
            flush=True,
        )
    print(json.dumps({"benchmark": "parity", "ours": rows, "peers": {}, "ratios": {}, "limit_share": None}))


@torch.no_grad()
def measure(preset: str) -> dict[str, float]:
    """Largest absolute differences over all documents, and the lowest cosine of a pooled bfloat16 embedding."""
    model = MaskedLM(PRESETS[preset]).eval()
    initialize(model, torch.Generator().manual_seed(0))
    starts = torch.tensor([0, *LENGTHS]).cumsum(0)
    tokens = torch.randint(10, model.config.vocab_size, (int(starts[-1]),), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(0, len(tokens), 7)
    hidden = model.encoder(tokens, starts)
    logits = model.logits(hidden[positions])
    with autocast(torch.device("cpu"), torch.bfloat16):
        rounded = pool(model.encoder(tokens, starts), starts, "mean")
    cosine = torch.cosine_similarity(pool(hidden, starts, "mean"), rounded).min()
    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, Path(folder) / "model")
        theirs = AutoModelForMaskedLM.from_pretrained(Path(folder) / "model", attn_implementation="sdpa").eval()
    far = {"hidden_states": 0.0, "logits": 0.0}
    for begin, end in itertools.pairwise(starts.tolist()):
        answer = theirs(tokens[begin:end][None], output_hidden_states=True)
        inside = (positions >= begin) & (positions < end)
        far["hidden_states"] = max(far["hidden_states"], _gap(answer.hidden_states[-1][0], hidden[begin:end]))
        if inside.any():
            far["logits"] = max(far["logits"], _gap(answer.logits[0, positions[inside] - begin], logits[inside]))
    return {"parameters": sum(p.numel() for p in model.parameters()), **far, "bfloat16_cosine": float(cosine)}


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


if __name__ == "__main__":
    main(sys.argv[1:] or [name for name in PRESETS if name != "eurobert-2.1b"])
