"""An invented corpus and a recipe for a model of a few thousand weights."""

import random
from pathlib import Path

from tessera.data.shard_writer import ShardWriter
from tessera.data.shards import Shards
from tessera.plan.corpus import TokenizerTraining
from tessera.plan.recipe import Recipe
from tessera.tokenizer.tokenizer import train
from tessera.train.trainer import Text

WORDS = {
    "eng_Latn": [
        "the",
        "a",
        "of",
        "and",
        "house",
        "river",
        "sees",
        "under",
        "blue",
        "old",
        "quick",
        "small",
        "green",
        "holds",
        "near",
        "far",
    ],
    "fao_Latn": [
        "og",
        "í",
        "at",
        "hon",
        "hann",
        "hús",
        "á",
        "áin",
        "sær",
        "undir",
        "blátt",
        "gamalt",
        "skjótt",
        "lítið",
        "grønt",
        "heldur",
        "nær",
    ],
    "ell_Grek": [
        "το",
        "και",
        "σπίτι",
        "ποτάμι",
        "βλέπει",
        "κάτω",
        "μπλε",
        "παλιό",
        "γρήγορο",
        "μικρό",
        "πράσινο",
        "κρατά",
        "κοντά",
    ],
}


def documents(language: str, count: int, seed: int) -> list[str]:
    rng = random.Random(f"{language}{seed}")
    return [" ".join(rng.choices(WORDS[language], k=rng.randint(3, 60))) for _ in range(count)]


def written(folder: Path) -> Text:
    """Three invented languages of different size, with a tokenizer and both stores, in an empty folder."""
    texts = {language: documents(language, 120 // (i + 1), 0) for i, language in enumerate(WORDS)}
    tokenizer = train(texts, TokenizerTraining(vocab_size=400), folder / "tokenizer")
    for store, seed in (("train", 0), ("held_out", 1)):
        with ShardWriter(folder / store, tokenizer.fingerprint, tokenizer.vocab_size) as writer:
            for i, language in enumerate(WORDS):
                lines = documents(language, (120 if store == "train" else 12) // (i + 1), seed)
                size = sum(len(line.encode()) for line in lines)
                writer.add("web", language, None, tokenizer.encode_batch(lines), size)
    return Text(
        train=Shards.open(folder / "train"),
        held_out=Shards.open(folder / "held_out"),
        tokenizer=tokenizer,
        tokenizer_folder=folder / "tokenizer",
    )


def recipe(**machine: object) -> Recipe:
    """A recipe of two phases and six steps each, for a model of a few thousand weights."""
    phase = {
        "tokens": 6_000, "context": 64, "batch_tokens": 1_000, "mask_ratio": 0.3, "mask_replacement": "80-10-10",
        "learning_rate": {"peak": 1e-2, "warmup": 1_000},
        "optimizer": {"name": "stableadamw", "weight_decay": 1e-4, "fully_decoupled": True},
        "mixture": {"temperature": 0.5},
    }  # fmt: skip
    return Recipe.model_validate(
        {
            "name": "tiny", "seed": 5,
            "corpus": {"sources": [{"name": "web", "path": "unused"}]},
            "model": {"preset": "mmbert-small", "override": {
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
                "num_key_value_heads": 2, "head_dim": 16, "local_attention": 16}},
            "phases": [
                {"name": "first", "from": "scratch", **phase},
                {"name": "second", "from": "first", **phase, "rope_theta": {"global": 160_000, "local": 160_000}},
            ],
            "evaluation": {"every": 3_000, "max_tokens": 200},
            "machine": {
                "dtype": "float32", "micro_batch_tokens": 300, "checkpoint_minutes": 1e-9, "threads": 1, **machine},
        }
    )  # fmt: skip
