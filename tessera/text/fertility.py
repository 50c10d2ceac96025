"""What each language pays for a tokenizer: tokens per word, bytes per token."""

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.plan.corpus import Corpus
from tessera.text.corpus import Pair, Skipped, read
from tessera.text.tokenizer import Tokenizer


def fertility(tokenizer: Tokenizer, texts_by_language: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """What each language pays: one row a language, the best served first.

    tokens_per_word       a word is what stands between white space: no measure for Chinese, Japanese, Thai ...
    bytes_per_token, characters_per_token
    relative              tokens relative to the language that needs fewest; None unless all languages have the same
                          number of texts, and only meaningful where these are translations of each other
    """
    texts_by_language = {language: texts for language, texts in texts_by_language.items() if any(texts)}
    rows: list[dict[str, Any]] = []
    for language, texts in texts_by_language.items():
        tokens = sum(map(len, tokenizer.encode_plain(texts)))
        n_bytes, characters = sum(len(t.encode()) for t in texts), sum(map(len, texts))
        rows.append(
            {
                "language": language,
                "texts": len(texts),
                "bytes": n_bytes,
                "tokens": tokens,
                "tokens_per_word": tokens / max(1, sum(len(t.split()) for t in texts)),
                "bytes_per_token": n_bytes / tokens,
                "characters_per_token": characters / tokens,
            }
        )
    parallel = len({row["texts"] for row in rows}) == 1
    fewest = min((row["tokens"] for row in rows), default=0)
    for row in rows:
        row["relative"] = row["tokens"] / fewest if parallel else None
    return sorted(rows, key=lambda row: (row["relative"] or 0, row["tokens_per_word"]))


def sample_of_each(corpus: Corpus, n_bytes: int) -> dict[str, list[str]]:
    """The first texts of every language of a corpus, about `n_bytes` bytes of each; pairs are left out."""
    texts: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for source in corpus.sources:
        if source.kind == "pairs":
            continue
        for document in read(source, Skipped()):
            assert not isinstance(document, Pair)
            if sizes.get(document.language, 0) < n_bytes:
                texts.setdefault(document.language, []).append(document.text)
                sizes[document.language] = sizes.get(document.language, 0) + len(document.text.encode())
    return texts
