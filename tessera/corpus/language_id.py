"""Language identification, asked only to find texts that are surely in another language than they are said to be in.

A document is only suspected where the identifier was taught its language, in its script, and where one other language
that is written in that script is as probable as asked for. Two languages are one where

- ISO 639-3 makes them members of one macrolanguage (nob and nno, hrv and srp, ind and zsm, cmn and yue), or
- the identifier took good texts of the one for the other on the corpus that this was tried on (see _CLOSE).

Of a macrolanguage's members only the one that its name usually stands for is taken to be taught: who knows "ar" knows
arb, not the dialects; who knows "ms" knows zsm, not Banjar.
"""

import contextlib
import functools
import importlib.util
import io
import math
import re
import struct
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera.data.languages import language_code, script_of, written_with
from tessera.plan.languages import spelled
from tessera.plan.shipped import pip_line

PY3LANGID = "py3langid"

_FIRST, _SECOND = 300, 1_000  # characters: who is at home in the first is asked no further
_NO_LANGUAGE = ("zxx", "und", "mul", "mis")
_FASTTEXT_MAGIC = (793_712_314).to_bytes(4, "little")
# Magic number, version, 12 settings (first the dimension, ninth the buckets), one more, then how many entries
# the vocabulary has, of them words, of them labels. fastText reads on for ever in a file that is cut short in there.
_FASTTEXT_HEAD = struct.Struct("<14id3i")

# What the name of a macrolanguage, and its code of two letters, usually stand for, where CLDR's canonical codes (which
# langcodes has) say otherwise or nothing. Tagalog is no macrolanguage, but Filipino is its standard form.
_STANDS_FOR = {
    "bal": "bgn", "cre": "crk", "den": "scs", "ful": "fuv", "gba": "gbp", "grb": "grv", "hbs": "srp", "hmn": "mww",
    "ipk": "esi", "jrb": "yhd", "kln": "niq", "kok": "gom", "luy": "lwg", "mwr": "rwr", "nor": "nob", "pus": "pbt",
    "srd": "sro", "syr": "aii", "tgl": "fil",
}  # fmt: skip
# Taken for each other by py3langid at 0.9 on texts that a reader found to be in the language that they said.
_CLOSE = (
    ("eng", "pcm"),  # a fifth of the Nigerian Pidgin, whose words are those of English
    ("nso", "sot"),  # both Sotho; its Wikipedia mixes them
    ("ell", "grc"),  # Greek of 1948 with all its accents
    ("heb", "hbo"),
    ("ibo", "yor"),  # Igbo written with tone marks, as Yoruba always is
)
# Scripts of the languages that identifiers with bare labels ("fo") know; the others are written in Latin.
_SCRIPTS_OF_BARE = {
    language: tuple(scripts.split("+"))
    for scripts, languages in re.findall(
        r"([\w+]+)=([\w\s]+)",
        """
        Arab=ara ary arz azb ckb fas glk lrc mzn pnb pus sdh snd uig urd; Armn=hye hyw; Beng=asm ben bpy; Deva=awa bho
        bih dty gom hin mai mar nep new san; Ethi=amh tir; Geor=kat xmf; Grek=ell grc; Gujr=guj; Guru=pan; Hani=cdo
        gan lzh wuu yue zho; Hang=kor; Hebr=hbo heb yid; Jpan=jpn; Khmr=khm; Knda=kan; Laoo=lao; Mlym=mal; Mymr=mya;
        Orya=ori; Sinh=sin; Taml=tam; Telu=tel; Thaa=div; Thai=tha; Tibt=bod dzo; Cyrl=abk ady alt ava bak bel bul bxr
        che chm chu chv inh kaz kbd khk kir kom koi krc lbe lez mdf mhr mkd mon mrj myv oss rue rus sah tat tgk tyv
        udm ukr xal; Cyrl+Latn=hbs srp; Latn+Cyrl=uzb
        """,
    )
    for language in languages.split()
}


class _Label(NamedTuple):
    code: str  # as tessera writes it
    taught: frozenset[str]  # ISO 639-3 codes that this label stands for
    scripts: frozenset[str]  # whose letters it is written with; none: any


class _Suspects(NamedTuple):
    """What a declared language means among the labels of an identifier."""

    own: NDArray[np.intp]  # labels that speak for it
    others: NDArray[np.bool_]  # [labels] that speak against it


class Identifier:
    """Labels, and their probabilities for a text. Give it texts that hold letters."""

    def __init__(self, name: str, model: "_Py3langid | _FastText") -> None:
        self.name = name
        self._model = model
        self._labels = [_label(given) for given in model.labels]
        groups = [_group(label.code) for label in self._labels]
        self._group_names = sorted(set(groups))
        self._groups = np.array([self._group_names.index(group) for group in groups], dtype=np.intp)
        self._suspects_of = functools.cache(self._find_suspects)

    def other_language(self, text: str, language: str, min_probability: float) -> str | None:
        """The language that a text is surely in, where that is another one than the declared one.

        Read are the first 300 characters and, where the declared language is not the likeliest there, the first 1,000.
        None where the declared language was not taught.
        """
        suspects = self._suspects_of(language)
        if suspects is None:
            return None
        for length in (_FIRST, _SECOND):
            found = self._model.probabilities(text[:length])
            by_group = np.bincount(self._groups, weights=found * suspects.others, minlength=len(self._group_names))
            likeliest = int(by_group.argmax())
            if by_group[likeliest] <= found[suspects.own].sum():
                return None
            if len(text) <= length:
                break
        if by_group[likeliest] < min_probability:
            return None
        return self._labels[int((found * (self._groups == likeliest) * suspects.others).argmax())].code

    def likeliest(self, text: str) -> str:
        """The language that the first 1,000 characters of a text seem to be in, however sure that is: `fao_Latn`."""
        label = self._labels[int(self._model.probabilities(text[:_SECOND]).argmax())]
        return label.code if script_of(label.code) else spelled(label.code)

    def _find_suspects(self, language: str) -> _Suspects | None:
        """None where documents that are said to be in this language cannot be judged."""
        script, bare = script_of(language), language[:3]
        letters = frozenset(written_with(script)) if script else frozenset()
        fits = np.array([not letters or not label.scripts or bool(letters & label.scripts) for label in self._labels])
        if not any(fit and bare in label.taught for label, fit in zip(self._labels, fits, strict=True)):
            return None
        group = _group(bare)
        own = np.array([name == group for name in self._group_names])[self._groups]
        language_like = np.array([label.code not in _NO_LANGUAGE for label in self._labels])
        return _Suspects(own=np.flatnonzero(own), others=fits & ~own & language_like)


@functools.cache
def identifier(model: str) -> Identifier:
    """Loads an identifier, once in each process.

    model  "py3langid", or the file of a fastText model

    Raises ImportError where its package is missing, ValueError where the file is no model.
    """
    check(model)
    if model == PY3LANGID:
        return Identifier(PY3LANGID, _Py3langid())
    return Identifier("fastText", _FastText(Path(model).expanduser()))


def check(model: str) -> None:
    """Raises what `identifier` would raise where that can be seen without loading it."""
    if model == PY3LANGID:
        _ask_for("py3langid", "langcodes")
        return
    path = Path(model).expanduser()
    if not path.is_file():
        raise ValueError(
            f"corpus.filters.language.model: no file at {model!r}; give the file of a fastText model (lid.176.bin, "
            f"GlotLID's model.bin), or {PY3LANGID!r}"
        )
    with path.open("rb") as file:
        head = file.read(_FASTTEXT_HEAD.size)
    if head[:4] != _FASTTEXT_MAGIC:
        raise ValueError(f"{path}: not a fastText model; give a .bin or .ftz file as fastText saves it")
    if importlib.util.find_spec("fasttext") is None:
        raise ImportError(f"{path} is a fastText model; pip install fasttext-numpy2-wheel")
    _ask_for("langcodes")
    least = _FASTTEXT_HEAD.size
    if len(head) == least and path.suffix != ".ftz":  # .ftz is quantised: smaller, by how much it does not say here
        dim, buckets, words, labels = (_FASTTEXT_HEAD.unpack(head)[place] for place in (2, 10, 16, 17))
        least += 4 * dim * (words + buckets + labels)
    if path.stat().st_size < least:
        raise ValueError(
            f"{path}: cut short, it has {path.stat().st_size:,} bytes and needs {least:,} or more; copy it again. "
            "(Where it is quantised, call it .ftz.)"
        )


def _ask_for(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"corpus.filters.language needs {package}; {pip_line('prepare')}")


class _Py3langid:
    """The model of py3langid, scored as py3langid does it, but for all bytes of a text at once.

    Its automaton is in a state that depends on the last few bytes only, so every position can be walked to on its own.
    """

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        classes: list[str] = model.nb_classes
        self.labels = list(dict.fromkeys(classes))
        self._columns = np.array([self.labels.index(name) for name in classes], dtype=np.intp)
        self._next = np.array(model.tk_nextmove, dtype=np.int32)
        self._row = np.array(model.tk_row, dtype=np.intp) << 8
        self._feature = np.array(model.tk_output, dtype=np.int32)
        self._weights = model.nb_ptc.astype(np.float32)
        self._prior = model.nb_pc
        self._depth = self._deepest()

    def probabilities(self, text: str) -> NDArray[np.floating[Any]]:
        """Float [labels]"""
        text = unicodedata.normalize("NFC", text.lower() if text.isupper() else text)
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.intp)
        state = np.zeros(len(data), dtype=np.int32)  # at each byte, that of the bytes that lead up to it
        for back in range(min(self._depth, len(data)) - 1, -1, -1):
            state[back:] = self._next[self._row[state[back:]] + data[: len(data) - back]]
        features = self._feature[state]
        found, counts = np.unique(features[features >= 0], return_counts=True)
        if not len(found):
            return np.bincount(self._columns) / len(self._columns)
        scores = np.log1p(counts.astype(np.float32)) @ self._weights[found] + self._prior
        scores = np.exp((scores - scores.max()) / math.sqrt(len(data)))  # as it cools them
        return np.bincount(self._columns, weights=scores / scores.sum()).astype(np.float64)

    def _deepest(self) -> int:
        """How many bytes back a state can reach."""
        reached = np.zeros(len(self._row), dtype=bool)
        after = self._next.reshape(-1, 256)
        front, depth = np.zeros(1, dtype=np.intp), -1
        while len(front):
            reached[front] = True
            now = reached.copy()
            now[after[np.unique(self._row[front] >> 8)]] = True
            front, depth = np.flatnonzero(now & ~reached), depth + 1
        return depth


class _FastText:
    """A fastText model whose labels are languages: __label__fao_Latn, __label__fao or __label__fo."""

    _likeliest = 10  # labels; the others are left at nothing

    def __init__(self, path: Path) -> None:
        import fasttext

        try:
            with contextlib.redirect_stderr(io.StringIO()):  # it warns of its own change of 2019
                self._model = fasttext.load_model(str(path))
            given: list[str] = self._model.get_labels()
        except (ValueError, RuntimeError, MemoryError) as error:
            raise ValueError(f"{path}: not a fastText model ({error}); copy it again") from None
        known = {name: label for name in given if (label := _fasttext_language(name))}
        if len(set(known.values())) < 2:
            raise ValueError(
                f"{path}: its labels are no languages ({', '.join(given[:3])} ...); give a model with labels like "
                "__label__fao_Latn or __label__fo"
            )
        self.labels = list(dict.fromkeys(known.values()))
        self._column = {name: self.labels.index(label) for name, label in known.items()}

    def probabilities(self, text: str) -> NDArray[np.floating[Any]]:
        """Float [labels]"""
        result = np.zeros(len(self.labels))
        names, found = self._model.predict(" ".join(text.split()), k=self._likeliest)  # it reads one line
        for name, probability in zip(names, found, strict=True):
            if name in self._column:
                result[self._column[name]] += min(1.0, float(probability))
        return result


def _fasttext_language(name: str) -> str | None:
    """What a label of fastText names; None where that is no language."""
    code = name.removeprefix("__label__")
    if code == "als":
        return "gsw"  # lid.176 has the codes of Wikipedia, where this is Alemannic; Albanian has a script: als_Latn
    try:
        return language_code(code.replace("-", "_"))
    except ValueError:
        return None


def _label(given: str) -> _Label:
    code = language_code(given)
    bare, script = code[:3], script_of(code)
    scripts = (script,) if script else _SCRIPTS_OF_BARE.get(bare, ("Latn",))
    stands_for = _macrolanguages()[1]
    return _Label(
        code=code,
        taught=frozenset(
            (bare, stands_for.get(bare, bare), *(m for m, member in stands_for.items() if member == bare))
        ),
        scripts=frozenset(letters for name in scripts for letters in written_with(name)),
    )


@functools.cache
def _macrolanguages() -> tuple[dict[str, str], dict[str, str]]:
    """{member: macrolanguage} and {macrolanguage: the member it stands for}, codes of ISO 639-3."""
    from langcodes import Language
    from langcodes.data_dicts import MACROLANGUAGES, NORMALIZED_MACROLANGUAGES

    def alpha3(code: str) -> str:
        return Language.get(code, normalize=False).to_alpha3()

    group_of = {alpha3(member): alpha3(macro) for member, macro in MACROLANGUAGES.items()}
    usual = {alpha3(macro): alpha3(member) for member, macro in NORMALIZED_MACROLANGUAGES.items()}
    stands_for = {macro: usual.get(macro, "") for macro in group_of.values()} | _STANDS_FOR
    return group_of | {"fil": "tgl"}, stands_for


@functools.cache
def _group(code: str) -> str:
    """What languages that are not told apart have in common."""
    group_of, _ = _macrolanguages()
    close = {b: group_of.get(a, a) for a, b in _CLOSE}
    return close.get(code[:3], group_of.get(code[:3], code[:3]))
