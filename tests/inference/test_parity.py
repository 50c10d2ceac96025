"""A model that is right passes on this machine; one that is wrong in any way does not."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tessera.cli import app
from tessera.huggingface import hub
from tessera.inference.parity import parity
from tessera.model import attention
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig

TINY = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3}
FAMILIES = {
    "mmbert": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 12, "local_attention": 16,
               "global_rope_theta": 160_000.0},
    "eurobert": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8},
}  # fmt: skip


def write(folder: Path, family: str, **fields: Any) -> Path:
    """A tiny model with weights of some size, as a folder."""
    preset = PRESETS["mmbert-small" if family == "mmbert" else "eurobert-210m"]
    shape = {**TINY, **IDS, **FAMILIES[family], "initializer_range": 0.2}
    model = MaskedLM(EncoderConfig.model_validate({**preset.model_dump(), **shape, **fields}))
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, folder)
    return folder


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / "model", request.param)


@pytest.fixture
def mmbert(tmp_path: Path) -> Path:
    return write(tmp_path / "model", "mmbert")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without transformers."""
    monkeypatch.setitem(sys.modules, "transformers", None)


def broken(folder: Path) -> set[tuple[str, str, str]]:
    """Check, place and quantity of each comparison that fails in float32."""
    rows = parity(folder)
    return {(row.check, row.where, row.of) for row in rows if not row.ok and row.dtype == "float32"}


def test_both_families_agree_with_transformers_in_every_backend(folder):
    pytest.importorskip("transformers")
    said: list[str] = []
    rows = parity(folder, say=said.append)
    assert [row for row in rows if not row.ok] == []
    assert {row.where for row in rows} >= {"transformers on cpu", "reference on cpu", "cpu on cpu"}
    assert {row.of for row in rows} == {"hidden states", "logits", "attention", "tokens"}
    exact = [row for row in rows if row.dtype == "float32" and row.of in ("hidden states", "logits")]
    assert max(row.difference for row in exact) < 1e-4
    assert any(line.startswith("transformers 5") for line in said)
    assert any(line.startswith("cpu: auto chooses cpu in ") for line in said)


def test_the_format_that_auto_chooses_is_compared_too(mmbert, monkeypatch, alone):
    for chosen, formats in ((torch.bfloat16, {"float32", "bfloat16"}), (torch.float32, {"float32"})):
        monkeypatch.setattr("tessera.inference.parity.compute_dtype", lambda name, device, chosen=chosen: chosen)
        rows = parity(mmbert)
        assert {row.dtype for row in rows} == formats
        assert all(row.ok for row in rows)


def test_a_folder_without_a_head_is_compared_by_its_hidden_states(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    said: list[str] = []
    rows = parity(tmp_path / "bare", say=said.append)
    assert all(row.ok for row in rows)
    assert "logits" not in {row.of for row in rows}
    assert "the folder holds no masked-language-model head: hidden states only" in said


def test_without_transformers_it_says_so_and_compares_the_rest(folder, alone):
    said: list[str] = []
    rows = parity(folder, say=said.append)
    assert all(row.ok for row in rows)
    assert "transformers on cpu" not in {row.where for row in rows}
    assert any("transformers is not compared" in line and 'pip install "tessera-enc' in line for line in said)


# ------------------------------------------------------------------------------------------------- it can fail


def test_a_window_that_is_one_too_wide_is_noticed(mmbert, alone, monkeypatch):
    window = EncoderConfig.window
    monkeypatch.setattr(EncoderConfig, "window", lambda self, layer: (w := window(self, layer)) and w + 1)
    found = broken(mmbert)
    for where in ("reference on cpu", "cpu on cpu"):
        assert ("layer 1, local: a token sees 8 tokens either side", where, "tokens") in found
        assert ("layer 1, local: by hand", where, "attention") in found
    assert not any("global" in check for check, _, _ in found)


def test_a_rotation_that_does_not_turn_is_noticed_in_the_backend_that_has_it(folder, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(attention, "rotate", lambda x, cos, sin: x)
    found = broken(folder)
    assert ("layer 0, global: by hand", "reference on cpu", "attention") in found
    assert ("packed", "reference on cpu", "hidden states") in found
    assert ("packed", "reference on cpu", "logits") in found
    assert "cpu on cpu" not in {where for _, where, _ in found}


def test_documents_that_see_each_other_are_noticed(mmbert, alone, monkeypatch):
    monkeypatch.setattr(attention.Layout, "document", lambda self: torch.zeros(int(self.starts[-1]), dtype=torch.long))
    found = {check for check, where, _ in broken(mmbert) if where == "reference on cpu"}
    assert {"packed", "packed in another order", "another document changed"} <= found
    assert "layer 0, global: a token sees its document" in found


def test_positions_that_do_not_fit_the_weights_are_noticed(mmbert, monkeypatch):
    pytest.importorskip("transformers")
    read = hub.load

    def load(folder: Path) -> MaskedLM:
        model = read(folder)
        model.encoder.set_rope_theta(40.0, 10_000.0)
        return model

    monkeypatch.setattr(hub, "load", load)
    assert ("packed", "cpu on cpu", "hidden states") in broken(mmbert)


def test_weights_that_are_no_numbers_are_not_ok(mmbert, alone, monkeypatch):
    read = hub.load

    def load(folder: Path) -> MaskedLM:
        model = read(folder)
        model.encoder.norm.weight.data[3] = float("nan")
        return model

    monkeypatch.setattr(hub, "load", load)
    assert ("packed", "cpu on cpu", "hidden states") in broken(mmbert)


# ------------------------------------------------------------------------------------------------- the command


def test_the_exit_status_tells(mmbert, alone, monkeypatch):
    def shown() -> Any:
        return CliRunner().invoke(app, ["parity", str(mmbert)], env={"COLUMNS": "200"})

    good = shown()
    assert good.exit_code == 0, good.output
    assert "NOT OK" not in good.output
    assert "layer 1, local: a token sees 8 tokens either side" in good.output
    monkeypatch.setattr(attention, "rotate", lambda x, cos, sin: x)
    bad = shown()
    assert bad.exit_code == 1
    assert "NOT OK" in bad.output


def test_a_folder_of_another_architecture_is_refused(mmbert):
    path = mmbert / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type is 'bert'; tessera reads modernbert and eurobert"):
        parity(mmbert)
