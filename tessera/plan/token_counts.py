"""Token counts by source and language: from the shards of a run, or from a table where nothing is tokenised yet."""

import csv
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tessera.plan.corpus import Bucket
from tessera.plan.errors import one_line, some
from tessera.plan.fields import parse_tokens
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The buckets at hand, and where their sizes are from."""

    buckets: tuple[Bucket, ...]
    origin: str
    counted: bool = False  # from a table: documents, tiers and sources are not known
    vocab_size: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseText:
    """What one phase finds: its mixture may be narrowed to what was counted."""

    phase: Phase
    buckets: list[Bucket]
    available: list[float]  # tokens of each bucket; inf: unknown
    warnings: list[str]


def from_shards(shards: Path) -> Inventory:
    """The buckets of a token store, from its index alone. Raises ValueError naming the index where it is none."""
    path = shards / "index.json"
    try:
        index = _Index.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = one_line(error)[:400] if isinstance(error, ValidationError) else error
        raise ValueError(f"{path}: not the index of a token store: {why}") from None
    buckets = tuple(Bucket(**row.model_dump()) for row in index.buckets)
    return Inventory(buckets=buckets, origin=str(shards), vocab_size=index.vocab_size)


class _Row(BaseModel):
    model_config = ConfigDict(strict=True)
    source: str
    language: str
    tier: int | None
    tokens: int = Field(ge=0)
    documents: int = Field(ge=0)
    bytes: int = Field(ge=0)


class _Index(BaseModel):
    """index.json, as far as a plan needs it; data/shards.py reads it whole."""

    model_config = ConfigDict(strict=True)
    buckets: list[_Row]
    vocab_size: int | None = Field(None, ge=1)


def from_counts(given: str, recipe: Recipe, exponent: float = 1.0) -> Inventory:
    """Buckets from a CSV file with the columns language, tokens and perhaps source.

    given      the file, or file:column where the counts stand in another column than `tokens`
    exponent   for counts of what was drawn instead of what there is: drawn in proportion to n ** 0.7, their power
               1 / 0.7 = 1.4286 is n up to a factor, which is chosen so that the least count stays what it is

    A bare ISO 639-3 code means the recipe's only language of that code (`rus`: rus_Cyrl). Without a source, a language
    belongs to the only source that has it as its own `language`, else to the first source of many languages.
    Raises ValueError for a file or a column that is not there and for rows that are no counts.
    """
    path, column = _parse_place(given)
    if not exponent > 0 or math.isinf(exponent):
        raise ValueError(f"--counts-exponent: {exponent} is no exponent; give a number above 0, as 1.4286")
    counts, warnings = _read(path, column), []
    least = min(counts.values(), default=1)
    rename, unclear = _scripts({language for language, _ in counts}, recipe)
    if unclear:
        warnings.append(f"{path}: the recipe has several scripts of {some(unclear)}; written bare, they match none")
    sizes: dict[tuple[str, str], int] = {}
    left_out = []
    for (language, source), count in counts.items():
        code = rename.get(language, language)
        name = source or _source_of(code, recipe)
        if name is None:
            left_out.append(language)
            continue
        if (code, name) in sizes:
            raise ValueError(f"{path}: {code} of {name} is counted twice; keep one row")
        sizes[code, name] = count if exponent == 1.0 else max(1, round(least * (count / least) ** exponent))
    if left_out:
        warnings.append(
            f"{path}: {some(left_out)} left out, for the recipe reads them from several sources; add a column `source`"
        )
    buckets = tuple(
        Bucket(source=source, language=code, tokens=n, documents=0, bytes=0) for (code, source), n in sizes.items()
    )
    if not buckets:
        raise ValueError(f"{path}: no counts above 0 in column {column!r}")
    power = "" if exponent == 1.0 else f" to the power of {exponent:g}"
    return Inventory(buckets=buckets, origin=f"{given}{power}", counted=True, warnings=tuple(warnings))


def text_of(recipe: Recipe, phase: Phase, inventory: Inventory) -> PhaseText:
    """The buckets that a phase finds in an inventory.

    A table of counts may not know all that the recipe names: a fixed share of a source without counts becomes a
    bucket of unknown size, languages without counts and tiers are left out; each with a warning.
    """
    buckets, warnings = list(inventory.buckets), []
    if not inventory.counted:
        return PhaseText(phase=phase, buckets=buckets, available=[float(b.tokens) for b in buckets], warnings=[])
    mixture = phase.mixture
    changed: dict[str, object] = {}
    known = {bucket.language for bucket in buckets}
    if isinstance(mixture.languages, tuple) and (missing := [c for c in mixture.languages if c not in known]):
        changed["languages"] = tuple(c for c in mixture.languages if c in known)
        warnings.append(f"{phase.name}: no counts of {some(missing)}; left out")
    if missing := [c for c in mixture.entries if c not in known]:
        changed["entries"] = {c: n for c, n in mixture.entries.items() if c in known}
        warnings.append(f"{phase.name}: no counts of {some(missing)}, which enter later; left out")
    if mixture.tiers is not None:
        changed["tiers"] = None
        warnings.append(f"{phase.name}: counts have no tiers; tiers {list(mixture.tiers)} are planned as all text")
    names = {name for b in buckets for name in (b.source, b.language, f"{b.source}/{b.language}")}
    sources = {source.name: source for source in recipe.corpus.sources}
    unknown = [key for key in mixture.shares if key not in names]
    for key in unknown:
        name, _, language = key.partition("/")
        own = sources[name].language if name in sources else name
        buckets.append(Bucket(source=name, language=language or own or f"({name})", tokens=1, documents=0, bytes=0))
    available = [float(b.tokens) for b in inventory.buckets] + [math.inf] * len(unknown)
    narrowed = phase.model_copy(update={"mixture": mixture.model_copy(update=changed)}) if changed else phase
    return PhaseText(phase=narrowed, buckets=buckets, available=available, warnings=warnings)


def _parse_place(given: str) -> tuple[Path, str]:
    if Path(given).is_file():
        return Path(given), "tokens"
    path, _, column = given.rpartition(":")
    if not path or not Path(path).is_file():
        raise ValueError(f"--counts: {path or given}: no such file; give a CSV file, or FILE:COLUMN")
    return Path(path), column


def _read(path: Path, column: str) -> dict[tuple[str, str], int]:
    """(language, source or '') -> tokens, rows of 0 left out."""
    counts: dict[tuple[str, str], int] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        for needed in ("language", column):
            if needed not in columns:
                raise ValueError(f"{path}: there is no column {needed!r}; its columns are {', '.join(columns)}")
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            try:
                tokens = parse_tokens(row[column] or 0)
            except ValueError as error:
                raise ValueError(f"{place}, {column}: {error}") from None
            key = ((row["language"] or "").strip(), (row.get("source") or "").strip())
            if not key[0]:
                raise ValueError(f"{place}: the language is empty")
            if key in counts:
                raise ValueError(f"{place}: {' of '.join(filter(None, key))} is counted twice; keep one row")
            if tokens:
                counts[key] = tokens
    return counts


def _scripts(given: set[str], recipe: Recipe) -> tuple[dict[str, str], list[str]]:
    """Bare codes -> the recipe's code of that language, and those of which it has several."""
    mixtures = [phase.mixture for phase in recipe.phases]
    named = {source.language for source in recipe.corpus.sources if source.language}
    for mixture in mixtures:
        named |= {key.rpartition("/")[2] for key in mixture.shares} | {*mixture.entries}
        named |= {*mixture.languages} if isinstance(mixture.languages, tuple) else set()
    by_part = defaultdict(set)
    for code in named:
        language, sign, _ = code.partition("_")
        if sign:
            by_part[language].add(code)
    bare = {code for code in given if code in by_part and code not in named}
    rename = {code: next(iter(by_part[code])) for code in bare if len(by_part[code]) == 1}
    return rename, sorted(bare - set(rename))


def _source_of(language: str, recipe: Recipe) -> str | None:
    """Where a language without a source is read; None where several sources are of it alone."""
    own = Counter(source.name for source in recipe.corpus.sources if source.language == language)
    if own:
        return next(iter(own)) if len(own) == 1 else None
    many = [s.name for s in recipe.corpus.sources if s.language is None and s.kind == "documents"]
    return many[0] if many else recipe.corpus.sources[0].name
