"""Triton kernels: what a GPU computes in one pass where PyTorch's operations would go through memory several times.

Triton is imported with these files, so model/ imports them where a GPU is, and has another way where none is.

In reading order:

    loss_kernel.py    softmax cross-entropy of scores, which become their gradient
    window_kernel.py  attention in a sliding window over packed documents, rotary positions inside, and its gradient
"""
