"""Folders that others read, folders of others that we read, and folders that nobody should."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.huggingface import hub
from tessera.huggingface.hf_names import family
from tessera.huggingface.task_heads import TaskModel
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.task_config import SCORE
from tessera.plan.architecture import PRESETS, EncoderConfig

transformers = pytest.importorskip("transformers")

VARIANTS = [
    ("mmbert", {}),
    ("mmbert", {"tie_word_embeddings": False, "local_rope_theta": 3.0, "local_attention": 16}),
    ("mmbert", {"global_attn_every_n_layers": 1, "local_attention": None, "decoder_bias": False}),
    ("mmbert", {"num_hidden_layers": 1, "global_attn_every_n_layers": 2, "hidden_act": "silu"}),
    ("mmbert", {"num_hidden_layers": 5, "global_attn_every_n_layers": 4, "pad_token_id": None, "mask_token_id": None}),
    ("eurobert", {}),
    ("eurobert", {"tie_word_embeddings": True, "num_key_value_heads": 1, "initialization": "megatron"}),
    ("eurobert", {"num_hidden_layers": 1, "attention_output_dropout": 0.2, "bos_token_id": None}),
]


@pytest.fixture(params=range(len(VARIANTS)))
def model(request: pytest.FixtureRequest, tiny: Any) -> MaskedLM:
    return build(tiny(VARIANTS[request.param][0], **VARIANTS[request.param][1]))


def build(config: EncoderConfig) -> MaskedLM:
    made = MaskedLM(config)
    initialize(made, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.1 * torch.rand(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return made.eval()


def rewrite(folder: Path, **fields: Any) -> Path:
    """Change config.json; None removes a field."""
    data = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    return folder


@pytest.fixture
def saved(tiny: Any, tmp_path: Path) -> Path:
    hub.save(build(tiny("mmbert")), tmp_path / "saved")
    return tmp_path / "saved"


def test_out_and_in_again_is_the_identity(model: MaskedLM, tmp_path: Path) -> None:
    hub.save(model, tmp_path / "a", card="# A card\n")
    again = hub.load(tmp_path / "a")
    assert again.config == model.config == hub.read_config(tmp_path / "a")
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.device.type == "cpu" for p in again.parameters())
    assert (tmp_path / "a" / "README.md").read_text() == "# A card\n"
    hub.save(again, tmp_path / "b")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_transformers_in_and_out_is_the_identity(model: MaskedLM, documents: Any, tmp_path: Path) -> None:
    hub.save(model, tmp_path / "a")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "a", trust_remote_code=False).eval()
    theirs.save_pretrained(tmp_path / "b")
    again = hub.load(tmp_path / "b").eval()
    assert again.config.model_copy(update={"mask_token_id": None}) == model.config.model_copy(
        update={"mask_token_id": None}
    )
    tokens, starts = documents([30])
    torch.testing.assert_close(again(tokens, starts), theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again(tokens, starts), model(tokens, starts), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "pooling"), [("mmbert", "cls"), ("mmbert", "mean"), ("eurobert", "late")])
def test_a_regression_head_out_and_in_again_is_the_identity(name: str, pooling: Any, tiny: Any, tmp_path: Path) -> None:
    model = TaskModel.of(tiny(name), SCORE, pooling)
    hub.save(model, tmp_path / "a")
    again = hub.load_regressor(tmp_path / "a")
    assert (again.config, again.head.pooling) == (model.config, pooling)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"the head of a masked language model.*is missing, and its own \(classifier"):
        hub.load(tmp_path / "a")
    hub.save(build(tiny(name)), tmp_path / "b")
    with pytest.raises(ValueError, match=r"no weight 'classifier\.weight', so it holds no regression head"):
        hub.load_regressor(tmp_path / "b")


@pytest.mark.parametrize("name", ["mmbert", "eurobert"])
def test_automodel_loads_our_encoder(name: str, tiny: Any, documents: Any, tmp_path: Path) -> None:
    model = build(tiny(name))
    hub.save(model, tmp_path / "a")
    theirs, report = transformers.AutoModel.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not report["missing_keys"]
    tokens, starts = documents([30])
    hidden = theirs.eval()(tokens[None]).last_hidden_state[0]
    torch.testing.assert_close(hidden, model.encoder(tokens, starts), rtol=1e-4, atol=1e-4)

    theirs.save_pretrained(tmp_path / "bare")
    for folder in ("a", "bare"):
        encoder = hub.load_encoder(tmp_path / folder).eval()
        torch.testing.assert_close(encoder(tokens, starts), model.encoder(tokens, starts), rtol=0, atol=0)
    with pytest.raises(ValueError, match="without a masked-language-model head; read it with load_encoder"):
        hub.load(tmp_path / "bare")


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<mask>", "<unk>", "one", "two", "three"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "unk_token": "<unk>",
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "notes.txt").write_text("not part of a tokenizer")


@pytest.mark.parametrize("name", ["mmbert", "eurobert"])
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_load_our_folders(name: str, tiny: Any, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = build(tiny(name))
    write_tokenizer(tmp_path / "tokenizer")
    hub.save(model, tmp_path / "a", tokenizer_files=tmp_path / "tokenizer")
    assert not (tmp_path / "a" / "notes.txt").exists()
    encoder = sentence_transformers.SentenceTransformer(str(tmp_path / "a"), trust_remote_code=False, device="cpu")
    found = encoder.encode(["one two three", "two"], convert_to_tensor=True)
    tokens, starts = torch.tensor([1, 5, 6, 7, 2, 1, 6, 2]), torch.tensor([0, 5, 8])
    hidden = model.encoder(tokens, starts)
    wanted = torch.stack([hidden[:5].mean(0), hidden[5:].mean(0)])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_preset_is_saved_as_the_family_of_its_values(tiny: Any) -> None:
    assert [family(config) for config in PRESETS.values()] == ["eurobert"] * 3 + ["modernbert"] * 2
    mixed = tiny("mmbert", norm="rmsnorm", num_key_value_heads=2)
    with pytest.raises(
        ValueError, match=r"modernbert: norm is 'rmsnorm'.*num_key_value_heads is 2.*eurobert: embedding"
    ):
        family(mixed)


def test_weights_may_be_saved_in_bfloat16_and_come_back_as_float32(tiny: Any, tmp_path: Path) -> None:
    model = build(tiny("eurobert"))
    hub.save(model, tmp_path / "a", dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "a" / "model.safetensors").values()} == {torch.bfloat16}
    again = hub.load(tmp_path / "a")
    assert all(
        torch.equal(b, a.bfloat16().float()) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_shards_are_read(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    parts = {
        "model-1.safetensors": dict(list(weights.items())[:9]),
        "model-2.safetensors": dict(list(weights.items())[9:]),
    }
    for file, part in parts.items():
        save_file(part, saved / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = hub.load(saved)
    (saved / "model.safetensors").unlink()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), hub.load(saved).parameters(), strict=True))
    (saved / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-2\.safetensors is missing"):
        hub.load(saved)


def test_older_configurations_are_read(saved: Path) -> None:
    rewrite(
        saved, rope_parameters=..., layer_types=..., global_rope_theta=5.0, local_rope_theta=7.0, layer_norm_eps=1e-5
    )
    config = hub.read_config(saved)
    assert (config.global_rope_theta, config.local_rope_theta, config.global_attn_every_n_layers) == (5.0, 7.0, 3)
    rewrite(saved, attention_output_dropout=..., initialization=..., global_attn_every_n_layers=..., mask_token_id=...)
    config = hub.read_config(saved)
    assert (config.attention_output_dropout, config.initialization, config.mask_token_id) == (0.0, "megatron", None)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'; tessera reads modernbert and eurobert"),
        ({"attention_bias": True}, "attention_bias is True, but only False is implemented"),
        ({"mlp_dropout": 0.1}, "mlp_dropout is 0.1, but only 0.0"),
        ({"norm_bias": True}, "norm_bias is True"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling is"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}}, "type 'yarn'"),
        ({"hidden_activation": "relu", "classifier_activation": "relu"}, "'gelu' or 'silu'"),
        ({"classifier_activation": "silu"}, "classifier_activation differs"),
        ({"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "layer_types"),
        ({"hidden_size": ...}, "field 'hidden_size' is missing"),
        ({"logit_softcapping": 30.0}, "field 'logit_softcapping' is not implemented"),
        ({"eos_token_id": [1, 2]}, "eos_token_id"),
    ],
)
def test_a_configuration_that_is_not_implemented_is_an_error(saved: Path, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        hub.load(rewrite(saved, **fields))
    assert str(saved / "config.json") in str(caught.value)


def test_a_weight_without_a_place_and_a_place_without_a_weight_are_errors(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    save_file({**weights, "model.layers.0.attn.gate.weight": torch.ones(1)}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"weight 'model\.layers\.0\.attn\.gate\.weight' \(1 in all\) has no place"):
        hub.load(saved)
    with pytest.raises(ValueError, match="has no place"):
        hub.load_encoder(saved)
    save_file({k: v for k, v in weights.items() if k != "model.layers.2.mlp.Wo.weight"}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"weight 'model\.layers\.2\.mlp\.Wo\.weight' is missing"):
        hub.load(saved)
    save_file({**weights, "model.final_norm.weight": torch.ones(7)}, saved / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model\.final_norm\.weight give the shape \[7\], but config\.json asks for \[48\]"
    ):
        hub.load(saved)


def test_a_tied_decoder_may_be_written_out_only_if_it_is_the_embedding(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    twin = weights["model.embeddings.tok_embeddings.weight"].clone()
    save_file({**weights, "decoder.weight": twin}, saved / "model.safetensors")
    hub.load(saved)
    save_file({**weights, "decoder.weight": twin + 1}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"decoder\.weight differs from the embedding"):
        hub.load(saved)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt"])
def test_a_folder_with_pickles_only_is_refused(saved: Path, pickle: str) -> None:
    (saved / "model.safetensors").rename(saved / pickle)
    with pytest.raises(ValueError, match=f"holds its weights in {pickle}, a format that can run code"):
        hub.load(saved)


def test_broken_folders_say_what_is_broken(saved: Path, tmp_path: Path) -> None:
    whole = (saved / "model.safetensors").read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        (saved / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors is broken .* copy or download it again"):
            hub.load(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        hub.load(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        hub.load(saved)
    with pytest.raises(ValueError, match=r"config\.json is missing; give a folder"):
        hub.load(tmp_path / "nowhere")


def test_a_folder_is_written_whole_or_not_at_all(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(tiny("mmbert"))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(hub, "save_file", fail)
        with pytest.raises(OSError, match="no space left"):
            hub.save(model, tmp_path / "deep" / "a")
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "a").mkdir()
    hub.save(model, tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "deep"]
    with pytest.raises(FileExistsError, match="there already; remove it, or choose another name"):
        hub.save(model, tmp_path / "a")
