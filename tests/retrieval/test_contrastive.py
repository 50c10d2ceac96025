"""The contrastive loss worked out by hand, its cached gradient against the plain one, and training that can be seen."""

import math
import random

import numpy as np
import pytest
import torch
from learnable import COMMON

from tessera.data.examples import Search, Triple
from tessera.evaluation.retrieve import rank
from tessera.finetune.learner import pretrained
from tessera.finetune.loop import Diverged
from tessera.huggingface import hub
from tessera.inference.encoder import Encoder as Embedder
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.retrieval.contrastive import backward, draw, info_nce, known, mine, nested, train
from tessera.retrieval.retriever import Contrast, Retriever
from tessera.tokenizer import tokenizer as tokenizers

WORDS = ["tree", "fish", "stone", "cloud", "bread", "night", "river", "king", "salt", "moon", "horn", "leaf"]
ANSWERS = ["ka", "lo", "mi", "ne", "su", "ta", "bo", "du", "fe", "gi", "ha", "ju"]
NOISE = ["gul", "hem", "jor", "wat", "pib", "zek"]
CALM = Machine(device="cpu", dtype="float32", micro_batch_tokens=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of a few thousand weights, with dropout."""
    place = tmp_path_factory.mktemp("contrast")
    tokenizer = tokenizers.train(
        {"a": [" ".join([*WORDS, *ANSWERS, *NOISE])] * 9}, TokenizerTraining(vocab_size=440), place / "tokenizer"
    )
    fields = {**COMMON, "vocab_size": tokenizer.vocab_size, "num_hidden_layers": 1, "attention_output_dropout": 0.0}
    model = MaskedLM(EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **fields}))
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, place / "model", place / "tokenizer", None)
    return place / "model"


def retriever(folder, machine=CALM, **contrast):
    return Retriever.of(pretrained(folder, machine), Contrast(**contrast), max_length=32)


def protocol(**settings):
    given = {"name": "p", "steps": 40, "batch_size": 16, "learning_rates": (3e-3,), "warmup_ratio": 0.1, **settings}
    return Protocol.model_validate(given)


def triple(query, positive, *negatives):
    return Triple(query=query, positive=positive, negatives=negatives, id=query, row="here")


def riddles(count, seed=1):
    """A query names a word, what answers it the word that stands for it, each beside a word without meaning.

    The words come in turn: as many riddles as there are words have as many answers.
    """
    rng = random.Random(seed)
    pairs = [(WORDS[n % len(WORDS)], ANSWERS[n % len(ANSWERS)]) for n in range(count)]
    return [triple(f"{word} {rng.choice(NOISE)}", f"{answer} {rng.choice(NOISE)}") for word, answer in pairs]


def recall_at_1(model, triples):
    search = Search(
        queries={t.query: t.query for t in triples},
        corpus={t.positive: t.positive for t in triples},
        relevant={t.query: {t.positive: 1} for t in triples},
    )
    ranked = rank(search, model.queries, model.documents)
    return sum(names[0] in search.relevant[query] for query, names in ranked.items()) / len(ranked)


# ------------------------------------------------------------------------------------------------------------ the loss


def test_two_queries_and_two_documents_worked_out_by_hand():
    queries = torch.tensor([[2.0, 0.0], [0.0, 5.0]])  # lengths do not matter
    documents = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # cosines: 1 and 3/5; 0 and 4/5
    targets, nothing = torch.tensor([0, 1]), torch.zeros(2, 2, dtype=torch.bool)

    def share(right, *others):
        return math.exp(right / 0.5) / sum(math.exp(x / 0.5) for x in (right, *others))

    forward = -(math.log(share(1, 3 / 5)) + math.log(share(4 / 5, 0))) / 2
    back = -(math.log(share(1, 0)) + math.log(share(4 / 5, 3 / 5))) / 2
    assert float(info_nce(queries, documents, targets, nothing, 0.5)) == pytest.approx(forward)
    both = info_nce(queries, documents, targets, nothing, 0.5, symmetric=True)
    assert float(both) == pytest.approx((forward + back) / 2)


def test_a_document_that_answers_another_query_too_is_not_held_against_it():
    triples = [triple("capital of france", "Paris"), triple("city of light", "Paris"), triple("a fish", "Cod", "Paris")]
    triples.append(triple("capital of france", "Paris is the capital"))
    batch = draw(triples, known(triples), 1, np.random.default_rng(0))
    assert batch.documents == ["Paris", "Cod", "Paris is the capital"]  # each text once
    assert batch.targets.tolist() == [0, 0, 1, 2]
    drawn = ["".join("x" if there else "." for there in row) for row in batch.ignored]
    assert drawn == [
        "..x",  # its other answer
        "...",  # nobody said that the third answers this one
        "...",
        "x..",
    ]


def test_what_is_ignored_has_no_part_in_the_loss_either_way():
    rng = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(3, 8, generator=rng), torch.randn(3, 8, generator=rng)
    targets, ignored = torch.tensor([0, 0, 1]), torch.tensor([[0, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
    documents.requires_grad_()
    gradient = torch.autograd.grad(info_nce(queries[:1], documents, targets[:1], ignored[:1], 0.1), documents)[0]
    assert gradient[2].abs().max() == 0
    assert gradient[1].abs().max() > 0
    documents.requires_grad_(False)
    # Queries 0 and 1 share a document: it must not be told to prefer one of them.
    logits = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(documents, dim=1).T / 0.1
    by_hand = -torch.stack(
        [
            logits[0, 0] - logits[[0, 2], 0].logsumexp(0),
            logits[1, 0] - logits[[1, 2], 0].logsumexp(0),
            logits[2, 1] - logits[[0, 1, 2], 1].logsumexp(0),
        ]
    ).mean()
    forward = info_nce(queries, documents, targets, ignored, 0.1)
    both = info_nce(queries, documents, targets, ignored, 0.1, symmetric=True)
    assert float(2 * both - forward) == pytest.approx(float(by_hand), rel=1e-5)


def test_nested_losses_are_the_mean_over_first_dimensions():
    batch = draw(
        [triple("a", "b"), triple("c", "d", "e")], known([triple("a", "b")]) | {"c": {"d"}}, 1, np.random.default_rng(0)
    )
    vectors = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    one = [float(nested(vectors[:, :size], batch, Contrast(), 0.1)) for size in (2, 4, 8)]
    assert float(nested(vectors, batch, Contrast(dimensions=(4, 2)), 0.1)) == pytest.approx(sum(one) / 3)


# -------------------------------------------------------------------------------------------------------- the gradient


def gradients(model, texts, loss, max_tokens):
    model.encoder.zero_grad()
    model.encoder.train()
    value = backward(model.pooled, texts, loss, max_tokens)
    return value, [p.grad.clone() for p in model.encoder.parameters()]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_cached_gradient_is_the_direct_one(folder, pooling):
    model = retriever(folder, pooling=pooling)
    triples = riddles(12)
    batch = draw(triples, known(triples), 1, np.random.default_rng(0))
    texts = model.read([*batch.queries, *batch.documents])

    def loss(vectors):
        return nested(vectors, batch, Contrast(symmetric=True, dimensions=(8,)), 0.05)

    value, direct = gradients(model, texts, loss, 10**6)
    assert max(g.abs().max() for g in direct) > 1e-4
    for max_tokens in (1, 20, 77):
        cached_value, cached = gradients(model, texts, loss, max_tokens)
        assert cached_value == pytest.approx(value, rel=1e-5)
        for one, other in zip(direct, cached, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)


def test_the_second_pass_drops_what_the_first_one_dropped(folder):
    # The gradient of a sum of squares is 2 x; what is dropped in one pass only would be missing from it.
    model = retriever(folder)
    noise = torch.nn.Dropout(0.5)
    weight = torch.ones(4, requires_grad=True)

    def embed(texts):
        return noise(weight.expand(len(texts), 4))

    texts = model.read(["a b", "c", "d e f"])
    torch.manual_seed(3)
    value = backward(embed, texts, lambda vectors: vectors.square().sum(), 1)
    assert float((weight.grad / 2).sum()) == pytest.approx(value)  # each entry is 0 or 2, and so 2 x * 2 = 2 x squared


def test_the_size_of_micro_batches_does_not_change_the_training(folder):
    outcomes = []
    for size in (16, 512, 100_000):
        model = retriever(folder, Machine(device="cpu", dtype="float32", micro_batch_tokens=size))
        course = train(model, riddles(64), protocol(steps=4), rate=1e-3, seed=0)
        outcomes.append((course.losses, model.queries(["tree fish"])))
    for losses, vector in outcomes[1:]:
        assert losses == pytest.approx(outcomes[0][0], rel=1e-4)
        assert vector == pytest.approx(outcomes[0][1], abs=1e-4)


# -------------------------------------------------------------------------------------------------------- the training


def test_training_finds_what_cannot_be_guessed(folder):
    model = retriever(folder)
    seen, new = riddles(500), riddles(len(WORDS), seed=2)
    assert recall_at_1(model, new) < 0.2
    course = train(model, seen, protocol(steps=100, temperature=0.1), rate=1e-2, seed=0)
    assert course.losses[-1] < course.losses[0] / 3
    assert recall_at_1(model, new) > 0.9


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(folder):
    def weights(seed):
        model = retriever(folder)
        train(model, riddles(64), protocol(steps=3), rate=1e-3, seed=seed)
        return {name: tensor.numpy().tobytes() for name, tensor in model.encoder.state_dict().items()}

    first = weights(0)
    torch.manual_seed(7)
    assert weights(0) == first
    assert weights(1) != first


def test_what_training_starts_from_stays_as_it_is(folder):
    start = pretrained(folder, CALM)
    before = {name: tensor.clone() for name, tensor in start.encoder.state_dict().items()}
    model = Retriever.of(start, max_length=32)
    train(model, riddles(64), protocol(steps=3, weight_decay=0.1), rate=1e-2, seed=0)
    for name, tensor in start.encoder.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert not torch.equal(model.encoder.state_dict()[name], tensor)


def test_tokens_that_the_data_has_not_are_decayed_like_the_others(folder):
    model = retriever(folder)
    before = model.encoder.embedding.weight.clone()
    settings = protocol(steps=2, weight_decay=0.5, schedule="constant", warmup_ratio=0)
    train(model, riddles(64), settings, rate=0.1, seed=0)
    mask = model.tokenizer.mask_id
    torch.testing.assert_close(model.encoder.embedding.weight[mask], before[mask] * (1 - 0.1 * 0.5) ** 2)


def test_prompts_stand_before_what_they_are_for(folder):
    plain, prompted = retriever(folder), retriever(folder, query_prompt="tree ", document_prompt="fish ")
    assert prompted.queries(["stone"]) == pytest.approx(plain.queries(["tree stone"]))
    assert prompted.documents(["stone"]) == pytest.approx(plain.documents(["fish stone"]))
    seen = []
    pooled = Retriever.pooled

    def remember(self, texts):
        seen.extend(self.tokenizer.decode(ids).strip() for ids in texts)
        return pooled(self, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retriever, "pooled", remember)
        train(prompted, [triple("stone", "cloud"), triple("night", "river")], protocol(steps=1), rate=0.01, seed=0)
    assert set(seen) == {"tree stone", "tree night", "fish cloud", "fish river"}


def test_a_training_that_goes_nowhere_or_cannot_begin_is_said(folder):
    with pytest.raises(Diverged, match=r"after \d+ steps at a learning rate of 1e"):
        train(retriever(folder), riddles(64), protocol(steps=30, warmup_ratio=0), rate=1e30, seed=0)
    same = [triple("a", "b"), triple("c", "b")]
    with pytest.raises(ValueError, match="2 pairs with less than two different documents; nothing to tell apart"):
        train(retriever(folder), same, protocol(), rate=1e-3, seed=0)
    with pytest.raises(ValueError, match=r"dimensions are \[64\], but the model has 32"):
        retriever(folder, dimensions=(64,))
    with pytest.raises(ValueError, match=r"mine_after is 1\.0; it is a share of the steps, so give 0 to below 1"):
        Contrast(mine_after=1.0)
    with pytest.raises(ValueError, match="pooling is 'max'; give mean or cls"):
        Contrast(pooling="max")


# ------------------------------------------------------------------------------------------------------------- mining


class Compass:
    """Stands where a retriever does: texts are angles in degrees, with words that do not matter."""

    def queries(self, texts, on_progress=None):
        angles = np.radians([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    documents = queries


def test_mining_finds_the_planted_negative_and_spares_answers_and_what_is_too_near():
    triples = [
        triple("0", "30 answer"),  # cosine 0.87; 95% of that is at 35 degrees
        triple("0", "40 another answer"),
        triple("100", "110 answer"),
    ]
    corpus = ["10 nearer than the answer", "33 within the margin", "37 planted", "50 further", "180 far"]
    first, second, third = mine(Compass(), triples, corpus, 1)
    assert (first.query, first.positive) == (triples[0].query, triples[0].positive)
    assert first.negatives == ("37 planted",)
    assert second.negatives == ("50 further",)
    assert third.negatives == ("50 further",)
    assert [len(found.negatives) for found in mine(Compass(), triples, corpus, 3)] == [3, 3, 3]
    assert mine(Compass(), triples, corpus, 1, margin=0.99)[0].negatives == ("33 within the margin",)
    assert mine(Compass(), triples, corpus, 9, depth=3)[0].negatives == ()  # nothing beyond the margin was looked at
    assert mine(Compass(), triples, (), 1)[0].negatives == ("110 answer",)  # what answers others is looked at too


def test_a_positive_that_points_away_leaves_what_points_further_away():
    (found, _) = mine(Compass(), [triple("0", "120"), triple("90", "91")], ["119", "121", "170"], 5)
    assert found.negatives == ("170",)


def test_given_negatives_come_before_mined_ones():
    given = triple("0", "30", "180 given")
    assert mine(Compass(), [given], ["50", "60"], 2)[0].negatives == ("180 given", "50")
    assert mine(Compass(), [given], ["50", "60"], 0)[0].negatives == ("180 given",)


def test_mined_negatives_are_trained_on(folder, monkeypatch):
    from tessera.retrieval import contrastive as contrast

    sizes = []

    def remember(*arguments):
        batch = draw(*arguments)
        sizes.append(len(batch.documents))
        return batch

    monkeypatch.setattr(contrast, "draw", remember)
    model = retriever(folder, mine_after=0.5)
    triples = riddles(64)
    train(model, triples, protocol(steps=4, batch_size=8, negatives=2), rate=1e-3, seed=0, corpus=["bread cloud"])
    assert max(sizes[:2]) <= 8 < min(sizes[2:])


def test_a_saved_retriever_is_loaded_by_sentence_transformers(folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = retriever(folder, query_prompt="tree ")
    train(model, riddles(64), protocol(steps=3), rate=1e-3, seed=0)
    model.save(folder, tmp_path / "saved")
    texts = ["stone cloud", "fish " * 50, ""]
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert loaded.encode(texts, prompt_name="query") == pytest.approx(model.queries(texts), abs=1e-5)
    assert loaded.encode(texts) == pytest.approx(model.documents(texts), abs=1e-5)
    ours = Embedder.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32")
    assert np.asarray(ours.encode(texts)) == pytest.approx(model.documents(texts), abs=1e-5)
    again = Retriever.of(pretrained(tmp_path / "saved", CALM), Contrast(query_prompt="tree "), max_length=32)
    assert again.queries(texts) == pytest.approx(model.queries(texts), abs=1e-5)
    with pytest.raises(FileExistsError):
        model.save(folder, tmp_path / "saved")
