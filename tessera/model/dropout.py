"""Dropout on CPUs by 16 random bits an element, where PyTorch draws a double for each: half of its time.

For encoders that transformers runs, which drop some twenty times a pass; ours do it once a layer, if at all, and may be
compiled. On other devices it is PyTorch's own. The noise comes from PyTorch's generator, so a seed repeats it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16  # a probability is so many parts


def dropout(x: Tensor, share: float, training: bool = True) -> Tensor:
    """x of any shape -> the same with `share` of its elements 0 and the others divided by what is left of 1.

    On a CPU the share is the nearest of 65,536 parts, so below 1/131,072 nothing is dropped.
    """
    if not training or x.device.type != "cpu":
        return functional.dropout(x, share, training)
    dropped = round(share * _LEVELS)
    if dropped in (0, _LEVELS):
        return x * 0.0 if dropped else x
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform from -32,768 to 32,767
    kept = (drawn >= dropped - _LEVELS // 2).to(x.dtype)
    return x * kept.mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Dropout):
    """nn.Dropout by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same."""
        return dropout(x, self.p, self.training)


def replace_dropout(model: nn.Module) -> None:
    """Puts Dropout in the place of each nn.Dropout of a model, as trained or not as that was."""
    for parent in model.modules():
        for name, part in parent.named_children():
            if type(part) is nn.Dropout:
                setattr(parent, name, Dropout(part.p).train(part.training))
