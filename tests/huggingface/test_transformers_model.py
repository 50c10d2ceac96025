"""Encoders of other families behind our interface compute what transformers computes, document by document."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModel, AutoModelForMaskedLM

from tessera.huggingface import hub, transformers_model
from tessera.huggingface.transformers_model import TransformersEncoder, TransformersMaskedLM, groups

SHAPE = {
    "vocab_size": 211, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36,
    "max_position_embeddings": 40, "initializer_range": 0.3,
}  # fmt: skip
RELATIVE = {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "position_biased_input": False,
    "type_vocab_size": 0, "norm_rel_ebd": "layer_norm", "share_att_key": True,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {}),
    "electra": ("ElectraConfig", {"embedding_size": 10}),
    "xlm-r": ("XLMRobertaConfig", {"type_vocab_size": 1}),
    "mdeberta": ("DebertaV2Config", RELATIVE),
    "mgte": ("GteConfig", {}),
}
USABLE = {"bert": 40, "electra": 40, "xlm-r": 38, "mdeberta": 40, "mgte": 40}
LENGTHS = [5, 1, 17, 17, 2, 38, 9, 30]


def build(name: str, seed: int = 0) -> Any:
    """A tiny model of transformers with random weights, biases and norms too."""
    kind, more = FAMILIES[name]
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(getattr(transformers, kind)(**SHAPE, **more))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.2 * torch.randn_like(weight)
    return model


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    build(name).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


Documents = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def padded(documents: list[torch.Tensor], pad: int) -> dict[str, torch.Tensor]:
    """As a tokenizer of transformers gives them."""
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=pad)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(d) for d in documents], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask}


# ------------------------------------------------------------------------------------------------------ the same answer


def test_hidden_states_are_those_of_transformers_at_every_length(name, folder, documents: Documents):
    lengths = list(range(1, USABLE[name] + 1))
    tokens, starts = documents(lengths, vocab_size=211)
    ours, theirs = hub.load_encoder(folder), AutoModel.from_pretrained(folder).eval()
    assert isinstance(ours, TransformersEncoder)
    with torch.no_grad():
        found = ours(tokens, starts)
        alone = torch.cat([theirs(input_ids=d[None]).last_hidden_state[0] for d in tokens.split(lengths)])
        batch = padded(list(tokens.split(lengths)), theirs.config.pad_token_id)
        together = theirs(**batch).last_hidden_state[batch["attention_mask"].bool()]
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(found, together, rtol=1e-4, atol=2e-5)


def test_segments_are_looked_at_where_a_model_has_a_table_of_them(name, folder, documents: Documents):
    lengths = [9, 4, 17, 9]
    tokens, starts = documents(lengths, vocab_size=211)
    segments = torch.cat([(torch.arange(n) > n // 3).long() for n in lengths])
    ours, theirs = hub.load_encoder(folder), AutoModel.from_pretrained(folder).eval()
    assert isinstance(ours, TransformersEncoder)
    batch = padded(list(tokens.split(lengths)), theirs.config.pad_token_id)
    blind = ours(tokens, starts)
    assert torch.equal(ours(tokens, starts, torch.zeros_like(tokens)), blind)
    if ours.config.segments < 2:
        assert torch.equal(ours(tokens, starts, segments), blind)
        return
    rows = padded(list(segments.split(lengths)), 0)["input_ids"]
    due = theirs(**batch, token_type_ids=rows).last_hidden_state[batch["attention_mask"].bool()]
    torch.testing.assert_close(ours(tokens, starts, segments), due, rtol=1e-4, atol=2e-5)
    assert (due - blind).abs().max() > 0.1


def test_bert_and_electra_alone_of_these_have_a_table_of_two_segments(name, folder):
    assert (
        hub.load_encoder(folder).config.segments
        == {"bert": 2, "electra": 2, "xlm-r": 1, "mdeberta": 0, "mgte": 1}[name]
    )


def test_logits_losses_and_every_gradient_are_those_of_transformers(name, folder, documents: Documents):
    tokens, starts = documents(LENGTHS, vocab_size=211)
    positions = torch.arange(0, len(tokens), 3)
    targets = torch.randint(5, 211, (len(positions),))
    ours, theirs = hub.load_any(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    labels = torch.full_like(tokens, -100).index_copy(0, positions, targets)
    batch = padded(list(tokens.split(LENGTHS)), theirs.config.pad_token_id)
    rows = padded(list(labels.split(LENGTHS)), -100)["input_ids"]
    out = theirs(**batch, labels=rows)
    torch.testing.assert_close(ours(tokens, starts), out.logits[batch["attention_mask"].bool()], rtol=1e-4, atol=2e-4)
    losses = ours.losses(tokens, starts, positions, targets)
    torch.testing.assert_close(
        losses, functional.cross_entropy(ours(tokens, starts, positions), targets, reduction="none")
    )
    torch.testing.assert_close(losses.mean(), out.loss, rtol=1e-5, atol=1e-5)
    (ours.loss(tokens, starts, positions, targets) / len(positions)).backward()
    out.loss.backward()
    found = {key: p.grad for key, p in ours.model.named_parameters()}
    for key, weight in theirs.named_parameters():
        assert weight.grad is not None, key
        torch.testing.assert_close(found[key], weight.grad, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def trained(encoder: TransformersEncoder, tokens: Any, starts: Any, segments: Any) -> dict[str, torch.Tensor]:
    """Hidden states and all gradients of a step of training."""
    encoder.zero_grad()
    hidden = encoder(tokens, starts, segments)
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    return {"hidden": hidden.detach()} | gradients


def test_training_without_padding_has_the_gradients_of_training_with_it(bert, documents: Documents, monkeypatch):
    tokens, starts = documents([*LENGTHS, 0], vocab_size=211)
    segments = torch.arange(len(tokens)) % 2
    encoder = hub.load_encoder(bert).double().train()
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    calls: list[Any] = []
    encoder.model.register_forward_pre_hook(lambda _, args, given: calls.append(given), with_kwargs=True)
    ours = trained(encoder, tokens, starts, segments)
    assert [given["input_ids"].shape for given in calls] == [(1, len(tokens))]
    assert encoder.model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(transformers_model, "_UNPADDED", ())
    theirs = trained(encoder, tokens, starts, segments)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_dropout_without_padding_comes_from_the_seed_and_the_plain_attention_is_heeded(bert, documents: Documents):
    tokens, starts = documents(LENGTHS, vocab_size=211)
    encoder, plain = hub.load_encoder(bert).train(), hub.load_encoder(bert, "reference").train()

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return encoder(tokens, starts).detach()

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    assert encoder._may_pack(tokens)
    assert not plain._may_pack(tokens)


def test_scores_in_parts_and_nothing_to_predict_change_nothing(folder, documents: Documents, monkeypatch):
    tokens, starts = documents(LENGTHS, vocab_size=211)
    positions, model = torch.arange(0, len(tokens), 2), hub.load_any(folder)
    batch = (tokens, starts, positions, tokens[positions])
    losses, whole = model.losses(*batch), model.loss(*batch)
    assert not losses.requires_grad
    torch.testing.assert_close(losses.sum(), whole)
    whole.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(transformers_model, "_SCORES", 7 * 211)
    torch.testing.assert_close(model.losses(*batch), losses)
    parts = model.loss(*batch)
    torch.testing.assert_close(parts, whole)
    parts.backward()
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)
    model.zero_grad()
    none = model.loss(tokens, starts, positions[:0], positions[:0])
    none.backward()
    assert none.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert model.losses(tokens, starts, positions[:0], positions[:0]).shape == (0,)
    with pytest.raises(ValueError, match="5 positions but 4 targets; give one target per position"):
        model.losses(tokens, starts, positions[:5], positions[:4])


def test_nothing_leaks_from_document_to_document(name, folder):
    tokens = torch.arange(10, 10 + sum(LENGTHS))  # no token twice, so the gradient tells which were seen
    starts = torch.tensor([0, *LENGTHS]).cumsum(0)
    encoder = hub.load_encoder(folder)
    hidden = encoder(tokens, starts)
    table = encoder.model.get_input_embeddings().weight
    for first, last in itertools.pairwise(starts.tolist()):
        weights = torch.randn(last - first, hidden.shape[1])
        (gradient,) = torch.autograd.grad((hidden[first:last] * weights).sum(), table, retain_graph=True)
        assert gradient.abs().sum(1).nonzero()[:, 0].tolist() == tokens[first:last].tolist()


def test_empty_documents_and_no_documents_are_fine(folder, documents: Documents):
    encoder, (tokens, _) = hub.load_encoder(folder), documents([4, 3], vocab_size=211)
    with torch.no_grad():
        expected = encoder(tokens, torch.tensor([0, 4, 7]))
        torch.testing.assert_close(encoder(tokens, torch.tensor([0, 0, 4, 4, 7])), expected)
        assert encoder(tokens[:0], torch.tensor([0])).shape == (0, 24)


def test_the_plain_attention_gives_the_same(folder, documents: Documents):
    tokens, starts = documents(LENGTHS, vocab_size=211)
    with torch.no_grad():
        plain, chosen = (hub.load_encoder(folder, attention=a) for a in ("reference", "auto"))
        torch.testing.assert_close(plain(tokens, starts), chosen(tokens, starts), rtol=1e-4, atol=2e-5)
    assert plain.model.config._attn_implementation == "eager"


def test_dropout_is_off_until_training_begins(folder, documents: Documents):
    tokens, starts = documents(LENGTHS, vocab_size=211)
    model = hub.load_any(folder)
    assert not model.training
    assert torch.equal(model(tokens, starts), model(tokens, starts))
    model.train()
    assert not torch.equal(model.encoder(tokens, starts), model.encoder(tokens, starts))
    model.eval()
    assert torch.equal(model(tokens, starts), model(tokens, starts))


# -------------------------------------------------------------------------------------------------------------- padding


@given(st.lists(st.integers(0, 300), max_size=40))
def test_every_document_is_padded_once_and_to_no_more_than_the_longest_of_its_group(lengths):
    made = groups(lengths)
    assert sorted(i for group in made for i in group) == [i for i, length in enumerate(lengths) if length]
    for group in made:
        assert lengths[group[0]] == max(lengths[i] for i in group)


def padding(lengths: list[int], made: list[list[int]]) -> int:
    return sum(len(group) * lengths[group[0]] for group in made) - sum(lengths)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=7))
def test_no_other_grouping_has_less_padding_for_its_number_of_calls(lengths):
    order, best = sorted(range(len(lengths)), key=lambda i: -lengths[i]), float("inf")
    for cuts in itertools.product((False, True), repeat=len(lengths) - 1):
        made = [[order[0]]]
        for i, new in zip(order[1:], cuts, strict=True):
            made.append([i]) if new else made[-1].append(i)
        best = min(best, padding(lengths, made) + 64 * len(made))
    found = groups(lengths)
    assert padding(lengths, found) + 64 * len(found) == best


def test_documents_of_like_length_are_padded_together_and_a_long_one_alone():
    assert groups([7, 500, 8, 0, 6, 480]) == [[1, 5], [2, 0, 4]]


# ----------------------------------------------------------------------------------------------------------- out and in


def test_out_and_in_again_is_the_identity_and_transformers_loads_what_was_written(name, folder, tmp_path):
    model, encoder = hub.load_any(folder), hub.load_encoder(folder)
    hub.save(model, tmp_path / "again", card="A card.")
    hub.save(encoder, tmp_path / "bare")
    assert (tmp_path / "again" / "README.md").read_text() == "A card."
    first, second = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    theirs, told = AutoModelForMaskedLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not told["missing_keys"]
    assert type(theirs) is type(model.model)
    bare = AutoModel.from_pretrained(tmp_path / "bare").eval()
    ids = torch.arange(20, 29)[None]
    with torch.no_grad():
        expected = hub.load_encoder(tmp_path / "bare")(ids[0], torch.tensor([0, 9]))
        torch.testing.assert_close(bare(ids).last_hidden_state[0], expected)
        torch.testing.assert_close(encoder(ids[0], torch.tensor([0, 9])), expected)


def test_tokenizer_files_come_along_and_weights_may_be_written_in_bfloat16(folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    model = hub.load_any(folder)
    hub.save(model, tmp_path / "again", folder)
    assert (tmp_path / "again" / "tokenizer.json").read_text() == "{}"
    hub.save(model, tmp_path / "half", dtype=torch.bfloat16)
    assert {v.dtype for v in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in hub.load_any(tmp_path / "half").parameters()} == {torch.float32}


def test_our_own_families_are_read_natively(tiny, tmp_path):
    from tessera.model.encoder import Encoder
    from tessera.model.mlm import MaskedLM

    hub.save(MaskedLM(tiny("mmbert")), tmp_path / "own")
    assert isinstance(hub.load_any(tmp_path / "own"), MaskedLM)
    assert isinstance(hub.load_encoder(tmp_path / "own"), Encoder)


def test_the_configuration_says_what_a_document_may_be(name, folder):
    config = hub.load_any(folder).config
    assert (config.vocab_size, config.hidden_size, config.max_position_embeddings) == (211, 24, USABLE[name])
    assert config.positions == (USABLE[name] if name in ("bert", "electra", "xlm-r") else None)
    assert config.pad_token_id == (1 if name in ("xlm-r", "mgte") else 0)
    assert config.mask_token_id is None


@pytest.mark.parametrize("written", ["[MASK]", {"content": "[MASK]", "lstrip": True}])
def test_the_mask_token_is_found_in_the_tokenizers_files(tmp_path, written):
    build("bert").save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": written}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 7, "content": "[MASK]"}]}))
    assert hub.load_encoder(tmp_path).config.mask_token_id == 7


def test_flops_of_a_step_by_hand(tmp_path):
    build("bert").save_pretrained(tmp_path)
    config = hub.load_any(tmp_path).config
    layer = 4 * 24 * 24 + 2 * 24 * 36
    head = 24 * 24 + 24 * 211
    assert (config.products, config.head_products) == (2 * layer, head)
    attention = 2 * 4 * 24 * (10 * 10 + 2 * 3 * 3)  # scores and their use, two layers
    assert config.step_flops({10: 1, 3: 2}, 5) == 3 * (2 * 2 * layer * 16 + attention + 2 * head * 5)


# ------------------------------------------------------------------------------------------------------ what is refused


def change(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    build("bert").save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_a_pickle_is_refused_and_the_way_out_that_is_printed_works(bert):
    torch.save(load_file(bert / "model.safetensors"), bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    for read in (hub.load_any, hub.load_encoder):
        with pytest.raises(ValueError, match=r"weights in pytorch_model\.bin, a format that can run code") as error:
            read(bert)
    steps = re.findall(r"^  (.*)$", str(error.value), re.MULTILINE)
    assert len(steps) == 2
    exec("\n".join(steps), {})
    assert isinstance(hub.load_any(bert), TransformersMaskedLM)


def test_weights_that_are_missing_left_over_or_of_another_shape_are_named(bert):
    weights = load_file(bert / "model.safetensors")

    def store(**changed: torch.Tensor | None) -> None:
        kept = {**weights, **changed}
        save_file({k: v for k, v in kept.items() if v is not None}, bert / "model.safetensors", {"format": "pt"})

    inner = "bert.encoder.layer.1.output.dense.bias"
    store(**{inner: None})
    with pytest.raises(ValueError, match=f"weight '{re.escape(inner)}' is missing"):
        hub.load_any(bert)
    with pytest.raises(ValueError, match=r"weight 'encoder\.layer\.1\.output\.dense\.bias' is missing"):
        hub.load_encoder(bert)
    store(**{inner: torch.zeros(5)})
    with pytest.raises(ValueError, match=r"dense\.bias has the shape \[5\], but config\.json asks for \[24\]"):
        hub.load_any(bert)
    store()
    change(bert, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"weight 'bert\.encoder\.layer\.1\..* \(16 in all\) has no place in this"):
        hub.load_any(bert)
    with pytest.raises(ValueError, match=r"\(16 in all\) has no place in this architecture"):
        hub.load_encoder(bert)


def test_an_encoder_without_a_head_is_no_masked_language_model(bert, tmp_path):
    hub.save(hub.load_encoder(bert), tmp_path / "bare")
    with pytest.raises(ValueError, match=r"without a masked-language-model head \(cls\..* is missing\); read it with"):
        hub.load_any(tmp_path / "bare")


def test_a_pooler_that_is_there_stays_and_one_that_is_not_is_not_made_up(bert, tmp_path):
    assert hub.load_encoder(bert).model.pooler is None
    AutoModel.from_config(build("bert").config).save_pretrained(tmp_path / "pooled")
    hub.save(hub.load_encoder(tmp_path / "pooled"), tmp_path / "again")
    assert "pooler.dense.weight" in load_file(tmp_path / "again" / "model.safetensors")


def test_code_of_the_folder_is_never_run(bert):
    change(bert, model_type="homemade", auto_map={"AutoModel": "homemade.Model"})
    (bert / "homemade.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(ValueError, match=r"'homemade', which transformers does not have\. It comes with code of its"):
        hub.load_encoder(bert)


@pytest.mark.parametrize(
    ("kind", "sizes", "says"),
    [
        ("T5Config", {"d_model": 24}, "a model of type 't5' is no encoder"),
        ("FNetConfig", {}, "other hidden states beside a longer one, so it cannot be padded"),
        ("GPT2Config", {"n_embd": 24, "n_layer": 2, "n_head": 4}, "reads in one direction only"),
    ],
)
def test_a_class_that_cannot_be_what_is_needed_is_refused(tmp_path, kind, sizes, says):
    config = getattr(transformers, kind)(**({**SHAPE, **sizes} if not sizes else {"vocab_size": 211, **sizes}))
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=says):
        hub.load_encoder(tmp_path)


@pytest.mark.parametrize("alike", [5, 200])
def test_rows_that_only_fill_up_the_vocabulary_make_no_encoder_look_as_if_it_read_one_way(bert, alike):
    weights = load_file(bert / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][-alike:] = 0
    save_file(weights, bert / "model.safetensors", metadata={"format": "pt"})
    assert hub.load_encoder(bert).config.vocab_size == len(weights[name])


def test_documents_that_do_not_fit_are_refused(folder, name):
    encoder = hub.load_encoder(folder)
    tokens = torch.full((50,), 9)
    with pytest.raises(ValueError, match=r"starts must rise from 0 to the number of tokens \(50\)"):
        encoder(tokens, torch.tensor([0, 60]))
    if name in ("bert", "electra", "xlm-r"):
        with pytest.raises(ValueError, match=rf"document 1 has 45 tokens; .* has positions for {USABLE[name]}: cut it"):
            encoder(tokens, torch.tensor([0, 5, 50]))
    else:
        assert encoder(tokens, torch.tensor([0, 5, 50])).isfinite().all()


@pytest.mark.parametrize("attention", ["cpu", "varlen", "flash"])
def test_our_own_attention_is_not_offered(bert, attention):
    with pytest.raises(ValueError, match=f"attention: '{attention}' is of tessera's own encoders.* auto or reference"):
        hub.load_any(bert, attention=attention)


def test_weights_that_were_cut_off_are_named(bert):
    whole = (bert / "model.safetensors").read_bytes()
    (bert / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is broken .* copy or download it again"):
        hub.load_any(bert)


def test_without_transformers_what_to_install_is_said(bert, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"type 'bert' is run by transformers; pip install \"tessera-encoders\[eval"):
        hub.load_any(bert)


def test_nothing_is_printed_while_a_folder_is_read_and_written(bert, tmp_path, capfd):
    hub.save(hub.load_encoder(bert), tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
