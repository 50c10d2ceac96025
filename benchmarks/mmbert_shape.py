"""A model of mmBERT-small's shape with random weights and a vocabulary of Gemma's kind and size, to be trimmed.

    python benchmarks/mmbert_shape.py UNIGRAM OUT

No hub is needed: the pieces are those of a large Unigram tokenizer (XLM-R's: UNIGRAM is a tokenizer.json or its folder)
by their order, with 256 bytes to fall back on and unused tokens up to 256,000. Merges are every way to make a piece of
two others, by the rank of what they make, as a SentencePiece BPE is written for the tokenizers library. Sizes, speed
and equality are those of the real model; what it answers is noise.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig

SIZE = 256_000
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


def gemma_like(unigram: Path) -> Tokenizer:
    pieces = [piece for piece, _ in json.loads(unigram.read_text(encoding="utf-8"))["model"]["vocab"]]
    names = [*SPECIAL, *(f"<0x{n:02X}>" for n in range(256))]
    names += [piece for piece in dict.fromkeys(pieces) if piece and not piece.startswith("<")]
    names += [f"<unused{n}>" for n in range(SIZE - len(names))]
    vocab = {name: n for n, name in enumerate(names)}
    merges = [
        (vocab[t], t[:n], t[n:]) for t in names[261:] for n in range(1, len(t)) if t[:n] in vocab and t[n:] in vocab
    ]
    inner = Tokenizer(
        models.BPE(vocab, [(a, b) for _, a, b in sorted(merges)], byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", vocab["<bos>"]), ("<eos>", vocab["<eos>"])]
    )
    return inner


def main() -> None:
    place, out = Path(sys.argv[1]), Path(sys.argv[2])
    inner = gemma_like(place / "tokenizer.json" if place.is_dir() else place)
    roles = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "mask_token": "<mask>"}
    ids = {f"{role}_id": inner.token_to_id(name) for role, name in roles.items()}
    config = EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), "vocab_size": SIZE, **ids})
    model = MaskedLM(config)
    initialize(model, torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        inner.save(f"{folder}/tokenizer.json")
        told = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, "model_max_length": 8192}
        Path(folder, "tokenizer_config.json").write_text(json.dumps(told))
        hub.save(model, out, Path(folder))
    print(f"{out}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {SIZE:,} rows")


if __name__ == "__main__":
    main()
