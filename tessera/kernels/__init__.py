"""Triton kernels: what a GPU computes in one pass where PyTorch's operations would go through memory several times.

Triton comes with each *_kernel.py, so these are imported where a GPU is, inside functions; there is another way without
them.

In reading order:

    trial.py             a kernel is held against PyTorch's numbers once on each GPU
    loss_kernel.py       softmax cross-entropy of scores, which become their gradient
    window_attention.py  attention in a sliding window as an operation of PyTorch, where its kernels run
    window_kernel.py     the same in Triton: packed documents, rotary positions inside, and its gradient
    gated_units.py       gated units as operations of PyTorch
    glu_kernel.py        the same in Triton, there and back
    optimizer_kernel.py  StableAdamW's update of all tensors at once
"""
