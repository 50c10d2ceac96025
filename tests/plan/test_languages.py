"""One spelling of languages, whatever sets call them."""

import pytest

from tessera.evaluation import catalogue
from tessera.plan.languages import by_language, resolve, spelled


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        *((code, "deu_Latn") for code in ("de", "deu", "deu-Latn", "deu_Latn")),
        *((code, "cmn_Hans") for code in ("zh", "zho", "cmn", "zho_Hans")),
        *((code, "arb_Arab") for code in ("ar", "ara", "ara_Arab")),
        ("cmn_Hant", "cmn_Hant"),
        ("pes", "fas_Arab"),
        ("en-de", "eng_Latn-deu_Latn"),
        ("fao_Latn-isl_Latn", "fao_Latn-isl_Latn"),
        *((word, word) for word in ("code", "math", "English-EWT", "aaa", "qqq-de", "STS", "3-languages", "")),
    ],
)
def test_a_language_has_one_spelling(given, wanted):
    assert spelled(given) == wanted
    assert spelled(wanted) == wanted


def test_languages_that_would_become_one_keep_their_codes():
    assert by_language({"est": 1, "ekk": 2, "de": 3}) == {"est": 1, "ekk": 2, "deu_Latn": 3}


def test_every_language_of_the_catalogue_is_known_and_none_falls_together_with_another():
    for task in catalogue.known():
        if task.languages != "all" and task.group != "coir":  # whose languages are those of programs
            made = by_language(dict.fromkeys(task.languages))
            assert all("_" in code for code in made if code not in ("code", "math", "qaa")), (task.name, list(made))


@pytest.mark.parametrize(
    ("asked", "there", "meant"),
    [
        ("ro", ["ron-Latn", "ru"], ["ron-Latn"]),
        ("ron", ["ro", "rus_Cyrl"], ["ro"]),
        ("ron_Latn", ["ro"], ["ro"]),
        ("ro", ["ro", "ron_Latn"], ["ro"]),  # as it is called there, first of all
        ("srp", ["srp_Cyrl", "srp_Latn"], ["srp_Cyrl", "srp_Latn"]),
        ("srp_Latn", ["srp_Cyrl", "srp_Latn"], ["srp_Latn"]),
        ("zh", ["zho-Hans", "zho-Hant", "jpn-Jpan"], ["zho-Hans", "zho-Hant"]),
        ("ar", ["arb_Arab", "arz_Arab"], ["arb_Arab"]),
        ("en-de", ["eng_Latn", "eng-Latn_deu-Latn", "eng_Latn-deu_Latn"], ["eng_Latn-deu_Latn"]),
        ("nonsense", ["tlh_Latn"], []),
        *((code, ["zho_Hans", "ron"], ["ron"]) for code in ("rum", "RO", "Ron", " ro ", "ro-RO", "ro_ro", "RON_latn")),
        *((code, ["zho_Hans", "zh_Hant"], ["zh_Hant"]) for code in ("zh-TW", "zh-hant", "ZH_HANT", "zh-hk")),
        *((code, ["zh-CN", "cmn_Hant"], ["zh-CN"]) for code in ("zh-Hans", "zh_cn", "cmn_Hans")),
        ("sr-Latn", ["srp_Cyrl"], []),
        ("pt-BR", ["pt", "pt-br"], ["pt-br"]),
        ("pt_br", ["por_Latn"], ["por_Latn"]),
        ("tum_Latn", ["tum"], ["tum"]),  # whose script nobody says
        ("DE-en", ["deu_Latn-eng_Latn"], ["deu_Latn-eng_Latn"]),
        ("eng-fao", ["fao-eng"], []),  # the other direction
        *((code, ["ron_Latn"], []) for code in ("ro-en", "RO-EN", "ron-eng")),  # a pair, not one of its sides
        ("ron", ["ron-eng"], []),
        ("ewt", ["English-EWT"], []),
    ],
)
def test_a_code_on_the_command_line_means_what_the_data_calls_by_any_other(asked, there, meant):
    assert resolve(asked, there) == meant


@pytest.mark.parametrize("name", ["Romanian", "romanian", "ROMANIAN", "română"])
def test_a_language_may_be_called_by_its_name(name):
    pytest.importorskip("language_data")
    assert resolve(name, ["rus_Cyrl", "ron-Latn"]) == ["ron-Latn"]
    assert resolve("Traditional Chinese", ["zho_Hans", "zho_Hant"]) == ["zho_Hant"]
