"""Model folders of a few thousand random weights, of both families, with a tokenizer trained on a few texts."""

from pathlib import Path

import torch

from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer import tokenizer as tokenizers

LONGEST = 64  # tokens
FAMILIES = ("mmbert", "eurobert")
TEXTS = [
    "one two three",
    "",
    "tveir",
    "a much longer text " * 30,
    "þrír fjórir fimm",
    "x",
    "\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-5} and a\0NUL",
    "שלום עולם and مرحبا بالعالم",
    "日本語のテキスト, ελληνικά, русский",
]
_SHAPE = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3}
_FAMILY = {
    "mmbert": {"num_key_value_heads": 4, "global_attn_every_n_layers": 3, "local_attention": 16},
    "eurobert": {"num_key_value_heads": 2},
}
_PRESET = {"mmbert": "mmbert-small", "eurobert": "eurobert-210m"}


def small_model(tokenizer: tokenizers.Tokenizer, family: str = "mmbert", seed: int = 0) -> MaskedLM:
    fields = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": LONGEST, **_SHAPE, **_IDS}
    preset = PRESETS[_PRESET[family]].model_dump()
    model = MaskedLM(EncoderConfig.model_validate({**preset, **fields, **_FAMILY[family]}))
    initialize(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for weight in model.parameters():  # large, so that a wrong token, place or neighbour cannot hide
            weight.mul_(4 if weight.ndim > 1 else 1)
    return model


def write_model(folder: Path, family: str = "mmbert") -> Path:
    """A folder as training writes it."""
    tokenizer = tokenizers.train(
        {"aaa_Latn": TEXTS * 20}, TokenizerTraining(vocab_size=300), folder / "tokenizer", model_max_length=LONGEST
    )
    hub.save(small_model(tokenizer, family), folder / family, folder / "tokenizer")
    return folder / family
