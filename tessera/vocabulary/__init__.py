"""Tokenizer fertility: what a vocabulary costs each language.

In reading order:

    fertility.py  fertility: tokens per word and byte, and the cost beside the best-served language
"""
