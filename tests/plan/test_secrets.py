"""Credentials in URLs are hidden wherever one is shown or stored; what is no credential stays."""

import json

import pytest

from tessera.plan.corpus import Contamination, Corpus, Source
from tessera.secrets import is_redacted, is_url, redact
from tessera.sources.storage import File, files


@pytest.mark.parametrize(
    "url",
    [
        "https://user:SECRET@host/x.jsonl",
        "https://user:pw/SECRET@host/x",
        "https://user:pw@SECRET@host/x",
        "https://SECRET@github.com/a",
        "s3://KEY:SECRET@bucket/x",
        "https://b.s3/x.jsonl?X-Amz-Signature=SECRET&download=true",
        "https://a.blob/x?sv=1&sig=SECRET%2B",
        "https://a/b?SECRET",
        "https://a/b#access_token=SECRET",
        "Cannot connect: 'https://a/b?token=SECRET', said https://u:SECRET@c/d",
        "hf://user:SECRET@datasets/a",
        "https:/user:SECRET@host/x.jsonl?sig=SECRET",
    ],
)
def test_a_credential_is_hidden_once(url):
    hidden = redact(url)
    assert "SECRET" not in hidden
    assert "SECRET" not in str(File(url, 0, "")) + File(url, 0, "").stamp
    assert redact(hidden) == hidden
    assert is_redacted(hidden)
    assert not is_redacted(url)


@pytest.mark.parametrize(
    "url",
    [
        "/data/a@b?x=1",
        "hf://datasets/org/name@revision/x.jsonl",
        "abfs://container@account.dfs.core.windows.net/path",
        "https://site.org:8080/x.parquet?download=true",
        "s3://bucket/x*?.jsonl.zst",
        "user:pw@host",
    ],
)
def test_what_is_no_credential_stays(url):
    assert not is_redacted(redact(url))
    assert redact(url) == url


def test_what_is_written_of_a_source_lacks_its_credential_and_says_so_when_it_is_read():
    url = "https://user:SECRET@host/x.jsonl?sig=SECRET"
    corpus = Corpus(sources=(Source(name="web", path=url),))
    assert corpus.sources[0].path == url
    written = corpus.model_dump(mode="json")
    assert "SECRET" not in json.dumps(written)
    with pytest.raises(ValueError, match=r"lacks the credential that it was given with.*give the recipe that has it"):
        files(Corpus.model_validate(written).sources[0])
    assert "SECRET" not in Contamination(sets={"x": (url,)}).model_dump_json()


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("https:/a/b", True),
        ("s3://a", True),
        ("C:/models", False),
        ("runs/mine", False),
        ("/a:/b", False),
        ("a:b", False),
    ],
)
def test_a_path_that_is_a_url_is_known_as_one(path, url):
    assert is_url(path) == url


def test_no_error_of_a_verb_shows_a_credential_wherever_a_url_is_given(monkeypatch, capsys, tmp_path):
    from tessera import cli

    monkeypatch.chdir(tmp_path)
    url = "https://user:SECRET@host/model?sig=SECRET"
    verbs = ["embed URL in out.npy", "export URL out", "evaluate URL --task xnli", "verify URL", "report URL"]
    verbs += ["compare URL", "plan URL", "merge URL URL --out out", "serve URL", "finetune URL in --out out"]
    for words in verbs:
        monkeypatch.setattr("sys.argv", ["tessera", *(url if word == "URL" else word for word in words.split())])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = "".join(capsys.readouterr())
        assert ended.value.code == 2, words
        assert "***" in said, words
        assert "SECRET" not in said, words
