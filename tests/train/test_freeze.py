"""Frozen weights stay what they were, bit for bit, and a phase that freezes some resumes to the same bytes."""

import json
from pathlib import Path

import pytest
import torch
from going import changed, go, lines, weights
from many import together, train_all
from tiny_run import recipe

from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import EncoderConfig
from tessera.plan.recipe import Recipe
from tessera.preflight import problems
from tessera.train.freeze import KEPT, VOCABULARY, vocabulary_tables
from tessera.train.start import architecture
from tessera.train.trainer import Text

NEW = (390, 399)
SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 36}
LEARNT = {"encoder.embedding.weight": list(NEW), "decoder_bias": list(NEW)}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, text: Text) -> Path:
    """A model whose rows 390 and 399 are new."""
    folder = tmp_path_factory.mktemp("start") / "model"
    model = MaskedLM(EncoderConfig.model_validate(architecture(recipe(), text.tokenizer)))
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, folder, text.tokenizer_folder)
    rows = [-1 if i in NEW else i for i in range(model.config.vocab_size)]
    (folder / VOCABULARY).write_text(json.dumps({"rows": rows}))
    return folder


def frozen(start: Path, freeze: str, **phase: object) -> Recipe:
    data = changed(**{"from": str(start), "freeze": freeze, **phase}).model_dump(mode="json", by_alias=True)
    data["tokenizer"] = {"path": str(start)}
    return Recipe.model_validate(data)


def moved(start: Path, folder: Path, phase: str = "first") -> dict[str, torch.Tensor]:
    """Of each weight, by its name in our module, which of its rows are other than they were."""
    before, after = (hub.load(place) for place in (start, folder / phase / "final"))
    own = dict(after.named_parameters())
    return {
        name: (weight != own[name]).reshape(len(weight), -1).any(1).nonzero()[:, 0]
        for name, weight in before.named_parameters()
    }


@pytest.mark.parametrize("optimizer", ["adamw", "stableadamw", "muon"])
def test_only_new_rows_learn_whatever_the_optimizer(tmp_path, text, start, optimizer):
    settings = {"name": optimizer, "weight_decay": 9e-4, "fully_decoupled": optimizer == "stableadamw"}
    go(tmp_path, text, plan=frozen(start, "all_but_new_rows", optimizer=settings))
    assert {name: rows.tolist() for name, rows in moved(start, tmp_path).items() if len(rows)} == LEARNT
    assert lines(tmp_path)[-1]["gradient_norm"] > 0


def test_a_frozen_embedding_leaves_the_layers_to_learn_and_the_other_way_round(tmp_path, text, start):
    for freeze in ("embeddings", "layers"):
        go(tmp_path / freeze, text, plan=frozen(start, freeze))
    rows = {"encoder.embedding.weight", "decoder_bias"}
    learnt = {name for name, places in moved(start, tmp_path / "embeddings").items() if len(places)}
    assert not learnt & rows
    assert len(learnt) > 10
    assert {name for name, places in moved(start, tmp_path / "layers").items() if len(places)} == rows


@pytest.mark.parametrize("freeze", ["embeddings", "layers", "all_but_new_rows"])
def test_a_phase_that_freezes_is_resumed_to_the_same_bytes(tmp_path, text, start, freeze):
    plan = frozen(start, freeze)
    go(tmp_path / "whole", text, plan=plan)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", text, stop=4, plan=plan)
    go(tmp_path / "cut", text, plan=plan)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert (tmp_path / "cut" / "first" / KEPT).exists() == (freeze == "all_but_new_rows")


def test_new_rows_learn_the_same_on_two_processes(tmp_path, text, start):
    plan = frozen(start, "all_but_new_rows")
    go(tmp_path / "one", text, plan=plan)
    assert together(2, train_all, text.tokenizer_folder.parent, [(tmp_path / "two", plan)]) == [0, 0]
    assert [line["loss"] for line in lines(tmp_path / "two")] == pytest.approx(
        [line["loss"] for line in lines(tmp_path / "one")], rel=1e-5
    )
    one, two = (hub.load(tmp_path / place / "first" / "final") for place in ("one", "two"))
    torch.testing.assert_close(one.encoder.embedding.weight, two.encoder.embedding.weight, rtol=1e-2, atol=2e-4)
    assert {name: rows.tolist() for name, rows in moved(start, tmp_path / "two").items() if len(rows)} == LEARNT


def test_what_froze_first_learns_in_the_next_phase_with_moments_of_its_own(tmp_path, text, start):
    plan = frozen(start, "all_but_new_rows")
    go(tmp_path, text, phases=("first", "second"), plan=plan)
    assert all(len(rows) for rows in moved(start, tmp_path, "second").values())
    assert plan.phase("second").keep_optimizer


def test_new_rows_of_another_family_learn_alone(tmp_path, text):
    import transformers

    torch.manual_seed(0)
    size = text.tokenizer.vocab_size
    config = transformers.BertConfig(**SHAPE, vocab_size=size, max_position_embeddings=64)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / VOCABULARY).write_text(json.dumps({"rows": [-1 if i in NEW else i for i in range(size)]}))
    before = hub.load_any(tmp_path / "bert")
    assert sorted(tuple(table.shape) for table in vocabulary_tables(before)) == [(size,), (size, 24)]
    plan = frozen(tmp_path / "bert", "all_but_new_rows", foreign_tokenizer=True)
    go(tmp_path, text, plan=plan)
    after = hub.load_any(tmp_path / "first" / "final").state_dict()
    for name, weight in before.state_dict().items():
        changed = (weight != after[name]).reshape(len(weight), -1).any(1).nonzero()[:, 0].tolist()
        assert changed == (list(NEW) if len(weight) == size else []), name


def test_rows_that_nobody_says_are_new_are_refused_before_anything_is_written(tmp_path, text, start):
    (tmp_path / "plain").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "plain" / name).write_bytes((start / name).read_bytes())
    plan = frozen(tmp_path / "plain", "all_but_new_rows")
    assert any("which says what rows are new" in line for line in problems(plan, tmp_path / "run", ["train"]))
    scratch = changed(freeze="all_but_new_rows")
    assert any("starts from scratch, where no row is old" in line for line in problems(scratch, tmp_path, ["train"]))
    (tmp_path / "plain" / VOCABULARY).write_text(json.dumps({"rows": list(range(400))}))
    assert any("no row is new" in line for line in problems(plan, tmp_path / "run", ["train"]))
