"""Names of languages as tessera writes them: ISO 639-3 and ISO 15924 joined as in FineWeb2 (`fao_Latn`)."""

import re
from pathlib import PurePath

from tessera.plan.languages import ISO_639_1

_FULL = r"[a-z]{3}_[A-Z][a-z]{3}"

_ISO_639_3 = frozenset(ISO_639_1.values())


def language_code(given: str) -> str:
    """A language as tessera writes it: ISO 639-3 and a script (`fao_Latn`), a bare ISO 639-3 code, or one of `code`,
    `math`, `code_Python` and the like. ISO 639-1 becomes ISO 639-3. Anything else is a ValueError.
    """
    if re.fullmatch(rf"{_FULL}|[a-z]{{3}}|code|math|code_\S+", given):
        return given
    if given in ISO_639_1:
        return ISO_639_1[given]
    raise ValueError(f"unknown language {given!r}; write ISO 639-3, best with a script, as in fao_Latn or cmn_Hans")


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
