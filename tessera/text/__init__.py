"""Text and tokens, at rest and on the move. Nothing here imports torch."""
