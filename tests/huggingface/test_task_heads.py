"""Heads for fine-tuning against transformers with the same weights, and losses within a document by hand."""

import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.huggingface import hub, task_heads, transformers_model
from tessera.huggingface.hf_names import their_config
from tessera.model.encoder import Encoder, PartialEmbedding
from tessera.model.task_config import SCORE

CLASSIFIER, TAGGER = "ForSequenceClassification", "ForTokenClassification"


@pytest.fixture
def theirs(tiny, tmp_path):
    """theirs("mmbert", "ForSequenceClassification", labels): a random model of transformers, and our encoder of it."""

    def make(family, task, labels, **fields):
        config = tiny(
            "mmbert" if family == "mmbert" else "eurobert", num_key_value_heads=4 if family == "mmbert" else 2
        )
        name = "ModernBert" if family == "mmbert" else "EuroBert"
        given = their_config(config, name.lower(), torch.float32) | fields
        made = getattr(transformers, f"{name}Config")(**given, num_labels=labels, attn_implementation="eager")
        torch.manual_seed(0)
        model = getattr(transformers, name + task)(made).eval()
        for weight in model.parameters():  # biases of 0 and norms of 1 would hide a mistake
            torch.nn.init.normal_(weight, 0.1 if weight.ndim == 1 else 0.0, 0.2)
        with transformers_model.quietly():
            model.save_pretrained(tmp_path / "theirs")
        return model, hub.load_own_encoder(tmp_path / "theirs", "reference").eval()

    return make


@torch.no_grad()
def fill(head, model):
    """Our head with their weights."""
    head.classifier.load_state_dict(model.classifier.state_dict())
    if hasattr(model, "head"):
        head.transform.dense.weight.copy_(model.head.dense.weight)
        head.transform.norm.weight.copy_(model.head.norm.weight)
    elif hasattr(model, "dense"):
        head.transform.dense.load_state_dict(model.dense.state_dict())


def padded(tokens, starts):
    documents = tokens.tensor_split(starts[1:-1])
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    lengths = starts.diff()
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(
    ("family", "pooling", "said"),
    [
        ("mmbert", "cls", {"classifier_pooling": "cls"}),
        ("mmbert", "mean", {"classifier_pooling": "mean"}),
        ("eurobert", "late", {"classifier_pooling": "late"}),
        ("eurobert", "cls", {"classifier_pooling": "bos"}),
        ("eurobert", "mean", {"classifier_pooling": "mean"}),
    ],
)
@torch.no_grad()
def test_documents_are_classified_as_transformers_does(theirs, documents, family, pooling, said, labels):
    model, encoder = theirs(family, CLASSIFIER, labels, **said)
    head = task_heads.DocumentHead(encoder.config, labels, pooling)
    fill(head, model)
    tokens, starts = documents([7, 1, 12, 3])
    ids, mask = padded(tokens, starts)
    due = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(head(encoder(tokens, starts), starts), due, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mmbert", "eurobert"])
@torch.no_grad()
def test_tokens_are_tagged_as_transformers_does(theirs, documents, family):
    model, encoder = theirs(family, TAGGER, 5)
    head = task_heads.TokenHead(encoder.config, 5)
    fill(head, model)
    tokens, starts = documents([7, 1, 12, 3])
    ids, mask = padded(tokens, starts)
    due = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    hidden = encoder(tokens, starts)
    torch.testing.assert_close(head(hidden), due, rtol=1e-4, atol=1e-4)
    some = torch.tensor([3, 9, 20])
    torch.testing.assert_close(head(hidden[some]), due[some], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_answers_start_and_end_where_transformers_says(theirs, documents):
    model, encoder = theirs("mmbert", "ForQuestionAnswering", 2)
    head = task_heads.TokenHead(encoder.config, 2)
    fill(head, model)
    tokens, starts = documents([7, 12])
    ids, mask = padded(tokens, starts)
    said = model(input_ids=ids, attention_mask=mask)
    due = torch.stack((said.start_logits, said.end_logits), -1)[mask.bool()]
    torch.testing.assert_close(head(encoder(tokens, starts)), due, rtol=1e-4, atol=1e-4)


def test_an_answer_costs_what_it_costs_transformers_where_nothing_is_padded(theirs, documents):
    model, encoder = theirs("mmbert", "ForQuestionAnswering", 2)
    head = task_heads.TokenHead(encoder.config, 2)
    fill(head, model)
    tokens, starts = documents([9, 9])
    targets = torch.tensor([[2, 5], [0, 0]])
    due = model(input_ids=tokens.view(2, 9), start_positions=targets[:, 0], end_positions=targets[:, 1]).loss
    found = task_heads.losses_within(head(encoder(tokens, starts)), starts, targets)
    torch.testing.assert_close(found.mean(), due, rtol=1e-4, atol=1e-4)


def test_options_are_weighed_as_transformers_does(theirs, documents):
    model, encoder = theirs("mmbert", "ForMultipleChoice", 1, classifier_pooling="mean")
    head = task_heads.DocumentHead(encoder.config, 1, "mean")
    fill(head, model)
    tokens, starts = documents([5, 3, 9, 2])  # two questions with two options each
    ids, mask = padded(tokens, starts)
    labels = torch.tensor([1, 0])
    due = model(input_ids=ids.view(2, 2, -1), attention_mask=mask.view(2, 2, -1), labels=labels)
    scores = head(encoder(tokens, starts), starts)
    torch.testing.assert_close(scores.view(2, 2), due.logits, rtol=1e-4, atol=1e-4)
    found = task_heads.losses_within(scores, torch.tensor([0, 2, 4]), labels[:, None])
    torch.testing.assert_close(found.mean(), due.loss, rtol=1e-4, atol=1e-4)


def test_a_target_costs_the_log_of_its_share_in_its_own_group():
    scores = torch.log(torch.tensor([[1.0], [3.0], [2.0], [2.0], [4.0]]))
    found = task_heads.losses_within(scores, torch.tensor([0, 2, 5]), torch.tensor([[1], [0]]))
    assert found[:, 0].tolist() == pytest.approx([math.log(4 / 3), math.log(4)])


@settings(max_examples=50)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 2**31), st.sampled_from([1.0, 300.0]))
def test_losses_within_groups_are_those_of_each_group_alone_and_so_are_gradients(lengths, seed, scale):
    torch.manual_seed(seed)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    scores = (torch.randn(sum(lengths), 2) * scale).requires_grad_()
    targets = torch.stack([torch.randint(0, n, (2,)) for n in lengths])
    found = task_heads.losses_within(scores, starts, targets)
    alone = [
        torch.nn.functional.cross_entropy(group.T, target, reduction="none")
        for group, target in zip(scores.split(lengths), targets, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-4)
    mine, theirs = (torch.autograd.grad(x.sum(), scores, retain_graph=True)[0] for x in (found, torch.stack(alone)))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_scores_are_float32_under_bfloat16(tiny, documents):
    config = tiny("mmbert")
    encoder = Encoder(config)
    tokens, starts = documents([5, 6])
    with torch.autocast("cpu", torch.bfloat16):
        hidden = encoder(tokens, starts)
        assert task_heads.DocumentHead(config, 2, "mean")(hidden, starts).dtype == torch.float32
        assert task_heads.TokenHead(config, 2)(hidden).dtype == torch.float32


def regressor(config, pooling):
    return task_heads.TaskModel.of(config, SCORE, pooling).eval()


def test_a_late_score_is_the_mean_of_what_each_token_says(tiny, documents):
    model = regressor(tiny("eurobert"), "late")
    tokens, starts = documents([7, 1, 12])
    each = model.head.classifier(model.head.transform(model.encoder(tokens, starts)))
    wanted = torch.stack([each[:7].mean(0), each[7], each[8:].mean(0)])
    torch.testing.assert_close(model(tokens, starts), wanted)


@pytest.mark.parametrize(("name", "pooling"), [("mmbert", "mean"), ("eurobert", "cls"), ("eurobert", "late")])
def test_a_score_is_not_rounded_to_bfloat16(name, pooling, tiny, documents):
    model = regressor(tiny(name), pooling)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*documents([9, 30, 4]))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, rough.bfloat16().float())


# ---------------------------------------------------------------------------------------------------------- rows in use


def test_rows_in_use_are_trained_and_the_others_shrink_together():
    whole = torch.arange(12.0).view(6, 2)
    rows = PartialEmbedding(whole, torch.tensor([1, 4]))
    assert [tuple(p.shape) for p in rows.parameters()] == [(2, 2)]
    assert torch.equal(rows(torch.tensor([[4, 1]])), whole[[4, 1]][None])
    with torch.no_grad():
        rows.weight += 100
    rows.decay(0.5)
    rows.decay(0.5)
    due = whole * 0.25
    due[[1, 4]] = whole[[1, 4]] + 100
    assert torch.equal(rows.embedding(), due)
    rows.eval()
    assert torch.equal(rows(torch.arange(6)), due)
    assert torch.equal(whole, torch.arange(12.0).view(6, 2))  # never changed


def test_the_gradient_of_rows_in_use_is_that_of_the_whole_table():
    whole, tokens = torch.randn(9, 3), torch.tensor([2, 7, 2, 5])
    table = torch.nn.Embedding.from_pretrained(whole.clone(), freeze=False)
    rows = PartialEmbedding(whole, torch.tensor([2, 5, 7]))
    for embedding in (table, rows):
        (embedding(tokens) * torch.arange(12.0).view(4, 3)).sum().backward()
    assert torch.equal(rows.weight.grad, table.weight.grad[[2, 5, 7]])
