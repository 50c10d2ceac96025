"""A sentence-transformers folder names nothing outside itself, and its numbers are believed only after the weights."""

import json
from pathlib import Path

import pytest
import torch
from damage import survives
from safetensors.torch import save_file

from tessera.inference.sentence_folder import read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        ],
        "config_sentence_transformers.json": {"prompts": {"query": "q: "}, "similarity_fn_name": "cosine"},
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "tokenizer_config.json": {"model_max_length": 64},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "include_prompt": True},
        "2_Dense/config.json": {"in_features": 4, "out_features": 3, "bias": False},
    }
    for name, data in files.items():
        (tmp_path / "st" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "st" / name).write_text(json.dumps(data))
    save_file({"linear.weight": torch.ones(3, 4)}, tmp_path / "st" / "2_Dense" / "model.safetensors")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.json").write_text("{}")
    return tmp_path / "st"


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize(
    "path", ["../outside", "/etc", "C:\\\\outside", "..\\\\outside", "a/../../outside", "link", "\0"]
)
def test_no_path_leads_out_of_the_folder(folder, step, path):
    (folder / "link").symlink_to(folder.parent / "outside")
    modules = json.loads((folder / "modules.json").read_text())
    modules[step]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"modules\.json: path .* leads out of the folder"):
        read(folder)


def test_a_dense_layer_of_billions_is_refused_before_it_is_made(folder):
    place = folder / "2_Dense" / "config.json"
    place.write_text(json.dumps({"in_features": 10**6, "out_features": 10**6}))
    with pytest.raises(ValueError, match=r"2_Dense.*does not fit its config\.json: linear.weight is \[3, 4\]"):
        read(folder)


@pytest.mark.parametrize(("inputs", "seconds"), [(400, 60), pytest.param(25_000, 300, marks=pytest.mark.slow)])
def test_any_damaged_file_is_read_or_refused_by_name(folder, inputs, seconds):
    counts = survives(lambda: read(folder), sorted(folder.rglob("*.json")), inputs=inputs, seconds=seconds)
    assert counts["refused"] > 0
