import json
from math import inf
from pathlib import Path

import pytest

from tessera.plan.recipe import Recipe
from tessera.plan.token_counts import from_counts, from_shards, text_of


def recipe(sources: list[dict] | None = None, **mixture: object) -> Recipe:
    web = [{"name": "web", "path": "text"}, {"name": "code", "path": "code", "language": "code"}]
    return Recipe.model_validate(
        {
            "name": "r", "corpus": {"sources": sources or web}, "model": {"preset": "mmbert-small"},
            "phases": [{"name": "p", "from": "scratch", "tokens": "1M", "context": 64, "batch_tokens": "1k",
                        "mask_ratio": 0.3, "learning_rate": {"peak": 1.0}, "mixture": mixture}],
        }
    )  # fmt: skip


def table(folder: Path, text: str) -> Path:
    path = folder / "counts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def sizes(inventory) -> dict[str, int]:
    return {bucket.key: bucket.tokens for bucket in inventory.buckets}


def test_counts_are_languages_and_tokens_as_people_write_them(tmp_path):
    path = table(tmp_path, "language,tokens\nfao_Latn,2M\ndan_Latn,1000\nnone_Latn,0\n")
    assert sizes(from_counts(str(path), recipe())) == {"web/fao_Latn": 2_000_000, "web/dan_Latn": 1000}


def test_a_source_column_says_where_a_language_is_read(tmp_path):
    path = table(tmp_path, "language,source,tokens\nfao_Latn,wiki,5\nfao_Latn,web,7\ncode,,9\n")
    assert sizes(from_counts(str(path), recipe())) == {"wiki/fao_Latn": 5, "web/fao_Latn": 7, "code/code": 9}


def test_one_column_of_a_wider_table_is_chosen_after_a_colon(tmp_path):
    path = table(tmp_path, "language,pretrain,mid\nfao_Latn,10,20\ndan_Latn,,40\n")
    assert sizes(from_counts(f"{path}:mid", recipe())) == {"web/fao_Latn": 20, "web/dan_Latn": 40}
    assert sizes(from_counts(f"{path}:pretrain", recipe())) == {"web/fao_Latn": 10}


def test_bare_codes_mean_the_recipes_only_language_of_that_code(tmp_path):
    path = table(tmp_path, "language,tokens\nfao,1\nsrp,2\nxyz,3\neng,4\n")
    named = recipe(languages=["fao_Latn", "srp_Cyrl", "srp_Latn"], shares={"web/eng_Latn": 0.5})
    inventory = from_counts(str(path), named)
    assert sizes(inventory) == {"web/fao_Latn": 1, "web/srp": 2, "web/xyz": 3, "web/eng_Latn": 4}
    assert "several scripts of srp" in inventory.warnings[0]


def test_a_power_of_counts_keeps_the_least_and_stretches_the_others(tmp_path):
    path = table(tmp_path, "language,tokens\nfao_Latn,1000\ndan_Latn,8000\n")
    assert sizes(from_counts(str(path), recipe(), 2.0)) == {"web/fao_Latn": 1000, "web/dan_Latn": 64_000}


def test_a_language_of_several_sources_is_left_out_with_a_warning(tmp_path):
    path = table(tmp_path, "language,tokens\neng,5\nfao_Latn,1\n")
    many = [{"name": n, "path": n, "language": "eng_Latn"} for n in ("dclm", "books")] + [{"name": "web", "path": "w"}]
    inventory = from_counts(str(path), recipe(many))
    assert sizes(inventory) == {"web/fao_Latn": 1}
    assert "eng left out, for the recipe reads them from several sources" in inventory.warnings[0]


def test_what_a_table_does_not_count_is_unknown_or_left_out_and_said(tmp_path):
    path = table(tmp_path, "language,tokens\nfao_Latn,100\n")
    named = recipe(
        languages=["fao_Latn", "dan_Latn"], shares={"code": 0.2, "web/eng_Latn": 0.1}, tiers=[3, 4],
        entries={"dan_Latn": "500k"},
    )  # fmt: skip
    text = text_of(named, named.phases[0], from_counts(str(path), named))
    assert [b.key for b in text.buckets] == ["web/fao_Latn", "code/code", "web/eng_Latn"]
    assert text.available == [100, inf, inf]
    assert (text.phase.mixture.languages, text.phase.mixture.tiers) == (("fao_Latn",), None)
    assert len(text.warnings) == 3
    assert text.warnings[0] == "p: no counts of dan_Latn; left out"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("language,count\nfao,1\n", "there is no column 'tokens'; its columns are language, count"),
        ("lang,tokens\nfao,1\n", "there is no column 'language'"),
        ("language,tokens\nfao,many\n", "counts.csv, line 2, tokens: cannot read 'many'"),
        ("language,tokens\nfao,1\nfao,2\n", "counts.csv, line 3: fao is counted twice"),
        ("language,tokens\nfao,1\nfao_Latn,2\n", "fao_Latn of web is counted twice"),
        ("language,tokens\n,1\n", "line 2: the language is empty"),
        ("language,tokens\nfao,0\n", "no counts above 0 in column 'tokens'"),
    ],
)
def test_a_table_that_is_no_table_of_counts_says_what_is_wrong(tmp_path, text, complaint):
    named = recipe(languages=["fao_Latn"])
    with pytest.raises(ValueError, match=complaint):
        from_counts(str(table(tmp_path, text)), named)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--counts: .*none.csv: no such file"):
        from_counts(str(tmp_path / "none.csv:pretrain"), recipe())
    path = table(tmp_path, "language,tokens\nfao,1\n")
    with pytest.raises(ValueError, match=r"--counts-exponent: 0\.0 is no exponent"):
        from_counts(str(path), recipe(), 0.0)


def test_shards_tell_their_buckets_by_their_index_alone(tmp_path):
    row = {"source": "web", "language": "fao_Latn", "tier": 3, "tokens": 70, "documents": 7, "bytes": 300}
    index = {"vocab_size": 400, "buckets": [{**row, "first_document": 0, "first_token": 0}]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    inventory = from_shards(tmp_path)
    assert sizes(inventory) == {"web/fao_Latn@3": 70}
    assert (inventory.vocab_size, inventory.counted) == (400, False)
