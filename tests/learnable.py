"""A tiny model and invented examples of every kind that it can learn in seconds."""

import random
from pathlib import Path

import torch

from tessera.data.examples import Choices, Labelled, Question, Tagged
from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.plan.task import Protocol
from tessera.tokenizer import tokenizer as tokenizers

FILLER = ["the", "of", "and", "near", "under", "seldom", "quickly", "house", "stone"]
THINGS = ["river", "bread", "cloud", "night"]  # classes; what is to be found; what is a name
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "mask_token_id": 3,
}


def model(place: Path, family: str = "mmbert-small", **fields: object) -> Path:
    """The folder of a model with random weights and a tokenizer that knows few words whole."""
    words = [" ".join([*FILLER, *THINGS])] * 20
    tokenizer = tokenizers.train({"a": words}, TokenizerTraining(vocab_size=320), place / f"{family}-tokenizer")
    given = {**PRESETS[family].model_dump(), **COMMON, "vocab_size": tokenizer.vocab_size, **fields}
    made = MaskedLM(EncoderConfig.model_validate(given))
    initialize(made, torch.Generator().manual_seed(0))
    folder = place / family
    hub.save(made, folder, tokenizer.folder)
    return folder


def protocol(**changes: object) -> Protocol:
    given = {
        "name": "test",
        "steps": 60,
        "batch_size": 16,
        "learning_rates": [5e-3],
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "max_length": 64,
    }
    if "epochs" in changes:
        del given["steps"]
    return Protocol.model_validate({**given, **changes})


def sentence(rng: random.Random, *inside: str) -> str:
    words = rng.choices(FILLER, k=rng.randint(2, 9))
    for word in inside:
        words.insert(rng.randint(0, len(words)), word)
    return " ".join(words)


def examples(kind: str, count: int, seed: int) -> list:
    """Of any kind of features.KINDS; what is right follows from one word."""
    rng = random.Random(f"{kind}{seed}")
    return [_EXAMPLES[kind](rng, {"id": str(n), "row": f"invented:{n}"}) for n in range(count)]


def _classify(rng, at):
    label = rng.randrange(len(THINGS))
    return Labelled(text=sentence(rng, THINGS[label]), label=label, **at)


def _pair(rng, at):
    label = rng.randrange(2)  # what stands in the first text says nothing
    return Labelled(text=sentence(rng, rng.choice(THINGS)), second=sentence(rng, THINGS[label]), label=label, **at)


def _regress(rng, at):
    label = rng.randrange(len(THINGS))
    return Labelled(text=sentence(rng), second=sentence(rng, THINGS[label]), label=100.0 - 20.0 * label, **at)


def _choose(rng, at):
    options = [sentence(rng, THINGS[0]), *(sentence(rng, THINGS[rng.randint(1, 3)]) for _ in range(rng.randint(1, 3)))]
    right = options[0]
    rng.shuffle(options)
    return Choices(text=sentence(rng), options=tuple(options), label=options.index(right), **at)


def _multilabel(rng, at):
    held = tuple(sorted(rng.sample(range(len(THINGS)), rng.randrange(3))))
    return Labelled(text=sentence(rng, *(THINGS[n] for n in held)), label=held, **at)


def _rerank(rng, at):
    wanted, found = rng.choice(THINGS), rng.choice(THINGS)
    return Labelled(text=sentence(rng, wanted), second=sentence(rng, found), label=float(found == THINGS[0]), **at)


def _tag(rng, at):
    words = tuple(rng.choice([*FILLER, *THINGS, "unheard"]) for _ in range(rng.randint(3, 9)))
    tags = tuple(THINGS.index(word) + 1 if word in THINGS else 5 if word == "unheard" else 0 for word in words)
    return Tagged(words=words, tags=tags, **at)


def _span(rng, at):
    answer = f"{rng.choice(THINGS)} stone"
    before, after = sentence(rng), sentence(rng)
    context = f"{before} {answer} {after}"
    return Question(question="where", context=context, answers=((answer, len(before) + 1),), **at)


_EXAMPLES = {
    "classify": _classify,
    "pair": _pair,
    "reward": _pair,
    "multilabel": _multilabel,
    "regress": _regress,
    "rerank": _rerank,
    "choose": _choose,
    "tag": _tag,
    "span": _span,
}
