"""benchmarks/training_gpu.py on a CPU: all of it but the kernels and the times."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import HANGS

from tessera.huggingface import hub
from tessera.model import attention

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def parts(monkeypatch):
    """The modules of the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_gpu_parts

    return training_gpu_parts


@pytest.fixture
def program(parts):
    import training_gpu

    return training_gpu


def case(folder: Path, **more: object) -> dict[str, object]:
    plain = {"rehearse": True, "budget": 256, "steps": 1, "warmup": 1, "lengths": "mixed", "peak_flops": 1e12}
    return {**plain, "folder": str(folder), **more}


@pytest.mark.parametrize("name", ["tessera", "transformers, sdpa"])
def test_a_right_answer_is_close_to_float32(parts, tmp_path, name):
    row = parts.parity(name, CPU, tmp_path)
    assert row["right"], row
    assert row["gradient_off"] < parts.BOUNDS[1] / 2  # bfloat16 leaves room below the bound


@pytest.mark.usefixtures("varlen_on_cpu")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # PyTorch's own tracing looks at it
def test_compiled_layers_give_the_same_answer(parts, tmp_path):
    plain, compiled = (parts.parity(name, CPU, tmp_path) for name in ("tessera", "tessera, compiled"))
    assert compiled["right"]
    assert compiled["gradient_off"] < 1.2 * plain["gradient_off"]


def wide(attend):
    return lambda qkv, layout, **how: attend(qkv, layout, **{**how, "window": None})


def shared(attend):
    def run(qkv, layout, **how):
        one = attention.Layout(layout.backend, layout.starts[[0, -1]], int(layout.starts[-1]))
        return attend(qkv, one, **how)

    return run


@pytest.mark.parametrize("mistake", [wide, shared], ids=["no window", "documents see each other"])
def test_a_wrong_kernel_is_found_out(parts, tmp_path, monkeypatch, mistake):
    from tessera.model import encoder

    wrong = mistake(attention.attend)

    def only_in_tiles(qkv, layout, **how):  # the right answer comes from the reference
        return (wrong if layout.backend != "reference" else attention.attend)(qkv, layout, **how)

    monkeypatch.setattr(encoder, "attend", only_in_tiles)
    row = parts.parity("tessera", CPU, tmp_path)
    assert not row["right"]
    assert row["gradient_off"] > 2 * parts.BOUNDS[1]


def test_every_pass_has_exactly_the_budget_and_the_same_documents_for_all(parts):
    config = parts.shape("mmbert-base", True)
    whole = list(parts.passes(config, 300, 64, "mixed", 4))
    assert [len(piece.tokens) for piece in whole] == [300] * 4
    for piece in whole:
        lengths = np.diff(piece.starts)
        assert lengths[:-1].min() >= parts.SHORTEST
        assert lengths.max() <= 64
        batch = parts.padded(piece, CPU)
        assert batch["attention_mask"].sum() == 300
        assert (batch["labels"] >= 0).sum() == len(piece.positions) == pytest.approx(90, abs=35)
        assert batch["input_ids"][batch["attention_mask"].bool()].tolist() == piece.tokens.tolist()
        assert batch["labels"][batch["labels"] >= 0].tolist() == piece.targets.tolist()
        halves = parts._split(piece, 2)
        assert [t for half in halves for t in half.tokens.tolist()] == piece.tokens.tolist()
    full = next(iter(parts.passes(config, 300, 64, "full", 1)))
    assert np.diff(full.starts).tolist() == [64, 64, 64, 64, 44]


def test_ours_and_transformers_start_at_the_same_loss_and_padding_counts_for_nobody(parts, tmp_path):
    weights = case(tmp_path, what="weights", preset="mmbert-small")
    parts.main(weights)
    rows = {
        (name, halved): parts.main(
            case(tmp_path, what="train", name=name, preset="mmbert-small", context=64, halved=halved)
        )
        for name, halved in (("tessera", 0), ("transformers, sdpa", 0), ("transformers, sdpa", 1))
    }
    ours, whole, halves = rows.values()
    assert whole["losses"][0] == pytest.approx(ours["losses"][0], rel=2e-3)
    assert halves["losses"][0] == pytest.approx(whole["losses"][0], rel=2e-3)
    assert ours["padding"] == 0.0
    assert ours["tokens_a_pass"] == 256
    assert whole["padding"] > halves["padding"] > 0.1
    for row in rows.values():
        # the same FLOPs for all, since padding is none: MFU goes as tokens per second
        assert row["mfu"] / row["tokens_per_second"] == pytest.approx(ours["mfu"] / ours["tokens_per_second"])
        assert row["peak_bytes"] > 1e7


def test_mfu_is_counted_by_hand(parts, tmp_path, monkeypatch):
    from tessera.plan.architecture import flops_per_token, head_flops

    parts.main(case(tmp_path, what="weights", preset="eurobert-210m"))
    given = case(tmp_path, what="train", name="tessera", preset="eurobert-210m", context=64, halved=0, lengths="full")
    row = parts.main(given)
    config = hub.read_config(tmp_path / "eurobert-210m")
    masked = sum(len(piece.positions) for piece in parts.passes(config, 256, 64, "full", 4))
    flops = 3 * (4 * 256 * flops_per_token(config, 64) + masked * head_flops(config))
    assert row["mfu"] == pytest.approx(flops / row["seconds_per_step"] / 1e12)


@pytest.mark.parametrize("name", ["tessera", "plain logits", "linear_cross_entropy"])
def test_a_way_to_the_loss_is_compared_before_it_is_timed(parts, tmp_path, name):
    if (absent := parts.missing(name, CPU)) is not None:
        pytest.skip(f"{name}: {absent}")
    row = parts.main(case(tmp_path, what="head", name=name, preset="mmbert-small"))
    assert row["positions"] == round(0.3 * 256)
    assert row["loss_off"] < 3e-3
    assert row["seconds"] > 0


def test_a_wrong_loss_is_not_timed(parts, tmp_path, monkeypatch):
    import training_gpu_heads

    right = training_gpu_heads.summed_cross_entropy
    monkeypatch.setattr(training_gpu_heads, "summed_cross_entropy", lambda *given: right(*given) * 1.2)
    row = parts.main(case(tmp_path, what="head", name="tessera", preset="mmbert-small"))
    assert "seconds" not in row
    assert row["error"].startswith("WRONG, not timed: loss ")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("transformers, flash_attention_2", "runs on GPUs only"),
        ("liger", "runs on GPUs only"),
        ("tessera", None),
        ("linear_cross_entropy", None if hasattr(torch.nn.functional, "linear_cross_entropy") else "not in this torch"),
    ],
)
def test_what_cannot_run_here_says_why(parts, name, says):
    assert parts.missing(name, CPU) == says
    if name == "liger":
        assert parts.missing(name, torch.device("cuda")) == "liger_kernel is not installed"


def test_without_a_gpu_it_ends_and_names_the_rehearsal(program):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "training_gpu.py"], capture_output=True, text=True, timeout=HANGS, check=False
    )
    assert done.returncode == 1
    assert "PyTorch sees no GPU" in done.stderr
    assert "--rehearse" in done.stderr


def faked(found: list[dict[str, object]]):
    """Children that answer at once: sdpa is out of memory until its passes are halved twice, compiled is wrong."""

    def child(given: object, folder: Path, asked: dict[str, object]) -> dict[str, object]:
        found.append(dict(asked))
        if asked["what"] == "machine":
            return {"device": "a CPU", "torch": "2", "peak_flops": 1e12, "peak_source": "invented",
                    "product_flops": 5e11}  # fmt: skip
        if asked["what"] == "parity":
            return {"loss_off": 1e-4, "gradient_off": 1e-2, "right": asked["name"] != "tessera, compiled"}
        if asked["what"] == "head":
            return {"error": "not in this torch"} if asked["name"] == "liger" else {
                "positions": 9, "seconds": 0.002, "of_peak": 0.5, "peak_bytes": 2**30, "loss_off": 0.0,
                "gradient_off": 0.0}  # fmt: skip
        if asked["what"] == "train":
            if asked["name"] == "transformers, sdpa" and asked["halved"] < 2:
                return {"full": True}
            speed = 4_000.0 if asked["name"] == "tessera" else 1_000.0
            return {"tokens_per_second": speed, "mfu": speed / 1e4, "peak_bytes": 2**30, "tokens_a_pass": 512.0,
                    "padding": 0.5, "losses": [6.25, 6.0]}  # fmt: skip
        return {}

    return child


def test_the_program_halves_leaves_out_what_is_wrong_and_ends_with_one_json_object(
    program, tmp_path, monkeypatch, capsys
):
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(program, "_child", faked(asked))
    words = ["--rehearse", "--presets", "mmbert-small", "--write", str(tmp_path / "gpu.md")]
    assert program.main(program.arguments(words)) == 1  # one of ours is wrong
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == program.NO_MEASUREMENT
    assert any("tessera, compiled" in line and line.endswith("WRONG: not timed") for line in shown)
    result = json.loads(shown[-1])
    assert set(result["ours"]) == {"mmbert-small, 64", "mmbert-small, 256"}
    assert set(result["ours"]["mmbert-small, 64"]) == {"tessera"}
    assert result["ratios"]["mmbert-small, 64"]["transformers, sdpa"] == {"speed": 4.0, "memory": 1.0}
    assert result["limit_share"] == {"mmbert-small, 64": 0.4, "mmbert-small, 256": 0.4}
    tried = [row["halved"] for row in asked if row["what"] == "train" and row["name"] == "transformers, sdpa"]
    assert tried == [0, 1, 2, 0, 1, 2]
    page = (tmp_path / "gpu.md").read_text()
    assert program.NO_MEASUREMENT in page
    assert "| tessera | 4,000 | 40.0% | 1.0 | 512 | 50% | 6.2500 |" in page
    assert "Beside transformers, sdpa: 4.00 times the speed, 1.00 of the memory." in page
    assert "| liger | not in this torch | | | |" in page


def test_what_was_measured_is_kept_and_not_measured_again(program, tmp_path, monkeypatch):
    given = program.arguments(["--rehearse", "--keep", str(tmp_path / "kept"), "--only", "tessera"])
    calls = []

    def ran(command, **_):
        calls.append(json.loads(command[2])["what"])
        return subprocess.CompletedProcess(command, 0, stdout='{"right": true}\n')

    monkeypatch.setattr(program.subprocess, "run", ran)
    for _ in range(2):
        assert program._child(given, tmp_path, {"what": "parity", "name": "tessera"}) == {"right": True}
        program._child(given, tmp_path, {"what": "weights", "preset": "mmbert-small"})
    assert calls == ["parity", "weights", "weights"]


def test_a_child_that_dies_leaves_a_row_that_says_so(program, tmp_path, monkeypatch):
    monkeypatch.setattr(program.subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, -9, stdout=""))
    given = program.arguments(["--rehearse"])
    assert program._child(given, tmp_path, {"what": "train"})["error"].startswith("its process ended with -9")
    with pytest.raises(SystemExit):
        program._child(given, tmp_path, {"what": "machine"})


@pytest.mark.slow
def test_a_rehearsal_runs_from_end_to_end(program, tmp_path):
    words = ["--rehearse", "--presets", "mmbert-small", "--contexts", "64", "--budget", "128"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "training_gpu.py", *words, "--write", tmp_path / "gpu.md"],
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rehearsal"] is True
    assert set(result["ours"]["mmbert-small, 64"]) == {"tessera", "tessera, compiled"}
    assert result["peers"]["mmbert-small, 64"]["transformers, sdpa"]["padding"] > 0
    assert program.NO_MEASUREMENT in (tmp_path / "gpu.md").read_text()
