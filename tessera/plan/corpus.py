"""The corpus of a run as strict models: sources, quality filters, deduplication, the held-out split, the tokenizer.

See corpus/prepare.py for what is done with it.
"""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_serializer, model_validator

from tessera.plan.fields import Bytes, Name, Share, Strict, is_folder, refuse_twins
from tessera.secrets import redact


class Columns(Strict):
    """Which column of a file holds what. A column that is not named here is not read."""

    text: str = "text"
    id: str = "id"
    language: str = "lang"
    quality: str | None = None  # a number: the higher, the better
    tokens: str = "input_ids"  # kind tokens only
    source_text: str = "src"  # pairs only
    target_text: str = "tgt"
    source_language: str = "src_lang"
    target_language: str = "tgt_lang"


class Source(Strict):
    """Files that are read in one way. Its buckets are called `name/language`, e.g. `web/fao_Latn`."""

    name: Name
    path: str  # a file, a folder or a glob; here, or at hf://, s3://, gs://, az://, https:// ...
    exclude: tuple[str, ...] = ()  # file names (globs) that `path` finds but that are not wanted
    kind: Literal["documents", "pairs", "tokens"] = "documents"  # tokens: MDS shards of token ids
    columns: Columns = Columns()
    language: str | None = None  # of every document where no column says it, whatever the file is called
    score: str | None = None  # what scores the text where no column does: module:function, or a folder with a model
    tiers: tuple[float, float, float] | None = None  # thresholds on the score: four tiers, 1 (worst) to 4
    split: Literal["train", "held_out"] | None = None  # None: by the hash of each document
    filtered: bool = True  # whether corpus.filters look at it; code and tables are not prose
    allow_empty: bool = False  # whether a file or language of it may give nothing; else that is an error

    @field_serializer("path", when_used="json")
    def _without_credentials(self, path: str) -> str:
        return redact(path)  # what is written down: the recipe of a run, and what its identity is made of

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.score is not None and self.columns.quality is not None:
            raise ValueError("a score comes from columns.quality or from `score`, not from both")
        if self.tiers is not None:
            if self.columns.quality is None and self.score is None:
                raise ValueError("tiers are thresholds on a score; name its column as columns.quality, or give `score`")
            if list(self.tiers) != sorted(self.tiers):
                raise ValueError(f"tiers must rise, {list(self.tiers)} does not")
        if self.score is not None and self.kind != "documents":
            raise ValueError(f"only documents are scored; {self.name} is of kind {self.kind!r}")
        if self.kind == "pairs" and (self.columns.quality is not None or self.tiers is not None):
            raise ValueError(f"pairs have no quality; {self.name} names columns.quality or tiers")
        if self.kind == "pairs" and self.language is not None:
            raise ValueError("pairs have two languages; name their columns, source_language and target_language")
        if self.score is not None and ":" not in self.score and not is_folder(self.score):
            raise ValueError(
                f"score is {self.score!r}; give a function as package.module:function, or a folder as ./model"
            )
        if self.kind == "tokens" and self.split is None:
            raise ValueError(
                f"source {self.name!r} is of kind tokens, so its text is not here to be drawn from; say split: train "
                "or split: held_out"
            )
        return self


class LanguageCheck(Strict):
    """Drops documents that are sure to be in another language than they are said to be.

    Labels of languages that the identifier does not know are not judged by it; their script still is.
    """

    model: str = "py3langid"  # or the file of a fastText model with labels like __label__fao_Latn
    min_probability: Share = 0.9  # of the other language; below it nobody is sure
    min_characters: int = Field(50, ge=1)  # shorter texts are not judged


class Repetition(Strict):
    """Drops documents that repeat themselves; each value is the largest share that is let through.

    Source: thresholds of MassiveText, arXiv:2112.11446, table A1.
    """

    lines: Share = 0.3  # of lines that were seen before in the document
    line_characters: Share = 0.2  # of characters in such lines
    top_2_gram: Share = 0.2  # of characters in the commonest two words in a row
    top_3_gram: Share = 0.18
    top_4_gram: Share = 0.16


class Contamination(Strict):
    """Drops documents that hold a passage of an evaluation set."""

    sets: dict[Name, tuple[str, ...]] = Field(min_length=1)  # a name, and the files, folders or globs of the set
    n_gram: int = Field(13, ge=4)  # words in a row that must not be shared; characters x 4 where words have no spaces

    @field_serializer("sets", when_used="json")
    def _without_credentials(self, sets: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
        return {name: [redact(path) for path in paths] for name, paths in sets.items()}


class Filters(Strict):
    """What is not trained on. Every dropped document is counted by reason; see `tessera prepare --show-dropped`."""

    min_characters: int = Field(1, ge=1)
    max_characters: int | None = Field(None, ge=1)
    min_words: int | None = Field(None, ge=1)  # only where words have spaces between them
    repetition: Repetition | None = None
    language: LanguageCheck | None = None
    contamination: Contamination | None = None


class NearDuplicates(Strict):
    """MinHash: documents that share a band of hashes are alike; the first of them is kept.

    Two documents whose n-grams overlap by J are found with probability 1 - (1 - J ** rows) ** bands.
    Half of them are found at J = 0.68, 92% at 0.8. Source: Broder 1997; the defaults are FineWeb's, arXiv:2406.17557.
    """

    n_gram: int = Field(5, ge=1)  # words; characters where words have no spaces
    bands: int = Field(14, ge=1)
    rows: int = Field(8, ge=1)


class Duplicates(Strict):
    """Across all sources and files; the first in the order of the sources is kept."""

    exact: bool = True
    near: NearDuplicates | None = None


class HeldOut(Strict):
    """Documents kept from training, chosen by a hash of their text, so that duplicates never stand on both sides."""

    share: Share = 0.01
    max_bytes: Bytes = 100_000  # for each language; more is trained on
    min_documents: int = Field(3, ge=1)  # a language with fewer documents than this gives none


class Corpus(Strict):
    sources: tuple[Source, ...] = Field(min_length=1)
    filters: Filters = Filters()
    duplicates: Duplicates = Duplicates()
    held_out: HeldOut = HeldOut()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        refuse_twins([(s.name, s.split) for s in self.sources], "source")
        return self


class TokenizerTraining(Strict):
    """A byte-level BPE trained on a temperature-balanced sample, or the `tokenizer.json` found under `path`."""

    path: str | None = None  # a tokenizer.json, or a folder that holds one; the fields below then have no use
    vocab_size: int = Field(32_768, ge=300)
    temperature: Share = 0.3  # of the sample: p_i proportional to n_i ** temperature
    sample_bytes: Bytes = 100_000_000
    min_frequency: int = Field(2, ge=1)
    split: Literal["qwen3.5", "tessera"] = "qwen3.5"  # what merges stay within; gigatoken knows only the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Documents of one source, one language and one tier that lie in a row in the token store."""

    source: str
    language: str
    tier: int | None = None  # 1 (worst) to 4; None where the source has no tiers
    tokens: int
    documents: int
    bytes: int  # of UTF-8 text

    @property
    def key(self) -> str:
        """`web/fao_Latn`, or `web/fao_Latn@3` where the source has tiers."""
        return f"{self.source}/{self.language}" + ("" if self.tier is None else f"@{self.tier}")
