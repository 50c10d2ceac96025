"""Credentials in URLs are hidden wherever one is shown or stored; what is no credential stays."""

import json

import pytest

from tessera.data.storage import File, files
from tessera.plan.corpus import Contamination, Corpus, Source
from tessera.secrets import is_redacted, redact


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
