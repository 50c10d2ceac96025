"""A retriever and a reranker out of pairs: chosen on held-out queries, as folders that give the same elsewhere."""

import dataclasses
import random

import learnable
import numpy as np
import pytest
import torch

from tessera.finetune import listwise
from tessera.finetune.learner import pretrained
from tessera.inference.encoder import Encoder
from tessera.labelled import dataset
from tessera.plan.recipe import Machine
from tessera.prediction.predictor import Predictor
from tessera.retrieval import from_files, rerank, retrieve
from tessera.retrieval.pairs import Judged
from tessera.retrieval.retriever import Contrast, Retriever

CALM = Machine(device="cpu", dtype="float32")


def riddles(count, seed=0):
    """A document answers a query where it has bread in it."""
    rng = random.Random(seed)
    return [
        Judged(
            query=f"{n} {learnable.sentence(rng)}",
            grades={
                f"{n} {learnable.sentence(rng, 'bread')}": 1,
                **{f"{n} {learnable.sentence(rng, other)}": 0 for other in ("cloud", "night")},
            },
            row=f"rows:{n}",
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("pairs"))


# ------------------------------------------------------------------------------------------------------------ retriever


def test_a_retriever_is_chosen_on_held_out_queries_and_its_folder_gives_equal_vectors_elsewhere(folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    words = [*learnable.FILLER, *learnable.THINGS]
    rows = [  # each word of a query stands for another in what answers it
        Judged(query=f"{words[i]} {words[j]}", grades={f"{words[i - 5]} {words[j - 5]}": 1}, row=f"rows:{i}.{j}")
        for i in range(len(words))
        for j in range(i)
    ]
    protocol = learnable.protocol(steps=40, learning_rates=[1e30, 5e-3])
    how = Contrast(query_prompt="the ", document_prompt="of ", dimensions=(8,))
    lines = []

    class Watch(retrieve.Silent):
        def say(self, text):
            lines.append(text)

    found = retrieve.run(
        folder, rows, tmp_path / "out", protocol=protocol, contrast=how, machine=CALM, watcher=Watch(),
        held_out=0.2, test=rows[:5],
    )  # fmt: skip
    assert found.after["recall@10"] > found.before["recall@10"]
    assert found.rate == 5e-3
    assert any("learning rate 1e+30: the loss is" in line for line in lines), lines
    assert found.difference < 1e-5
    ours = Encoder.from_pretrained(tmp_path / "out", dtype="float32")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert ours.prompts == {"query": "the ", "document": "of "}
    for mine, due in (
        (ours.encode_query(["bread"]), theirs.encode_query(["bread"])),
        (ours.encode_document(["bread"]), theirs.encode_document(["bread"])),
    ):
        np.testing.assert_allclose(mine, due, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| before | " in card
    assert "| test | " in card
    assert "truncate_dim=8" in card


def test_the_best_rate_is_trained_with_all_seeds_the_best_of_them_is_kept_and_a_killed_one_ends_the_same(
    folder, tmp_path, monkeypatch
):
    how = {"protocol": learnable.protocol(steps=12, learning_rates=[1e-4, 5e-3], seeds=[0, 1, 2]), "machine": CALM}
    rows, said = riddles(60), []

    class Watch(retrieve.Silent):
        def say(self, text):
            said.append(text)

    found = retrieve.run(folder, rows, tmp_path / "one", test=riddles(20, seed=1), watcher=Watch(), **how)
    trained = [line.split(":")[0] for line in said if "on validation after" in line]
    other = "5e-05" if found.rate == 5e-3 else "0.005"
    assert trained == ["learning rate 0.0001", "learning rate 0.005",
                       *(f"learning rate {found.rate:g}, seed {seed}" for seed in (1, 2))]  # fmt: skip
    assert other not in trained[2]
    scores = {line.split(":")[0]: float(line.split(": ")[1].split()[0]) for line in said if "on validation" in line}
    assert found.after["ndcg@10"] == pytest.approx(max(scores.values()), abs=1e-4)
    mean, half = found.seeds["ndcg@10"]
    assert half > 0
    assert mean == pytest.approx(found.test["ndcg@10"], abs=0.3)
    assert f"| mean of 3 seeds | {mean:.4f}" in (tmp_path / "one" / "README.md").read_text()

    train, ends = retrieve.train, iter((None, None, None, KeyboardInterrupt))

    def dies(*args, **more):
        if (end := next(ends, None)) is not None:
            raise end
        return train(*args, **more)

    monkeypatch.setattr(retrieve, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        retrieve.run(folder, rows, tmp_path / "two", test=riddles(20, seed=1), **how)
    said.clear()
    again = retrieve.run(folder, rows, tmp_path / "two", test=riddles(20, seed=1), watcher=Watch(), **how)
    assert sum("done before" in line for line in said) == 3
    assert again.seeds == found.seeds
    weights = "model.safetensors"
    assert (tmp_path / "two" / weights).read_bytes() == (tmp_path / "one" / weights).read_bytes()


def test_a_trained_folder_is_trained_further_with_its_own_pooling_and_prompts(folder, tmp_path):
    first, inside = Retriever.from_pretrained(
        folder, CALM, contrast=Contrast(pooling="cls", query_prompt="q: ", document_prompt="d: "), max_length=40
    )
    first.save(inside, tmp_path / "one")
    again, _ = Retriever.from_pretrained(tmp_path / "one", CALM)
    assert again.contrast == first.contrast
    assert again.max_length == 40
    np.testing.assert_array_equal(again.queries(["bread"]), first.queries(["bread"]))
    assert again.encoder is not first.encoder


def test_a_folder_that_pools_in_another_way_is_refused(folder, tmp_path):
    Encoder.from_pretrained(folder).save(tmp_path / "max", pooling="max")
    with pytest.raises(ValueError, match="pools by max; what is trained here pools by mean or cls"):
        Retriever.from_pretrained(tmp_path / "max")


def test_pairs_that_leave_nothing_held_out_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="none of the 0 queries held out has a document that answers it"):
        retrieve.run(folder, riddles(5), tmp_path / "out", protocol=learnable.protocol(), held_out=0.0001)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------- reranker


def test_grades_become_shares_of_the_highest_and_lists_begin_with_the_answer():
    rows = [Judged(query="q", grades={"a": 2, "b": 0, "c": 1}, row="r"), Judged(query="s", grades={"d": 4}, row="r")]
    assert [(e.second, e.label) for e in rerank.graded(rows)] == [("a", 0.5), ("b", 0.0), ("c", 0.25), ("d", 1.0)]
    assert [(e.options, e.label) for e in listwise.lists(rerank.graded(rows))] == [(("a", "b"), 0), (("c", "b"), 0)]


def test_negatives_are_the_rows_own_then_hard_ones_then_of_other_queries(folder):
    rows = riddles(6)
    assert rerank.with_negatives(rows, 2, 0) == rows
    more = rerank.with_negatives(rows, 4, 0)
    for one, before in zip(more, rows, strict=True):
        assert list(one.grades)[:3] == list(before.grades)
        assert [one.grades[text] for text in list(one.grades)[3:]] == [0, 0]
    assert rerank.with_negatives(rows, 4, 0) == more != rerank.with_negatives(rows, 4, 1)
    few = [Judged(query="q", grades={"a": 1}, row="r"), Judged(query="s", grades={"b": 1}, row="r")]
    assert [one.others for one in rerank.with_negatives(few, 4, 0)] == [["b"], ["a"]]
    retriever, _ = Retriever.from_pretrained(folder, CALM)
    bare = [Judged(query=one.query, grades={one.answers[0]: 1}, row=one.row) for one in rows]
    hard = rerank.with_negatives(bare, 1, 0, retriever)
    mined = rerank.mine(retriever, rerank.pairs.triples(bare), [one.answers[0] for one in rows], 1)
    assert [one.others for one in hard if one.others] >= [list(t.negatives) for t in mined if t.negatives][:1]


def test_the_listwise_loss_worked_out_by_hand(folder, monkeypatch):
    learner = pretrained(folder, CALM).learner("rerank", 1, learnable.protocol(), seed=0)
    rows = riddles(3)
    seen = {}

    def once(encoder, head, plan, accumulate, *_, **__):
        seen["loss"], _ = accumulate(0, range(3))

    monkeypatch.setattr(listwise.loop, "optimize", once)
    listwise.train_listwise(learner, rerank.graded(rows), learnable.protocol(), rate=1e-3, seed=0)
    by_query = {one.query: [] for one in rows}
    items = learner.reader.items(rerank.graded(rows))
    with torch.no_grad():
        for example, score in zip(rerank.graded(rows), learner.scores(items)[:, 0].tolist(), strict=True):
            by_query[example.text].append(score)
    due = np.mean([np.log(np.exp(np.array(scores) - scores[0]).sum()) for scores in by_query.values()])
    assert seen["loss"] == pytest.approx(due, rel=1e-4)


@pytest.mark.parametrize("among_others", [False, True])
def test_a_reranker_mends_the_ranking_of_a_retriever_and_its_folder_gives_equal_scores_elsewhere(
    folder, tmp_path, among_others
):
    from sentence_transformers import CrossEncoder

    grades = {text: grade for one in riddles(8, 1) for text, grade in one.grades.items()}
    rows = [Judged(query=one.query, grades=grades, row=one.row) for one in riddles(30)]  # all have the same answers
    protocol = learnable.protocol(steps=30, learning_rates=[5e-3])
    found = rerank.run(
        folder, rows, tmp_path / "out", protocol=protocol, machine=CALM, held_out=0.2, test=rows[:3],
        retriever=None if among_others else folder, negatives=2, listwise=among_others,
    )  # fmt: skip
    assert found.fitted.difference < 1e-5
    assert set(found.before) == (set() if among_others else {"validation", "test"})
    if found.before:
        assert found.fitted.score["ndcg@10"][0] > max(0.9, found.before["test"])
        assert f"retriever's own order on test: {found.before['test']:.4f}" in (tmp_path / "out/README.md").read_text()
    asked = [(rows[0].query, document) for document in rows[0].grades]
    mine = [row["score"] for row in Predictor.from_pretrained(tmp_path / "out", dtype="float32").predict(asked)]
    due = CrossEncoder(str(tmp_path / "out"), device="cpu").predict([list(pair) for pair in asked])
    np.testing.assert_allclose(mine, due, atol=1e-5)
    right = [score for score, grade in zip(mine, grades.values(), strict=True) if grade]
    assert np.mean(right) > np.mean(mine) + 0.1


def as_dataset(rows):
    part = dataset.Part(rerank.graded(rows, 1.0), ["fao"] * sum(len(one.grades) for one in rows))
    return dataset.Dataset(
        source="rows", kind="rerank", columns={}, labels=(), train=part, validation=part, test=dataset.Part(),
        said=(), left_out=(),
    )  # fmt: skip


def test_rows_of_answers_alone_get_others_to_learn_from_and_to_choose_by(folder):
    bare = as_dataset([Judged(query=one.query, grades={one.answers[0]: 1}, row=one.row) for one in riddles(12)])
    found, before = rerank.prepared(bare)
    assert before == {}
    assert "48 documents that do not answer were drawn from other queries, 4 of each query" in found.said
    assert len(found.train) == 5 * 12
    assert set(found.train.languages) == {"fao"}
    assert len(found.validation) >= 11 * 12  # each answer among those of others
    mined, before = rerank.prepared(bare, retriever=folder, negatives=2, top=5, machine=CALM)
    assert 0 <= before["validation"] <= 1
    assert any("mined with" in line and "2 of each query" in line for line in mined.said)
    of_one = [one for one in mined.validation.examples if one.text == bare.train.examples[0].text]
    assert len(of_one) in (5, 6)  # the first five of the retriever, and the answer wherever it put it
    assert sum(one.label for one in of_one) == 1


def test_rows_with_documents_that_do_not_answer_stay_as_they_are_and_other_kinds_are_refused():
    whole = as_dataset(riddles(6))
    assert rerank.prepared(whole) == (whole, {})
    with pytest.raises(ValueError, match="kind pair has no documents to put in order"):
        rerank.prepared(dataclasses.replace(whole, kind="pair"))


def test_listwise_training_without_anything_to_tell_apart_is_refused(folder):
    learner = pretrained(folder, CALM).learner("rerank", 1, learnable.protocol(), seed=0)
    rows = rerank.graded([Judged(query="q", grades={"a": 1}, row="r")])
    with pytest.raises(ValueError, match="no query has both an answer and a document that is none"):
        listwise.train_listwise(learner, rows, learnable.protocol(), rate=1e-3, seed=0)


# --------------------------------------------------------------------------------------------------------- out of files


def test_files_say_which_rows_are_held_out_and_what_is_wrong_is_said_before_anything(folder, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("train", "dev", "test"):
        (tmp_path / "data" / f"{name}.csv").write_text(f"query,positive,negative\n{name},a {name},b\n")
    seen = {}
    monkeypatch.setattr(from_files.retrieve, "run", lambda *given, **how: seen.update(how, rows=given[1]))
    from_files.fit("retrieve", folder, tmp_path / "data", tmp_path / "out", contrast=Contrast())
    assert [one.query for one in seen["rows"]] == ["train"]
    assert [one.grades for one in seen["held_out"]] == [{"a dev": 1, "b": 0}]
    assert [one.query for one in seen["test"]] == ["test"]
    with pytest.raises(ValueError, match="distil needs a teacher"):
        from_files.fit("distil", folder, tmp_path / "data", tmp_path / "out")
    with pytest.raises(ValueError, match="kind is 'embed'; give retrieve, rerank, distil"):
        from_files.fit("embed", folder, tmp_path / "data", tmp_path / "out")
    (tmp_path / "data" / "train.csv").write_text("query,positive\nq,\n")
    with pytest.raises(ValueError, match=r"train\.csv:2: positive has no text"):
        from_files.fit("rerank", folder, tmp_path / "data", tmp_path / "out")
    (tmp_path / "data" / "train.csv").unlink()
    with pytest.raises(ValueError, match="rows for validation and test, but none to train on"):
        from_files.fit("rerank", folder, tmp_path / "data", tmp_path / "out")
    from_files.fit("retrieve", folder, tmp_path / "data" / "dev.csv", tmp_path / "out")
    assert [one.query for one in seen["rows"]] == ["dev"]
    assert not (tmp_path / "out").exists()
