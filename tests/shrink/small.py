"""A small model that gives vectors, with a card and prompts, and plain text for it."""

import json
import random

import learnable
import task_folders
from learnable import FILLER, THINGS

from tessera.inference import sentence_folder
from tessera.inference.sentence_folder import Pipeline
from tessera.vocabulary.texts import Texts


def embedder(place, *, prompts=None, layers=4, **pipeline):
    """A BERT of a few layers as a sentence-transformers folder; its weights are loud, so that layers matter."""
    source = task_folders.bert(place / "bert", num_hidden_layers=layers, initializer_range=0.3)
    (source / "README.md").write_text("---\nlicense: mit\nlanguage: fo\n---\n# A model\n", encoding="utf-8")
    made = Pipeline(prompts=prompts or {}, **pipeline)
    sentence_folder.write(source, place / "model", made, 32, 48)
    return place / "model"


def families(place, **bert):
    """One model of each family, seven layers in ModernBERT's, where a global one is followed by two local ones."""
    return {
        "modernbert": learnable.model(place / "m", num_hidden_layers=7, max_position_embeddings=64, local_attention=4),
        "eurobert": learnable.model(place / "e", "eurobert-210m", num_hidden_layers=4, max_position_embeddings=64),
        "bert": task_folders.bert(place / "b", num_hidden_layers=4, **bert),
    }


def documents(count, seed=0):
    drawn = random.Random(seed)
    return [
        " ".join(f"{' '.join(drawn.choices([*FILLER, *THINGS], k=drawn.randint(3, 9)))}." for _ in range(5))
        for _ in range(count)
    ]


def texts(count=60):
    some = documents(count)
    return Texts(used={"fao_Latn": some[:-8]}, held_out={"fao_Latn": some[-8:]})


def write_text(path, count=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(count)), encoding="utf-8")
