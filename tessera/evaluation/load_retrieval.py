"""The queries, documents and grades of a retrieval task.

    search(task, "test", "de", Path("data"))

Documents come with ids of their own and the queries name them (`relevant` as a column, or as rows), or each query has
its positives beside it: then these are the documents.
"""

import dataclasses
import heapq
from pathlib import Path

from tessera.data.examples import Search
from tessera.evaluation import load, rows
from tessera.evaluation.rows import DataError
from tessera.labelled.columns import Row
from tessera.labelled.examples import answering
from tessera.plan.errors import some
from tessera.plan.task import SPLITS, Data, SplitName, Task
from tessera.plan.task_data import guess

Grade = tuple[str, str, int, str]  # query, document, grade, row


def search(
    task: Task, split: SplitName, language: str | None = None, folder: Path | None = None, *,
    limit: int | None = None, left_out: list[str] | None = None,
) -> Search:  # fmt: skip
    """The queries, documents and grades of a retrieval task; `limit` is of queries, the documents stay all.

    left_out  takes what is wrong with grades that a task with `skip` leaves out

    Raises as `load` does; also for queries or documents without text or twice with one id, and for grades of either
    that are not there.
    """
    asked = load.rows_of(task, split, language, folder)
    own = task.source(split) == task.data  # else its triples bring their own documents
    corpus_of, grades_of = (task.corpus, task.relevant) if own else (None, None)
    places: dict[str, str] = {}  # of queries
    queries: dict[str, str] = {}
    wanted: list[Grade] = []
    load.refuse_twins(((row.identity(), row.place) for row in asked if row.has("id")), "query ")
    for row in asked:
        text = row.text("query")
        name = row.identity() if row.has("id") else text
        places.setdefault(name, row.place)
        queries[name] = text
        if grades_of is None and row.has("relevant"):
            wanted += [(name, document, 1, row.place) for document in row.names("relevant")]
    if corpus_of is not None:
        documents = _part(task, corpus_of, split, language, folder, "corpus")
        load.refuse_twins(((row.name("document_id"), row.place) for row in documents), "document ")
        corpus = {row.name("document_id"): row.text("document") for row in documents}
    elif asked[0].has(answering(asked[0])):
        corpus, wanted = _positives(task, split, language, folder, set(queries))
    else:
        raise DataError(
            f"task {task.name}: nothing says where its documents are; give `corpus`, or the column of the text that "
            f"answers a query, as in {_line(asked[0])}; the rows have {some(list(asked[0].row), 20)}"
        )
    if grades_of is not None:
        wanted = [
            (row.name("id"), row.name("document_id"), row.whole("grade") if row.has("grade") else 1, row.place)
            for row in _part(task, grades_of, split, language, folder, "relevant")
        ]
    answers = {document for _, document, grade, _ in wanted if grade > 0}
    place = task.source(split).splits.place(split)
    if grades_of is not None and place is not None and (place[1] > 0 or place[2] < float("inf")):
        wanted = [grade for grade in wanted if grade[0] in queries]  # not of the other half of the queries
    if task.skip:
        there = [grade for grade in wanted if grade[0] in queries and grade[1] in corpus]
        lost = [f"{row}: {query!r} or {document!r} is not there" for query, document, _, row in wanted
                if query not in queries or document not in corpus]  # fmt: skip
        if len(lost) > len(there):
            raise DataError(
                f"task {task.name}: {len(lost)} of {len(wanted)} grades cannot be used; the first is {lost[0]}"
            )
        wanted = there
        if left_out is not None:
            left_out += lost
    found = _joined(task, queries, corpus, wanted, places, limit, task.skip or grades_of is not None)
    if not (task.only_relevant and own):
        return found
    return dataclasses.replace(found, corpus={name: text for name, text in corpus.items() if name in answers})


def _line(row: Row) -> str:
    """The columns of queries and of what answers them, as the task should name them."""
    meant = guess(("query", "positive"), row.row)
    query = row.columns["query"] if row.has("query") else meant.get("query", "query")
    return f"columns: {{query: {query}, positive: {meant.get('positive', 'positive')}}}"


def _part(task: Task, data: Data, split: SplitName, language: str | None, folder: Path | None, what: str) -> list[Row]:
    """All rows of a source beside the queries; of its only split where it has but one."""
    named = {place[0] for s in SPLITS if (place := data.splits.place(s))}
    place = data.splits.place(split)
    if place is None and len(named) != 1:
        raise DataError(f"task {task.name}: its {what} has no split for {split!r}; name it under {what}.splits")
    name = named.pop() if place is None else place[0]
    columns = load.columns_in(task, data, language)
    return [Row(at, row, columns) for at, row in rows.read(data, task.name, name, language, folder, what)]


def _positives(
    task: Task, split: SplitName, language: str | None, folder: Path | None, queries: set[str]
) -> tuple[dict[str, str], list[Grade]]:
    """Documents are the positives of validation and test together, each text once; and which query they answer."""
    corpus: dict[str, str] = {}
    names: dict[str, str] = {}  # of documents by text
    wanted = []
    source, mine = task.source(split), load.name_of(task, split)
    both: list[SplitName] = ["validation", "test"]
    beside = [s for s in both if task.source(s) == source and (p := source.splits.place(s)) and p[0] == mine]
    for part in beside if split in beside else [split]:
        for row in load.rows_of(task, part, language, folder):
            query = row.identity() if row.has("id") else row.text("query")
            for text in row.texts(answering(row)):
                name = names.setdefault(text, f"d{len(names)}")
                corpus[name] = text
                if part == split and query in queries:
                    wanted.append((query, name, 1, row.place))
    return corpus, wanted


def _joined(
    task: Task,
    queries: dict[str, str],
    corpus: dict[str, str],
    wanted: list[Grade],
    places: dict[str, str],
    limit: int | None,
    grades_apart: bool,
) -> Search:
    relevant: dict[str, dict[str, int]] = {name: {} for name in queries}
    graded: dict[tuple[str, str], tuple[int, str]] = {}
    for query, document, grade, row in wanted:
        way_out = "; mend it, or leave such grades out (skip: true in the task)"
        if query not in queries:
            raise DataError(f"{row}: grades query {query!r}, which is not among the {len(queries)} queries{way_out}")
        if document not in corpus:
            raise DataError(f"{row}: query {query!r} asks for document {document!r}, which is not there{way_out}")
        if (before := graded.setdefault((query, document), (grade, row)))[0] != grade:
            raise DataError(f"{row}: grades {document!r} for {query!r} as {grade}, but {before[1]} as {before[0]}")
        if grade > 0:
            if not corpus[document].strip():
                raise DataError(f"{row}: query {query!r} asks for document {document!r}, which has no text")
            relevant[query][document] = grade
    asked = [name for name in queries if relevant[name]]
    if lost := [name for name in queries if not relevant[name] and not grades_apart]:
        raise DataError(f"{places[lost[0]]}: query {lost[0]!r} has no document that answers it")
    if not asked:
        raise DataError(f"task {task.name}: no query has a document that answers it")
    for name in asked:
        if not queries[name].strip():
            raise DataError(f"{places[name]}: query {name!r} has no text")
    if limit is not None and len(asked) > limit:
        asked = heapq.nsmallest(limit, asked, key=lambda name: rows.place_of(f"{name}\n{queries[name]}", "draw"))
        asked = [name for name in queries if name in set(asked)]
    return Search(
        queries={name: queries[name] for name in asked},
        corpus=corpus,
        relevant={name: relevant[name] for name in asked},
    )
