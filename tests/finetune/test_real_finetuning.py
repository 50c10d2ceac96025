"""Each kind on real rows, as people type it: `tessera finetune`, a folder that others load alike, `tessera predict`."""

import io
import itertools
import json
from pathlib import Path

import learnable
import numpy as np
import pytest
import torch
import transformers
import zstandard
from typer.testing import CliRunner

from tessera.cli import app

EVAL = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
pytestmark = pytest.mark.skipif(
    not EVAL.is_dir(), reason="the real evaluation sets, in shared/data/eval beside the repository, are not here"
)
SHORT = [
    "--steps",
    "3",
    "--rates",
    "1e-3",
    "--batch",
    "8",
    "--max-length",
    "48",
    "--device",
    "cpu",
    "--dtype",
    "float32",
]
SEQUENCE, EXACT = "AutoModelForSequenceClassification", {"device": "cpu"}
TAGS = ("PROPN", "NUM", "ADJ", "ADV")


def lines(name, count, start=0):
    """Some rows of a file of the evaluation sets."""
    with (EVAL / name).open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8")
        return [json.loads(line) for line in itertools.islice(text, start, start + count)]


def sib(row):
    return {"text": row["text"], "topic": row["label"]}


def parts_of_speech(row):
    return {"text": row["text"], "labels": sorted(set(row["upos"]) & {*TAGS})}


def causes(row):
    return {"text": row["premise"], "options": [row["choice1"], row["choice2"]], "label": row["label"]}


def steps(row):
    return {"text": row["premise"], "steps": [row["choice1"], row["choice2"]],
            "label": [row["label"] == 0, row["label"] == 1]}  # fmt: skip


def code(row):
    return {"query": row["query"], "document": row["code"], "label": int(row["label"])}


def likeness(row):
    return {"sentence1": row["s1"], "sentence2": row["s2"], "score": row["score"]}


def question(row):
    return {key: row[key] for key in ("question", "context", "answers")}


def as_it_is(row):
    return row


ROWS = {  # file, what is made of a row, flags
    "classify": ("sib200/fao_Latn/train.jsonl.zst", sib, []),
    "multilabel": ("udpos/German-GSD/test.jsonl.zst", parts_of_speech, []),
    "pair": ("cosqa/dev.jsonl.zst", as_it_is, ["--text", "query", "--second", "code", "--label", "label"]),
    "regress": ("stsb/de/train.jsonl.zst", likeness, []),
    "tag": ("masakhaner2/swa/train.jsonl.zst", as_it_is, ["--column", "words=tokens", "--column", "tags=ner"]),
    "span": ("xquad/en/test.jsonl.zst", question, []),
    "choose": ("xcopa/id/test.jsonl.zst", causes, []),
    "reward": ("xcopa/id/test.jsonl.zst", steps, []),
    "rerank": ("cosqa/dev.jsonl.zst", code, ["--negatives", "2"]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def ran(*words):
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def predicted(folder, rows, place, *flags):
    ran("predict", folder, write(place / "asked.jsonl", rows), place / "said.jsonl", "--dtype", "float32", *flags)
    said = [json.loads(line) for line in (place / "said.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(said) == len(rows)
    return said


def loaded(folder, auto=SEQUENCE):
    """What transformers makes of the folder: (tokenizer, model)."""
    return (
        transformers.AutoTokenizer.from_pretrained(folder),
        getattr(transformers, auto).from_pretrained(folder).eval(),
    )


def logits(folder, texts, seconds=None):
    tokenizer, theirs = loaded(folder)
    rows = zip(texts, seconds or itertools.repeat(None), strict=False)
    with torch.no_grad():
        return np.stack(
            [theirs(**tokenizer(a, b, truncation=True, return_tensors="pt")).logits[0].numpy() for a, b in rows]
        )


def soft(values):
    return torch.from_numpy(np.asarray(values)).softmax(-1).numpy()


@pytest.mark.parametrize("kind", ROWS)
def test_each_kind_with_a_head_from_real_rows_to_a_folder_that_answers_alike_elsewhere(kind, model, tmp_path):
    name, made, flags = ROWS[kind]
    rows = list(map(made, lines(name, 64)))
    for part, some in {"train": rows[:40], "dev": rows[40:52], "test": rows[52:]}.items():
        write(tmp_path / "rows" / f"{part}.jsonl", some)
    out = tmp_path / "out"
    said = ran("finetune", model, tmp_path / "rows", "--out", out, "--seeds", "1", "--kind", kind, *flags, *SHORT)
    assert f"data: kind {kind}" in said
    assert "transformers' logits differ by" in said
    asked = rows[52:56]
    check = {"tag": tags_agree, "span": answers_agree, "choose": choices_agree, "rerank": scores_agree}
    check.get(kind, labels_agree)(out, asked, tmp_path)


def labels_agree(out, asked, place):
    """classify, multilabel, pair, regress, reward."""
    pairs = [("query", "code"), ("sentence1", "sentence2"), ("text", "steps")]
    first, second = next((names for names in pairs if names[1] in asked[0]), ("text", None))
    seconds = [one[second] if second != "steps" else one[second][0] for one in asked] if second else None
    texts = [one[first] for one in asked]
    rows = [{"text": a} if b is None else {"text": a, "second": b}
            for a, b in zip(texts, seconds or [None] * len(texts), strict=True)]  # fmt: skip
    due, said = logits(out, texts, seconds), predicted(out, rows, place, "--long", "truncate")
    their = transformers.AutoConfig.from_pretrained(out)
    if their.problem_type == "regression":
        np.testing.assert_allclose([one["score"] for one in said], due[:, 0], rtol=1e-4, atol=1e-4)
        return
    several = their.problem_type == "multi_label_classification"
    due = 1 / (1 + np.exp(-due)) if several else soft(due)
    mine = [[one["scores"][their.id2label[n]] for n in range(due.shape[1])] for one in said]
    np.testing.assert_allclose(mine, due, atol=1e-4)


def tags_agree(out, asked, place):
    tokenizer, theirs = loaded(out, "AutoModelForTokenClassification")
    words = [one["tokens"][:3] for one in asked]  # which are one window
    for some, found in zip(words, predicted(out, [{"words": some} for some in words], place), strict=True):
        read = tokenizer(" ".join(some), return_offsets_mapping=True, return_tensors="pt")
        ends = read.pop("offset_mapping")[0, :, 1].tolist()
        with torch.no_grad():
            best = theirs(**read).logits[0].argmax(-1).tolist()
        begins = [len(" ".join(some[:n])) for n in range(len(some))]  # of words with the space before, in characters
        first = [next(n for n, end in enumerate(ends) if end > begin) for begin in begins]
        due = [theirs.config.id2label[best[n]] for n in first]
        assert [tag["label"] for tag in found["tags"]] == due
        assert "entities" in found


def answers_agree(out, asked, place):
    loaded(out, "AutoModelForQuestionAnswering")
    for one, found in zip(asked, predicted(out, asked, place), strict=True):
        assert one["context"][found["start"] : found["end"]] == found["answer"]


def choices_agree(out, asked, place):
    tokenizer, theirs = loaded(out, "AutoModelForMultipleChoice")
    for one, found in zip(asked, predicted(out, asked, place), strict=True):
        read = [tokenizer(one["text"], option, truncation=True, return_tensors="pt") for option in one["options"]]
        with torch.no_grad():
            due = [float(theirs(**{key: value[None] for key, value in part.items()}).logits[0, 0]) for part in read]
        np.testing.assert_allclose(found["scores"], soft(due), atol=1e-4)
        assert found["choice"] == int(np.argmax(due))


def scores_agree(out, asked, place):
    from sentence_transformers import CrossEncoder

    pairs = [[one["query"], one["document"]] for one in asked]
    due = CrossEncoder(str(out), device="cpu").predict(pairs, show_progress_bar=False)
    rows = [{"query": query, "document": document} for query, document in pairs]
    np.testing.assert_allclose([one["score"] for one in predicted(out, rows, place)], due, atol=1e-4)


@pytest.mark.parametrize("kind", ["retrieve", "distil"])
def test_each_kind_of_vectors_from_real_rows_to_a_folder_that_sentence_transformers_loads(kind, model, tmp_path):
    import pyarrow.parquet as parquet
    from sentence_transformers import SentenceTransformer

    if kind == "retrieve":
        rows = [one for one in map(code, lines("cosqa/dev.jsonl.zst", 120)) if one.pop("label")]
        flags: list = ["--negatives", "1"]
    else:
        rows = [{"source": one["tgt"], "target": one["src"]} for one in lines("tatoeba/fao-eng.jsonl.zst", 120)]
        flags = ["--teacher", model, "--held-out", "0.2"]
    source, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    said = ran("finetune", model, source, "--out", out, "--kind", kind, *flags, *SHORT)
    assert "learning rate 0.001" in said
    texts = [next(iter(row.values())) for row in rows[:6]]
    asked = write(tmp_path / "asked.jsonl", [{"text": text} for text in texts])
    ran("embed", out, asked, tmp_path / "vectors.parquet", "--dtype", "float32")
    mine = np.stack(parquet.read_table(tmp_path / "vectors.parquet").column("embedding").to_pylist())
    due = SentenceTransformer(str(out), device="cpu").encode_document(texts, show_progress_bar=False)
    np.testing.assert_allclose(mine, due, atol=1e-5)
