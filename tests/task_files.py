"""Tasks and files of rows for tests."""

import json

import pyarrow as pa
import pyarrow.parquet
import zstandard

from tessera.plan.task import Task

CLASSIFY = {
    "kind": "classify",
    "columns": {"id": "id", "text": "text", "label": "label"},
    "labels": ["bad", "good"],
    "metric": "accuracy",
    "languages": ["fo"],
}
TAG = {
    "kind": "tag",
    "columns": {"words": "words", "tags": "tags"},
    "labels": ["O", "B-PER", "I-PER"],
    "metric": "entity_f1",
    "languages": ["fo"],
}


def task(given, **more):
    return Task.model_validate({"name": "t", "data": {}, **given, **more})


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
