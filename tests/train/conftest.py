from pathlib import Path

import pytest
from going import go
from tiny_run import WORDS, documents

from tessera.data.shard_writer import ShardWriter
from tessera.data.shards import Shards
from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer.tokenizer import train
from tessera.train.trainer import Text


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    """Three invented languages of different size, with a tokenizer and both stores."""
    folder: Path = tmp_path_factory.mktemp("text")
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


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, text: Text) -> Path:
    """The first phase, trained without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    go(folder, text)
    return folder
