"""Two texts of a pair are told apart as transformers' own tokenizer and model do, and only where they do."""

import learnable
import pytest
import torch
import transformers
from learnable import protocol

from tessera.data.examples import Choices, Labelled, Question
from tessera.finetune.learner import pretrained
from tessera.finetune.loop import predict, train
from tessera.huggingface import transformers_model
from tessera.plan.recipe import Machine

CALM = Machine(device="cpu", dtype="float32")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "river", "bread", "cloud", "night", "##s", "of"]
SHAPE = {
    "vocab_size": 16, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36,
    "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
FIRST = ["the river", "bread", "the rivers of the night of the clouds of bread"]
OTHER = ["clouds", "the night of the river of bread of the nights", "the bread"]


def bert(place, types=2, tokenizer=None):
    """A random BERT whose second segment is another world, with a tokenizer of transformers."""
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SHAPE, type_vocab_size=types)).eval()
    with torch.no_grad():
        model.bert.embeddings.token_type_embeddings.weight.normal_(0, 3)
    with transformers_model.quietly():
        model.save_pretrained(place)
    tokenizer = tokenizer or transformers.BertTokenizer(vocab={word: n for n, word in enumerate(WORDS)})
    tokenizer.save_pretrained(place)
    return model.bert, tokenizer


def xlm_r():
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(f"▁{word}", -2.0) for word in WORDS[5:-2]] + [("▁", -3.0), ("s", -3.0), ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=[*pieces, *letters])


def states(learner, items):
    """Hidden states as the learner has them computed."""
    found = []
    learner.encoder.register_forward_hook(lambda module, given, hidden: found.append(hidden))
    with torch.no_grad():
        learner.scores(items)
    return found[0]


def same(learner, items, model, batch):
    """The tokens, segments and hidden states of the items are those of a batch of transformers."""
    there = batch["attention_mask"].bool()
    for item, ids, mask in zip([d for i in items for d in i.documents], batch["input_ids"], there, strict=True):
        assert item.tolist() == ids[mask].tolist()
    with torch.no_grad():
        due = model(**batch).last_hidden_state[there]
        blind = model(**{**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])}).last_hidden_state[there]
    torch.testing.assert_close(states(learner, items), due, rtol=1e-4, atol=1e-5)
    return float((due - blind).abs().max())


def pair(kind):
    if kind == "choose":
        return [Choices(text=FIRST[0], options=tuple(OTHER), label=1, id="0", row="r")]
    rows = [(a, b, n % 2) for n, (a, b) in enumerate(zip(FIRST, OTHER, strict=True))]
    return [Labelled(text=a, second=b, label=float(c) if kind == "regress" else c, id=a, row="r") for a, b, c in rows]


@pytest.mark.parametrize("kind", ["pair", "regress", "choose"])
@pytest.mark.parametrize("length", [10, 40])
def test_pairs_of_a_bert_give_the_hidden_states_that_transformers_gives(tmp_path, kind, length):
    model, tokenizer = bert(tmp_path)
    learner = pretrained(tmp_path, CALM).learner(kind, 2, protocol(max_length=length), seed=0)
    first = FIRST[:1] * len(OTHER) if kind == "choose" else FIRST
    batch = tokenizer(first, OTHER, truncation=True, max_length=length, padding=True, return_tensors="pt")
    assert batch["token_type_ids"].any()
    assert same(learner, learner.reader.items(pair(kind)), model, batch) > 0.1


def test_so_do_the_windows_of_a_question(tmp_path):
    model, tokenizer = bert(tmp_path)
    learner = pretrained(tmp_path, CALM).learner("span", 2, protocol(max_length=12, stride=2), seed=0)
    rows = [Question(question=FIRST[0], context=FIRST[2], answers=(("night", 18),), id="0", row="r")]
    batch = tokenizer(
        FIRST[:1], FIRST[2:], truncation="only_second", max_length=12, stride=2, padding=True, return_tensors="pt",
        return_overflowing_tokens=True,
    )  # fmt: skip
    del batch["overflow_to_sample_mapping"]
    assert len(batch["input_ids"]) > 1
    assert same(learner, learner.reader.items(rows), model, batch) > 0.1


def test_a_text_alone_is_of_the_first_segment_also_beside_a_pair(tmp_path):
    model, tokenizer = bert(tmp_path)
    learner = pretrained(tmp_path, CALM).learner("classify", 2, protocol(max_length=40), seed=0)
    for other in ("night", None):
        rows = [Labelled(text="the river", second=other, label=0, id="0", row="r")]
        rows.append(Labelled(text="bread", label=1, id="1", row="r"))
        items = learner.reader.items(rows)
        with torch.no_grad():
            due = [model(**tokenizer(r.text, r.second, return_tensors="pt")).last_hidden_state[0] for r in rows]
        torch.testing.assert_close(states(learner, items), torch.cat(due), rtol=1e-4, atol=1e-5)


def test_the_table_of_segments_is_trained_and_predictions_depend_on_it(tmp_path):
    bert(tmp_path)
    learner = pretrained(tmp_path, CALM).learner("pair", 2, protocol(max_length=40), seed=0)
    before = learner.encoder.model.embeddings.token_type_embeddings.weight.detach().clone()
    train(learner, pair("pair") * 6, protocol(steps=4), rate=1e-2, seed=0)
    moved = (learner.encoder.model.embeddings.token_type_embeddings.weight - before).abs().amax(1)
    assert (moved > 1e-2).all()  # decay alone moves a row by a fifth of that
    assert len(predict(learner, pair("pair"))) == 3


@pytest.mark.parametrize("kind", ["one segment", "a tokenizer that gives none", "ours"])
def test_where_there_are_no_segments_nothing_is_told(tmp_path, kind):
    """XLM-R has a table of one; MiniLM has two but the tokenizer of XLM-R, and transformers gives it zeros."""
    if kind == "ours":
        start = pretrained(learnable.model(tmp_path), CALM)
    else:
        model, tokenizer = bert(tmp_path, types=1) if kind == "one segment" else bert(tmp_path, tokenizer=xlm_r())
        start = pretrained(tmp_path, CALM)
    learner = start.learner("pair", 2, protocol(max_length=40), seed=0)
    items = learner.reader.items(pair("pair"))
    assert not start.segments
    assert all(item.segments == () for item in items)
    if kind != "ours":
        batch = tokenizer(FIRST, OTHER, padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        same(learner, items, model, batch)
