"""Folders that may be merged, and those of which an average would say nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_encoder import TEXTS, small_model
from typer.testing import CliRunner

from tessera.cli import app
from tessera.huggingface import hub, merging
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer import tokenizer as tokenizers

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    place = tmp_path_factory.mktemp("text") / "tokenizer"
    return tokenizers.train({"aaa_Latn": TEXTS * 20}, TokenizerTraining(vocab_size=300), place)


@pytest.fixture
def folder(tokenizer: tokenizers.Tokenizer, tmp_path: Path) -> Folder:
    """folder(name, family, field=value, ...): a model that differs from all others of its family in weights only."""

    def make(name: str, family: str = "mmbert", **fields: Any) -> Path:
        config = small_model(tokenizer, family).config
        model = MaskedLM(type(config).model_validate({**config.model_dump(), **fields}))
        initialize(model, torch.Generator().manual_seed(sum(map(ord, name))))
        hub.save(model, tmp_path / name, tokenizer.folder)
        return tmp_path / name

    return make


def rewrite_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    place = folder / "tokenizer.json"
    data = json.loads(place.read_text(encoding="utf-8"))
    change(data)
    place.write_text(json.dumps(data), encoding="utf-8")
    return folder


HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
GROUPS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
THETA = {"global_rope_theta": 160_000.0, "local_rope_theta": 160_000.0}
NEVER = [
    ("mmbert", HEADS, r"num_attention_heads is 4 and 2; .*head_dim is 8 and 16"),
    ("eurobert", GROUPS, r"num_attention_heads is 4 and 2; .*num_key_value_heads is 2 and 1"),
    ("mmbert", {"hidden_act": "silu"}, "hidden_act is gelu and silu"),
    ("mmbert", {"num_hidden_layers": 2}, "num_hidden_layers is 3 and 2"),
    ("eurobert", {"tie_word_embeddings": True}, "tie_word_embeddings is False and True"),
]
UNLESS_SAID = [
    ("mmbert", {"global_rope_theta": 160_000.0}, "global_rope_theta is 10000.0 and 160000.0"),
    ("mmbert", {"local_rope_theta": 3.0}, "local_rope_theta is 10000.0 and 3.0"),
    ("eurobert", THETA, "global_rope_theta is 10000.0 and 160000.0"),
    ("mmbert", {"local_attention": 8}, "local_attention is 16 and 8"),
    ("mmbert", {"global_attn_every_n_layers": 2}, "global_attn_every_n_layers is 3 and 2"),
    ("mmbert", {"norm_eps": 1e-6}, "norm_eps is 1e-05 and 1e-06"),
    ("eurobert", {"norm_eps": 1e-6}, "norm_eps is 1e-05 and 1e-06"),
    ("mmbert", {"max_position_embeddings": 32}, "max_position_embeddings is 64 and 32"),
    ("mmbert", {"pad_token_id": 4}, "pad_token_id is 0 and 4"),
    ("mmbert", {"mask_token_id": 4}, "mask_token_id is 3 and 4"),
]


@pytest.mark.parametrize("method", ["linear", "exponential", "ties"])
@pytest.mark.parametrize(("family", "fields", "text"), [*NEVER, *UNLESS_SAID])
def test_models_that_compute_other_things_with_the_same_shapes_are_refused_by_name(
    family: str, fields: dict[str, Any], text: str, method: merging.Method, folder: Folder
) -> None:
    a, b, base = folder("a", family), folder("b", family, **fields), folder("base", family)
    with pytest.raises(ValueError, match=rf"cannot merge .*/a and .*/b: (.*; )?{text}"):
        merging.merge([a, b], method, base=base if method == "ties" else None)


@pytest.mark.parametrize(("family", "fields", "text"), NEVER)
def test_no_choice_makes_an_average_of_two_architectures(
    family: str, fields: dict[str, Any], text: str, folder: Folder
) -> None:
    a, b = folder("a", family), folder("b", family, **fields)
    with pytest.raises(ValueError, match="weights of other architectures do not average"):
        merging.merge([a, b], "linear", config_of=a)


@pytest.mark.parametrize(("family", "fields", "text"), UNLESS_SAID)
def test_an_explicit_choice_holds_in_any_order(
    family: str, fields: dict[str, Any], text: str, folder: Folder, tmp_path: Path
) -> None:
    a, b = folder("a", family), folder("b", family, **fields)
    for chosen in (a, b):
        merged = [merging.merge(order, "linear", config_of=chosen) for order in ([a, b], [b, a])]
        assert [m.config for m in merged] == [hub.read_config(chosen)] * 2
        first, second = (m.state_dict() for m in merged)
        assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    with pytest.raises(ValueError, match=r"config_of is .*/c, which is none of"):
        merging.merge([a, b], "linear", config_of=tmp_path / "c")


@pytest.mark.parametrize(("fields", "text"), [(HEADS, "heads is 4"), ({"local_attention": 8}, "local_attention is 16")])
def test_the_base_of_ties_is_one_of_them(fields: dict[str, Any], text: str, folder: Folder) -> None:
    with pytest.raises(ValueError, match=f"cannot merge .*/a and .*/base: .*{text}"):
        merging.merge([folder("a"), folder("b")], base=folder("base", **fields))


def test_a_phase_may_have_changed_the_rotary_bases_since_the_base_of_ties(folder: Folder) -> None:
    models = [folder("a", **THETA), folder("b", **THETA)]
    assert merging.merge(models, base=folder("base")).config.global_rope_theta == 160_000.0


def test_two_families_do_not_merge(folder: Folder) -> None:
    with pytest.raises(ValueError, match="norm is layernorm and rmsnorm"):
        merging.merge([folder("a", "mmbert"), folder("b", "eurobert")], "linear")


def swap(data: dict[str, Any]) -> None:
    vocab = data["model"]["vocab"]
    one, two = list(vocab)[40:42]
    vocab[one], vocab[two] = vocab[two], vocab[one]


def rename_special(data: dict[str, Any]) -> None:
    data["added_tokens"][3]["content"] = "[MASK]"
    data["model"]["vocab"]["[MASK]"] = data["model"]["vocab"].pop("<|mask|>")


@pytest.mark.parametrize("change", [swap, rename_special])
def test_vocabularies_of_one_size_with_other_ids_do_not_merge(
    change: Callable[[Any], None], folder: Folder, tmp_path: Path
) -> None:
    a, b = folder("a"), rewrite_tokenizer(folder("b"), change)
    for models, more in (([a, b], {}), ([b, a], {}), ([a, b], {"config_of": a})):
        with pytest.raises(ValueError, match=r"their tokenizers differ: '.*' is (id \d+|no token) and .*tokens in all"):
            merging.merge(models, "linear", **more)
    with pytest.raises(ValueError, match="their tokenizers differ"):
        merging.merge([a, folder("c")], base=b)
    with pytest.raises(ValueError, match="their tokenizers differ"):
        merging.merge([a, tmp_path / "c"], "linear", tokenizer=b)


def test_the_order_of_a_unigram_vocabulary_is_its_ids(folder: Folder) -> None:
    pieces = [[f"p{i}", -float(i)] for i in range(295)]

    def unigram(data: dict[str, Any]) -> None:
        data["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [[str(i), 0.0] for i in range(5)] + pieces}

    def turned(data: dict[str, Any]) -> None:
        unigram(data)
        data["model"]["vocab"][9:11] = data["model"]["vocab"][9:11][::-1]

    a, b = rewrite_tokenizer(folder("a"), unigram), rewrite_tokenizer(folder("b"), turned)
    with pytest.raises(ValueError, match="'p4' is id 9 and id 10"):
        merging.merge([a, b], "linear")


def test_rules_of_a_tokenizer_that_differ_are_chosen_and_ways_to_write_them_are_not_rules(folder: Folder) -> None:
    def lower(data: dict[str, Any]) -> None:
        data["normalizer"] = {"type": "Lowercase"}

    def older(data: dict[str, Any]) -> None:
        pairs = data["model"]["merges"]
        data["model"]["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
        data["model"].pop("ignore_merges", None)
        data["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}

    a, b, c = folder("a"), rewrite_tokenizer(folder("b"), lower), rewrite_tokenizer(folder("c"), older)
    merging.merge([a, c], "linear")
    with pytest.raises(ValueError, match=r"normalizer of their tokenizers differs; .*--config-of"):
        merging.merge([a, b], "linear")
    merging.merge([a, b], "linear", config_of=b)


def test_a_model_without_a_tokenizer_merges_only_with_its_like(folder: Folder) -> None:
    a, b = folder("a"), folder("b")
    (b / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"/a has a tokenizer\.json and .*/b none"):
        merging.merge([a, b], "linear")
    (a / "tokenizer.json").unlink()
    merging.merge([a, b], "linear")


@pytest.mark.parametrize("name", ["vocab.txt", "sentencepiece.bpe.model", "merges.txt", "added_tokens.json"])
def test_models_that_lack_a_tokenizer_json_merge_only_where_what_they_have_is_the_same(
    folder: Folder, name: str
) -> None:
    a, b = folder("a"), folder("b")
    for place, text in ((a, "one\ntwo\n"), (b, "two\none\n")):
        (place / "tokenizer.json").unlink()
        (place / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is not the same in both, and neither has a tokenizer.json"):
        merging.merge([a, b], "linear")
    (b / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is not the same in both"):
        merging.merge([a, b], "linear")
    (b / name).write_text("one\ntwo\n")
    merging.merge([a, b], "linear")


def test_a_merge_loses_no_pooling_no_adapter_and_no_head(folder: Folder) -> None:
    a, b = folder("a"), folder("b")
    (b / "modules.json").write_text("[]")
    with pytest.raises(ValueError, match="would lose its pooling"):
        merging.merge([a, b], "linear")
    (b / "modules.json").rename(b / "adapter_config.json")
    with pytest.raises(ValueError, match="holds an adapter"):
        merging.merge([a, b], "linear")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_that_is_not_finite_is_read(value: float, folder: Folder) -> None:
    a, b, base = folder("a"), folder("b"), folder("base")
    found = load_file(b / "model.safetensors")
    found["model.layers.0.mlp.Wo.weight"][0, 0] = value
    save_file(found, b / "model.safetensors")
    for models, more in (([a, b], {"base": base}), ([b, a], {"base": base}), ([a, base], {"base": b})):
        for method in ("ties", "linear", "exponential"):
            if method == "ties" or b in models:
                with pytest.raises(ValueError, match=r"/b/model\.safetensors: weight '.*\.0\.mlp\.Wo\.weight'"):
                    merging.merge(models, method, **more if method == "ties" else {})


def one(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value, 1.0])}


@pytest.mark.parametrize(
    "call",
    [
        lambda: merging.linear([one(3e38), one(-3e38)]),
        lambda: merging.linear([one(1.0), one(float("nan"))]),
        lambda: merging.linear([one(float("inf")), one(float("inf"))]),
        lambda: merging.linear([{"w": torch.tensor([1e300], dtype=torch.float64)}] * 2),
        lambda: merging.exponential([one(1.0), one(float("inf"))], 0.5),
        lambda: merging.ties(one(-3e38), [one(3e38)]),
        lambda: merging.ties(one(float("nan")), [one(1.0)]),
        lambda: merging.ties(one(1.0), [one(3e38)], scale=4.0),
    ],
)
def test_nothing_that_is_not_finite_comes_out(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"cannot merge: 'w' .*not finite"):
        call()


@pytest.mark.parametrize("weights", [[float("nan"), 1.0], [1.0, float("inf")], [-1.0, 2.0], [0.0, 0.0], [1.0]])
def test_weights_of_models_are_finite_numbers_before_anything_is_read(weights: list[float], tmp_path: Path) -> None:
    nowhere = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(ValueError, match=r"weights are \[|1 weights for 2 models"):
        merging.merge(nowhere, "linear", weights=weights)
    asked = [word for weight in weights for word in ("--weight", str(weight))]
    shown = CliRunner().invoke(
        app, ["merge", *map(str, nowhere), "--out", str(tmp_path / "m"), "--method", "linear", *asked]
    )
    assert shown.exit_code != 0
    assert "weight" in str(shown.exception) + shown.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["density", "scale", "decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_of_a_merge_are_finite(name: str, value: float, tmp_path: Path) -> None:
    method = "exponential" if name == "decay" else "ties"
    with pytest.raises(ValueError, match=f"{name} is (nan|-?inf)"):
        merging.merge([tmp_path / "a", tmp_path / "b"], method, base=tmp_path / "c", **{name: value})


def test_large_weights_of_models_are_shares_like_any_other(folder: Folder) -> None:
    a, b = folder("a"), folder("b")
    large = merging.merge([a, b], "linear", weights=[1e308, 3 * 5e307]).state_dict()
    plain = merging.merge([a, b], "linear", weights=[2.0, 3.0]).state_dict()
    assert all(torch.allclose(large[name], plain[name]) for name in plain)


def test_the_command_takes_the_choice(folder: Folder, tmp_path: Path) -> None:
    a, b = folder("a"), folder("b", **THETA)
    asked = ["merge", str(a), str(b), "--out", str(tmp_path / "m"), "--method", "linear"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code != 0
    assert not (tmp_path / "m").exists()
    shown = CliRunner().invoke(app, [*asked, "--config-of", str(b)])
    assert shown.exit_code == 0, shown.output
    assert hub.read_config(tmp_path / "m").global_rope_theta == 160_000.0
    shutil.rmtree(tmp_path / "m")
