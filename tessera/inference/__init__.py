"""Data and model without gradients: texts to embeddings, masks filled, quality scores; parity.

In reading order:

    encoder.py          class Encoder: sentence and token embeddings, fill-mask, similarity
    tokenize.py         texts to token ids: truncation, chunks, prompts
    engine.py           batched inference: ids to embeddings or hidden states, the only way there
    sentence_folder.py  the sentence-transformers format: pooling, prompts, length
    sentence_schemas.py  schemas of its JSON files
    similarity.py       similarity scores, and the keywords of sentence-transformers
    fill_mask.py        fill-mask: the most probable tokens for a mask
    nearest.py          exact nearest-neighbour search
    embed_file.py       a file of texts into a file of embeddings, through interruptions
    features.py         examples of a task as documents of tokens, logits as answers
    windows.py          question answering over long texts: sliding windows with a stride
    text_scorer.py      quality scores of texts by a regression head
    runtime.py          inference with OpenVINO or ONNX Runtime
    parity.py           numerical parity of a checkpoint: beside transformers, by hand, in every backend
"""
