"""Inference on a CPU: prepacked weights, attention without gradients, int8.

In reading order:

    encoder.py    class PackedEncoder: an encoder's answers by fused products
    bert.py       class PackedBert: the same for BERT, RoBERTa and XLM-R
    products.py   linear layers of both: oneDNN's, or the BLAS library's where that is faster
    attention.py  its attention: tiles of documents, rotary positions turned inside them
    int8.py       the same in int8: products of rounded numbers, calibrated on real text
"""
