"""A model standing still: embeddings, and how well it predicts held-out text."""
