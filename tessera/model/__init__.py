"""The networks: an encoder for packed documents, its attention in three backends, its losses. No files.

In reading order:

    encoder.py        EuroBERT, ModernBERT and mmBERT as values of one configuration
    attention.py      three backends with one answer: reference, cpu, varlen; rotary positions
    attention_cpu.py  the cpu backend: documents cut into tiles, cost linear under a window
    glu.py            gated units of the feed-forward networks, and their way back
    dropout.py        dropout on CPUs, at half of the time that PyTorch's takes
    mlm.py            masked language model, initialization
    task_config.py    which task a head is for, its labels, and how a config.json says it
    pooling.py        pooling to sentence embeddings: mean, cls and all that sentence-transformers knows
    cross_entropy.py  cross-entropy over a large vocabulary with its gradient, scores never held whole
    precision.py      mixed precision; memory of large arrays that is reused
    resize.py         a smaller model out of a larger by strides, a larger out of a smaller by tiling
"""
