"""Small random models with the head of a task, and their tokenizers, as transformers writes them."""

import torch
import transformers

from tessera.huggingface import transformers_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = [*SPECIAL, "the", "river", "bread", "cloud", "night", "##s", "of", ",", "."]
TEXTS = ["the river of bread", "clouds", "rivers, nights of the clouds.", "", "the bread of bread, the nights"]
SHAPE = {
    "vocab_size": len(TOKENS), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 36, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip


def bert(place, head, seed=0, **config):
    """A random BERT with the head of a task and a tokenizer, as transformers writes it."""
    torch.manual_seed(seed)
    model = getattr(transformers, head)(transformers.BertConfig(**SHAPE, **config)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.3)
    with transformers_model.quietly():
        model.save_pretrained(place)
    transformers.BertTokenizer(vocab={token: n for n, token in enumerate(TOKENS)}, model_max_length=32).save_pretrained(
        place
    )
    return place


def named(*labels):
    """The names of labels, as a configuration has them."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
