from pathlib import Path

import pytest

from tessera.evaluation import frozen, load
from tessera.evaluation.catalogue import find
from tessera.evaluation.load_retrieval import search

SETS = Path(__file__).parents[2].parent / "shared" / "data" / "eval"

# rows of the split and language as the README of each set counts them, or by `zstdcat | wc -l`
REAL = [
    ("sib200", "test", "fao_Latn", 204),
    ("masakhaner2", "test", "bam", 1274),
    ("udpos-treebanks", "train", "English-EWT", 12544),
    ("udpos-treebanks", "test", "Faroese-OFT", 1208),
    ("stsb-multilingual", "test", "ja", 1379),
    ("mlqe-da", "validation", "ne-en", 1000),
    ("xcopa-own", "test", "qu", 500),
]


@pytest.mark.parametrize(("name", "split", "language", "rows"), REAL)
def test_the_real_sets_are_read(name, split, language, rows):
    if not SETS.is_dir():
        pytest.skip("the sets of ../shared/data/eval are not here")
    assert len(load.load(find(name), split, language, SETS)) == rows


def test_the_real_pairs_of_tatoeba_are_read():
    if not SETS.is_dir():
        pytest.skip("the sets of ../shared/data/eval are not here")
    pairs = frozen.read(find("tatoeba").model_copy(update={"languages": ("fao",)}), SETS).test
    assert {language: len(said) for language, said in pairs.items()} == {"fao_Latn": 262}


def test_answers_of_the_real_xquad_stand_where_they_should_and_its_articles_stay_together():
    if not SETS.is_dir():
        pytest.skip("the sets of ../shared/data/eval are not here")
    ids = [
        {e.id for e in load.load(find("xquad-articles"), split, language, SETS)}
        for language in ("de", "zh")
        for split in ("train", "validation", "test")
    ]
    assert ids[:3] == ids[3:]
    assert sum(map(len, ids[:3])) == 1190
    found = search(find("xquad-retrieval"), "test", "de", SETS)
    assert (len(found.queries), len(found.corpus)) == (1190, 240)
