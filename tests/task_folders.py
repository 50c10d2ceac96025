"""Folders of tiny models with the head of each kind of task, of our families and of BERT, and rows for them."""

import learnable
import torch
import transformers
from learnable import FILLER, THINGS

from tessera.finetune import saved
from tessera.finetune.learner import pretrained
from tessera.huggingface import transformers_model
from tessera.plan.recipe import Machine

CALM = Machine(device="cpu", dtype="float32")
LABELS = {
    "classify": THINGS, "multilabel": THINGS, "pair": ["no", "yes"], "reward": ["wrong", "right"], "regress": ["score"],
    "rerank": ["score"], "choose": [], "span": [], "tag": ["O", *(f"B-{thing}" for thing in THINGS), "B-unheard"],
}  # fmt: skip


def bert(place, **fields):
    """A small random BERT with a tokenizer of whole words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *THINGS, "where"]
    torch.manual_seed(0)
    given = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, **fields}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=64, pad_token_id=0, **given)
    with transformers_model.quietly():
        transformers.BertModel(config).save_pretrained(place)
    transformers.BertTokenizer(vocab={word: n for n, word in enumerate(words)}).save_pretrained(place)
    return place


def with_head(source, kind, out, *, loud=30.0):
    """A folder of this kind over the encoder of `source`, its head drawn, not trained; loud, so that answers differ."""
    learner = pretrained(source, CALM).learner(kind, len(LABELS[kind]), learnable.protocol(), seed=0)
    with torch.no_grad():
        for name, weight in learner.head.named_parameters():
            weight.mul_(loud if "classifier" in name and weight.ndim > 1 else 1.0)
    examples = learnable.examples(kind, 6, 0)
    pair = getattr(examples[0], "second", None) is not None
    saved.save(learner, source, out, examples, labels=list(LABELS[kind]), pair=pair)
    return out


def rows(kind, examples):
    """As a user writes them."""
    match kind:
        case "tag":
            return [{"words": list(e.words)} for e in examples]
        case "span":
            return [(e.question, e.context) for e in examples]
        case "choose":
            return [{"text": e.text, "options": list(e.options)} for e in examples]
    return [e.text if e.second is None else (e.text, e.second) for e in examples]
