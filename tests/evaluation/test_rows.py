import re

import pytest
from task_files import CLASSIFY, TAG, task, write

from tessera.evaluation import load
from tessera.evaluation.rows import DataError, MissingData


def test_a_missing_set_says_what_to_download_and_where_to_put_it(tmp_path):
    given = task(CLASSIFY, data={"hub": "someone/set", "config": "{language}", "revision": "v2"})
    with pytest.raises(MissingData) as error:
        load.load(given, "test", "fo", tmp_path)
    assert str(error.value) == (
        f"task t: no rows of split 'test', language 'fo' below {tmp_path}\n"
        "  to have them: hf download someone/set --repo-type dataset --revision v2 "
        f"--local-dir {tmp_path}/someone/set\n"
        f"  or your own:  put them at {tmp_path}/t/fo/test.jsonl.zst (or .jsonl, .jsonl.gz, .parquet), "
        "with the columns that the task names"
    )
    with pytest.raises(MissingData, match=f"they belong at {re.escape(str(tmp_path))}/a/fo.jsonl"):
        load.load(task(CLASSIFY, data={"path": "a/{language}.jsonl"}), "test", "fo", tmp_path)
    with pytest.raises(MissingData, match="its data is on no hub; give the folder that holds t"):
        load.load(task(CLASSIFY), "test", "fo")
    with pytest.raises(DataError, match="task t: has no split 'validation'"):
        load.load(task(CLASSIFY, data={"splits": {"test": "test"}}), "validation", "fo", tmp_path)


def hub_copy(folder):
    """A dataset as `hf download` leaves it: a card that says which files are which, and parquet with named classes."""
    write(folder / "fo/test.parquet", [{"id": 1, "sent": "gott", "mark": 1, "tags": [0, 1]}])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: faroese\n  data_files:\n  - split: test\n    path: fo/test.parquet\n"
        "dataset_info:\n- config_name: faroese\n  features:\n  - name: id\n    dtype: int64\n"
        "  - name: sent\n    dtype: string\n  - name: mark\n    dtype:\n      class_label:\n        names:\n"
        "          '0': good\n          '1': bad\n  - name: tags\n    list:\n      class_label:\n        names:\n"
        "          '0': B-PER\n          '1': O\n  splits:\n  - name: test\n    num_examples: 1\n---\n"
    )


@pytest.fixture
def caches(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_a_copy_of_a_hub_repository_is_read_by_its_own_card_and_classes_by_their_names(tmp_path, caches):
    hub_copy(tmp_path / "someone/set")
    source = {"hub": "someone/set", "config": "{language}", "codes": {"fo": "faroese"}}
    given = task({**CLASSIFY, "columns": {"id": "id", "text": "sent", "label": "mark"}}, data=source)
    (found,) = load.load(given, "test", "fo", tmp_path)
    assert (found.text, found.label, found.row) == ("gott", 0, "someone/set, faroese, test, row 1")  # 0: our "bad"
    tagged = task({**TAG, "columns": {"words": "w", "tags": "tags"}}, data=source)
    assert load.labels(tagged.model_copy(update={"labels": None, "train": "none"}), tmp_path) == ("B-PER", "O")


def test_what_the_hub_says_is_told_with_the_way_round_it(monkeypatch, caches):
    def unreachable(*given, **more):
        assert given == ("someone/set", "fo")
        assert more == {"data_files": None, "split": "test", "revision": None}
        raise ConnectionError("no network\nand a lot more")

    monkeypatch.setattr(caches, "load_dataset", unreachable)
    with pytest.raises(MissingData) as error:
        load.load(task(CLASSIFY, data={"hub": "someone/set", "config": "{language}"}), "test", "fo")
    assert str(error.value) == (
        "task t: someone/set, fo, split 'test' cannot be read: no network\n"
        "  offline: hf download someone/set --repo-type dataset --local-dir FOLDER/someone/set where there is a "
        "network, then --data FOLDER"
    )
