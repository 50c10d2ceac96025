"""Attention, losses and gradients on a GPU are those of float32 on a CPU, by every backend."""

import pytest
import torch
from torch.nn import functional

from tessera.kernels import window_attention
from tessera.model import cross_entropy, glu
from tessera.model.attention import Layout, attend
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.precision import autocast
from tessera.packed.encoder import packed
from tessera.plan.architecture import PRESETS, EncoderConfig

CPU = torch.device("cpu")
LENGTHS = [5, 130, 64, 2, 0, 300, 11]
TINY = {"vocab_size": 520, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "head_dim": 16, "attention_output_dropout": 0.0, "initializer_range": 0.1, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3}  # fmt: skip
FAMILIES = {
    "mmbert-small": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "local_attention": 16},
    "eurobert-210m": {"num_key_value_heads": 2},
}
BACKENDS = {"reference": torch.float32, "varlen": torch.bfloat16}
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

# The reference on a GPU is that of PyTorch in float32 without TF32, which torch's defaults leave off.


def parts_off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The difference as a part of what is wanted, by their norms."""
    return float((found.detach().float().cpu() - wanted.detach().float()).norm() / wanted.detach().float().norm())


@pytest.mark.parametrize("backend", [*BACKENDS, "varlen for windows too"])
@pytest.mark.parametrize("window", [None, 3, 64])
@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_attention_and_its_gradient_agree_with_the_reference_on_a_cpu(
    device, backend, window, key_value_heads, monkeypatch
):
    if backend == "varlen for windows too":
        monkeypatch.setattr(window_attention, "without_kernel", lambda device: "switched off")
    backend = backend.partition(" ")[0]
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(LENGTHS), (4 + 2 * key_value_heads) * 32, generator=generator)
    weight = torch.randn(sum(LENGTHS), 4 * 32, generator=generator)
    starts = torch.tensor([0, *LENGTHS]).cumsum(0)
    found = []
    for where, name, dtype in ((CPU, "reference", torch.float32), (device, backend, BACKENDS[backend])):
        given = qkv.to(where, dtype).requires_grad_()
        layout = Layout.of(starts.to(where), len(qkv), name)
        answer = attend(given, layout, heads=4, key_value_heads=key_value_heads, window=window, theta=1e4)
        (gradient,) = torch.autograd.grad((answer.float() * weight.to(where)).sum(), given)
        found.append((answer.cpu(), gradient))
    bound = BOUNDS[BACKENDS[backend]]
    for wanted, got in zip(*found, strict=True):
        assert parts_off(got, wanted) < bound


def model_of(family: str, attention: str = "auto") -> MaskedLM:
    config = EncoderConfig.model_validate({**PRESETS[family].model_dump(), **TINY, **FAMILIES[family]})
    model = MaskedLM(config, attention)
    initialize(model, torch.Generator().manual_seed(0))
    return model


def batch() -> tuple[torch.Tensor, ...]:
    """tokens [T], starts [N+1], positions [M], targets [M]"""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, 520, (sum(LENGTHS),), generator=generator)
    positions = torch.arange(0, len(tokens), 3)
    return tokens, torch.tensor([0, *LENGTHS]).cumsum(0), positions, tokens[positions].flip(0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_has_the_loss_and_the_gradients_of_float32_on_a_cpu(device, family, backend):
    dtype = BACKENDS[backend]
    exact, model = model_of(family, "reference"), model_of(family, backend).to(device)
    wanted = exact.loss(*batch())
    wanted.backward()
    with autocast(device, dtype):
        found = model.loss(*(x.to(device) for x in batch()))
    found.backward()
    assert found.dtype == torch.float32
    assert parts_off(found, wanted) < (0.003 if dtype is torch.bfloat16 else 1e-5)
    for (name, one), other in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert one.grad.dtype == torch.float32, name
        assert parts_off(one.grad, other.grad) < (0.06 if dtype is torch.bfloat16 else 1e-3), name


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # PyTorch's own tracing looks at it
def test_compiled_layers_have_the_loss_and_the_gradients_of_float32_on_a_cpu(device):
    exact, model = model_of("mmbert-small", "reference"), model_of("mmbert-small").to(device)
    wanted = exact.loss(*batch())
    wanted.backward()
    with autocast(device, torch.bfloat16):
        model.encoder.compile_layers(512, 512, backend="inductor" if device.type == "cuda" else "aot_eager")
        tokens, starts, positions, targets = batch()
        layout = Layout.from_host(starts.numpy(), len(tokens), device, longest=512)
        found = model.loss(tokens.to(device), layout, positions.to(device), targets.to(device))
    found.backward()
    assert parts_off(found, wanted) < 0.003
    for (name, one), other in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert parts_off(one.grad, other.grad) < 0.06, name


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_without_gradients_are_those_of_float32_on_a_cpu(device, family):
    tokens, starts, *_ = batch()
    exact, model = model_of(family, "reference").encoder.eval(), model_of(family).encoder.eval()
    standing = packed(model.to(device), torch.bfloat16, may_round=True)
    with torch.inference_mode():
        wanted, found = exact(tokens, starts), standing(tokens.to(device), starts.to(device))
    assert found.dtype == torch.bfloat16
    assert parts_off(found, wanted) < 2e-2


@pytest.mark.gpu
@pytest.mark.parametrize("width", [16, 5000, 9001, 256_000])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_kernel_of_the_loss_is_pytorch_in_one_pass(width, dtype):
    cuda = torch.device("cuda")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    assert cross_entropy.without_kernel(cuda) is None
    generator = torch.Generator(cuda).manual_seed(0)
    scores = (torch.randn(33, width, device=cuda, generator=generator) * 4).to(dtype)
    bias = torch.randn(width, device=cuda, generator=generator)
    targets = torch.randint(width, (33,), device=cuda, generator=generator)
    other = scores.clone()
    wanted = cross_entropy._losses_in_pytorch(other, bias, targets, gradient=True)
    found = cross_entropy._losses(scores, bias, targets, gradient=True)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert parts_off(scores, other.cpu()) < BOUNDS[dtype]


@pytest.fixture
def hopper() -> torch.device:
    """A GPU with kernels for windows."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the kernels of windows are made for Hopper")
    assert window_attention.without_kernel(torch.device("cuda")) is None
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("width", "window", "heads", "key_value_heads"),
    [(32, 16, 4, 2), (64, 64, 6, 2), (64, 128, 2, 2), (128, 64, 3, 1), (64, 100, 12, 12)],
)
def test_the_kernels_of_windows_agree_with_float32_and_recur_bit_for_bit(hopper, width, window, heads, key_value_heads):
    lengths = [*LENGTHS, 1000, 1, 1, 127, 65]
    qkv = torch.randn(sum(lengths), (heads + 2 * key_value_heads) * width, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(sum(lengths), heads * width, generator=torch.Generator().manual_seed(1)).to(hopper)
    starts, found = torch.tensor([0, *lengths]).cumsum(0).to(hopper), []
    for backend, dtype in (("reference", torch.float32), *(("varlen", torch.bfloat16),) * 2):
        given = qkv.to(hopper, dtype).requires_grad_()
        layout = Layout.of(starts, len(qkv), backend)
        answer = attend(given, layout, heads=heads, key_value_heads=key_value_heads, window=window, theta=1e4)
        (gradient,) = torch.autograd.grad((answer.float() * weight).sum(), given)
        found.append((answer.detach().cpu(), gradient.cpu()))
    wanted, first, again = found
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert parts_off(first[0], wanted[0]) < 1e-2
    assert parts_off(first[1], wanted[1]) < 2e-2


@pytest.mark.gpu
def test_the_kernels_of_windows_reach_the_end_of_a_pack_of_more_numbers_than_32_bits_count(hopper):
    """1,000,000 tokens of 12 heads; the last document beside the same document alone."""
    tokens, last = 1_000_000, 300
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB")
    qkv = torch.randn(tokens, 36 * 64, device=hopper, dtype=torch.bfloat16)
    found = []
    for part, starts in ((qkv, [0, tokens - last, tokens]), (qkv[-last:], [0, last])):
        given = part.clone().requires_grad_()
        layout = Layout.of(torch.tensor(starts, device=hopper), len(given), "varlen")
        answer = attend(given, layout, heads=12, key_value_heads=12, window=64, theta=1e4)
        (gradient,) = torch.autograd.grad(answer.float().square().sum(), given)
        found.append((answer[-last:].detach().float().cpu(), gradient[-last:].float().cpu()))
    for at_the_end, alone in zip(*found, strict=True):
        assert parts_off(at_the_end, alone) < 1e-2


@pytest.mark.gpu
def test_the_gradient_of_a_table_is_added_up_in_float32_block_by_block(monkeypatch):
    cuda = torch.device("cuda")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    assert cross_entropy.adds_in_float32(cuda)
    monkeypatch.setitem(cross_entropy._HELD, "cuda", 64 * 5000)  # four blocks of rows, and some more
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(300, 64, generator=generator), torch.randn(5000, 64, generator=generator) * 0.1
    targets = torch.randint(5000, (300,), generator=generator)
    exact = weight.bfloat16().float().requires_grad_()
    functional.cross_entropy(hidden.bfloat16().float() @ exact.T, targets, reduction="sum").backward()
    found = weight.to(cuda).requires_grad_()
    cross_entropy.summed_cross_entropy(hidden.to(cuda).bfloat16(), found, None, targets.to(cuda)).backward()
    assert found.grad.dtype == torch.float32
    assert parts_off(found.grad, exact.grad) < 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("half", [1, 88, 1152, 2624])
@pytest.mark.parametrize("activation", glu.ACTIVATIONS)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_kernels_of_gated_units_are_pytorch_there_and_back(half, activation, dtype):
    cuda = torch.device("cuda")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    assert glu.without_kernel(cuda) is None
    generator = torch.Generator().manual_seed(half)
    x, into = torch.randn(257, 2 * half, generator=generator) * 3, torch.randn(257, half, generator=generator)
    exact, given = x.to(dtype).float().requires_grad_(), x.to(cuda, dtype).requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    wanted, found = glu.ACTIVATIONS[activation](gate) * up, glu.gated(given, activation)
    (its,) = torch.autograd.grad(found, given, into.to(cuda, dtype))
    (exact_gradient,) = torch.autograd.grad(wanted, exact, into.to(dtype).float())
    assert found.dtype == its.dtype == dtype
    assert parts_off(found, wanted) < (5e-3 if dtype is torch.bfloat16 else 1e-6)
    assert parts_off(its, exact_gradient) < (5e-3 if dtype is torch.bfloat16 else 1e-6)
