"""The networks: an encoder for packed documents, its heads, and its life as a Hugging Face folder.

In reading order:

    encoder.py              EuroBERT, ModernBERT and mmBERT as values of one configuration
    attention.py            three backends with one answer: reference, cpu, varlen; rotary positions
    attention_cpu.py        the cpu backend: documents cut into tiles, cost linear under a window
    glu.py                  gated units of the feed-forward networks, and their way back
    mlm.py                  masked language model, initialization
    task_config.py          which task a head is for, its labels, and how a config.json says it
    task_heads.py           heads for fine-tuning: documents, tokens, spans, choices
    pooling.py              pooling to sentence embeddings: mean, cls and all that sentence-transformers knows
    cross_entropy.py        cross-entropy over a large vocabulary with its gradient, scores never held whole
    precision.py            mixed precision; memory of large arrays that is reused
    hub.py                  loading and saving of Hugging Face folders
    hf_names.py             names of weights and fields there and here: one table a family, both ways
    hf_files.py             files of a Hugging Face folder: JSON by schemas, weights in safetensors
    transformers_model.py   BERT, XLM-R, DeBERTa, MiniLM behind our interface, run by transformers
    transformers_folder.py  loading of their folders through transformers, tried before it is trusted
    transformers_tasks.py   the same with the head of a task: loaded, or drawn anew
    resize.py               a smaller model out of a larger by strides, a larger out of a smaller by tiling
    merging.py              model merging: TIES, linear and exponential averages, and what may be merged
"""
