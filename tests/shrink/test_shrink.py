"""A curve of smaller models: taught, compared, each a folder of its own that is not made twice."""

import json
import shutil
from dataclasses import replace

import learnable
import numpy as np
import pytest
import small
import task_folders
import torch
import transformers
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from tessera import checksums, lock
from tessera.cli import app
from tessera.files import LOCK, read_json
from tessera.finetune.loop import Plan
from tessera.huggingface.transformers_model import quietly
from tessera.inference.encoder import Encoder
from tessera.model.encoder import pack
from tessera.model.pooling import Dense
from tessera.plan.recipe import Machine
from tessera.prediction.predictor import Predictor
from tessera.progress import Silent
from tessera.retrieval.retriever import Contrast, Retriever
from tessera.shrink import shrink as shrinking
from tessera.shrink import student, teach
from tessera.shrink.measure import Tasks
from tessera.shrink.shrink import How, shrink

CALM = Machine(device="cpu", dtype="float32", micro_batch_tokens=512)
HOW = How(rates=(5e-4,), epochs=3, batch=16, timed=False)
PLAIN = replace(HOW, by="outcome", solve=False, rates=(2e-3,))  # so far off that teaching has to help


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return small.embedder(tmp_path_factory.mktemp("whole"), prompts={"query": "where ", "passage": "the "})


@pytest.fixture(scope="module")
def made(whole, tmp_path_factory):
    """A curve, and where it lies."""
    out = tmp_path_factory.mktemp("made") / "small"
    return shrink(whole, small.texts(), out, sizes=[2, 3], how=HOW, machine=CALM), out


def test_every_point_is_a_folder_that_sentence_transformers_loads_and_that_has_learnt(made, whole):
    curve, out = made
    assert [(one.name, one.layers) for one in curve.points] == [("model", 4), ("3-layers", 3), ("2-layers", 2)]
    exact = Encoder.from_pretrained(whole, dtype="float32").encode(small.documents(20, 9))
    for point in curve.points[1:]:
        assert 0 < point.untaught < point.near < 1
        theirs = SentenceTransformer(str(point.folder), device="cpu")
        assert len(theirs[0].auto_model.encoder.layer) == point.layers
        mine = Encoder.from_pretrained(point.folder, dtype="float32").encode(small.documents(20, 9))
        np.testing.assert_allclose(theirs.encode(small.documents(20, 9)), mine, atol=1e-5)
        assert (mine * exact).sum(1).mean() > 0.8  # other texts
        assert theirs.prompts["query"] == "where "
        assert checksums.check_folder(point.folder)
        assert point.parameters == sum(p.numel() for p in load_file(point.folder / "model.safetensors").values())
    assert curve.points[2].in_layers * 2 == curve.points[0].in_layers
    assert not list(out.glob(".*"))
    assert [one["name"] for one in read_json(out / "shrink.json")["points"]] == ["model", "3-layers", "2-layers"]


def test_the_card_says_what_was_left_out_how_it_was_taught_and_under_which_licence(made):
    card = (made[1] / "2-layers" / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert "2 of the 4 layers of `model`" in card
    gone = [str(n) for n in range(4) if n not in made[0].points[2].kept]
    assert f"Left out, counted from 0: {', '.join(gone)};" in card
    assert "learning rate 0.0005" in card
    assert "| before it was taught | 0." in card


def test_what_is_finished_is_not_made_again_and_what_was_made_otherwise_is_refused(made, whole, monkeypatch):
    curve, out = made

    def never(*_, **__):
        raise AssertionError("it is there already")

    with monkeypatch.context() as closed:
        closed.setattr(teach, "taught", never)
        closed.setattr("tessera.shrink.importance.outcome_cost", never)
        again = shrink(whole, small.texts(), out, sizes=[2, 3], how=HOW, machine=CALM)
    assert again.points == curve.points
    other = How(rates=(1e-3,), epochs=3, batch=16, timed=False)
    with pytest.raises(ValueError, match=r"3-layers: holds a model that was made otherwise; remove it, or give ano"):
        shrink(whole, small.texts(), out, sizes=[2, 3], how=other, machine=CALM)


def test_a_killed_curve_goes_on_after_its_last_whole_model(whole, tmp_path, monkeypatch, made):
    taught, calls = teach.taught, []

    def once(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return taught(*given)

    monkeypatch.setattr(teach, "taught", once)
    with pytest.raises(KeyboardInterrupt):
        shrink(whole, small.texts(), tmp_path / "out", sizes=[2, 3], how=HOW, machine=CALM)
    found = shrink(whole, small.texts(), tmp_path / "out", sizes=[2, 3], how=HOW, machine=CALM)
    assert len(calls) == 3
    weights = [load_file(place / "2-layers" / "model.safetensors") for place in (tmp_path / "out", made[1])]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert [one.near for one in found.points] == [one.near for one in made[0].points]


def test_solved_layers_are_found_again_after_a_kill_and_made_anew_where_they_are_damaged(whole, tmp_path, monkeypatch):
    solves, solve, learnt = [], teach.reconstruct, teach._learnt

    def killed(*given):
        raise KeyboardInterrupt

    def counted(*given, **more):
        solves.append(given)
        return solve(*given, **more)

    monkeypatch.setattr(teach, "reconstruct", counted)
    monkeypatch.setattr(teach, "_learnt", killed)

    def again():
        return shrink(whole, small.texts(), tmp_path / "out", sizes=[2], how=HOW, machine=CALM)

    counts = []
    for damaged in (False, False, True):
        if damaged:
            weights = tmp_path / "out" / ".2-layers.solved" / "model.safetensors"
            data = bytearray(weights.read_bytes())
            data[-1] ^= 1
            weights.write_bytes(data)
        with pytest.raises(KeyboardInterrupt):
            again()
        counts.append(len(solves))
    assert counts == [1, 1, 2]
    monkeypatch.setattr(teach, "_learnt", learnt)
    again()
    assert len(solves) == 2
    assert not (tmp_path / "out" / ".2-layers.solved").exists()


def test_a_folder_that_cuts_its_vectors_is_shrunk_and_cuts_them_still(whole, tmp_path):
    place = shutil.copytree(whole, tmp_path / "cut")
    file = place / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncate_dim": 8}))
    how = How(taught=False, timed=False, solve=False)
    found = shrink(place, small.texts(), tmp_path / "out", sizes=[3], how=how, machine=CALM).points[1]
    assert Encoder.from_pretrained(found.folder).dimensions == 8


def test_without_teaching_layers_are_left_out_and_no_more(whole, tmp_path):
    found = shrink(whole, small.texts(), tmp_path / "out", sizes=[3], how=How(taught=False, timed=True), machine=CALM)
    point = found.points[1]
    assert point.untaught == point.near < 1
    assert point.speed > 0
    before, after = (load_file(place / "model.safetensors") for place in (whole, point.folder))
    assert all(torch.equal(before[n], after[n]) for n in after if ".layer." not in n)
    assert "It was not taught." in (point.folder / "README.md").read_text(encoding="utf-8")


def test_a_model_of_our_families_keeps_its_head_and_its_kinds_of_attention(tmp_path):
    source = learnable.model(tmp_path / "m", num_hidden_layers=7, max_position_embeddings=64, local_attention=4)
    Encoder.from_pretrained(source).save(tmp_path / "model")
    found = shrink(tmp_path / "model", small.texts(), tmp_path / "out", how=HOW, machine=CALM)
    assert [one.layers for one in found.points] == [7, 4, 1]
    place = found.points[1].folder
    assert len(json.loads((place / "config.json").read_text())["layer_types"]) == 4
    Encoder.from_pretrained(place).fill_mask("the<|mask|>")
    assert SentenceTransformer(str(place), device="cpu")[0].auto_model.config.num_hidden_layers == 4


def test_neurons_go_too_and_all_layers_may_stay_then(whole, tmp_path):
    how = How(neurons=12, taught=False, timed=False)
    found = shrink(whole, small.texts(), tmp_path / "out", sizes=[4, 2], how=how, machine=CALM)
    assert [(one.name, one.layers, one.neurons) for one in found.points] == [
        ("model", 4, 32), ("4-layers-12", 4, 12), ("2-layers-12", 2, 12)
    ]  # fmt: skip
    assert 1 > found.points[1].near > found.points[2].near > 0.5
    card = (found.points[1].folder / "README.md").read_text(encoding="utf-8")
    assert "Left out, counted from 0: none;" in card
    assert "Of 32 neurons of each feed-forward network 12 are kept." in card
    theirs = SentenceTransformer(str(found.points[1].folder), device="cpu")
    assert theirs[0].auto_model.config.intermediate_size == 12
    assert "0 1 2 3, 12 neurons" in str(found.table())
    plain = How(taught=False, timed=False, keep=found.points[2].kept, solve=False)
    unsolved = shrink(whole, small.texts(), tmp_path / "plain", how=plain, machine=CALM).points[1]
    solved = shrink(whole, small.texts(), tmp_path / "solved", how=replace(plain, solve=True), machine=CALM).points[1]
    assert unsolved.near < solved.near


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (How(neurons=32), r"32 neurons: .*config.json has 32; give fewer, and at least one"),
        (How(neurons=0), "0 neurons: "),
        (How(neurons=8, solve=False), "neurons are left out by reconstruction, and that is switched off"),
    ],
)
def test_neurons_that_cannot_be_are_refused(whole, tmp_path, how, message):
    with pytest.raises(ValueError, match=message):
        shrink(whole, small.texts(), tmp_path / "out", sizes=[2], how=how, machine=CALM)
    assert not (tmp_path / "out").exists()


def test_teaching_that_makes_it_worse_is_said_and_left_out(whole, tmp_path):
    heard = Heard()
    wild = How(rates=(0.3,), epochs=2, batch=16, timed=False)
    point = shrink(whole, small.texts(), tmp_path / "out", sizes=[3], how=wild, machine=CALM, watcher=heard).points[1]
    assert point.near == point.untaught
    assert any("it stays untaught; try a lower rate (--rates)" in line for line in heard.lines)
    assert "It was not taught." in (point.folder / "README.md").read_text(encoding="utf-8")


def test_tokens_that_the_text_does_not_use_go_first_where_that_is_asked_for(whole, tmp_path):
    texts = small.texts(40)
    texts.used["fao_Latn"] = [text.replace("river", "bread") for text in texts.used["fao_Latn"]]
    how = How(trim=True, taught=False, timed=False)
    for _ in range(2):  # the second time all is there
        found = shrink(whole, texts, tmp_path / "out", sizes=[2], how=how, machine=CALM)
    assert [one.name for one in found.points] == ["model", "trimmed", "2-layers"]
    sizes = [one.parameters for one in found.points]
    assert sizes == sorted(sizes, reverse=True)
    card = (tmp_path / "out" / "2-layers" / "README.md").read_text(encoding="utf-8")
    assert "2 of the 4 layers of `model`" in card
    assert "tokens" in card.partition("are kept, those that the text uses")[0][-40:]
    assert "license: mit" in card
    with pytest.raises(ValueError, match=r"trimmed: was trimmed otherwise; remove it, or give another --out"):
        shrink(whole, small.texts(30), tmp_path / "out", sizes=[2], how=how, machine=CALM)


# -------------------------------------------------------------------------------------------------------------- heads


def heads_of(folder):
    """Weights that are of no layer and no embedding."""
    found = load_file(folder / "model.safetensors")
    return {n: v for n, v in found.items() if n.startswith(("head.", "decoder.", "cls.", "classifier.", "score."))}


@pytest.mark.parametrize("family", ["modernbert", "bert"])
def test_a_masked_language_model_guesses_with_the_head_it_had(tmp_path, family):
    source = learnable.model(tmp_path / "m", num_hidden_layers=7, max_position_embeddings=64, local_attention=4)
    if family == "bert":
        bert = task_folders.bert(tmp_path / "bert", num_hidden_layers=4, initializer_range=0.3)
        source = tmp_path / "masked"
        shutil.copytree(bert, source)
        config = transformers.BertConfig.from_pretrained(bert)
        torch.manual_seed(0)
        with quietly():
            transformers.BertForMaskedLM(config).save_pretrained(source)
    found = shrink(source, small.texts(), tmp_path / "out", sizes=[4 if family == "modernbert" else 2], how=PLAIN,
                   machine=CALM)  # fmt: skip
    point = found.points[1]
    assert found.near == "agreement"
    assert 0 <= point.untaught <= point.near <= 1
    assert point.tokens  # what is taught and comes no nearer is left out, and has read none
    before, after = heads_of(source), heads_of(point.folder)
    assert before
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if "decoder.weight" not in name)
    with quietly():
        assert transformers.AutoModelForMaskedLM.from_pretrained(point.folder).config.num_hidden_layers == point.layers
    assert "Agreement with the whole model" in (point.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("family", "kind"), [("ours", "classify"), ("ours", "tag"), ("bert", "classify"),
                                              ("ours", "pair"), ("ours", "rerank")])  # fmt: skip
def test_a_model_with_a_head_answers_with_the_head_it_had(tmp_path, family, kind):
    fields = {"num_hidden_layers": 4, "max_position_embeddings": 64}
    if family == "ours":
        source = learnable.model(tmp_path / "m", "eurobert-210m", **fields)
    else:
        source = task_folders.bert(tmp_path / "bert", num_hidden_layers=4, initializer_range=0.3)
    folder = task_folders.with_head(source, kind, tmp_path / "head")
    found = shrink(folder, small.texts(), tmp_path / "out", sizes=[2], how=PLAIN, machine=CALM)
    point = found.points[1]
    assert point.tokens  # as above
    before, after = heads_of(folder), heads_of(point.folder)
    assert before
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = task_folders.rows(kind, learnable.examples(kind, 4, 1))
    assert len(Predictor.from_pretrained(point.folder).predict(rows)) == 4
    assert Predictor.from_pretrained(point.folder).labels == Predictor.from_pretrained(folder).labels


def test_pairs_that_are_told_apart_by_token_types_are_refused_with_a_way_out(tmp_path):
    folder = task_folders.with_head(task_folders.bert(tmp_path / "bert"), "pair", tmp_path / "head")
    with pytest.raises(ValueError, match="tells the two texts of a pair apart by token types, which cannot be taught"):
        shrink(folder, small.texts(), tmp_path / "out", how=HOW)
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------- the loss


def test_distances_worked_out_by_hand():
    found, due = torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert student.apart(found, due).tolist() == [1.0, 0.25]


def test_the_gradient_of_a_batch_is_that_of_its_micro_batches(whole, monkeypatch):
    plain, texts, found = Contrast(pooling="mean"), small.documents(12), []
    monkeypatch.setattr(student, "optimize", lambda encoder, head, plan, accumulate, *_, **__: accumulate(0, range(12)))
    for tokens in (40, 10_000):  # of a micro-batch
        machine = CALM.model_copy(update={"micro_batch_tokens": tokens})
        teacher = student.Teacher.of(Retriever.from_pretrained(whole, machine, contrast=plain)[0])
        model, _ = Retriever.from_pretrained(whole, machine, contrast=plain)
        with torch.no_grad():
            for weight in model.encoder.parameters():
                weight.mul_(0.9)
        value, _ = student.learn(
            model, teacher, texts, learnable.protocol(), read=model.read, pooled=True, rate=1e-3, seed=0
        )
        found.append((value, {name: p.grad for name, p in model.encoder.named_parameters() if p.grad is not None}))
    tokens, starts = pack(model.read(texts))
    states, due = teacher.says(tokens, starts)
    hidden = model.encoder(tokens, starts).detach()
    by_hand = student.apart(hidden, states).mean() + student.apart(student.vectors(model, hidden, starts), due).mean()
    assert found[1][0] == pytest.approx(float(by_hand), rel=1e-4)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_dense_layers_are_read_off_the_teacher_and_trained(tmp_path):
    place = small.embedder(tmp_path, steps=(Dense(32, 8, activation="Tanh"),), normalize=False)
    found = shrink(place, small.texts(), tmp_path / "out", sizes=[2], how=HOW, machine=CALM)
    assert Encoder.from_pretrained(found.points[1].folder).dimensions == 8
    assert found.points[1].near > found.points[1].untaught


def test_the_plan_reads_every_passage_once_an_epoch():
    protocol = teach.protocol((1e-3,), 2, 8)
    counts = np.bincount(np.concatenate(Plan.of(30, protocol, 0).batches))
    assert counts.tolist() == [2] * 30


# ---------------------------------------------------------------------------------------------------- what is refused


def test_layers_that_are_named_are_kept_whatever_their_importance(whole, tmp_path):
    how = How(keep=(0, 1), taught=False, timed=False)
    found = shrink(whole, small.texts(), tmp_path / "out", how=how, machine=CALM)
    assert [point.kept for point in found.points[1:]] == [(0, 1)]
    assert "somebody chose" in (found.points[-1].folder / "README.md").read_text()


@pytest.mark.parametrize("keep", [(1, 0), (0, 0), (-1, 0), (0, 99)])
def test_layers_that_cannot_be_kept_are_refused(whole, tmp_path, keep):
    how = How(keep=keep, taught=False, timed=False)
    with pytest.raises(ValueError, match=r"layers to keep are .*; name some of 0 to"):
        shrink(whole, small.texts(), tmp_path / "out", how=how, machine=CALM)
    assert not (tmp_path / "out").exists()


def test_sizes_that_a_model_cannot_have_are_refused_with_those_it_can(whole, tmp_path):
    with pytest.raises(ValueError, match="4 layers: give some of 3, 2, 1, of 4"):
        shrink(whole, small.texts(), tmp_path / "out", sizes=[4], how=HOW)
    assert not (tmp_path / "out").exists()


def test_tasks_that_nobody_knows_are_refused_before_anything_is_taught(whole, tmp_path):
    with pytest.raises(ValueError, match="topcis"):
        shrink(whole, small.texts(), tmp_path / "out", how=HOW, tasks=Tasks(tasks=("topcis",)))
    pytest.importorskip("mteb")
    with pytest.raises(ValueError, match="mteb knows no task 'STSBenchmrk'"):
        shrink(whole, small.texts(), tmp_path / "out", how=HOW, tasks=Tasks(mteb=("STSBenchmrk",)))
    assert not (tmp_path / "out").exists()


def test_a_bare_encoder_that_says_nothing_of_vectors_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no head, and no modules\.json .*\n.*save\(\"encoder\"\)"):
        shrink(task_folders.bert(tmp_path / "bert"), small.texts(), tmp_path / "out", how=HOW)
    assert not (tmp_path / "out").exists()


def test_pooling_that_cannot_be_taught_is_refused_before_anything_is_written(tmp_path):
    place = small.embedder(tmp_path, pooling=("max",))
    with pytest.raises(ValueError, match="pools by max; what is taught here pools by mean or cls"):
        shrink(place, small.texts(), tmp_path / "out", how=HOW)
    assert not (tmp_path / "out").exists()


def test_other_vectors_of_sentence_transformers_are_refused_and_nothing_is_written(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("tessera.finetune.saved.TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="nothing was written: sentence-transformers gives other vectors, by up to"):
        shrink(whole, small.texts(), tmp_path / "out", sizes=[2], how=HOW, machine=CALM)
    assert not (tmp_path / "out" / "2-layers").exists()


def test_two_processes_do_not_make_one_curve(whole, tmp_path):
    with lock.hold(tmp_path / "out" / LOCK, "a test"), pytest.raises(lock.AtWork):
        shrink(whole, small.texts(), tmp_path / "out", how=HOW)


def test_text_of_which_nothing_is_left_to_compare_on_is_refused(whole, tmp_path):
    same = small.documents(1)
    texts = shrinking.Texts(used={"a": same}, held_out={"a": same})
    with pytest.raises(ValueError, match="no passage of the held-out documents is new; give more text"):
        shrink(whole, texts, tmp_path / "out", how=HOW)


# --------------------------------------------------------------------------------------------------------- the verb


def test_scores_stand_beside_sizes_as_shares_of_the_whole(whole, tmp_path, monkeypatch):
    values = {"model": 80.0, "2-layers": 72.0}
    monkeypatch.setattr("tessera.shrink.measure.check", lambda tasks: None)
    monkeypatch.setattr("tessera.shrink.measure.scores", lambda folder, name, *_: {"t (accuracy)": values[name]})
    found = shrink(whole, small.texts(), tmp_path / "out", sizes=[2], how=HOW, machine=CALM, tasks=Tasks(tasks=("t",)))
    columns, rows = found.table()
    assert columns[-1] == "t (accuracy)"
    assert [row[-1] for row in rows] == ["80.00", "72.00 (90.0%)"]
    assert rows[1][3].endswith("(50%)")


def test_the_verb_prints_a_table_a_line_of_json_each_and_a_picture(whole, tmp_path):
    small.write_text(tmp_path / "fao_Latn.jsonl")
    words = ["shrink", str(whole), "--text", str(tmp_path / "fao_Latn.jsonl"), "--out", str(tmp_path / "out"),
             "--layers", "2", "--batch", "16", "--no-timing", "--dtype", "float32", "--by", "block"]  # fmt: skip
    done = CliRunner().invoke(app, [*words, "--plot", str(tmp_path / "curve.html")], env={"COLUMNS": "200"})
    assert done.exit_code == 0, (done.output, done.exception)
    assert "2-layers" in done.output
    assert "2-layers" in (tmp_path / "curve.html").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "out" / "evaluation", ignore_errors=True)
    done = CliRunner().invoke(app, [*words, "--json"], env={"COLUMNS": "200"})
    lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert [line["name"] for line in lines] == ["model", "2-layers"]
    assert lines[1]["layers"] == 2
