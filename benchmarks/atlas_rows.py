"""Rows that a student of a sentence-embedding teacher learns from, and text for its vocabulary.

    python benchmarks/atlas_rows.py DATA OUT

DATA holds train/<code>.jsonl.zst with the column text, a file a language, and pairs/pairs.jsonl.zst with src, tgt,
their languages and source. OUT gets, each shuffled by a seed:

    rows/train.jsonl.zst        {source, target, language}: a translation and its English; plain sentences, target null,
    rows/validation.jsonl.zst   of languages that the teacher was trained on. A sentence is in one of them, by a hash
    text/vocabulary.jsonl.zst   {text}: some of each language, so that none decides alone which pieces are kept
    text/new.jsonl.zst          of that the languages that the teacher was not trained on

Sources of pairs whose licence does not let a model be given away freely are left out.
"""

import json
import random
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

from tessera.data.hashing import named_keys
from tessera.shrink.passages import sentences

# Conneau et al. 2020 (arXiv:1911.02116), table 6, as ISO 639-3; individual languages where the corpus has these.
XLM_R = """
    afr als amh arb asm azj bel ben bos bre bul cat ces cmn cym dan deu ekk ell eng epo eus fas fil fin fra fry gaz
    gla gle glg guj hau heb hin hrv hun hye ind isl ita jav jpn kan kat kaz khk khm kir kmr kor lao lat lit lvs mal
    mar mkd mya nld nno nob npi ory pan pbt pbu plt pol por ron rus san sin slk slv snd som spa srp sun swe swh tam
    tel tgl tha tur uig ukr urd uzn vie xho ydd zlm zsm
"""
KNOWN = frozenset(XLM_R.split())
NOT_FREE = ("lafand-mt", "americasnlp2023", "bible-corpus")
# Running text; of a language that the teacher knows messages of programs, most of its translations, come last.
PROSE = ("wesnoth", "gnome-user-docs", "freeciv", "scratch-l10n", "mozilla-www-l10n")
KNOWN_PAIRS = 4_000  # of a language that the teacher was trained on, at most
SENTENCES, ENGLISH = 6_000, 60_000  # plain ones of a language at most, of English
KNOWN_BYTES, NEW_BYTES = 220_000, 90_000  # of the vocabulary's text, of a language
EXTENSION_BYTES = 9_000_000  # of the text for new pieces in all: a Unigram of more takes its time
LONGEST = 4_000  # characters of a document
HELD_OUT = 0.002
# Thai to Burmese, Khmer, kana, Han, Hangul: much is said in few letters.
WIDE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")


def asked(text: str) -> Iterator[str]:
    """The sentences of a length that people ask in, three quarters of them letters."""
    for one in sentences(text):
        least, most = (6, 60) if WIDE.search(one) else (14, 130)
        letters = sum(character == " " or unicodedata.category(character)[0] in "LM" for character in one)
        if least <= len(one) <= most and letters > 0.75 * len(one):
            yield one


def read(path: Path) -> Iterator[dict[str, str]]:
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def pairs(path: Path) -> dict[str, list[tuple[str, str]]]:
    """(English, translation) by language, running text first."""
    found: dict[str, list[tuple[bool, str, str]]] = {}
    for row in read(path):
        if row["source"] not in NOT_FREE and row["tgt_lang"] == "eng_Latn":
            found.setdefault(row["src_lang"], []).append((row["source"] not in PROSE, row["tgt"], row["src"]))
    return {
        language: [(english, text) for _, english, text in sorted(some, key=lambda one: one[0])]
        for language, some in found.items()
    }


def some(texts: Iterable[str], size: int) -> list[str]:
    """The first so many bytes."""
    found = []
    for text in texts:
        if size <= 0:
            break
        found.append(text)
        size -= len(text.encode())
    return found


def write(path: Path, rows: list[dict[str, str | None]]) -> None:
    with zstandard.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{path}: {len(rows):,} rows")


def main(data: Path, out: Path) -> None:
    draw = random.Random(7)
    missing = [place for place in (data / "pairs" / "pairs.jsonl.zst", data / "train") if not place.exists()]
    if missing:
        sys.exit(f"{missing[0]} is not there; DATA is a folder of train/ and pairs/, as the head of this file says")
    rows_here, texts_here = out / "rows", out / "text"
    for folder in (rows_here, texts_here):
        folder.mkdir(parents=True, exist_ok=True)
    translations = pairs(data / "pairs" / "pairs.jsonl.zst")
    rows: list[dict[str, str | None]] = []
    old, new = list[str](), list[str]()  # of the vocabulary's text
    for language, found in translations.items():
        known = language[:3] in KNOWN
        most = KNOWN_PAIRS if known else len(found)
        rows += [{"source": english, "target": text, "language": language} for english, text in found[:most]]
        (old if known else new).extend(some((text for _, text in found), NEW_BYTES))
    for path in sorted((data / "train").glob("???_????.jsonl.zst")):
        language = path.name.split(".")[0]
        known = language[:3] in KNOWN
        documents = [row["text"][:LONGEST] for row in read(path)]
        draw.shuffle(documents)
        (old if known else new).extend(some(documents, KNOWN_BYTES if known else NEW_BYTES))
        if known:
            most = ENGLISH if language == "eng_Latn" else SENTENCES
            plain = list(dict.fromkeys(one for text in documents for one in asked(text)))
            draw.shuffle(plain)
            rows += [{"source": one, "target": None, "language": language} for one in plain[:most]]
    draw.shuffle(rows)
    draw.shuffle(new)
    held = named_keys([[str(row["source"])] for row in rows]) / 2.0**64 < HELD_OUT
    write(rows_here / "train.jsonl.zst", [row for row, aside in zip(rows, held, strict=True) if not aside])
    write(rows_here / "validation.jsonl.zst", [row for row, aside in zip(rows, held, strict=True) if aside])
    write(texts_here / "vocabulary.jsonl.zst", [{"text": text} for text in (*old, *new)])
    write(texts_here / "new.jsonl.zst", [{"text": text} for text in some(new, EXTENSION_BYTES)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
