"""Who sees whom, and that every backend gives the same answer, forward and backward."""

import random

import pytest
import torch

from tessera.model import attention_cpu
from tessera.model.attention import Layout, attend, choose, frequencies, rotate

HEADS, KEY_VALUE_HEADS, WIDTH = 4, 2, 6
SHAPE = {"heads": HEADS, "key_value_heads": KEY_VALUE_HEADS, "theta": 100.0}


def starts_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def random_qkv(tokens: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, (HEADS + 2 * KEY_VALUE_HEADS) * WIDTH, generator=generator)


def visible(lengths: list[int], window: int | None, backend: str) -> list[str]:
    """Row i marks the tokens whose value reaches the answer at i, read off the gradient."""
    starts = starts_of(lengths)
    qkv = random_qkv(sum(lengths)).requires_grad_()
    answer = attend(qkv, Layout.of(starts, len(qkv), backend), window=window, **SHAPE)
    rows = []
    for row in answer:
        (gradient,) = torch.autograd.grad(row.sum(), qkv, retain_graph=True)
        rows.append(
            "".join("x" if g else "." for g in gradient[:, (HEADS + KEY_VALUE_HEADS) * WIDTH :].abs().sum(1) > 0)
        )
    return rows


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_token_sees_its_neighbours_and_never_another_document(backend: str) -> None:
    assert visible([5, 1, 3], window=1, backend=backend) == [
        "xx.......",
        "xxx......",
        ".xxx.....",
        "..xxx....",
        "...xx....",
        ".....x...",
        "......xx.",
        "......xxx",
        ".......xx",
    ]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_without_a_window_a_token_sees_its_whole_document(backend: str) -> None:
    assert visible([2, 3], window=None, backend=backend) == ["xx...", "xx...", "..xxx", "..xxx", "..xxx"]


@pytest.mark.parametrize("window", [3, 20])
def test_blocks_of_a_long_document_see_across_their_edges_and_not_beyond(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_cpu, "_BLOCK", 16)
    length = 3 * 16 + 5
    drawn = visible([length], window, "cpu")
    assert drawn == ["".join("x" if abs(i - j) <= window else "." for j in range(length)) for i in range(length)]


def both(lengths: list[int], window: int | None, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Answer and gradient of the reference and of the cpu backend."""
    found = []
    for backend in ("reference", "cpu"):
        qkv = random_qkv(sum(lengths), seed).requires_grad_()
        answer = attend(qkv, Layout.of(starts_of(lengths), len(qkv), backend), window=window, **SHAPE)
        torch.manual_seed(seed)
        (gradient,) = torch.autograd.grad((answer * torch.randn_like(answer)).sum(), qkv)
        found.append((answer.detach(), gradient))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_backends_agree_for_any_lengths_and_window(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.choice([0, 1, 2, 7, rng.randint(1, 90), rng.randint(1, 600)]) for _ in range(rng.randint(1, 12))]
    window = rng.choice([None, 1, 3, 8, 64, 1000])
    (wanted, wanted_gradient), (answer, gradient) = both(lengths, window, seed)
    torch.testing.assert_close(answer, wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("window", [None, 5])
def test_backends_agree_where_scores_do_not_fit_the_budget(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_cpu, "_STACK_SCORES", 5000)
    (wanted, wanted_gradient), (answer, gradient) = both([300, 20, 150, 9], window, seed=1)
    torch.testing.assert_close(answer, wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("window", [None, 4, 64])
def test_tiles_ask_for_every_token_exactly_once(seed: int, window: int | None) -> None:
    rng = random.Random(seed)
    lengths = [rng.choice([rng.randint(1, 50), rng.randint(1, 3000)]) for _ in range(rng.randint(1, 60))]
    stacks = attention_cpu.cut(starts_of(lengths).tolist(), window, heads=6)
    total = sum(lengths)
    asked = torch.cat([stack.asked.flatten() for stack in stacks])
    assert sorted(asked[asked < total].tolist()) == list(range(total))
    padded = len(asked)
    assert padded <= 1.35 * total + 64


def test_bfloat16_is_close_to_float32() -> None:
    lengths = [30, 7, 400, 90]
    qkv = random_qkv(sum(lengths))
    layout = Layout.of(starts_of(lengths), len(qkv), "cpu")
    exact = attend(qkv, layout, window=16, **SHAPE)
    rough = attend(qkv.bfloat16(), Layout.of(starts_of(lengths), len(qkv), "cpu"), window=16, **SHAPE)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05


def test_a_rotation_keeps_lengths_and_depends_on_differences_only() -> None:
    angles = torch.arange(20)[:, None, None] * frequencies(100.0, WIDTH)
    q, k = torch.randn(2, 1, 1, WIDTH).expand(2, 20, 1, WIDTH)
    q, k = (rotate(x, angles.cos(), angles.sin())[:, 0] for x in (q, k))
    torch.testing.assert_close(q.norm(dim=1), q[0].norm().expand(20))
    scores = q @ k.T
    torch.testing.assert_close(scores[0, :10], scores[7, 7:17])


def test_no_documents_are_no_trouble() -> None:
    for starts in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        for backend in ("reference", "cpu"):
            assert attend(random_qkv(0), Layout.of(starts, 0, backend), window=4, **SHAPE).shape == (0, HEADS * WIDTH)


@pytest.mark.parametrize("starts", [[], [0, 3], [1, 4], [0, 5, 4]])
def test_starts_that_do_not_fit_are_refused(starts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"starts must rise from 0 to the number of tokens \(4\)"):
        Layout.of(torch.tensor(starts, dtype=torch.int32), 4)


def test_a_backend_is_chosen_by_name_and_out_loud() -> None:
    assert choose("auto", "cpu") == "cpu"
    assert choose("auto", "cuda") == "varlen"
    assert choose("reference", "cuda") == "reference"
    with pytest.raises(ValueError, match=r"'varlen' needs a CUDA device, this is 'cpu'; set machine\.attention"):
        choose("varlen", "cpu")
    with pytest.raises(ValueError, match="'cpu' runs on CPUs, this is 'cuda'"):
        choose("cpu", "cuda")
    with pytest.raises(ValueError, match="unknown backend 'flash'; give auto, reference, cpu, varlen"):
        choose("flash", "cpu")


def test_a_gpu_without_the_kernel_or_without_bfloat16_gets_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    of: dict[str, tuple[int, int]] = {"T4": (7, 5), "A100": (8, 0), "H100": (9, 0)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, capability in of.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        old = capability < (8, 0)
        assert choose("auto", "cuda") == ("reference" if old else "varlen"), name
        assert choose("auto", "cuda", torch.float32) == "reference", name
        if old:
            with pytest.raises(
                ValueError, match=r"newer, this one has 7\.5; set machine\.attention to auto or reference"
            ):
                choose("varlen", "cuda")
    with pytest.raises(
        ValueError, match=r"computes in bfloat16 or float16, not torch\.float32; set machine\.attention"
    ):
        choose("varlen", "cuda", torch.float32)


def test_a_layout_made_on_the_host_is_that_of_the_device(varlen_on_cpu: None) -> None:
    starts = starts_of([5, 1, 300, 40])
    own, host = Layout.of(starts, 346, "varlen"), Layout.from_host(starts.numpy(), 346, torch.device("cpu"), "varlen")
    assert host.longest == own.longest == 300
    assert torch.equal(host.document(), own.document())
    for mine, theirs in zip(host.varlen(100.0, 8), own.varlen(100.0, 8), strict=True):
        if isinstance(mine, torch.Tensor) and len(mine) == 129:  # told of as many as many batches have
            assert mine.tolist() == [*theirs.tolist(), *[346] * (129 - 5)]
        else:
            assert mine is theirs or torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))
    assert Layout.from_host(starts.numpy(), 346, torch.device("cpu"), longest=1024).varlen(100.0, 8).longest == 1024
    with pytest.raises(ValueError, match=r"starts must rise from 0 to the number of tokens \(347\)"):
        Layout.from_host(starts.numpy(), 347, torch.device("cpu"))


@pytest.mark.parametrize("window", [None, 3, 64])
def test_varlen_agrees_with_the_reference(window: int | None) -> None:
    if not torch.cuda.is_available():
        pytest.skip("varlen needs a CUDA device")
    lengths, width = [5, 1, 300, 40], 32
    starts = starts_of(lengths).cuda()
    torch.manual_seed(0)
    qkv = torch.randn(sum(lengths), (HEADS + 2 * KEY_VALUE_HEADS) * width, device="cuda", dtype=torch.bfloat16)
    answers = []
    for backend in ("reference", "varlen"):
        given = qkv.clone().requires_grad_()
        answer = attend(given, Layout.of(starts, len(qkv), backend), window=window, **SHAPE)
        (gradient,) = torch.autograd.grad(answer.float().square().sum(), given)
        answers.append((answer.float(), gradient.float()))
    for wanted, found in zip(*answers, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)
