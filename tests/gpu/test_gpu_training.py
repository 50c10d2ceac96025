"""A run of two phases on a GPU, stopped and resumed; weights spread over processes by FSDP2."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from going import lines
from tiny_run import recipe, written

from tessera.data.stream import Stream
from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.phase import Optimizer
from tessera.plan.recipe import Recipe
from tessera.progress import Silent
from tessera.train import distributed
from tessera.train.distributed import World
from tessera.train.gradient import Cut, Objective, backward, prepare
from tessera.train.optimizer import AtOnce, build
from tessera.train.reading import reading
from tessera.train.start import architecture
from tessera.train.trainer import Text, train

PHASES = ("first", "second")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return written(tmp_path_factory.mktemp("text"))


def plan_of(device: torch.device) -> Recipe:
    """Three steps a phase; with dropout on a GPU: that of a CPU knows no documents that fill a pass up."""
    data = recipe(device=device.type, dtype="bfloat16", compile="off").model_dump(mode="json", by_alias=True)
    for phase in data["phases"]:
        phase["tokens"] = 3_000
    if device.type == "cpu":
        data["model"]["override"]["attention_output_dropout"] = 0.0
    return Recipe.model_validate(data)


def go(folder: Path, text: Text, device: torch.device, stop: int | None = None) -> None:
    """Both phases; with `stop`, dies at the progress call of that number."""
    plan, world, made = plan_of(device), World(rank=0, size=1, device=device), 0

    def watch(done: int, total: int, what: str) -> None:
        nonlocal made
        made += 1
        if made == stop:
            raise KeyboardInterrupt

    for name in PHASES:
        train(plan, plan.phase(name), folder, text, world, watch, Silent())


def test_two_phases_stopped_and_resumed_go_where_they_go_without_a_stop(tmp_path, text, device):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    go(whole, text, device)
    with pytest.raises(KeyboardInterrupt):
        go(stopped, text, device, stop=5)  # in the second phase
    go(stopped, text, device)
    for phase in PHASES:
        mine, theirs = (lines(folder, phase=phase) for folder in (stopped, whole))
        assert [line["step"] for line in mine] == [line["step"] for line in theirs]
        assert [line["loss"] for line in mine] == pytest.approx([line["loss"] for line in theirs], rel=1e-2)
    assert lines(whole, phase="second")[-1]["loss"] < lines(whole)[0]["loss"] - 0.3
    assert lines(whole, "held_out", "second")
    model = hub.load(stopped / "second" / "final")  # and what comes out is a folder for any device
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in model.parameters())
    assert "160000" in (stopped / "second" / "final" / "config.json").read_text()


@pytest.fixture
def alone_in_a_group(device):
    """A process group of one, over the connection that the device has."""
    if device.type == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    distributed._forget_layouts()
    dist.destroy_process_group()


def gradients(module: Objective, text: Text, device: torch.device) -> dict[str, torch.Tensor]:
    """Of one batch of the first phase, whole and on the CPU."""
    plan, world = plan_of(device), World(rank=0, size=1, device=device)
    stream, _ = reading(plan, plan.phases[0], text)
    assert isinstance(stream, Stream)
    cut = Cut.of(module.model, world, torch.bfloat16, 300, plan.phases[0].context)
    backward(module, prepare(stream.read(0, 1_000, 0.3), cut), torch.bfloat16, noise=None, seed=0)
    return {
        name: distributed.whole(weight.grad).float().cpu()
        for name, weight in module.named_parameters()
        if weight.grad is not None
    }


@pytest.mark.usefixtures("alone_in_a_group")
def test_weights_spread_by_fsdp2_have_the_gradients_of_whole_ones(text, device, monkeypatch):
    from torch.distributed import device_mesh

    real = device_mesh.init_device_mesh
    monkeypatch.setattr(device_mesh, "init_device_mesh", lambda kind, shape: real(kind, (1,)))  # of one GPU
    config = architecture(plan_of(device), text.tokenizer).model_copy(update={"attention_output_dropout": 0.0})
    found = []
    for spread in (False, True):
        model = MaskedLM(config)
        initialize(model, torch.Generator().manual_seed(0))
        module = Objective(model.to(device).train())
        if spread:
            distributed.spread(module, World(rank=0, size=2, device=device), "fsdp2")
        found.append(gradients(module, text, device))
    whole, parts = found
    assert whole.keys() == parts.keys()
    for name, wanted in whole.items():
        assert float((parts[name] - wanted).norm()) <= 0.02 * float(wanted.norm()), name


@pytest.mark.gpu
def test_stableadamw_of_all_tensors_at_once_moves_them_as_the_plain_form_does():
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    settings = Optimizer(name="stableadamw", weight_decay=0.01, fully_decoupled=True)
    found = []
    for device in ("cpu", "cuda", "cuda"):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(640, 300), torch.nn.LayerNorm(300), torch.nn.Linear(300, 7))
        made = build(net.to(device), settings, peak=1e-3)
        assert isinstance(made, AtOnce) == (device == "cuda")
        random = torch.Generator().manual_seed(1)
        for number in range(5):
            for weight in net.parameters():
                gradient = torch.randn(weight.shape, generator=random) * (50.0 if number == 3 else 1.0)
                weight.grad = gradient.to(device)
            made.step()
        found.append([weight.detach().cpu() for weight in net.parameters()])
    plain, first, second = found
    for wanted, one, other in zip(plain, first, second, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(one, other)  # the same to the last bit
