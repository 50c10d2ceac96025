"""Language codes and scripts: codes as FineWeb2 writes them (`fao_Latn`), and which script a text is in.

A code is ISO 639-3 and ISO 15924. What script a letter belongs to is read off its name in the Unicode database that
Python carries, so no list of ranges is kept here.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from tessera.plan.errors import some
from tessera.plan.languages import ISO_639_1, spelled, usual_script

_FULL = r"[a-z]{3}_[A-Z][a-z]{3}"

_CHINESE = frozenset({"Hans", "Hant", "Hani"})  # one script, as far as this goes
_ISO_639_3 = frozenset(ISO_639_1.values())


def language_code(given: str) -> str:
    """A language as tessera writes it: ISO 639-3 and a script (`fao_Latn`), a bare ISO 639-3 code, or one of `code`,
    `math`, `code_Python` and the like. ISO 639-1 becomes ISO 639-3. Anything else is a ValueError.
    """
    if re.fullmatch(rf"{_FULL}|[a-z]{{3}}|code|math|code_\S{{1,60}}", given) and given.isprintable():
        return given
    if given in ISO_639_1:
        return ISO_639_1[given]
    raise ValueError(
        f"unknown language {given[:80]!r}; write ISO 639-3, best with a script, as in fao_Latn or cmn_Hans"
    )


def language_of_path(path: PurePath) -> str | None:
    """What `fao_Latn.jsonl.zst`, `fo.txt`, `code.jsonl` or `fao_Latn/train/000.parquet` say about their language.

    A bare three-letter name counts only where it is a language of ISO 639-1: `web.jsonl` is no language.
    """
    name = path.name.split(".")[0]
    if re.fullmatch(rf"{_FULL}|code|math", name) or name in _ISO_639_3:
        return name
    if name in ISO_639_1:
        return ISO_639_1[name]
    return next((part for part in reversed(path.parts[:-1]) if re.fullmatch(_FULL, part)), None)


def doubts(codes: Iterable[str]) -> Iterator[str]:
    """What is odd about the languages of a corpus: codes that nobody gave, one language in two spellings, a script in
    which it is seldom written. One line each.
    """
    from langcodes import tag_is_valid

    known = sorted(code for code in codes if re.fullmatch(rf"{_FULL}|[a-z]{{3}}", code))
    if unknown := [code for code in known if not tag_is_valid(code.replace("_", "-"))]:
        yield f"no language or script has these codes: {some(unknown)}; see that they are meant"
    spellings: dict[str, list[str]] = {}
    for code in known:
        bare = code[:3] in known and code[:3] == spelled(code[:3])  # whose script nobody knows
        spellings.setdefault(code[:3] if bare else spelled(code), []).append(code)
    if twice := [" and ".join(names) for names in spellings.values() if len(names) > 1]:
        yield f"one language in several spellings, each counted by itself: {some(twice)}; use one"
    usual = {code: usual_script(code[:3]) for code in known if "_" in code and code not in unknown}
    rare = [
        f"{code} (usually {script})"
        for code, script in usual.items()
        if script not in (None, code[4:]) and not {script, code[4:]} <= _CHINESE
    ]
    if rare:
        yield f"in a script that is unusual for the language: {some(rare)}; see that it is meant"


# ------------------------------------------------------------------------------------------------------------- scripts

CHARACTERS_A_WORD = 4  # where words have no spaces between them, n words in a row are 4 x n characters in a row

_HAN = slice(0x20000, 0x40000)  # rare characters: two planes with nothing else
_TANGUT = slice(0x17000, 0x18800)  # whose characters have no names in some versions of Python

# The first words of the names of its letters; two words are joined by an underscore.
_NAMES = dict(
    re.findall(
        r"(\S+)=(\w{4})",
        """
        ADLAM=Adlm AHOM=Ahom ANATOLIAN_HIEROGLYPH=Hluw ARABIC=Arab ARMENIAN=Armn AVESTAN=Avst BALINESE=Bali BAMUM=Bamu
        BASSA_VAH=Bass BATAK=Batk BENGALI=Beng BHAIKSUKI=Bhks BOPOMOFO=Bopo BRAHMI=Brah BUGINESE=Bugi BUHID=Buhd
        CANADIAN_SYLLABICS=Cans CARIAN=Cari CAUCASIAN_ALBANIAN=Aghb CHAKMA=Cakm CHAM=Cham CHEROKEE=Cher
        CHORASMIAN=Chrs CJK_UNIFIED=Hani CJK_COMPATIBILITY=Hani IDEOGRAPHIC=Hani COPTIC=Copt CUNEIFORM=Xsux
        CYPRIOT_SYLLABLE=Cprt CYPRO-MINOAN=Cpmn CYRILLIC=Cyrl DESERET=Dsrt DEVANAGARI=Deva DIVES_AKURU=Diak DOGRA=Dogr
        DUPLOYAN=Dupl EGYPTIAN_HIEROGLYPH=Egyp ELBASAN=Elba ELYMAIC=Elym ETHIOPIC=Ethi GARAY=Gara GEORGIAN=Geor
        GLAGOLITIC=Glag GOTHIC=Goth GRANTHA=Gran GREEK=Grek GUJARATI=Gujr GUNJALA_GONDI=Gong GURMUKHI=Guru
        GURUNG_KHEMA=Gukh HALFWIDTH_HANGUL=Hang HANGUL=Hang HANIFI_ROHINGYA=Rohg HANUNOO=Hano HATRAN=Hatr HEBREW=Hebr
        HIRAGANA=Kana HENTAIGANA=Kana IMPERIAL_ARAMAIC=Armi INSCRIPTIONAL_PAHLAVI=Phli INSCRIPTIONAL_PARTHIAN=Prti
        JAVANESE=Java KAITHI=Kthi KANNADA=Knda KATAKANA=Kana HALFWIDTH_KATAKANA=Kana KATAKANA-HIRAGANA=Kana KAWI=Kawi
        KAYAH_LI=Kali KHAROSHTHI=Khar KHITAN_SMALL=Kits KHMER=Khmr KHOJKI=Khoj KHUDAWADI=Sind KIRAT_RAI=Krai LAO=Laoo
        LATIN=Latn FULLWIDTH_LATIN=Latn LEPCHA=Lepc LIMBU=Limb LINEAR_A=Lina LINEAR_B=Linb LISU=Lisu LYCIAN=Lyci
        LYDIAN=Lydi MAHAJANI=Mahj MAKASAR=Maka MALAYALAM=Mlym MANDAIC=Mand MANICHAEAN=Mani MARCHEN=Marc
        MASARAM_GONDI=Gonm MEDEFAIDRIN=Medf MEETEI_MAYEK=Mtei MENDE_KIKAKUI=Mend MEROITIC_CURSIVE=Merc
        MEROITIC_HIEROGLYPHIC=Mero MIAO=Plrd MODI=Modi MONGOLIAN=Mong MRO=Mroo MULTANI=Mult MYANMAR=Mymr
        NABATAEAN=Nbat NAG_MUNDARI=Nagm NANDINAGARI=Nand NEW_TAI=Talu NEWA=Newa NKO=Nkoo NUSHU=Nshu
        NYIAKENG_PUACHUE=Hmnp OGHAM=Ogam OL_CHIKI=Olck OL_ONAL=Onao OLD_HUNGARIAN=Hung OLD_ITALIC=Ital OLD_NORTH=Narb
        OLD_PERMIC=Perm OLD_PERSIAN=Xpeo OLD_SOGDIAN=Sogo OLD_SOUTH=Sarb OLD_TURKIC=Orkh OLD_UYGHUR=Ougr ORIYA=Orya
        OSAGE=Osge OSMANYA=Osma PAHAWH_HMONG=Hmng PALMYRENE=Palm PAU_CIN=Pauc PHAGS-PA=Phag PHOENICIAN=Phnx
        PSALTER_PAHLAVI=Phlp REJANG=Rjng RUNIC=Runr SAMARITAN=Samr SAURASHTRA=Saur SHARADA=Shrd SHAVIAN=Shaw
        SIDDHAM=Sidd SINHALA=Sinh SOGDIAN=Sogd SORA_SOMPENG=Sora SOYOMBO=Soyo SUNDANESE=Sund SUNUWAR=Sunu
        SYLOTI_NAGRI=Sylo SYRIAC=Syrc TAGALOG=Tglg TAGBANWA=Tagb TAI_LE=Tale TAI_THAM=Lana TAI_VIET=Tavt TAKRI=Takr
        TAMIL=Taml TANGSA=Tnsa TANGUT=Tang TELUGU=Telu THAANA=Thaa THAI=Thai TIBETAN=Tibt TIFINAGH=Tfng TIRHUTA=Tirh
        TODHRI=Todr TOTO=Toto TULU-TIGALARI=Tutg UGARITIC=Ugar VAI=Vaii VITHKUQI=Vith WANCHO=Wcho WARANG_CITI=Wara
        YEZIDI=Yezi YI=Yiii ZANABAZAR_SQUARE=Zanb
        """,
    )
)
# Scripts that are not what letters are named after: what they write with.
_WRITTEN_WITH = {
    script: tuple(letters.split("+"))
    for script, letters in re.findall(
        r"(\w{4})=(\S+)",
        """
        Hans=Hani Hant=Hani Hanb=Hani+Bopo Jpan=Hani+Kana Hira=Kana Hrkt=Kana Kore=Hang+Hani Jamo=Hang Latf=Latn
        Latg=Latn Aran=Arab Cyrs=Cyrl Geok=Geor Syre=Syrc Syrj=Syrc Syrn=Syrc
        """,
    )
}
_NO_SPACES = frozenset(
    re.findall(r"\w+", "Hani Hans Hant Hanb Jpan Hira Kana Hrkt Bopo Thai Laoo Khmr Mymr Tibt Lana Tale Talu Java Bali")
)
_NO_SPACES_BARE = frozenset(re.findall(r"\w+", "zho cmn yue wuu gan hsn nan hak cdo lzh jpn tha lao khm mya bod dzo"))

_CODES = ("", *sorted(set(_NAMES.values())))  # the first: what is no letter, or one of a script that is not in the list
_LATIN = _CODES.index("Latn")


def script_of(language: str) -> str | None:
    """The script in a code like `fao_Latn`; None where it has none that letters are known of (`fao`, `code_Python`)."""
    script = language[4:]
    return script if script in _WRITTEN_WITH or script in _CODES[1:] else None


def written_with(script: str) -> tuple[str, ...]:
    """The scripts whose letters it writes with: Jpan is Hani and Kana, most are themselves."""
    return _WRITTEN_WITH.get(script, (script,))


def has_spaces(language: str) -> bool:
    """Whether words have spaces between them. Where a code has no script the language decides."""
    return language[4:] not in _NO_SPACES and language not in _NO_SPACES_BARE


def other_script(text: str, script: str, *, min_share: float, min_letters: int) -> str | None:
    """The commonest script of a text, where a share of at least `min_share` of its letters is not in the given one.

    None too where the text has fewer letters than `min_letters`. Hiragana and Katakana count as one script, Kana.
    """
    own = [_CODES.index(code) for code in written_with(script)]
    if text.isascii() and own == [_LATIN]:
        return None
    counts = np.bincount(_scripts()[code_points(text)], minlength=len(_CODES))
    counts[0] = 0
    letters = int(counts.sum())
    counts[own] = 0
    foreign = int(counts.sum())
    return _CODES[int(counts.argmax())] if letters >= min_letters and 0 < min_share * letters <= foreign else None


def scripts_in(text: str) -> dict[str, float]:
    """The share of its letters in each script, the commonest first; empty where there are no letters."""
    counts = np.bincount(_scripts()[code_points(text)], minlength=len(_CODES))
    counts[0] = 0
    total = max(1, int(counts.sum()))
    return {_CODES[i]: counts[i] / total for i in np.argsort(-counts, kind="stable") if counts[i]}


def code_points(text: str) -> NDArray[np.uint32]:
    """uint32 [characters]"""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@functools.cache
def spaceless_letters() -> NDArray[np.bool_]:
    """bool [code points]: letters of scripts without spaces between words."""
    return np.isin(_scripts(), [_CODES.index(code) for code in _NO_SPACES if code in _CODES])


@functools.cache
def _scripts() -> NDArray[np.uint8]:
    """uint8 [code points]: where in _CODES the script of a letter or mark stands."""
    table = np.zeros(0x110000, dtype=np.uint8)
    table[_HAN], table[_TANGUT] = _CODES.index("Hani"), _CODES.index("Tang")
    place = {name: _CODES.index(code) for name, code in _NAMES.items()}
    for point in range(_HAN.start):
        character = chr(point)
        if not table[point] and unicodedata.category(character)[0] in "LM":
            first, _, rest = unicodedata.name(character, "").partition(" ")
            table[point] = place.get(first) or place.get(f"{first}_{rest.partition(' ')[0]}", 0)
    return table
