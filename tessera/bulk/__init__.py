"""Batch inference: files of texts in, of any size; files of embeddings, or an index to search, out.

In reading order:

    text_files.py    files of texts and rows, read twice: their ids, what is wrong with them
    parts.py         batch inference over files in parts, through interruptions
    embed_file.py    a file of texts into a file of embeddings
    nearest.py       exact nearest-neighbour search
    search_index.py  semantic search: an index over a file of texts, asked by queries
"""
