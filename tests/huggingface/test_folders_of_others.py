"""Model folders that are damaged, odd or made to mislead: read as transformers reads them, or refused with a reason."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import survives
from safetensors.torch import load_file, save_file
from small_encoder import small_model, write_model
from test_transformers_model import build as build_foreign
from typer.testing import CliRunner

from tessera import Encoder, checksums
from tessera.cli import app
from tessera.files import fingerprint
from tessera.huggingface import hub
from tessera.huggingface.hf_files import Roles, TokenizerJson
from tessera.huggingface.task_heads import TaskModel
from tessera.inference.parity import parity
from tessera.json_files import read_as
from tessera.model.task_config import SCORE
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.train.merge_models import merge_folders
from tessera.vocabulary.tables import ModelFolder

transformers = pytest.importorskip("transformers")

OURS = ("mmbert", "eurobert")
BOTH = [(name, load) for name in (*OURS, "bert", "xlm-r") for load in (hub.load_any, hub.load_encoder)]


def scorer(config, pooling):
    """A model with a regression head, its weights as torch draws them."""
    return TaskModel.of(config, SCORE, pooling)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family, with a tokenizer."""
    place = tmp_path_factory.mktemp("models")
    for name in OURS:
        write_model(place, name)
    for name in ("bert", "xlm-r"):
        build_foreign(name).save_pretrained(place / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(place / "tokenizer" / file, place / name / file)
    return place


@pytest.fixture
def models(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "models"))


def change(folder: Path, **fields: Any) -> Path:
    place = folder / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | fields))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def cut_into_shards(folder: Path, factor: float = 1.0) -> dict[str, str]:
    """Writes the weights, times `factor`, as two shards with an index; returns which shard has what."""
    found = {name: value * factor for name, value in weights(folder).items()}
    names = {name: f"model-0000{1 + (i > 5)}-of-00002.safetensors" for i, name in enumerate(found)}
    for shard in sorted(set(names.values())):
        save_file({n: found[n] for n in found if names[n] == shard}, folder / shard, metadata={"format": "pt"})
    write_index(folder, names)
    return names


def write_index(folder: Path, names: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


# ------------------------------------------------------------------------------------------------------ which file


@pytest.mark.parametrize("name", [*OURS, "bert"])
def test_of_a_single_file_beside_an_index_that_is_read_which_transformers_reads(name: str, models: Path) -> None:
    folder = models / name
    cut_into_shards(folder, factor=3.0)
    theirs = transformers.AutoModel.from_pretrained(folder).get_input_embeddings().weight
    found = hub.load_encoder(folder)
    ours = found.embedding.weight if name in OURS else found.model.get_input_embeddings().weight
    assert torch.equal(ours, theirs)
    (folder / "model.safetensors").unlink()  # and the shards, where they are alone
    found = hub.load_encoder(folder)
    thrice = found.embedding.weight if name in OURS else found.model.get_input_embeddings().weight
    assert torch.equal(thrice, transformers.AutoModel.from_pretrained(folder).get_input_embeddings().weight)
    assert torch.equal(thrice, 3 * ours)


@pytest.mark.parametrize("way", ["../{out}", "a/../../{out}", "{folder}/{out}", "..\\{out}", "C:{out}"])
@pytest.mark.parametrize("name", ["mmbert", "bert"])
def test_an_index_leads_to_no_file_outside_the_folder(name: str, way: str, models: Path) -> None:
    folder, out = models / name, models / "outside.safetensors"
    shutil.copy(folder / "model.safetensors", out)
    (folder / "a").mkdir()
    names = dict.fromkeys(weights(folder), way.format(out=out.name, folder=models))
    (folder / "model.safetensors").rename(folder / "outside.safetensors")  # not even under its last name
    write_index(folder, names)
    with pytest.raises(ValueError, match=r"index\.json: a file is called .* leads out of the folder"):
        hub.load_any(folder)


@pytest.mark.parametrize("name", ["mmbert", "bert"])
def test_a_link_out_of_the_folder_is_followed_only_in_the_cache_of_the_hub(name: str, models: Path) -> None:
    folder = models / name
    shards = sorted(set(cut_into_shards(folder).values()))
    (folder / "model.safetensors").unlink()
    hub.load_any(folder)
    cache = models / "models--one--model"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    for number, shard in enumerate(shards):
        (folder / shard).rename(cache / "blobs" / str(number))
        (folder / shard).symlink_to(Path("../../blobs") / str(number))
    inside = folder.rename(cache / "snapshots" / "main")
    hub.load_any(inside)
    for number, shard in enumerate(shards):
        (inside / shard).unlink()
        (inside / shard).symlink_to(Path("../../other") / str(number))
    (cache / "blobs").rename(cache / "other")
    with pytest.raises(ValueError, match=r"a link to .*other/0, out of the folder"):
        hub.load_any(inside)


def test_an_index_may_name_files_in_folders_within_and_nothing_but_safetensors(models: Path) -> None:
    folder = models / "mmbert"
    names = cut_into_shards(folder)
    (folder / "parts").mkdir()
    for shard in set(names.values()):
        (folder / shard).rename(folder / "parts" / shard)
    (folder / "model.safetensors").unlink()
    write_index(folder, {name: f"parts/{shard}" for name, shard in names.items()})
    hub.load(folder)
    for odd in ("config.json", "", ".", "pytorch_model.bin", "a\0.safetensors"):
        write_index(folder, dict.fromkeys(names, odd))
        with pytest.raises(ValueError, match=r"but weights are read from \.safetensors files only"):
            hub.load(folder)


def test_a_configuration_names_no_file_of_weights(models: Path) -> None:
    change(models / "bert", transformers_weights="../mmbert/model.safetensors")
    with pytest.raises(ValueError, match="'transformers_weights' is not implemented"):
        hub.load_any(models / "bert")
    change(models / "mmbert", transformers_weights="x.safetensors")
    with pytest.raises(ValueError, match="'transformers_weights' is not implemented"):
        hub.load_any(models / "mmbert")


# -------------------------------------------------------------------------------------------------- adapters and heads


@pytest.mark.parametrize(("name", "load"), BOTH)
@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_a_model_is_never_passed_over(name: str, load: Any, file: str, models: Path) -> None:
    (models / name / file).write_text("{}")
    with pytest.raises(
        ValueError, match=rf"holds an adapter \({file}\).*\n.*tessera merge BASE --adapter .* --out merged"
    ):
        load(models / name)


def test_an_adapter_alone_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere"}')
    for load in (
        hub.load,
        hub.load_any,
        hub.load_encoder,
        hub.load_regressor,
        hub.read_config,
        Encoder.from_pretrained,
    ):
        with pytest.raises(ValueError, match="holds an adapter"):
            load(tmp_path)


TASKS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
HEADS = [
    (name, task) for name in ("modernbert", "eurobert", "bert", "xlm-roberta") for task in TASKS
    if (name, task) != ("eurobert", "MultipleChoice")
]  # fmt: skip


def write_head(name: str, task: str, models: Path) -> Path:
    source = models / {"modernbert": "mmbert", "xlm-roberta": "xlm-r"}.get(name, name)
    labels = 2 if task == "QuestionAnswering" else 3
    config = transformers.AutoConfig.from_pretrained(source, num_labels=labels, vocab_size=300)
    auto = getattr(transformers, f"AutoModelFor{task}")
    if type(config) not in auto._model_mapping:
        pytest.skip(f"transformers has no {task} of {name}")
    auto.from_config(config).save_pretrained(models / "task")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models / "tokenizer" / file, models / "task" / file)
    return models / "task"


@pytest.mark.parametrize(("name", "task"), HEADS)
def test_an_encoder_is_not_taken_from_under_the_head_of_a_task_unasked(name: str, task: str, models: Path) -> None:
    folder = write_head(name, task, models)
    with pytest.raises(ValueError, match=rf"is \w+For{task}: the encoder alone would lose its head \(.*drop_head=True"):
        hub.load_encoder(folder, drop_head=False)
    asked = hub.load_encoder(folder)
    (folder / "modules.json").write_text("[]")
    same = zip(asked.parameters(), hub.load_encoder(folder, drop_head=False).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    with pytest.raises(ValueError, match="missing"):
        hub.load_any(folder)


@pytest.mark.parametrize("name", ["modernbert", "bert"])
def test_vectors_of_a_classifier_are_made_where_that_is_said(name: str, models: Path) -> None:
    folder = write_head(name, "SequenceClassification", models)
    with pytest.raises(ValueError, match="would lose its head"):
        Encoder.from_pretrained(folder)
    asked = Encoder.from_pretrained(folder, drop_head=True)
    asked.save(models / "encoder")
    same = Encoder.from_pretrained(models / "encoder").encode(["one two", "three"])
    assert (same == asked.encode(["one two", "three"])).all()
    (models / "texts.txt").write_text("one two\nthree\n")
    shown = CliRunner().invoke(app, ["embed", str(folder), str(models / "texts.txt"), str(models / "v.npy")])
    assert shown.exit_code != 0
    assert "would lose its head" in str(shown.exception)
    assert not (models / "v.npy").exists()


def test_a_classifier_is_not_exported_as_an_encoder(models: Path) -> None:
    pytest.importorskip("onnxscript")
    from tessera.export.graph import export

    with pytest.raises(ValueError, match="would lose its head"):
        export(write_head("modernbert", "SequenceClassification", models), models / "graph", output="embeddings")
    assert not (models / "graph").exists()


def test_a_folder_has_a_masked_language_model_head_or_another_or_none(models: Path) -> None:
    assert all(hub.has_head(models / name) for name in OURS)
    for name in ("modernbert", "eurobert"):
        assert not hub.has_head(write_head(name, "SequenceClassification", models))
        shutil.rmtree(models / "task")
        transformers.AutoModel.from_pretrained(models / OURS[name == "eurobert"]).save_pretrained(models / "task")
        assert not hub.has_head(models / "task")
        hub.load_encoder(models / "task", drop_head=False)
        shutil.rmtree(models / "task")


@pytest.mark.parametrize("kind", ["ForMaskedLM", "ForPreTraining"])
def test_heads_of_pretraining_may_be_left_out(kind: str, models: Path) -> None:
    getattr(transformers, f"Bert{kind}")(transformers.AutoConfig.from_pretrained(models / "bert")).save_pretrained(
        models / "again"
    )
    encoder, whole = hub.load_encoder(models / "again", drop_head=False), hub.load_any(models / "again")
    assert encoder.config.hidden_size == whole.config.hidden_size == 24


def test_a_head_beside_that_of_a_masked_language_model_is_not_lost_either(models: Path) -> None:
    for name in ("mmbert", "bert"):
        more = {"classifier.weight": torch.zeros(3, 24), "classifier.bias": torch.zeros(3)}
        save_file({**weights(models / name), **more}, models / name / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"classifier\.bias"):
            hub.load_any(models / name)
        with pytest.raises(ValueError, match="would lose its head"):
            hub.load_encoder(models / name, drop_head=False)


@pytest.mark.parametrize("name", OURS)
def test_a_configuration_names_the_class_that_transformers_has(name: str, models: Path) -> None:
    pooling = "mean" if name == "mmbert" else "late"
    tokenizer = Tokenizer.load(models / "tokenizer")
    hub.save(scorer(small_model(tokenizer, name).config, pooling), models / "score")
    for folder, auto in ((name, "AutoModelForMaskedLM"), ("score", "AutoModelForSequenceClassification")):
        theirs = getattr(transformers, auto).from_pretrained(models / folder)
        said = json.loads((models / folder / "config.json").read_text())["architectures"]
        assert said == [type(theirs).__name__]
        theirs.save_pretrained(models / "theirs")
        assert said == json.loads((models / "theirs" / "config.json").read_text())["architectures"]
        shutil.rmtree(models / "theirs")


# ------------------------------------------------------------------------------------------------- numbers and sizes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("name", "load"), BOTH)
def test_weights_that_are_not_finite_are_named_as_they_are_read(
    name: str, load: Any, value: float, models: Path
) -> None:
    found = weights(models / name)
    broken = next(name for name in found if re.search(r"layers?\.1\..*(down_proj|Wo|output\.dense)\.weight", name))
    found[broken][1, 2] = value
    save_file(found, models / name / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="holds values that are not finite") as caught:
        load(models / name)
    assert str(models / name / "model.safetensors") in str(caught.value)
    assert repr(broken) in str(caught.value)


def test_weights_too_large_for_float32_and_whole_numbers_are_no_weights(models: Path) -> None:
    found = weights(models / "mmbert")
    name = "model.layers.1.mlp.Wo.weight"
    save_file({**found, name: found[name].double() + 1e300}, models / "mmbert" / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name}' holds values that are not finite .*in float32"):
        hub.load(models / "mmbert")
    save_file({**found, name: found[name].to(torch.int8)}, models / "mmbert" / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name}' holds int8, which is no floating-point number"):
        hub.load(models / "mmbert")


@pytest.mark.parametrize("name", ["mmbert", "bert"])
def test_what_is_not_finite_is_not_written(name: str, models: Path) -> None:
    model = hub.load_any(models / name)
    with torch.no_grad():
        max(model.parameters(), key=torch.numel)[3, 3] = 1e30
    hub.save(model, models / "whole")
    with pytest.raises(ValueError, match=r"nothing was written: weight '.*' is not finite in torch\.float16"):
        hub.save(model, models / "half", dtype=torch.float16)
    assert not (models / "half").exists()


SIZES = [
    ("num_hidden_layers", 1_000_000), ("num_hidden_layers", 10**12), ("hidden_size", 10**12), ("hidden_size", 10**30),
    ("vocab_size", 10**12), ("intermediate_size", 10**12), ("num_attention_heads", 10**12),
    ("max_position_embeddings", -1), ("num_hidden_layers", 1), ("num_hidden_layers", 0), ("hidden_size", True),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), SIZES)
@pytest.mark.parametrize(("name", "load"), BOTH)
def test_sizes_are_those_of_the_weights_or_an_error_at_once(
    name: str, load: Any, field: str, value: int, models: Path
) -> None:
    change(models / name, **{field: value}, layer_types=None)
    began = time.process_time()
    with pytest.raises(ValueError, match=re.escape(str(models / name))):
        load(models / name)
    assert time.process_time() - began < 5


def test_layers_that_no_weights_are_there_for_are_refused_by_whoever_reads_a_folder(models: Path) -> None:
    change(models / "bert", num_hidden_layers=1_000_000)
    for reader in (ModelFolder.of, hub.load_any, hub.load_encoder):
        with pytest.raises(ValueError, match=r"num_hidden_layers is 1000000, but there are only \d+ weights beside it"):
            reader(models / "bert")


@pytest.mark.parametrize("field", ["max_position_embeddings", "type_vocab_size"])
def test_tables_of_another_family_are_bounded_as_well(field: str, models: Path) -> None:
    with pytest.raises(ValueError, match=r"asks for a model of .* numbers, but the weights beside it are"):
        hub.load_any(change(models / "bert", **{field: 10**12}))


def test_a_list_of_layers_may_be_long_and_is_no_square(models: Path) -> None:
    kinds = ["sliding_attention" if i % 3 else "full_attention" for i in range(999)]
    assert hub.read_config(change(models / "mmbert", num_hidden_layers=999, layer_types=kinds)).num_hidden_layers
    with pytest.raises(ValueError, match="num_hidden_layers is 999, but the weights beside it are of 3 layers"):
        hub.load(models / "mmbert")
    change(models / "mmbert", num_hidden_layers=199_800, layer_types=kinds * 200)
    with pytest.raises(ValueError, match=r"num_hidden_layers: .* 1024"):
        hub.read_config(models / "mmbert")


# ---------------------------------------------------------------------------------------------------- shapes of JSON


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"hidden_size": "32"}, "hidden_size: "),
        ({"num_attention_heads": 0}, "num_attention_heads: "),
        ({"norm_eps": float("nan")}, "norm_eps: a finite number"),
        ({"global_rope_theta": float("inf"), "rope_parameters": None}, "global_rope_theta: a finite number"),
        ({"layer_types": "full_attention"}, "layer_types: "),
        ({"rope_parameters": [1]}, "rope_parameters: "),
        ({"rope_parameters": {"full_attention": 3}}, "rotary positions of type 3 |rope_type: "),
        ({"rope_parameters": {"rope_theta": 1.0}}, "rope_parameters: 'rope_theta' is not implemented"),
        ({"hidden_activation": ["gelu"]}, "hidden_activation: "),
        ({"architectures": "ModernBert"}, "architectures: "),
        ({"model_type": ["modernbert"]}, "model_type: "),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: "),
        ({"pad_token_id": 10**12}, "pad_token_id is 1000000000000"),
    ],
)
def test_a_field_of_another_kind_is_named(fields: dict[str, Any], text: str, models: Path) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        hub.load_encoder(change(models / "mmbert", **fields))
    assert str(caught.value).startswith(str(models / "mmbert" / "config.json"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "null", '"a"', "\ufeff{}", "{", ""])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json", "tokenizer.json"])
def test_json_that_is_deep_or_none_at_all_is_an_error_of_its_file(file: str, text: str, models: Path) -> None:
    folder = models / "bert"
    cut_into_shards(folder)
    (folder / "model.safetensors").unlink()
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=file.replace(".", r"\.")):
        hub.load_any(folder)


@pytest.mark.slow
def test_readers_of_a_model_folder_survive_every_damage(models: Path) -> None:
    """10,000 inputs, and some that take longer: only ValueErrors that name the file, no hang."""
    folder = models / "mmbert"
    shards = models / "eurobert"
    index = shards / "model.safetensors.index.json"
    cut_into_shards(shards)
    (shards / "model.safetensors").unlink()
    bert = models / "bert"
    (models / "score").mkdir()
    hub.save(scorer(hub.read_config(folder), "mean"), models / "score", models / "tokenizer")
    score = models / "score"
    files = {name: models / "tokenizer" / name for name in ("tokenizer.json", "tokenizer_config.json")}
    runs = [
        (lambda: hub.read_config(folder), [folder / "config.json"], 3000),
        (lambda: hub.load(folder), [folder / "config.json", folder / "model.safetensors"], 2000),
        (lambda: hub.load_encoder(shards), [index, shards / "config.json"], 2000),
        (lambda: hub.load_regressor(score), [score / "config.json", score / "model.safetensors"], 1000),
        (lambda: read_as(TokenizerJson, files["tokenizer.json"]).rules(), [files["tokenizer.json"]], 1000),
        (lambda: read_as(Roles, files["tokenizer_config.json"]), [files["tokenizer_config.json"]], 1000),
        (lambda: hub.load_any(bert), [bert / "config.json", bert / "tokenizer.json", bert / "model.safetensors"], 300),
    ]  # fmt: skip
    for number, (read, paths, inputs) in enumerate(runs):
        found = survives(read, paths, inputs=inputs, seconds=20, seed=number)
        assert min(found.values()) > 0, (number, found)
        read()


def busy() -> None:
    """Keeps the processor for longer than is allowed below."""
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass


def test_a_reader_that_trusts_is_found_out(tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    place.write_text(json.dumps({"sizes": [1, 2, {"a": "b"}]}))
    with pytest.raises(AssertionError, match=r"a\.json: \w+Error"):
        survives(lambda: sum(json.loads(place.read_text())["sizes"][:2]), [place], inputs=300, seconds=30)
    with pytest.raises(AssertionError, match="no file is named"):
        survives(lambda: json.loads(place.read_bytes()), [place], inputs=300, seconds=30)
    with pytest.raises(AssertionError, match="took"):
        survives(busy, [place], inputs=3, seconds=0.2)
    assert json.loads(place.read_text()) == {"sizes": [1, 2, {"a": "b"}]}


@pytest.mark.parametrize("name", ["modernbert", "eurobert", "bert"])
def test_what_wants_a_masked_language_model_names_the_head_that_a_folder_has_instead(name: str, models: Path) -> None:
    folder = write_head(name, "TokenClassification", models)
    said = r"is \w+ForTokenClassification: the head of a masked language model.*is missing, and its own \("
    with pytest.raises(ValueError, match=said):
        hub.load_any(folder)
    if name != "bert":
        with pytest.raises(ValueError, match=said):
            merge_folders([folder, folder], models / "merged", method="linear")
        assert not (models / "merged").exists()
        told: list[str] = []
        parity(folder, say=told.append)
        assert told[0].startswith("its head (classifier.")
        assert told[0].endswith("left out: hidden states only")


def test_embed_and_export_leave_a_head_out_where_that_is_said(models: Path) -> None:
    folder = write_head("modernbert", "SequenceClassification", models)
    (models / "texts.txt").write_text("one two\nthree\n")
    embed = ["embed", str(folder), str(models / "texts.txt"), str(models / "v.npy"), "--drop-head"]
    assert CliRunner().invoke(app, embed).exit_code == 0
    expected = Encoder.from_pretrained(folder, drop_head=True).encode(["one two", "three"])
    assert np.allclose(np.load(models / "v.npy"), expected, atol=1e-2)
    pytest.importorskip("onnxscript")
    from tessera.export.graph import export

    export(folder, models / "graph", drop_head=True)
    assert np.allclose(Encoder.from_pretrained(models / "graph").encode(["one two", "three"]), expected, atol=1e-2)


VARIANTS = {
    "a variant": ({"model.safetensors": "model.fp16.safetensors"}, r"rename model\.fp16\.safetensors to model\.safet"),
    "a variant in shards": (
        {"model.safetensors.index.json": "model.safetensors.index.fp16.json"},
        r"rename model\.safetensors\.index\.fp16\.json to model\.safetensors\.index\.json",
    ),
    "a name of their own": ({"model.safetensors": "weights.safetensors"}, r"weights\.safetensors have names that are"),
    "a lost shard": (
        {"model-00002-of-00002.safetensors": "pytorch_model.bin"},
        r"model-00002-of-00002\.safetensors is missing, though model\.safetensors\.index\.json names it \(1 of 2 files",
    ),
    "pickles in shards": (
        {"model.safetensors": "pytorch_model-00001-of-00001.bin"},
        r"(?s)holds its weights in pytorch_model-00001-of-00001\.bin.*convert it once; in Python",
    ),
}


@pytest.mark.parametrize("what", VARIANTS)
def test_weights_of_other_names_are_named_with_what_to_do(what: str, models: Path) -> None:
    folder, (names, said) = models / "mmbert", VARIANTS[what]
    if "shard" in what and "pickle" not in what:
        cut_into_shards(folder)
        (folder / "model.safetensors").unlink()
    if "pickle" in what:
        (folder / "pytorch_model.bin.index.json").write_text("{}")
    for old, new in names.items():
        (folder / old).rename(folder / new)
    with pytest.raises(ValueError, match=said):
        hub.load(folder)


def test_a_tokenizer_of_the_same_size_that_replaced_another_is_noticed_by_the_manifest(models: Path) -> None:
    folder = models / "mmbert"
    checksums.seal(folder)
    whole = (folder / "tokenizer.json").read_text(encoding="utf-8")
    swapped = whole.replace('"e":', '"??":').replace('"h":', '"e":').replace('"??":', '"h":')
    assert swapped != whole
    (folder / "tokenizer.json").write_text(swapped, encoding="utf-8")
    for read in (Encoder.from_pretrained, Tokenizer.load, fingerprint):  # embed, encode; all; evaluate
        with pytest.raises(checksums.Damaged, match=r"tokenizer\.json: its bytes have changed since it was written"):
            read(folder)
