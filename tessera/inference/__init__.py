"""A model standing still: texts to embeddings."""
