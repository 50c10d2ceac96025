import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tessera.corpus.language_id import PY3LANGID, _Py3langid, check, identifier
from tessera.data.languages import has_spaces, language_code, other_script, script_of, written_with

SHARED = Path(__file__).parents[2].parent / "shared"

ARTICLE = {  # the first article of the Universal Declaration of Human Rights, or its beginning
    "eng_Latn": "All human beings are born free and equal in dignity and rights. They are endowed with reason.",
    "deu_Latn": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt.",
    "dan_Latn": "Alle mennesker er født frie og lige i værdighed og rettigheder. De er udstyret med fornuft.",
    "nob_Latn": "Alle mennesker er født frie og med samme menneskeverd og menneskerettigheter. De er utstyrt.",
    "rus_Cyrl": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом.",
    "ell_Grek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "hin_Deva": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "jpn_Jpan": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "kor_Hang": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "cmn_Hans": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神互相对待。",
}


def script_found(text: str, script: str) -> str | None:
    return other_script(text, script, min_share=0.9, min_letters=20)


@pytest.mark.parametrize("language", ARTICLE)
def test_a_text_is_in_its_own_script_and_in_no_other(language):
    text, own = ARTICLE[language], script_of(language)
    for script in ("Latn", "Cyrl", "Grek", "Deva", "Jpan", "Hang", "Thai"):
        if not set(written_with(script)) & set(written_with(own)):
            assert script_found(text, script) in written_with(own)
    assert script_found(text, own) is None


@pytest.mark.parametrize(
    ("text", "script", "found"),
    [
        ("東京都" * 20, "Jpan", None),  # all Han, as a list of names is
        ("ひらがな" * 20, "Hani", "Kana"),
        ("大韓民國" * 20, "Kore", None),
        ("人人生而自由" * 20, "Hans", None),
        ("人人生而自由" * 20, "Hant", None),  # which of the two it is, letters do not say
        ("Ни слова по-английски. " * 5, "Latn", "Cyrl"),
        ("1948 - 2024: 12 %, 13 % (14) " * 5, "Cyrl", None),  # no letters
        ("git commit. " * 7 + "변경 내용을 저장한다", "Hang", None),  # a tenth of its letters is enough
        ("git commit. " * 90 + "저장", "Hang", "Latn"),
        ("ꯃꯤꯇꯩ ꯃꯌꯦꯛ " * 9, "Mtei", None),
        ("𗼇𗟲" * 20, "Latn", "Tang"),
        ("𠀀𠀁" * 20, "Hani", None),  # beyond the first 65,536 characters
    ],
)
def test_scripts_by_their_letters(text, script, found):
    assert script_found(text, script) == found


def test_a_script_is_read_off_a_code_where_it_has_one():
    assert [script_of(c) for c in ("fao_Latn", "cmn_Hans", "fao", "code", "code_Python", "abc_Zzzz")] == [
        "Latn",
        "Hans",
        None,
        None,
        None,
        None,
    ]


def test_words_have_spaces_between_them_or_not():
    assert not any(has_spaces(code) for code in ("cmn_Hans", "jpn_Jpan", "tha_Thai", "bod_Tibt", "zho", "tha"))
    assert all(has_spaces(code) for code in ("kor_Hang", "vie_Latn", "fao", "code_Python"))


def test_every_script_of_the_real_corpus_is_known():
    folder = SHARED / "data" / "train"
    if not folder.is_dir():
        pytest.skip("the shared corpus is not here")
    codes = [file.name.split(".")[0] for file in folder.glob("*_*.jsonl.zst")]
    assert codes
    assert [code for code in codes if script_of(code) is None] == []


@pytest.mark.parametrize(
    ("said", "text", "found"),
    [
        ("dan_Latn", "deu_Latn", "deu"),
        ("deu_Latn", "eng_Latn", "eng"),
        ("deu", "eng_Latn", "eng"),
        ("dan_Latn", "dan_Latn", None),
        ("nno_Latn", "nob_Latn", None),  # both are Norwegian
        ("pcm_Latn", "eng_Latn", None),  # too close
        ("zsm_Arab", "hin_Deva", None),  # it was taught Malay in Latin letters only
        ("azb_Arab", "eng_Latn", None),  # the label "az" is azj
        ("fur_Latn", "eng_Latn", None),  # not one of its languages
        ("code_Python", "eng_Latn", None),
    ],
)
def test_only_what_is_surely_another_language_is_said_to_be(said, text, found):
    assert identifier(PY3LANGID).other_language(5 * ARTICLE[text], said, 0.9) == found


def test_a_language_in_another_script_is_never_suspected():
    judge = identifier(PY3LANGID)
    for said in ("fao_Latn", "deu_Latn"):
        assert judge.other_language(5 * ARTICLE["rus_Cyrl"], said, 0.5) not in ("rus", "ukr", "bul")


def test_who_is_not_sure_says_nothing():
    judge, mixed = identifier(PY3LANGID), ARTICLE["dan_Latn"] + ARTICLE["deu_Latn"]
    assert judge.other_language(mixed, "swe_Latn", 1.0) is None


def test_filipino_is_tagalog_and_a_macrolanguage_stands_for_one_member():
    judge = identifier(PY3LANGID)
    known = ["fil_Latn", "arb_Arab", "ara_Arab", "cmn_Hant", "yue_Hant", "srp_Cyrl", "srp_Latn", "nob_Latn", "ekk_Latn"]
    foreign = ["arq_Arab", "hak_Latn", "bjn_Latn", "uzn_Arab", "zsm_Arab", "und_Latn"]
    assert [code for code in known + foreign if judge._suspects_of(code)] == known


@pytest.mark.parametrize("text", [*ARTICLE.values(), "", "7", "ALLE MENNESKER", "e\u0301", "\ud800", "naïve " * 400])
def test_scores_are_those_of_py3langid(text):
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    theirs = dict(LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).rank(text))
    model = _loaded()
    ours = dict(zip(model.labels, model.probabilities(text), strict=True))
    assert set(ours) == set(theirs)
    np.testing.assert_allclose([ours[x] for x in theirs], list(theirs.values()), atol=1e-4)


def _loaded() -> _Py3langid:
    return identifier(PY3LANGID)._model


def test_every_label_is_a_language():
    assert {language_code(label) for label in _loaded().labels} >= {"fao", "deu", "zho"}


def test_a_fasttext_file_that_is_not_there_or_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model: no file at '.*lid\.bin'; give the file of a fastText model"):
        check(str(tmp_path / "lid.bin"))
    (tmp_path / "lid.bin").write_bytes(b"no model at all")
    with pytest.raises(ValueError, match=r"lid\.bin: not a fastText model; give a \.bin or \.ftz file"):
        check(str(tmp_path / "lid.bin"))


@pytest.mark.parametrize("missing", ["py3langid", "langcodes"])
def test_a_package_that_is_missing_is_asked_for_with_the_line_to_type(missing, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else "there")
    with pytest.raises(ImportError, match=rf"needs {missing}; pip install .tessera-encoders\[prepare\]"):
        check(PY3LANGID)


def test_fasttext_is_asked_for_with_the_line_to_type(tmp_path, monkeypatch):
    (tmp_path / "lid.bin").write_bytes((793_712_314).to_bytes(4, "little"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install fasttext-numpy2-wheel"):
        check(str(tmp_path / "lid.bin"))


@pytest.mark.parametrize(
    ("style", "expected"), [("{}", "deu_Latn"), ("{:.3}", "deu"), ("other-{}", None)], ids=["full", "bare", "none"]
)
def test_a_fasttext_model_judges_by_its_labels(tmp_path, style, expected):
    fasttext = pytest.importorskip("fasttext", reason="fasttext-numpy2-wheel is not installed")
    lines = [f"__label__{style.format(code)} {text}" for code, text in ARTICLE.items() if code.endswith("Latn")]
    (tmp_path / "lines.txt").write_text("\n".join(20 * lines) + "\n")
    settings = {"epoch": 25, "lr": 0.3, "dim": 4, "minn": 2, "maxn": 3, "verbose": 0, "thread": 1}
    model = fasttext.train_supervised(str(tmp_path / "lines.txt"), **settings)  # fewer buckets sometimes end in NaN
    model.save_model(str(tmp_path / "lid.bin"))
    if expected is None:
        with pytest.raises(ValueError, match="its labels are no languages"):
            identifier(str(tmp_path / "lid.bin"))
        return
    judge = identifier(str(tmp_path / "lid.bin"))
    assert judge.name == "fastText"
    assert judge.other_language(ARTICLE["deu_Latn"].replace(". ", ".\n"), "dan_Latn", 0.5) == expected
    assert judge.other_language(ARTICLE["dan_Latn"], "dan_Latn", 0.5) is None
    assert judge.other_language(ARTICLE["deu_Latn"], "fao_Latn", 0.5) is None  # it was not taught Faroese
    whole = (tmp_path / "lid.bin").read_bytes()
    for length in (4, 60, 200, len(whole) // 2):
        (tmp_path / "cut.bin").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.bin: cut short, it has .* copy it again"):
            identifier(str(tmp_path / "cut.bin"))


def test_few_documents_of_the_real_corpus_are_suspected():
    folder = SHARED / "data" / "train"
    if not folder.is_dir():
        pytest.skip("the shared corpus is not here")
    judge, shares = identifier(PY3LANGID), {}
    for code in (
        "fao_Latn",
        "deu_Latn",
        "nno_Latn",
        "hrv_Latn",
        "zsm_Latn",
        "cmn_Hans",
        "kor_Hang",
        "hin_Deva",
        "slk_Latn",
    ):
        data = pa.input_stream(folder / f"{code}.jsonl.zst", compression="zstd").read()
        texts = [json.loads(line)["text"] for line in data.split(b"\n")[:150] if line]
        dropped = [script_found(t[:1000], script_of(code)) or judge.other_language(t, code, 0.9) for t in texts]
        shares[code] = sum(reason is not None for reason in dropped) / len(texts)
    assert {code: share for code, share in shares.items() if share > 0.01} == {}
