"""A student of a teacher: the loss by hand, the mixture of languages, vectors kept and resumed, an equal folder."""

import math

import learnable
import numpy as np
import pytest
import torch

from tessera.inference.encoder import Encoder
from tessera.plan.recipe import Machine
from tessera.retrieval import distil, schedule, teacher
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.token_states import TokenTeacher
from tessera.train.embedding import Anchors, divergence

CALM = Machine(device="cpu", dtype="float32", micro_batch_tokens=256)
WORDS = [*learnable.FILLER, *learnable.THINGS]


def sentences(count, languages=("a",)):
    rng = np.random.default_rng(0)
    made = []
    for n in range(count):
        words = rng.choice(WORDS, 5).tolist()
        other = None if languages == ("",) else " ".join(words[::-1])
        made.append(
            Sentence(text=" ".join(words), translation=other, language=languages[n % len(languages)], row=f"rows:{n}")
        )
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student, and teachers: as wide as it; of another width and a family of transformers', not of length 1."""
    place = tmp_path_factory.mktemp("distil")
    student = learnable.model(place / "s")
    learnable.model(place / "t", "eurobert-210m")
    wide = learnable.model(place / "w", hidden_size=48, num_attention_heads=3, num_key_value_heads=3)
    Encoder.from_pretrained(place / "t" / "eurobert-210m").save(place / "teacher")
    Encoder.from_pretrained(wide).save(place / "wide", pooling="cls", normalize=False)
    return {"student": student, "teacher": place / "teacher", "wide": place / "wide"}


# ------------------------------------------------------------------------------------------------------------ the loss


def test_distances_worked_out_by_hand():
    student, teacher_ = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # cosines 0.6 and 1
    assert float(distil.distance(student, teacher_, "cosine")) == pytest.approx(0.4)
    # of unit vectors the squared distance is 2 - 2 cos
    assert float(distil.distance(student, teacher_, "mse")) == pytest.approx(0.8)
    # as they are: (4 + 16) + 1
    assert float(distil.distance(student, teacher_, "mse", normalize=False)) == pytest.approx(21)
    # in parts of the teacher's squared length: the same of all vectors ten times as long
    ten = distil.distance(10 * student, 10 * teacher_, "mse", normalize=False, size=100.0)
    assert float(ten) == pytest.approx(21)


@pytest.mark.parametrize(
    ("loss", "which", "anchors"),
    [("mse", "teacher", 0), ("cosine", "teacher", 0), ("mse", "wide", 0), ("mse", "teacher", 8)],
)
def test_the_gradient_of_a_batch_is_that_of_its_micro_batches(folders, loss, which, anchors, monkeypatch):
    pairs = sentences(12)
    guide = Encoder.from_pretrained(folders[which])
    taught = distil.lesson(guide, pairs)
    monkeypatch.setattr(distil, "optimize", lambda encoder, head, plan, accumulate, *_, **__: accumulate(0, range(12)))
    found = []
    for tokens in (16, 10_000):
        machine = CALM.model_copy(update={"micro_batch_tokens": tokens})
        model, _ = distil.student(folders["student"], guide, machine)
        value, _ = distil.train(model, taught, learnable.protocol(), rate=1e-3, seed=0, loss=loss, anchors=anchors)
        found.append((value, {name: p.grad for name, p in model.encoder.named_parameters()}))
    texts = model.read([text for pair in pairs for text in (pair.text, pair.translation)])
    due = torch.from_numpy(taught.vectors.rows(np.repeat(taught.places, 2)))
    cosines = torch.nn.functional.cosine_similarity(model.pooled(texts), due).detach()
    if which == "teacher" and not anchors:  # of unit vectors the squared distance is 2 - 2 cos
        assert found[1][0] == pytest.approx(float((1 - cosines).mean()) * (2 if loss == "mse" else 1), rel=1e-3)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_hidden_states_are_learnt_beside_the_vectors_however_the_batch_is_cut(folders, monkeypatch):
    guide, pairs = Encoder.from_pretrained(folders["teacher"]), sentences(12, ("",))
    taught = distil.lesson(guide, pairs)
    monkeypatch.setattr(distil, "optimize", lambda encoder, head, plan, accumulate, *_, **__: accumulate(0, range(12)))
    found = {}
    for tokens, states in ((16, True), (10_000, True), (10_000, False)):
        machine = CALM.model_copy(update={"micro_batch_tokens": tokens})
        model, _ = distil.student(folders["student"], guide, machine)
        by_token = TokenTeacher.of(guide, "", model, pairs) if states else None
        value, read = distil.train(model, taught, learnable.protocol(), rate=1e-3, seed=0, states=by_token)
        found[tokens, states] = value, {name: p.grad for name, p in model.encoder.named_parameters()}
    (value, gradients), (parts, of_parts), (alone, _) = found[10_000, True], found[16, True], found[10_000, False]
    assert parts == pytest.approx(value, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_parts[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    texts = [pair.text for pair in pairs]  # both have one tokenizer, so each token of a text is a segment
    rows, due = (torch.from_numpy(np.concatenate([one.vectors[~one.special] for one in said]))
                 for said in (Encoder.from_pretrained(folders["student"]).engine.tokens(texts, guide.how()),
                              guide.engine.tokens(texts, guide.how())))  # fmt: skip
    assert value - alone == pytest.approx(float((rows - due).square().sum() / due.square().sum()), rel=1e-3)
    assert read == sum(map(len, model.read(texts)))


def test_hidden_states_of_a_wider_teacher_and_of_translations_are_refused(folders, tmp_path):
    given = {"protocol": learnable.protocol(), "machine": CALM, "states": True}
    with pytest.raises(ValueError, match="a model as wide: the student has 32, its teacher 48"):
        distil.run(folders["student"], folders["wide"], sentences(30, ("",)), tmp_path / "o", **given)
    with pytest.raises(ValueError, match="rows:0: has a translation; hidden states are learnt of plain sentences"):
        distil.run(folders["student"], folders["teacher"], sentences(30), tmp_path / "o", **given)
    assert not list(tmp_path.iterdir())


def test_divergences_worked_out_by_hand():
    teacher_, anchors = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 2.0]])
    # the first: cosines 1 and 0 with its own and the anchor, the student's 0.6 and 0.8; the second is the anchor itself
    student = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    own, other = (1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))), (1 / (1 + math.exp(0.4)), 1 / (1 + math.exp(-0.4)))
    due = sum(p * math.log(p / q) for p, q in zip(own, other, strict=True))
    assert float(divergence(student, teacher_, anchors, 0.5)) == pytest.approx(due, rel=1e-5)
    assert float(divergence(7 * teacher_, teacher_, anchors, 0.1)) == pytest.approx(0, abs=1e-6)


def test_similarities_are_as_sharp_as_the_teacher_spreads_them():
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(200, 16), dim=-1)
    near = torch.nn.functional.normalize(rows + 20 * torch.ones(16) / 4, dim=-1)  # all in one corner
    cosines = (rows @ rows.T)[~torch.eye(200, dtype=torch.bool)]
    assert Anchors.of(3 * rows).temperature == pytest.approx(0.7 * float(cosines.std()), rel=1e-4)
    assert Anchors.of(near).temperature < Anchors.of(rows).temperature / 20
    assert Anchors.of(rows[:1].expand(5, -1)).temperature == 1e-3  # all alike
    assert Anchors.of(rows[:2]).temperature == 1.0  # of two nothing can be said


def test_a_student_of_similarities_ranks_more_as_its_teacher_does(folders):
    pairs = sentences(150, ("",))
    guide = Encoder.from_pretrained(folders["teacher"])
    taught = distil.lesson(guide, pairs)
    around = torch.from_numpy(taught.some(64, 0))
    assert len(np.unique(around.numpy(), axis=0)) == 64
    off = []
    for anchors in (0, 64):
        model, _ = distil.student(folders["student"], guide, CALM)
        protocol = learnable.protocol(epochs=2, batch_size=10)
        distil.train(model, taught, protocol, rate=1e-3, seed=0, anchors=anchors)
        found = torch.from_numpy(model.documents([pair.text for pair in pairs]))
        due = torch.from_numpy(taught.vectors.rows(taught.places))
        off.append(float(Anchors.of(around).loss(found, due)))
    assert off[1] < off[0]


def test_a_number_of_anchors_below_nought_is_refused(folders):
    guide = Encoder.from_pretrained(folders["teacher"])
    model, _ = distil.student(folders["student"], guide, CALM)
    with pytest.raises(ValueError, match="anchors is -1; it is a number of the teacher's vectors"):
        distil.train(model, distil.lesson(guide, sentences(4)), learnable.protocol(), rate=1e-3, seed=0, anchors=-1)


# ---------------------------------------------------------------------------------------------------------- the mixture


def languages_of(pairs, plan):
    return [pairs[n].language for batch in plan.batches for n in batch]


def test_a_temperature_of_one_is_the_rows_as_they_are_and_nought_is_all_alike():
    pairs = sentences(90, ("a", "a", "b"))
    protocol = learnable.protocol(epochs=2, batch_size=10)
    found = languages_of(pairs, schedule.plan(pairs, protocol, 0))
    assert (found.count("a"), found.count("b")) == (120, 60)
    found = languages_of(pairs, schedule.plan(pairs, protocol, 0, 0.0))
    assert (found.count("a"), found.count("b")) == (90, 90)
    half = languages_of(pairs, schedule.plan(pairs, protocol, 0, 0.5))
    assert half.count("a") == pytest.approx(180 * math.sqrt(60) / (math.sqrt(60) + math.sqrt(30)), abs=1)


def test_each_language_goes_through_its_own_before_any_comes_again():
    pairs = sentences(40, ("a", "a", "a", "b"))
    plan = schedule.plan(pairs, learnable.protocol(epochs=2, batch_size=40), 0, 0.0)
    counts = np.bincount([n for batch in plan.batches for n in batch], minlength=40)
    assert {int(counts[n]) for n in range(40) if pairs[n].language == "b"} == {4}  # 10 of them, 20 an epoch
    assert {int(counts[n]) for n in range(40) if pairs[n].language == "a"} == {1, 2}  # 30 of them, 20 an epoch


def test_a_small_language_is_not_rounded_away():
    pairs = [*sentences(60, ("a",)), *sentences(1, ("b",))]
    assert "b" in languages_of(pairs, schedule.plan(pairs, learnable.protocol(epochs=9, batch_size=20), 0, 0.9))


def test_a_temperature_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"temperature is 1\.5; it is an exponent"):
        schedule.plan(sentences(4), learnable.protocol(), 0, 1.5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_so_many_sentences_are_read_beside_their_translations(folders, monkeypatch, share):
    guide = Encoder.from_pretrained(folders["teacher"])
    model, _ = distil.student(folders["student"], guide, CALM)
    pairs = [*sentences(80), *sentences(20, ("",))]
    read, own = [], type(model).states_and_pooled
    spy = lambda self, ids: own(self, read.extend(map(tuple, ids)) or ids)  # noqa: E731
    monkeypatch.setattr(type(model), "states_and_pooled", spy)
    protocol = learnable.protocol(epochs=1, batch_size=50)
    distil.train(model, distil.lesson(guide, pairs), protocol, rate=1e-4, seed=0, source_share=share)
    translations = [tuple(ids) for ids in model.read([pair.translation for pair in pairs[:80]])]
    assert sum(read.count(ids) for ids in set(translations)) == 80
    assert len(read) - 80 - 20 == pytest.approx(80 * share, abs=10 * (0 < share < 1))


def test_a_student_learns_without_dropout_and_its_configuration_keeps_it(folders, tmp_path):
    guide, weights = Encoder.from_pretrained(folders["teacher"]), []
    for share in (0.0, 0.5):
        folder = learnable.model(tmp_path / str(share), attention_output_dropout=share)
        model, _ = distil.student(folder, guide, CALM)
        distil.train(model, distil.lesson(guide, sentences(40)), learnable.protocol(steps=3), rate=1e-3, seed=0)
        assert model.encoder.config.attention_output_dropout == share
        weights.append(model.encoder.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_a_share_of_sentences_that_is_none_is_refused(folders):
    guide = Encoder.from_pretrained(folders["teacher"])
    model, _ = distil.student(folders["student"], guide, CALM)
    with pytest.raises(ValueError, match="source_share is 2; it is a share of the pairs"):
        distil.train(model, distil.lesson(guide, sentences(4)), learnable.protocol(), rate=1e-3, seed=0, source_share=2)


# --------------------------------------------------------------------------------------------------- the teacher's part


def test_vectors_are_the_teachers_and_each_sentence_is_read_once(folders, tmp_path):
    guide = Encoder.from_pretrained(folders["teacher"], dtype="float32")
    pairs = [*sentences(20), *sentences(20)]
    taught = distil.lesson(guide, pairs, tmp_path, prompt="one ")
    assert taught.places.max() == 19
    due = guide.encode([pair.text for pair in pairs], prompt="one ")
    np.testing.assert_allclose(taught.vectors.rows(taught.places), due, atol=1e-6)


def test_the_teacher_reads_what_steps_ask_for_and_more_steps_ask_for_the_rest_alone(folders, tmp_path, monkeypatch):
    pairs, held, read, encode = sentences(100, ("a", "b")), sentences(106, ("a",))[100:], [], Encoder.encode

    def counted(self, some, **how):
        read.append(list(some))
        return encode(self, some, **how)

    def run(name, steps, seeds):
        read.clear()
        protocol = learnable.protocol(steps=steps, batch_size=8, seeds=seeds)
        given = {"held_out": held, "temperature": 0.5, "anchors": 4, "cache": tmp_path / "cache", "machine": CALM}
        distil.run(folders["student"], folders["teacher"], pairs, tmp_path / name, protocol=protocol, **given)
        met = {pairs[n].text for seed in seeds for b in schedule.plan(pairs, protocol, seed, 0.5).batches for n in b}
        return met, [text for part in read for text in part if text in {pair.text for pair in [*pairs, *held]}]

    monkeypatch.setattr(Encoder, "encode", counted)
    monkeypatch.setattr(teacher, "PART", 10)
    monkeypatch.setattr(teacher.embed, "__kwdefaults__", {**teacher.embed.__kwdefaults__, "size": 10})
    few, first = run("few", 4, (0, 1))
    assert set(first) == few | {pair.text for pair in held}
    assert len(few) < 60
    more, second = run("more", 5, (0,))
    assert set(second) <= more | few
    assert not set(second) & set(first[:10])  # the first part holds


def test_an_interrupted_teacher_goes_on_after_its_last_whole_part(folders, tmp_path, monkeypatch):
    guide = Encoder.from_pretrained(folders["teacher"], dtype="float32")
    texts = [pair.text for pair in sentences(25)]
    due = teacher.embed(guide, texts).rows(np.arange(25))
    read, encode = [], Encoder.encode

    def counted(self, some, **how):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(len(some))
        return encode(self, some, **how)

    monkeypatch.setattr(Encoder, "encode", counted)
    with pytest.raises(KeyboardInterrupt):
        teacher.embed(guide, texts, tmp_path, size=10)
    read.clear()
    found = teacher.embed(guide, texts, tmp_path, size=10)
    assert read == [5]
    np.testing.assert_allclose(found.rows(np.arange(25)), due, atol=1e-6)
    read.clear()
    teacher.embed(guide, texts, tmp_path, size=10)
    assert read == []
    with pytest.raises(KeyboardInterrupt):  # another prompt is another vector
        teacher.embed(guide, texts, tmp_path, size=10, prompt="one ")


def test_a_part_that_is_damaged_is_said_and_computed_again(folders, tmp_path, logged):
    guide = Encoder.from_pretrained(folders["teacher"], dtype="float32")
    texts = [pair.text for pair in sentences(5)]
    due = teacher.embed(guide, texts, tmp_path).rows(np.arange(5)).copy()
    (part,) = tmp_path.glob("*.npy")
    part.write_bytes(part.read_bytes()[:-8] + b"12345678")
    found = teacher.embed(guide, texts, tmp_path)
    assert any("it is computed again" in line for line in logged)
    np.testing.assert_array_equal(found.rows(np.arange(5)), due)


# ------------------------------------------------------------------------------------------------------------ the whole


@pytest.mark.parametrize(("which", "languages"), [("teacher", ("a", "b")), ("wide", ("",))])
def test_a_student_comes_nearer_and_its_folder_gives_equal_vectors_elsewhere(folders, tmp_path, which, languages):
    from sentence_transformers import SentenceTransformer

    pairs = sentences(200, languages)
    protocol = learnable.protocol(steps=30, batch_size=32, learning_rates=[1e-3])
    found = distil.run(
        folders["student"], folders[which], pairs, tmp_path / "out", protocol=protocol, held_out=0.2, machine=CALM
    )
    assert found.after["all"]["cosine"] > max(0.5, found.before["all"]["cosine"] + 0.2)
    assert found.difference < 1e-5
    assert ("accuracy" in found.after["all"]) == (languages != ("",))
    assert set(found.after) == {"all", *(() if languages == ("",) else languages)}
    ours = Encoder.from_pretrained(tmp_path / "out", dtype="float32")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    texts = [pair.text for pair in pairs[:4]]
    mine, due = ours.encode(texts), theirs.encode(texts, show_progress_bar=False)
    assert mine.shape[1] == Encoder.from_pretrained(folders[which]).dimensions
    np.testing.assert_allclose(mine, due, atol=1e-5 * max(1, np.linalg.norm(due, axis=1).max()))
    lengths = np.linalg.norm(due, axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == (which == "teacher")
    assert "held-out" in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_be_is_said_before_anything_is_computed(folders, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("here")
    given = {"protocol": learnable.protocol(), "machine": CALM}
    with pytest.raises(FileExistsError, match="full: there already"):
        distil.run(folders["student"], folders["teacher"], sentences(30), tmp_path / "full", **given)
    with pytest.raises(ValueError, match="0 held out; both are needed"):
        distil.run(folders["student"], folders["teacher"], sentences(3), tmp_path / "o", held_out=[], **given)
    guide = Encoder.from_pretrained(folders["teacher"])
    model, _ = distil.student(folders["student"], guide, CALM)
    with pytest.raises(ValueError, match="loss is 'l1'; give mse or cosine"):
        distil.train(model, distil.lesson(guide, sentences(4)), learnable.protocol(), rate=1e-3, seed=0, loss="l1")
    wide = Encoder.from_pretrained(folders["wide"])
    with pytest.raises(ValueError, match="the student's vectors have 32 dimensions, the teacher's 48"):
        distil.train(model, distil.lesson(wide, sentences(4)), learnable.protocol(), rate=1e-3, seed=0)
