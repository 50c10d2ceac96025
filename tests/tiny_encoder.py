"""Fixtures of tests of networks: tiny configurations and random documents."""

from collections.abc import Callable

import pytest
import torch

from tessera.plan.architecture import PRESETS, EncoderConfig

TINY = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3}
MMBERT = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 12, "local_attention": 8}
EUROBERT = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}


@pytest.fixture
def tiny() -> Callable[..., EncoderConfig]:
    """tiny("mmbert" or "eurobert", field=value, ...): a small configuration of that family."""

    def make(family: str, **fields: object) -> EncoderConfig:
        preset = PRESETS["mmbert-small" if family == "mmbert" else "eurobert-210m"]
        shape = MMBERT if family == "mmbert" else EUROBERT
        return EncoderConfig.model_validate({**preset.model_dump(), **TINY, **IDS, **shape, **fields})

    return make


@pytest.fixture
def documents() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """documents(lengths, seed): random tokens and where each document starts."""

    def make(lengths: list[int], seed: int = 0, vocab_size: int = 97) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.tensor([0, *lengths]).cumsum(0)
        return torch.randint(4, vocab_size, (sum(lengths),), generator=generator), starts

    return make
