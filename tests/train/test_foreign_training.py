"""Models of other families are trained further as ours are: same loop, same checkpoints, same resumption."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from going import ALONE, go, gradient_of, lines, weights
from many import together
from tiny_run import WORDS, documents, recipe
from tokenizers import Tokenizer as Inner
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tessera.data.shard_writer import ShardWriter
from tessera.data.shards import Shards
from tessera.huggingface import hub
from tessera.huggingface.transformers_model import TransformersMaskedLM
from tessera.plan.corpus import TokenizerTraining
from tessera.plan.recipe import Recipe, Resize
from tessera.progress import Silent
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.tokenizer.tokenizer import train as train_tokenizer
from tessera.train import distributed
from tessera.train.distributed import World
from tessera.train.start import Rollback, start
from tessera.train.trainer import Text, TrainingError
from tessera.train.trainer import train as train_phase

TEXTS = {language: documents(language, 100 // (i + 1), 0) for i, language in enumerate(WORDS)}
SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 36}


def wordpiece(folder: Path) -> None:
    inner = Inner(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    train(inner, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False))
    write(inner, folder, "[CLS]", "[SEP]", {"mask_token": "[MASK]", "pad_token": "[PAD]"}, "BertTokenizer")


def unigram(folder: Path) -> None:
    inner = Inner(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    more = {"unk_token": "<unk>", "show_progress": False}
    train(inner, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, **more))
    write(inner, folder, "<s>", "</s>", {"mask_token": "<mask>", "pad_token": "<pad>"}, "XLMRobertaTokenizer")


def train(inner: Inner, trainer: object) -> None:
    inner.train_from_iterator((text for texts in TEXTS.values() for text in texts), trainer)


def write(inner: Inner, folder: Path, begin: str, end: str, named: dict[str, str], kind: str) -> None:
    inner.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(t, inner.token_to_id(t)) for t in (begin, end)]
    )
    inner.save(str(folder / "tokenizer.json"))
    config = {**named, "cls_token": begin, "sep_token": end, "tokenizer_class": kind}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


FAMILIES = {
    "bert": (wordpiece, "BertConfig", {"max_position_embeddings": 64}),
    "xlm-r": (unigram, "XLMRobertaConfig", {"max_position_embeddings": 66}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with the tokenizer of its family."""
    place = tmp_path_factory.mktemp(request.param)
    tokenize, kind, more = FAMILIES[request.param]
    tokenize(place)
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**SHAPE, **more, vocab_size=Tokenizer.load(place).vocab_size)
    AutoModelForMaskedLM.from_config(config).save_pretrained(place)
    return place


def opened(folder: Path) -> Text:
    """The text beside a model."""
    return Text(
        train=Shards.open(folder / "train"),
        held_out=Shards.open(folder / "held_out"),
        tokenizer=Tokenizer.load(folder),
        tokenizer_folder=folder,
    )


@pytest.fixture(scope="module")
def own_text(folder: Path) -> Text:
    """The invented languages in the tokens of the family."""
    tokenizer = Tokenizer.load(folder)
    for store, seed in (("train", 0), ("held_out", 1)):
        with ShardWriter(folder / store, tokenizer.fingerprint, tokenizer.vocab_size) as writer:
            for i, language in enumerate(WORDS):
                texts = documents(language, (100 if store == "train" else 12) // (i + 1), seed)
                size = sum(len(text.encode()) for text in texts)
                writer.add("web", language, None, tokenizer.encode_batch(texts), size)
    return opened(folder)


def plan(folder: Path, **phase: object) -> Recipe:
    """The tiny recipe from a folder; its second phase goes on from the first."""
    data = recipe().model_dump(mode="json", by_alias=True)
    data["model"] = {}
    for one in data["phases"]:
        one["rope_theta"] = None
    data["phases"][0] |= {"from": str(folder), **phase}
    return Recipe.model_validate(data)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, own_text: Text, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    go(run, own_text, plan=plan(folder), phases=("first", "second"))
    return run


def test_the_loss_falls_and_goes_on_falling_in_the_next_phase(uninterrupted):
    losses = [[line["loss"] for line in lines(uninterrupted, phase=name)] for name in ("first", "second")]
    assert losses[0][-1] < losses[0][0] - 0.5
    assert losses[1][-1] < losses[0][-1]
    rows = [line["languages"] for name in ("first", "second") for line in lines(uninterrupted, "held_out", phase=name)]
    assert set(rows[-1]) == set(WORDS)
    assert rows[-1]["eng_Latn"]["bits_per_byte"] < rows[0]["eng_Latn"]["bits_per_byte"]


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_run_stopped_at_any_step_ends_with_the_same_bytes(tmp_path, folder, own_text, uninterrupted, stop):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, own_text, stop=stop, plan=plan(folder))
    go(tmp_path, own_text, plan=plan(folder))
    assert weights(tmp_path) == weights(uninterrupted)
    assert lines(tmp_path, "held_out") == lines(uninterrupted, "held_out")


def test_transformers_loads_the_checkpoint_and_gives_the_same_logits(folder, uninterrupted):
    final = uninterrupted / "second" / "final"
    theirs, told = AutoModelForMaskedLM.from_pretrained(final, output_loading_info=True)
    assert not told["missing_keys"] | told["unexpected_keys"]
    given = AutoTokenizer.from_pretrained(final)("the old house sees a river", return_tensors="pt")
    ours = hub.load_any(final)
    assert isinstance(ours, TransformersMaskedLM)
    ids = given["input_ids"][0]
    assert ids.tolist() == Tokenizer.load(final).encode_batch(["the old house sees a river"])[0].tolist()
    with torch.no_grad():
        torch.testing.assert_close(theirs(**given).logits[0], ours(ids, torch.tensor([0, len(ids)])))
    assert "0.0M parameters (2 layers, hidden size 24" in (final / "README.md").read_text()
    assert ours.config.mask_token_id == Tokenizer.load(folder).mask_id


def test_what_runs_is_said(tmp_path, folder, own_text):
    said = "\n".join(go(tmp_path, own_text, plan=plan(folder)))
    kind = type(hub.load_any(folder).model).__name__
    assert f"{kind} run by transformers (attention: sdpa, whole documents)" in said
    assert "padded in groups of similar length, at most 64 tokens a document" in said
    assert "positions for 64 tokens" in said


def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(folder, own_text):
    from tessera.train.reading import reading

    one = plan(folder)
    stream, _ = reading(one, one.phases[0], own_text)
    batch = stream.read(0, 2_000, 0.3)
    model = hub.load_any(folder)
    found = []
    for size in (150, 700, 100_000):
        model.zero_grad()
        loss = gradient_of(model, batch, size, None)
        found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters()])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-3, atol=1e-6)
    assert np.isfinite(found[0][0])


def train_first(world: World, asked: Recipe, out: Path, text_folder: Path) -> None:
    train_phase(asked, asked.phases[0], out, opened(text_folder), world)


def test_two_processes_reach_the_weights_of_one(tmp_path, folder, own_text):
    shutil.copytree(folder, tmp_path / "calm")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # its noise depends on the cut
    (tmp_path / "calm" / "config.json").write_text(json.dumps(config))
    asked = plan(tmp_path / "calm")
    train_first(ALONE, asked, tmp_path / "one", folder)
    assert together(2, train_first, asked, tmp_path / "two", folder) == [0, 0]
    for mine, theirs in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("phase", "machine", "says"),
    [
        ({"context": 100}, {}, r"first: context is 100, but a .* has positions for 64; set context to 64 or less"),
        ({"rope_theta": {"global": 1e5, "local": 1e5}}, {}, "rope_theta moves the rotary positions of .* leave it out"),
        ({"optimizer": {"name": "muon"}}, {}, "optimizer.name is muon, .* take adamw or stableadamw"),
        ({}, {"parallel": "fsdp2"}, "machine.parallel is fsdp2, .* set machine.parallel: ddp"),
    ],
)
def test_what_only_our_own_families_can_do_is_refused(tmp_path, folder, own_text, phase, machine, says, monkeypatch):
    monkeypatch.setattr(distributed, "from_lead", lambda value, _: value)  # there is no second process
    data = plan(folder, **phase).model_dump(mode="json", by_alias=True)
    data["machine"] |= machine
    asked = Recipe.model_validate(data)
    world = World(rank=0, size=2 if machine else 1, device=torch.device("cpu"))
    with pytest.raises(TrainingError, match=says):
        start(asked, asked.phases[0], tmp_path, own_text, world, Silent(), Rollback(folder=None, left_out=[[0, 0]]), 1)


def test_a_start_model_that_was_replaced_is_refused_where_a_phase_begins_anew_or_another_begins(
    folder, own_text, tmp_path
):
    own = tmp_path / "model"
    shutil.copytree(folder, own, ignore=shutil.ignore_patterns("train", "held_out"))
    both = plan(own)
    second = both.phases[1].model_copy(update={"from_": str(own)})
    both = both.model_copy(update={"phases": (both.phases[0], second)})
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", own_text, plan=both, phases=("first",), stop=1)  # before its first checkpoint
    model = AutoModelForMaskedLM.from_pretrained(own)
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    model.save_pretrained(own)
    for phase in ("first", "second"):
        with pytest.raises(TrainingError, match=f"{phase} starts from .*model, which has changed since first began"):
            go(tmp_path / "run", own_text, plan=both, phases=(phase,))
    go(tmp_path / "other", own_text, plan=both, phases=("first",))  # a new run takes what is there


@pytest.mark.parametrize(("phase", "asked"), [("first", "resumes"), ("second", "goes on from a phase")])
def test_a_tokenizer_that_was_swapped_within_a_run_is_refused(folder, own_text, uninterrupted, tmp_path, phase, asked):
    shutil.copytree(uninterrupted, tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run" / "second")
    if asked == "resumes":
        (tmp_path / "run" / "first" / "final").unlink()
    other = tmp_path / "tokenizer"
    other.mkdir()
    inner = json.loads((folder / "tokenizer.json").read_text())
    vocab = inner["model"]["vocab"]
    if isinstance(vocab, dict):
        a, b = list(vocab)[-2:]
        vocab[a], vocab[b] = vocab[b], vocab[a]
    else:
        vocab[-2], vocab[-1] = vocab[-1], vocab[-2]
    (other / "tokenizer.json").write_text(json.dumps(inner))
    shutil.copy(folder / "tokenizer_config.json", other)
    swapped = replace(own_text, tokenizer=Tokenizer.load(other), tokenizer_folder=other)
    with pytest.raises(TrainingError, match=r"differ: .* is id \d+ and id \d+.*put back the tokenizer of this run"):
        go(tmp_path / "run", swapped, plan=plan(folder), phases=(phase,))


def test_a_smaller_model_is_cut_only_from_one_of_the_same_tokenizer(folder, own_text, tmp_path):
    cut = recipe()
    resize = {"from": str(folder), "how": "strided"}
    cut = cut.model_copy(update={"model": cut.model.model_copy(update={"resize": Resize.model_validate(resize)})})
    other = tmp_path / "tokenizer"
    other.mkdir()
    train_tokenizer(TEXTS, TokenizerTraining(vocab_size=300), other)
    given = replace(own_text, tokenizer=Tokenizer.load(other), tokenizer_folder=other)
    with pytest.raises(TrainingError, match=r"first: the tokenizer of .* differ: .*set tokenizer\.path"):
        go(tmp_path / "run", given, plan=cut)
