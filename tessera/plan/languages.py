"""Language codes in one spelling: ISO 639-3 and ISO 15924 joined as in FineWeb2, so that results of any task compare.

Sets call their languages deu, de, deu-Latn or deu_Latn; a result says deu_Latn, always.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")

ISO_639_1: dict[str, str] = dict(
    re.findall(
        r"(\w\w)=(\w\w\w)",
        """
        aa=aar ab=abk ae=ave af=afr ak=aka am=amh an=arg ar=ara as=asm av=ava ay=aym az=aze ba=bak be=bel bg=bul bi=bis
        bm=bam bn=ben bo=bod br=bre bs=bos ca=cat ce=che ch=cha co=cos cr=cre cs=ces cu=chu cv=chv cy=cym da=dan de=deu
        dv=div dz=dzo ee=ewe el=ell en=eng eo=epo es=spa et=est eu=eus fa=fas ff=ful fi=fin fj=fij fo=fao fr=fra fy=fry
        ga=gle gd=gla gl=glg gn=grn gu=guj gv=glv ha=hau he=heb hi=hin ho=hmo hr=hrv ht=hat hu=hun hy=hye hz=her ia=ina
        id=ind ie=ile ig=ibo ii=iii ik=ipk io=ido is=isl it=ita iu=iku ja=jpn jv=jav ka=kat kg=kon ki=kik kj=kua kk=kaz
        kl=kal km=khm kn=kan ko=kor kr=kau ks=kas ku=kur kv=kom kw=cor ky=kir la=lat lb=ltz lg=lug li=lim ln=lin lo=lao
        lt=lit lu=lub lv=lav mg=mlg mh=mah mi=mri mk=mkd ml=mal mn=mon mr=mar ms=msa mt=mlt my=mya na=nau nb=nob nd=nde
        ne=nep ng=ndo nl=nld nn=nno no=nor nr=nbl nv=nav ny=nya oc=oci oj=oji om=orm or=ori os=oss pa=pan pi=pli pl=pol
        ps=pus pt=por qu=que rm=roh rn=run ro=ron ru=rus rw=kin sa=san sc=srd sd=snd se=sme sg=sag sh=hbs si=sin sk=slk
        sl=slv sm=smo sn=sna so=som sq=sqi sr=srp ss=ssw st=sot su=sun sv=swe sw=swa ta=tam te=tel tg=tgk th=tha ti=tir
        tk=tuk tl=tgl tn=tsn to=ton tr=tur ts=tso tt=tat tw=twi ty=tah ug=uig uk=ukr ur=urd uz=uzb ve=ven vi=vie vo=vol
        wa=wln wo=wol xh=xho yi=yid yo=yor za=zha zh=zho zu=zul
        """,
    )
)
# One language under two codes: what mteb and others write, and what FineWeb2 does.
_SAME = {
    **{"ara": "arb", "aze": "azj", "est": "ekk", "kur": "kmr", "lav": "lvs", "mlg": "plt", "mon": "khk", "msa": "zsm"},
    **{"nep": "npi", "nor": "nob", "ori": "ory", "pes": "fas", "pus": "pbt", "sqi": "als", "swa": "swh", "tgl": "fil"},
    **{"uzb": "uzn", "yid": "ydd", "zho": "cmn"},
}
# The script that a language is usually written in, of those that sets call by their bare codes.
_SCRIPT = {
    language: script
    for script, languages in re.findall(
        r"(\w+)=([\w\s]+)",
        """
        Arab=arb arq ars ary arz acm aeb apc ckb fas kas pbt snd uig urd; Armn=hye hyw; Beng=asm ben;
        Cyrl=abk ava bak bel bul che chu chv kaz khk kir kom mhr mkd orv oss rus srp tat tgk ukr;
        Deva=awa bho hin mai mar npi pli san; Ethi=amh tir; Geor=kat; Grek=ell; Gujr=guj; Guru=pan; Hang=kor;
        Hans=cmn wuu; Hant=yue; Hebr=heb ydd; Jpan=jpn; Khmr=khm; Knda=kan; Laoo=lao; Mlym=mal; Mymr=mya; Orya=ory;
        Sinh=sin; Taml=tam; Telu=tel; Thaa=div; Thai=tha; Tibt=bod dzo; Yiii=iii;
        Latn=aar afr aka als ang arg ast aym azj bam bbj ber bis bos bre cat cbk ceb ces cha cor cos csb cym dan deu dsb
        dtp ekk eng epo eus ewe fao fij fil fin fon fra fry ful gla gle glg glv grn gsw hat hau hbs her hmo hrv hsb hun
        ibo ido ile ina ind ipk isl ita jav kab kal kau kik kin kmr kon kua kzj lat lfn lim lin lit ltz lub lug luo lvs
        mah max mlt mos mri nau nav nbl nde ndo nds nld nno nob nov nya oci orm pam pcm plt pms pol por que roh ron run
        sag slk slv sme smo sna som sot spa srd ssw sun swe swg swh tah ton tsn tso tuk tur twi tzl uzn ven vie vol war
        wln wol xho yor zha zsm zul
        """,
    )
    for language in languages.split()
}


# Codes of the libraries (ISO 639-2/B) and withdrawn ones of ISO 639-1.
_OLDER: dict[str, str] = dict(
    re.findall(
        r"(\w+)=(\w+)",
        """
        alb=sqi arm=hye baq=eus bur=mya chi=zho cze=ces dut=nld fre=fra geo=kat ger=deu gre=ell ice=isl mac=mkd mao=mri
        may=msa per=fas rum=ron slo=slk tib=bod wel=cym in=id iw=he ji=yi jw=jv mo=ro
        """,
    )
)
_FULL = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


def spelled(code: str) -> str:
    """A language of any task or table as FineWeb2 writes it: `de`, `deu` and `deu-Latn` -> `deu_Latn`.

    Two joined by a dash are two languages (`en-de` -> `eng_Latn-deu_Latn`). A code whose script is not known here, and
    what is no code (`code`, `English-EWT`), stays as it is.
    """
    if match := re.fullmatch(r"([a-z]{3})[-_]([A-Z][a-z]{3})", code):
        return f"{_SAME.get(match[1], match[1])}_{match[2]}"
    if re.fullmatch(r"[a-z]{2,3}", code):
        language = ISO_639_1.get(code, code)
        language = _SAME.get(language, language)
        return f"{language}_{_SCRIPT[language]}" if language in _SCRIPT else code
    if match := re.fullmatch(r"([a-z]{2,3}(?:_[A-Z][a-z]{3})?)-([a-z]{2,3}(?:_[A-Z][a-z]{3})?)", code):
        sides = [spelled(side) for side in match.groups()]
        return "-".join(sides) if all("_" in side for side in sides) else code
    return code


def resolve(asked: str, there: Iterable[str]) -> list[str]:
    """Those of the languages of a task or table that the command line means: `ro`, `ron`, `ron-Latn`, `RO`, `rum`,
    `ro-RO` and `Romanian` do the same whatever they are called there.

    What is written the same comes first, then what is spelled the same, then, of a code without a script, the language
    in every script. A pair (`en-de`) is one language here. Empty where none is meant. English names and native ones
    are those that langcodes knows, where it is installed.
    """
    codes, asked = list(dict.fromkeys(there)), asked.strip()
    for same in (str, str.casefold):
        if found := [code for code in codes if same(code) == same(asked)]:
            return found
    meant = (read(asked) for read in (_pair, _tag, _small_tag, _named))
    return next((found for one in meant if one and (found := _spelled_so(one, codes))), [])


def _spelled_so(meant: str, codes: Sequence[str]) -> list[str]:
    """Of some codes those of a language as `_tag` or `_pair` has it; of one without a script the usual comes first."""
    own = {code: one if (one := spelled(code)) != code else _tag(code) or code for code in codes}
    language, bare = meant[:3], len(meant) == 3
    whole = f"{language}_{_SCRIPT.get(language, '')}" if bare else meant
    found = [code for code, one in own.items() if one in (whole, language)]
    others = [code for code, one in own.items() if bare and _FULL.fullmatch(one) and one[:3] == language]
    return list(dict.fromkeys(found + others))


def _pair(asked: str) -> str | None:
    """Two languages joined by a dash, in any letters."""
    sides = [_tag(side) for side in asked.lower().split("-")]
    whole = [side if _FULL.fullmatch(side) else f"{side}_{_SCRIPT.get(side, '')}" for side in sides if side]
    return "-".join(whole) if len(sides) == len(whole) == 2 and all(map(_FULL.fullmatch, whole)) else None


def _tag(asked: str) -> str | None:
    """A tag of BCP 47 as languages are spelled here: ro and ro-RO -> ron, RO_latn -> ron_Latn, zh-TW -> cmn_Hant."""
    language, *more = asked.replace("_", "-").split("-")
    language = language.lower()
    scripts = [one.title() for one in more if re.fullmatch("[A-Za-z]{4}", one)]
    regions = [one.upper() for one in more if re.fullmatch("(?!EN)[A-Z]{2}|[0-9]{3}", one)]
    if not re.fullmatch("[a-z]{2,3}", language) or len(scripts) > 1 or len(scripts) + len(regions) < len(more):
        return None
    language = _OLDER.get(language, language)
    language = ISO_639_1.get(language, language)
    language = _SAME.get(language, language)
    if not scripts and language == "cmn" and regions:
        scripts = ["Hant" if regions[0] in ("TW", "HK", "MO") else "Hans"]
    return "_".join((language, *scripts))


def _small_tag(asked: str) -> str | None:
    """A tag whose region is in small letters, as zh_cn, unless it may be a pair (ro-en)."""
    return _tag(asked.upper()) if _pair(asked) is None else None


def _named(asked: str) -> str | None:
    """The language that a word is the name of."""
    if len(asked) < 4:
        return None
    try:
        from langcodes import find

        return _tag(str(find(asked)))
    except (ImportError, LookupError):
        return None


def usual_script(language: str) -> str | None:
    """The script that a bare ISO 639-3 code is usually written in; None where that is not known here."""
    return _SCRIPT.get(_SAME.get(language, language))


def by_language(given: Mapping[str, Value]) -> dict[str, Value]:
    """The same with every language in that spelling; those that would become one keep the codes they have."""
    times = Counter(spelled(code) for code in given)
    return {spelled(code) if times[spelled(code)] == 1 else code: value for code, value in given.items()}
