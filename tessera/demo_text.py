"""Text for trying things out, offline: what Django's translators and Python's authors wrote.

    train/<language>.jsonl.zst       documents of about ten messages of one catalogue
    held_out/<language>.jsonl.zst    the same, of other messages
    pairs.jsonl.zst                  messages and their English originals, of the training side
    bitext/<language>-eng.jsonl.zst  sentences and their English originals, of the held-out side
    code.jsonl.zst                   modules of the standard library; English gets their docstrings

About a twelfth of the messages, chosen by a hash of the English original, is held out in every language at once.
"""

import ast
import hashlib
import inspect
import json
import re
import sysconfig
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from tessera.files import atomic_folder
from tessera.plan.shipped import pip_line
from tessera.progress import Progress, silent

ENGLISH = "eng_Latn"

_HELD_OUT = 0.08
_MESSAGES = 10  # in a document
_FEWEST_BYTES = 5_000  # a language with less text is left out
_FEWEST_PAIRS = 5  # of a language's bitext, else there is nothing to find
_MOST_BYTES = 1_000_000  # of code, and of docstrings
_NOT_READ = ("test", "tests", "idlelib", "lib2to3", "site-packages", "pydoc_data", "__pycache__", "ensurepip")

# Django's locales as FineWeb2 calls these languages; one locale a language, so no en_AU, es_MX, pt_BR, ...
LOCALES = dict(
    re.findall(
        r"(\w+)=(\w+)",
        """
        af=afr_Latn ar=arb_Arab ast=ast_Latn az=azj_Latn be=bel_Cyrl bg=bul_Cyrl bn=ben_Beng br=bre_Latn bs=bos_Latn
        ca=cat_Latn ckb=ckb_Arab cs=ces_Latn cy=cym_Latn da=dan_Latn de=deu_Latn dsb=dsb_Latn el=ell_Grek eo=epo_Latn
        es=spa_Latn et=ekk_Latn eu=eus_Latn fa=fas_Arab fi=fin_Latn fr=fra_Latn fy=fry_Latn ga=gle_Latn gd=gla_Latn
        gl=glg_Latn he=heb_Hebr hi=hin_Deva hr=hrv_Latn hsb=hsb_Latn hu=hun_Latn hy=hye_Armn ia=ina_Latn id=ind_Latn
        ig=ibo_Latn io=ido_Latn is=isl_Latn it=ita_Latn ja=jpn_Jpan ka=kat_Geor kab=kab_Latn kk=kaz_Cyrl km=khm_Khmr
        kn=kan_Knda ko=kor_Hang ky=kir_Cyrl lb=ltz_Latn lt=lit_Latn lv=lvs_Latn mk=mkd_Cyrl ml=mal_Mlym mn=khk_Cyrl
        mr=mar_Deva ms=zsm_Latn my=mya_Mymr nb=nob_Latn ne=npi_Deva nl=nld_Latn nn=nno_Latn os=oss_Cyrl pa=pan_Guru
        pl=pol_Latn pt=por_Latn ro=ron_Latn ru=rus_Cyrl sk=slk_Latn sl=slv_Latn sq=als_Latn sr=srp_Cyrl
        sr_Latn=srp_Latn sv=swe_Latn sw=swh_Latn ta=tam_Taml te=tel_Telu tg=tgk_Cyrl th=tha_Thai tk=tuk_Latn
        tr=tur_Latn tt=tat_Cyrl udm=udm_Cyrl ug=uig_Arab uk=ukr_Cyrl ur=urd_Arab uz=uzn_Latn vi=vie_Latn
        zh_Hans=cmn_Hans zh_Hant=cmn_Hant
        """,
    )
)

_IN = ("deu_Latn", "spa_Latn", "rus_Cyrl", "tur_Latn", "hin_Deva")  # which put a space between words
_LONGEST = 60  # characters of a message that is shown


class _Message(NamedTuple):
    catalogue: str
    english: str
    text: str


def write_demo_text(folder: str | Path, on_progress: Progress | None = None) -> dict[str, int]:
    """Writes the files above and returns the bytes of training text of each language (and of `code`).

    The same Django and Python give the same bytes. Raises ImportError without the `demo` extra and FileExistsError
    where `folder` holds something already.
    """
    try:
        import django
        import polib  # noqa: F401
    except ImportError:
        raise ImportError(f"the demo text needs django and polib; {pip_line('demo')}") from None
    with atomic_folder(Path(folder)) as draft:
        sizes = _write_all(draft, Path(django.__file__).parent, on_progress or silent)
    return sizes


class Filled(NamedTuple):
    """A held-out message with a word masked, and the words that the model would write there, most probable first."""

    language: str
    text: str
    word: str
    guesses: tuple[tuple[str, float], ...]


class Neighbour(NamedTuple):
    """A held-out message, the one nearest to it in any other language, and whether both are of one English message."""

    language: str
    text: str
    other: str
    neighbour: str
    right: bool


class AtWork(NamedTuple):
    """What a model does with the demo's held-out messages."""

    filled: list[Filled]  # of each language the message in which the model is surest of its first guess
    masked: int  # words that were masked
    in_three: int  # of which so many were among the first three guesses
    neighbours: list[Neighbour]
    asked: int  # messages whose neighbour was looked for
    among: int  # in so many messages of all languages
    right: int  # so many found the same message


def at_work(model: str | Path, text: str | Path) -> AtWork:
    """A model (a folder) at work on what `write_demo_text` wrote, in five languages; it was trained on none of it."""
    from tessera.inference.encoder import Encoder

    encoder = Encoder.from_pretrained(model)
    told = [row for path in sorted(Path(text, "bitext").glob("*.jsonl.zst")) for row in _rows(path)]
    filled = [_filled(encoder, told, language) for language in _IN]
    masked = [one for several in filled for one in several]
    surest = [max(several, key=lambda one: [p for _, p in one.guesses[:1]]) for several in filled if several]
    near = _neighbours(encoder, told)
    shown = {one.language: one for one in near[::-1] if _is_shown(one.text) and _is_shown(one.neighbour)}
    return AtWork(
        filled=surest,
        masked=len(masked),
        in_three=sum(one.word in [guess for guess, _ in one.guesses] for one in masked),
        neighbours=[shown[language] for language in _IN if language in shown],
        asked=len(near),
        among=len(told),
        right=sum(one.right for one in near),
    )


def _filled(encoder: Any, told: list[dict[str, str]], language: str) -> list[Filled]:
    """Every word of the short messages of a language that is one token, masked."""
    tokenizer, made = encoder.tokenizer, []
    mask = tokenizer.token(tokenizer.mask_id)
    for row in told:
        words = row["src"].split(" ")
        if row["src_lang"] != language or not _is_shown(row["src"]):
            continue
        for place, word in enumerate(words[1:], 1):
            if len(word) > 1 and len(tokenizer.encode_plain([f" {word}"])[0]) == 1:
                masked = " ".join([*words[: place - 1], words[place - 1] + mask, *words[place + 1 :]])
                best = encoder.fill_mask(masked, top_k=200)[0]
                words_first = [(g.text[1:], g.probability) for g in best if _is_word(g.text)]
                made.append(Filled(language, masked, word, tuple(words_first[:3])))
    return made


def _is_word(token: str) -> bool:
    return len(token) > 2 and token[0] == " " and all(unicodedata.category(letter)[0] in "LM" for letter in token[1:])


def _is_shown(text: str) -> bool:
    return 20 < len(text) < _LONGEST and not set("%{\n") & set(text)


def _neighbours(encoder: Any, told: list[dict[str, str]]) -> list[Neighbour]:
    vectors = encoder.encode([row["src"] for row in told])
    made = []
    for number, row in enumerate(told):
        if row["src_lang"] in _IN:
            scores = encoder.similarity(vectors[number : number + 1], vectors)[0]
            scores[[other["src_lang"] == row["src_lang"] for other in told]] = -1
            near = told[int(scores.argmax())]
            same = near["tgt"] == row["tgt"]
            made.append(Neighbour(row["src_lang"], row["src"], near["src_lang"], near["src"], same))
    return made


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _write_all(folder: Path, django: Path, report: Progress) -> dict[str, int]:
    sizes: dict[str, int] = {}
    pairs: list[dict[str, str]] = []
    english: dict[str, _Message] = {}
    for done, (locale, language) in enumerate(sorted(LOCALES.items())):
        report(done, len(LOCALES), f"demo text: {language}")
        messages = list(_messages(django, locale))
        if sum(len(message.text.encode()) for message in messages) < _FEWEST_BYTES:
            continue
        for message in messages:
            english.setdefault(message.english, message._replace(text=message.english))
        train, held = _split(messages)
        sizes[language] = _write_language(folder, language, _documents(train), _documents(held))
        pairs += [_pair(m, language) for m in train if len(m.english) >= 8]
        bitext = {m.english: _pair(m, language) for m in held if len(m.english) >= 20 and len(m.english.split()) >= 4}
        if len(bitext) >= _FEWEST_PAIRS:
            _write(folder / "bitext" / f"{language}-eng.jsonl.zst", bitext.values())
    _write(folder / "pairs.jsonl.zst", pairs)
    train, held = _split(english.values())
    code, train_docs, held_docs = _standard_library()
    sizes[ENGLISH] = _write_language(folder, ENGLISH, _documents(train) + train_docs, _documents(held) + held_docs)
    sizes["code"] = _write(folder / "code.jsonl.zst", [{**document, "lang": "code"} for document in code])
    report(len(LOCALES), len(LOCALES), "demo text")
    return dict(sorted(sizes.items()))


def _messages(django: Path, locale: str) -> Iterator[_Message]:
    """What is translated, in the order of the catalogues; of plurals the last form."""
    import polib

    for path in sorted(django.glob(f"**/locale/{locale}/LC_MESSAGES/*.po")):
        catalogue = f"{path.parents[3].relative_to(django)}/{path.stem}"
        for entry in polib.pofile(str(path)):
            if not entry.translated() or entry.obsolete:
                continue
            english, text = entry.msgid, entry.msgstr
            if entry.msgid_plural:
                english, text = entry.msgid_plural, entry.msgstr_plural[max(entry.msgstr_plural)]
            if text.strip() and text != english:
                yield _Message(catalogue, english.strip(), text.strip())


def _split(messages: Iterable[_Message]) -> tuple[list[_Message], list[_Message]]:
    """Messages to train on and held out: a text is on one side only, and there once."""
    train: dict[str, _Message] = {}
    held: dict[str, _Message] = {}
    for message in messages:
        (held if _is_held_out(message.english) else train).setdefault(message.text, message)
    return list(train.values()), [message for text, message in held.items() if text not in train]


def _documents(messages: list[_Message]) -> list[dict[str, str]]:
    by_catalogue: dict[str, list[str]] = {}
    for message in messages:
        by_catalogue.setdefault(message.catalogue, []).append(message.text)
    return [
        {"text": "\n".join(texts[start : start + _MESSAGES]), "id": f"django/{catalogue}/{start}"}
        for catalogue, texts in by_catalogue.items()
        for start in range(0, len(texts), _MESSAGES)
    ]


def _standard_library() -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
    """Modules as code, and docstrings to train on and held out. Held-out modules are no code: it holds docstrings."""
    root = Path(sysconfig.get_paths()["stdlib"])
    code: list[dict[str, str]] = []
    docs: dict[bool, list[dict[str, str]]] = {False: [], True: []}
    sizes = {"code": 0, "docs": 0}
    tops = [p for p in root.iterdir() if p.name not in _NOT_READ]
    files = [p for top in tops for p in (top.rglob("*.py") if top.is_dir() else [top]) if p.suffix == ".py"]
    files = [p for p in files if not set(p.relative_to(root).parts) & set(_NOT_READ)]
    for path in sorted(files, key=lambda p: _hash(str(p.relative_to(root)))):  # a mixed sample where size runs out
        if min(sizes.values()) > 0.98 * _MOST_BYTES:
            break
        name = path.relative_to(root).as_posix()
        try:
            source = path.read_text(encoding="utf-8")
            strings = _docstrings(ast.parse(source))
        except (ValueError, SyntaxError):  # some modules of the standard library are written to be broken
            continue
        held = _is_held_out(name)
        if not held and len(source) > 500 and sizes["code"] + len(source) < _MOST_BYTES:
            code.append({"text": source, "id": f"python/{name}"})
            sizes["code"] += len(source)
        text = "\n\n".join(strings)
        if len(text) > 200 and sizes["docs"] + len(text) < _MOST_BYTES:
            docs[held].append({"text": text, "id": f"python/{name}/doc"})
            sizes["docs"] += len(text)
    return code, docs[False], docs[True]


def _docstrings(tree: ast.Module) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [inspect.cleandoc(text) for text in found if text and len(text.split()) >= 8]


def _write_language(folder: Path, language: str, train: list[dict[str, str]], held: list[dict[str, str]]) -> int:
    _write(folder / "held_out" / f"{language}.jsonl.zst", [{**document, "lang": language} for document in held])
    return _write(folder / "train" / f"{language}.jsonl.zst", [{**document, "lang": language} for document in train])


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes rows as jsonl.zst; returns the UTF-8 bytes of their `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with zstandard.open(path, "wb") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            size += len(row.get("text", "").encode())
    return size


def _pair(message: _Message, language: str) -> dict[str, str]:
    return {"src": message.text, "tgt": message.english, "src_lang": language, "tgt_lang": ENGLISH}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=b"demo").digest(), "big")


def _is_held_out(name: str) -> bool:
    return _hash(name) < _HELD_OUT * 2**64
