"""Layers left out of a folder: what transformers computes without them, kinds of attention kept, the rest as it was."""

import json

import learnable
import pytest
import small
import task_folders
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from tessera.huggingface import hub
from tessera.huggingface.hf_files import config_json
from tessera.huggingface.transformers_model import quietly
from tessera.inference.encoder import Encoder
from tessera.model.pooling import Dense
from tessera.shrink import layers
from tessera.shrink.layers import Stack

IDS = torch.tensor([2, 7, 9, 11, 5, 3])
ENDS = torch.tensor([0, 6])
SHAPE = {"max_position_embeddings": 64, "local_attention": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return small.families(tmp_path_factory.mktemp("layers"))


def written(folder, kept, out):
    out.mkdir()
    Stack.of(folder).write(kept, out)
    return out


def theirs(folder):
    with quietly():
        return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@pytest.mark.parametrize(
    ("family", "kept", "path"),
    [
        ("bert", (0, 3), "encoder.layer"),
        ("eurobert", (1, 2, 3), "layers"),
        ("modernbert", (0, 1, 5, 6), "layers"),
    ],
)
@torch.no_grad()
def test_a_folder_without_layers_is_what_transformers_computes_without_them(folders, tmp_path, family, kept, path):
    whole = theirs(folders[family])
    parts = whole.get_submodule(path)
    above, _, name = path.rpartition(".")
    setattr(whole.get_submodule(above), name, nn.ModuleList(parts[n] for n in kept))
    due = whole(input_ids=IDS[None]).last_hidden_state[0]
    out = written(folders[family], kept, tmp_path / "out")
    assert torch.equal(theirs(out)(input_ids=IDS[None]).last_hidden_state[0], due)
    torch.testing.assert_close(hub.load_encoder(out).eval()(IDS, ENDS), due, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "kept"), [("bert", (2,)), ("eurobert", (0, 3)), ("modernbert", (0, 4, 5, 6))])
@torch.no_grad()
def test_what_is_tried_in_memory_is_what_is_written(folders, tmp_path, family, kept):
    stack, encoder = Stack.of(folders[family]), hub.load_encoder(folders[family]).eval()
    before = encoder(IDS, ENDS)
    tried = stack.without(encoder, kept)(IDS, ENDS)
    assert torch.equal(hub.load_encoder(written(folders[family], kept, tmp_path / "out")).eval()(IDS, ENDS), tried)
    assert torch.equal(encoder(IDS, ENDS), before)
    assert torch.equal(stack.without(encoder, tuple(range(stack.count)))(IDS, ENDS), before)


def test_kinds_of_attention_keep_their_order_and_the_first_layer_its_place(folders):
    stack = Stack.of(folders["modernbert"])
    assert (stack.period, stack.first_stays, stack.sizes) == (3, True, [4, 1])
    runs = list(stack.runs(tuple(range(7))))
    assert runs == [(1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 6)]
    for run in runs:
        kinds = [stack.kinds[n] for n in range(7) if n not in run]
        assert kinds == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def test_any_layer_may_go_where_all_are_alike(folders):
    stack = Stack.of(folders["bert"])
    assert stack.sizes == [3, 2, 1]
    assert list(stack.runs((0, 2, 3))) == [(0,), (2,), (3,)]
    assert list(stack.runs((3,))) == []


def test_the_head_and_all_that_is_no_layer_stay_bit_for_bit(folders, tmp_path):
    out = written(folders["modernbert"], (0, 1, 2, 3), tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (folders["modernbert"], out))
    others = {name for name in before if ".layers." not in name}
    assert others == {name for name in after if ".layers." not in name}
    assert "decoder.bias" in others
    assert all(torch.equal(before[name], after[name]) for name in others)
    given = config_json(out)
    assert (given["num_hidden_layers"], len(given["layer_types"])) == (4, 4)
    assert hub.load(out)(IDS, ENDS).shape == (6, given["vocab_size"])


def test_what_holds_the_weights_of_all_layers_is_left_out_and_named(folders, tmp_path):
    folder = task_folders.bert(tmp_path / "model", num_hidden_layers=2)
    for name in ("model.onnx", "training/optimizer.safetensors", "tuned/choice.json", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (tmp_path / "out").mkdir()
    left_out = Stack.of(folder).write((1,), tmp_path / "out")
    assert sorted(left_out) == ["model.onnx", "training/optimizer.safetensors", "tuned/choice.json"]
    assert (tmp_path / "out" / "notes.txt").is_file()


def test_parameters_of_all_weights_and_of_layers(folders, tmp_path):
    stack = Stack.of(folders["bert"])
    whole = theirs(folders["bert"])
    of_layers = sum(p.numel() for p in whole.encoder.layer.parameters())
    assert stack.parameters() == (sum(p.numel() for p in whole.parameters()), of_layers)
    out = written(folders["bert"], (0, 3), tmp_path / "out")
    assert stack.parameters(out)[1] == of_layers // 2


# ---------------------------------------------------------------------------------------------------- what is refused


def test_layers_that_are_shared_or_alone_are_refused(tmp_path):
    config = transformers.AlbertConfig(
        vocab_size=30, embedding_size=8, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8
    )
    with quietly():
        transformers.AlbertModel(config).save_pretrained(tmp_path / "albert")
    with pytest.raises(ValueError, match=r"albert: there are no layers to leave out: config.json says num_hidden_laye"):
        Stack.of(tmp_path / "albert")
    with pytest.raises(ValueError, match=r"there are no layers to leave out: config.json says num_hidden_layers 1"):
        Stack.of(task_folders.bert(tmp_path / "one", num_hidden_layers=1))


def test_a_pattern_of_attention_as_long_as_the_model_is_refused(tmp_path):
    folder = learnable.model(tmp_path, num_hidden_layers=3, **SHAPE)
    with pytest.raises(ValueError, match="kinds of attention repeat after 3 of its 3 layers"):
        Stack.of(folder)


def test_layers_of_other_weights_are_refused_by_number(folders, tmp_path):
    folder = written(folders["bert"], (0, 1, 2), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.2.adapter.weight"] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="layer 2 has other weights than layer 1, so layers cannot move up"):
        Stack.of(folder)


# ---------------------------------------------------------------------------------------------------- trained weights


@pytest.mark.parametrize("family", ["bert", "eurobert", "modernbert"])
@torch.no_grad()
def test_trained_values_go_into_the_folder_and_a_head_stays(folders, tmp_path, family):
    encoder = hub.load_encoder(folders[family]).eval()
    for weight in encoder.parameters():
        weight.add_(0.01)
    (tmp_path / "out").mkdir()
    layers.renew(folders[family], encoder, [], tmp_path / "out")
    assert torch.equal(hub.load_encoder(tmp_path / "out").eval()(IDS, ENDS), encoder(IDS, ENDS))
    before, after = (load_file(place / "model.safetensors") for place in (folders[family], tmp_path / "out"))
    heads = [name for name in before if name.startswith(("head.", "decoder.", "lm_head."))]
    assert all(torch.equal(before[name], after[name]) for name in heads)
    assert before.keys() == after.keys()


@torch.no_grad()
def test_a_decoder_that_is_stored_beside_its_twin_stays_its_twin(tmp_path):
    folder = learnable.model(tmp_path / "m", num_hidden_layers=4, **SHAPE)
    weights = load_file(folder / "model.safetensors")
    weights["decoder.weight"] = weights["model.embeddings.tok_embeddings.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = hub.load_encoder(folder).eval()
    encoder.embedding.weight.mul_(2)
    (tmp_path / "out").mkdir()
    layers.renew(folder, encoder, [], tmp_path / "out")
    doubled = hub.load(tmp_path / "out").encoder.embedding.weight  # loading raises where the twins differ
    assert torch.equal(doubled, encoder.embedding.weight)


@torch.no_grad()
def test_dense_layers_after_pooling_are_written_too(tmp_path):
    source = task_folders.bert(tmp_path / "bert")
    dense = Dense(32, 8, activation="Identity")
    made = Encoder.from_pretrained(source)
    made.save(tmp_path / "plain")
    from tessera.inference import sentence_folder as folders_

    pipeline = folders_.Pipeline(steps=(dense,))
    folders_.write(source, tmp_path / "dense", pipeline, 32, 64)
    dense.linear.weight.add_(1)
    (tmp_path / "out").mkdir()
    layers.renew(tmp_path / "dense", hub.load_encoder(tmp_path / "dense").eval(), [dense], tmp_path / "out")
    found, _ = folders_.read(tmp_path / "out")
    assert torch.equal(found.steps[0].linear.weight, dense.linear.weight)
    assert json.loads((tmp_path / "out" / "modules.json").read_text())[2]["type"].endswith("Dense")
