"""Tokenizers: train a byte-level BPE, load any tokenizer.json, special tokens, templates. No torch.

In reading order:

    tokenizer.py       class Tokenizer: trained here, or loaded; texts to ids and back
    tokenizer_json.py  what a tokenizer.json says of itself: roles, template, the bytes of each entry
    special_tokens.py  names of special tokens in a text are text
    templates.py       a text, two, or words split already, as one document by the tokenizer's template
    sample.py          the text a tokenizer is trained on: a temperature-balanced sample
    gigatoken.py       a faster engine, used only where its ids are the same
"""
