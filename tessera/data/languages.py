"""Names of languages as tessera writes them: ISO 639-3 and ISO 15924 joined as in FineWeb2 (`fao_Latn`)."""

import re
from pathlib import PurePath

_FULL = r"[a-z]{3}_[A-Z][a-z]{3}"

_ISO_639_1 = dict(
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
_ISO_639_3 = frozenset(_ISO_639_1.values())


def language_code(given: str) -> str:
    """A language as tessera writes it: ISO 639-3 and a script (`fao_Latn`), a bare ISO 639-3 code, or one of `code`,
    `math`, `code_Python` and the like. ISO 639-1 becomes ISO 639-3. Anything else is a ValueError.
    """
    if re.fullmatch(rf"{_FULL}|[a-z]{{3}}|code|math|code_\S+", given):
        return given
    if given in _ISO_639_1:
        return _ISO_639_1[given]
    raise ValueError(f"unknown language {given!r}; write ISO 639-3, best with a script, as in fao_Latn or cmn_Hans")


def language_of_path(path: PurePath) -> str | None:
    """What `fao_Latn.jsonl.zst`, `fo.txt`, `code.jsonl` or `fao_Latn/train/000.parquet` say about their language.

    A bare three-letter name counts only where it is a language of ISO 639-1: `web.jsonl` is no language.
    """
    name = path.name.split(".")[0]
    if re.fullmatch(rf"{_FULL}|code|math", name) or name in _ISO_639_3:
        return name
    if name in _ISO_639_1:
        return _ISO_639_1[name]
    return next((part for part in reversed(path.parts[:-1]) if re.fullmatch(_FULL, part)), None)
