import itertools
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import HANGS

from tessera.corpus import copies, daft_runner, dedup
from tessera.corpus.copies import REASONS, Copies, merge, writing
from tessera.plan.corpus import Duplicates, NearDuplicates

pytest.importorskip("daft", reason="daft is not installed")

EXACT, NEAR = REASONS
BOTH = Duplicates(near=NearDuplicates())


@pytest.fixture(autouse=True)
def native() -> None:
    daft_runner.choose("native")


def write(folder: Path, *files: list[dict | str]) -> list[Path]:
    """Files of documents; a text stands for a document that has nothing else to say."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, rows in enumerate(files):
        full = [{"text": row} if isinstance(row, str) else row for row in rows]
        table = pa.table(
            {
                "position": pa.array([number << 32 | n for n in range(len(full))], pa.uint64()),
                "text": pa.array([row["text"] for row in full], pa.string()),
                "second": pa.array([row.get("second") for row in full], pa.string()),
                "key": pa.array([key(row) for row in full], pa.uint64()),
                "reason": pa.array([row.get("reason") for row in full], pa.string()).dictionary_encode(),
            }
        )
        paths.append(folder / f"{number:05d}.parquet")
        pa.parquet.write_table(table, paths[-1], compression="zstd")
    return paths


def key(row: dict) -> int:
    return row.get("key", random.Random(f"{row['text'].strip()} {row.get('second')}").getrandbits(64))


def found(copies: Copies) -> dict[tuple[int, int], tuple[tuple[int, int], str]]:
    """{(file, row): ((file, row) that is kept, why)}"""
    rows = zip(copies.position.tolist(), copies.of.tolist(), copies.reason.tolist(), strict=True)
    return {divmod(position, 2**32): (divmod(of, 2**32), REASONS[reason]) for position, of, reason in rows}


def words(n: int, seed: int, vocabulary: int = 5_000) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(vocabulary)}" for _ in range(n)]


def pieces(patch: pytest.MonkeyPatch) -> None:
    """As if the corpus were too large for everything that is held in memory."""
    for name, size in {"_WAVE_BYTES": 1, "_PART_ROWS": 100, "_SLICE_ROWS": 400, "_RANGE_ROWS": 8, "_STRIDE": 2}.items():
        patch.setattr(dedup, name, size)
    patch.setattr(dedup, "_ROW_GROUP", (16, 32))
    patch.setattr(copies, "_PIECE", 3)


def corpus(folder: Path) -> list[Path]:
    """300 documents in 4 files: 100 texts; of each a copy, and one where few words differ, somewhere behind it."""
    texts = [words(80, seed) for seed in range(100)]
    changed = [["other" if n % 40 == 20 else word for n, word in enumerate(text)] for text in texts]
    rows = [" ".join(text) for text in texts] + [
        " ".join(text) for text in random.Random(1).sample(texts + changed, 200)
    ]
    return write(folder, *(rows[n : n + 75] for n in range(0, 300, 75)))


def test_of_equal_documents_the_first_is_kept_and_files_do_not_matter(tmp_path):
    documents = write(tmp_path / "documents", ["a", "b", "a"], [], ["c", "b", "d", "a"])
    assert found(dedup.find_duplicates(documents, Duplicates(), tmp_path / "out")) == {
        (0, 2): ((0, 0), EXACT),
        (2, 1): ((0, 1), EXACT),
        (2, 3): ((0, 0), EXACT),
    }


def test_a_folder_may_have_any_name(tmp_path):
    documents = write(tmp_path / "[1] a*b {c} 50%20 #?é", ["a", "a"])
    assert len(dedup.find_duplicates(documents, Duplicates(), documents[0].parent / "out").position) == 1


rows = st.fixed_dictionaries(
    {
        "text": st.just("x"),
        "key": st.sampled_from([0, 1, 2, 3, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]),
        "reason": st.sampled_from([None, None, None, "too short"]),
        "second": st.sampled_from([None, "y"]),
    }
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(st.lists(rows, max_size=12), min_size=1, max_size=4), small=st.booleans())
def test_exact_copies_are_those_that_a_table_of_keys_finds(tmp_path_factory, files, small):
    folder, first, expected = tmp_path_factory.mktemp("exact"), {}, {}
    for number, file in enumerate(files):
        for n, row in enumerate(file):
            if row["reason"] is None and first.setdefault(row["key"], (number, n)) != (number, n):
                expected[number, n] = first[row["key"]], EXACT
    with pytest.MonkeyPatch.context() as patch:
        if small:
            pieces(patch)
            patch.setattr(dedup, "_SLICE_ROWS", 5)
        assert (
            found(dedup.find_duplicates(write(folder / "documents", *files), Duplicates(), folder / "out")) == expected
        )


def test_what_is_unwanted_anyway_neither_drops_others_nor_is_dropped(tmp_path):
    text = " ".join(words(50, 1))
    documents = write(tmp_path / "documents", [{"text": text, "reason": "too short"}, text, text + " end"])
    assert found(dedup.find_duplicates(documents, BOTH, tmp_path / "out")) == {(0, 2): ((0, 1), NEAR)}


def test_pairs_are_compared_as_wholes_and_have_no_near_copies(tmp_path):
    text = " ".join(words(50, 1))
    pairs = [{"text": text, "second": second} for second in ("ein", "zwei", "ein")]
    documents = write(tmp_path / "documents", pairs, [text, text + " end"])
    assert found(dedup.find_duplicates(documents, BOTH, tmp_path / "out")) == {
        (0, 2): ((0, 0), EXACT),
        (1, 1): ((1, 0), NEAR),
    }


def test_case_punctuation_and_white_space_make_no_difference(tmp_path):
    text = words(50, 1)
    loud = ",\n".join(text).upper() + "!"
    documents = write(tmp_path / "documents", [" ".join(text), loud])
    assert found(dedup.find_duplicates(documents, BOTH, tmp_path / "out")) == {(0, 1): ((0, 0), NEAR)}


def test_short_and_empty_texts_are_like_nothing_but_themselves(tmp_path):
    texts = ["", " ", "...", "!?", "one", "One", "one two three four", "One, two three four!", "one two three five"]
    documents = write(tmp_path / "documents", [{"text": text, "key": n} for n, text in enumerate(texts)])
    assert found(dedup.find_duplicates(documents, BOTH, tmp_path / "out")) == {}


@pytest.mark.parametrize(
    "script", [range(0x4E00, 0x5600), range(0x0E01, 0x0E2F), range(0x1780, 0x17B3), range(0x3041, 0x3097)]
)
def test_where_words_have_no_spaces_letters_are_words(tmp_path, script):
    rng = random.Random(0)
    text, other = ("".join(chr(rng.choice(script)) for _ in range(300)) for _ in range(2))
    changed = text[:100] + other[:2] + text[102:]
    documents = write(tmp_path / "documents", [text, other, changed])
    assert found(dedup.find_duplicates(documents, BOTH, tmp_path / "out")) == {(0, 2): ((0, 0), NEAR)}


def test_a_chain_is_not_one_document(tmp_path):
    middle, left, right = ([f"{side}{n}" for n in range(size)] for side, size in (("m", 80), ("l", 20), ("r", 20)))
    texts = [middle + left, middle + left + right, middle + right]  # overlaps of 5/6, 5/6 and, of the ends, 4/6
    rules = Duplicates(near=NearDuplicates(n_gram=1, bands=60, rows=16))
    documents = write(tmp_path / "documents", [" ".join(text) for text in texts])
    assert found(dedup.find_duplicates(documents, rules, tmp_path / "out")) == {(0, 1): ((0, 0), NEAR)}
    documents = write(tmp_path / "without", [" ".join(text) for text in texts[1:]])
    assert found(dedup.find_duplicates(documents, rules, tmp_path / "out")) == {(0, 1): ((0, 0), NEAR)}


def test_a_copy_of_what_is_dropped_is_a_copy_of_what_is_kept(tmp_path):
    text = " ".join(words(100, 1))
    documents = write(tmp_path / "documents", [text, text + " end"], [text + " end", "alone"])
    assert found(dedup.find_duplicates(documents, BOTH, tmp_path / "out")) == {
        (0, 1): ((0, 0), NEAR),
        (1, 0): ((0, 0), NEAR),
    }


@pytest.mark.parametrize("changes", [2, 5, 9])
def test_near_copies_are_found_as_often_as_the_bands_promise(tmp_path, changes):
    n, length, n_gram = 400, 200, 5
    rng, originals, changed, promised = random.Random(changes), [], [], 0.0
    for seed in range(n):
        text = words(length, seed, 10**6)
        copy = list(text)
        for place in rng.sample(range(length), changes):
            copy[place] = "other"
        grams = [{tuple(t[i : i + n_gram]) for i in range(length - n_gram + 1)} for t in (text, copy)]
        overlap = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
        promised += 1 - (1 - overlap**8) ** 14
        originals.append(" ".join(text))
        changed.append(" ".join(copy))
    documents = write(tmp_path / "documents", originals, changed)
    result = found(dedup.find_duplicates(documents, BOTH, tmp_path / "out"))
    assert all(dropped == (1, of[1]) and of[0] == 0 for dropped, (of, _) in result.items())
    assert len(result) == pytest.approx(promised, abs=3 * max(1.0, promised * (1 - promised / n)) ** 0.5)


@given(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True), max_size=30),
    st.lists(st.integers(0, 30), max_size=3),
)
def test_documents_belong_to_the_first_that_is_kept_wherever_ranges_are_cut(documents, cuts):
    owner, expected = {}, {}
    for position, groups in enumerate(documents):
        if known := [owner[group] for group in groups if group in owner]:
            expected[position] = min(known)
        else:
            owner |= dict.fromkeys(groups, position)
    table, result = np.zeros(13, np.uint64), {}
    bounds = sorted({0, *(cut for cut in cuts if cut < len(documents)), len(documents)})
    for first, last in itertools.pairwise(bounds):
        rows = [(p, group) for p in range(first, last) for group in sorted(documents[p])]
        dropped, of = dedup._decide(*np.array(rows, np.uint64).T, table)
        assert (np.diff(dropped.astype(np.int64)) > 0).all()
        result |= dict(zip(dropped.tolist(), of.tolist(), strict=True))
    assert result == expected


def test_size_changes_how_the_work_is_cut_and_not_what_is_found(tmp_path, monkeypatch):
    documents = corpus(tmp_path / "documents")
    whole = found(dedup.find_duplicates(documents, BOTH, tmp_path / "whole"))
    assert {why for _, why in whole.values()} == {EXACT, NEAR}
    assert not {of for of, _ in whole.values()} & set(whole), "a copy of what is not kept"
    pieces(monkeypatch)
    seen = []
    cut = dedup.find_duplicates(documents, BOTH, tmp_path / "pieces", lambda done, total, what: seen.append(what))
    assert found(cut) == whole
    assert "near-duplicates: groups, 11 of 11" in seen


class Killed(BaseException):
    pass


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What was written, and when."""
    parts = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in parts if p.name[0] != "."}


def test_a_run_that_is_killed_anywhere_goes_on_where_it_was(tmp_path, monkeypatch):
    documents, out = corpus(tmp_path / "documents"), tmp_path / "out"
    pieces(monkeypatch)
    whole = dedup.find_duplicates(documents, BOTH, tmp_path / "whole")
    left = [{}]

    def stop(done: int, total: int, what: str) -> None:
        if done < total:
            assert left[-1].items() <= files(out).items(), f"done again before {what}"
        if done == len(left) - 1:
            left.append(files(out))
            raise Killed

    while len(left) < 2 + 4 + 1 + 4 + 11 + 1:
        with pytest.raises(Killed):
            dedup.find_duplicates(documents, BOTH, out, stop)
    result = dedup.find_duplicates(documents, BOTH, out)
    for name in ("position.bin", "of.bin", "reason.bin"):
        assert (result.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert {path.name for path in out.iterdir()} == {"made_from.json", "copies"}


def test_a_slice_that_is_missing_is_all_that_is_done_again(tmp_path, monkeypatch):
    documents, out = corpus(tmp_path / "documents"), tmp_path / "out"
    pieces(monkeypatch)

    def before_the_last_step(done: int, total: int, what: str) -> None:
        if what == "near-duplicates: found":
            raise Killed

    with pytest.raises(Killed):
        dedup.find_duplicates(documents, BOTH, out, before_the_last_step)
    before = files(out)
    (out / "near" / "groups" / "000003.npy").unlink()
    with pytest.raises(Killed):
        dedup.find_duplicates(documents, BOTH, out, before_the_last_step)
    after = files(out)
    assert {name for name in before if before[name] != after[name]} == {"near/groups/000003.npy"}
    expected = dedup.find_duplicates(documents, BOTH, tmp_path / "whole")
    assert found(dedup.find_duplicates(documents, BOTH, out)) == found(expected)


def test_what_is_found_is_kept_until_documents_or_rules_change(tmp_path):
    documents, out, heard = write(tmp_path / "documents", ["a", "a"]), tmp_path / "out", []
    dedup.find_duplicates(documents, Duplicates(), out)
    assert len(dedup.find_duplicates(documents, Duplicates(), out, lambda *step: heard.append(step)).position) == 1
    assert heard == []
    assert len(dedup.find_duplicates(documents, Duplicates(exact=False), out).position) == 0
    documents = write(tmp_path / "documents", ["a", "b", "a", "b"])
    assert len(dedup.find_duplicates(documents, Duplicates(), out).position) == 2


def copies_of(folder: Path, rows: list[tuple[int, int, int]]) -> Copies:
    folder.mkdir()
    with writing(folder) as add:
        add(*(np.array(column, np.uint64) for column in zip(*rows, strict=True)))
    return Copies.open(folder)


def test_copies_are_looked_up_by_position(tmp_path):
    table = copies_of(tmp_path / "copies", [(3, 1, 0), (7, 2, 1), (2**63 + 1, 7, 0)])
    asked = np.array([0, 3, 7, 8, 2**63 + 1, 2**64 - 1], np.uint64)
    assert table.reasons(asked) == [None, EXACT, NEAR, None, EXACT, None]
    assert table.among(asked).tolist() == [False, True, True, False, True, False]
    assert table.originals(asked).tolist() == [0, 1, 2, 8, 7, 2**64 - 1]


def test_copies_travel_as_the_name_of_their_folder(tmp_path):
    table = copies_of(tmp_path / "copies", [(n, n - 1, 0) for n in range(1, 100_000)])
    sent = pickle.dumps(table)
    assert len(sent) < 1_000
    assert found(pickle.loads(sent)) == found(table)


def test_lists_of_copies_become_one(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "_PIECE", 2)
    exact = copies_of(tmp_path / "exact", [(n, n - 1, 0) for n in range(1, 20, 2)])
    near = copies_of(tmp_path / "near", [(4, 2, 1), (18, 0, 1)])
    (tmp_path / "both").mkdir()
    with writing(tmp_path / "both") as add:
        merge([exact, near], add)
    both = Copies.open(tmp_path / "both")
    assert both.position.tolist() == [1, 3, 4, 5, 7, 9, 11, 13, 15, 17, 18, 19]
    assert both.of.tolist() == [0, 2, 2, 2, 6, 8, 10, 12, 14, 16, 0, 0]
    assert both.reason.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]


ON_RAY = """
import sys
from pathlib import Path
from tessera.corpus import daft_runner, dedup
from tessera.plan.corpus import Duplicates, NearDuplicates
daft_runner.choose("ray")
documents, out = sorted(Path(sys.argv[1]).glob("*.parquet")), Path(sys.argv[2])
dedup._WAVE_BYTES, dedup._SLICE_ROWS = 1, 2_000
dedup.find_duplicates(documents, Duplicates(near=NearDuplicates()), out)
"""


@pytest.mark.slow
def test_ray_finds_the_same_bytes(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    documents = corpus(tmp_path / "documents")
    here = dedup.find_duplicates(documents, BOTH, tmp_path / "native")
    subprocess.run([sys.executable, "-c", ON_RAY, tmp_path / "documents", tmp_path / "ray"], check=True, timeout=HANGS)
    for name in ("position.bin", "of.bin", "reason.bin"):
        assert (tmp_path / "ray" / "copies" / name).read_bytes() == (here.folder / name).read_bytes()
