"""Tiny models that every test of this room starts from."""

from tiny_encoder import documents, tiny

__all__ = ["documents", "tiny"]
