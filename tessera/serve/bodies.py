"""Request schemas: the bodies that each route reads, strictly; what clients of other APIs send along is passed over."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from tessera.batching.reading import Direction, Text

_MOST_ID = 2**31


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts or token ids; `single` where it was one and not a list."""

    texts: list[Text]
    single: bool


def _one(value: Any) -> Text | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(i) is int and 0 <= i < _MOST_ID for i in value):
        return np.array(value, np.int32)
    return None


def _texts(value: Any) -> Texts:
    single = _one(value)
    if single is not None:
        return Texts([single], single=True)
    if not isinstance(value, list):
        raise ValueError("give a text, a list of texts, or token ids")
    found: list[Text] = []
    for number, each in enumerate(value):
        text = _one(each)
        if text is None:
            raise ValueError(f"entry {number} is neither a text nor a list of token ids")
        found.append(text)
    return Texts(found, single=False)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a task: texts, pairs and mappings; `single` where it was one and not a list."""

    rows: list[Any]
    single: bool


def _rows(value: Any) -> Rows:
    """As text-embeddings-inference reads them: a text, a pair of texts, or a list of lists of one or two texts.

    Beside that a list of texts, of three or more or in lists of one, and mappings as Predictor.predict takes them.
    """
    if isinstance(value, str | dict):
        return Rows([value], single=True)
    if not isinstance(value, list):
        raise ValueError("give a text, a pair of texts, or a list of them")
    if len(value) == 2 and all(isinstance(one, str) for one in value):
        return Rows([tuple(value)], single=True)
    return Rows([_row(one, number) for number, one in enumerate(value)], single=False)


def _row(value: Any, number: int) -> Any:
    if isinstance(value, str | dict):
        return value
    if isinstance(value, list) and len(value) in (1, 2) and all(isinstance(one, str) for one in value):
        return value[0] if len(value) == 1 else tuple(value)
    raise ValueError(f"entry {number} is neither a text nor a pair of texts")


def _listed(value: Any) -> Rows:
    """As ours reads them: one text or mapping, or a list; pairs are lists of two."""
    if isinstance(value, str | dict):
        return Rows([value], single=True)
    if not isinstance(value, list):
        raise ValueError("give a text, or a list of texts, of pairs [text, text], or of objects")
    return Rows([_row(one, number) for number, one in enumerate(value)], single=False)


_Pair = Annotated[list[str], Field(min_length=1, max_length=2)]
TextsOrIds = Annotated[Texts, PlainValidator(_texts, str | list[str] | list[int] | list[list[int]])]
PredictRows = Annotated[Rows, PlainValidator(_rows, str | _Pair | list[_Pair])]
TaskRows = Annotated[Rows, PlainValidator(_listed, str | dict[str, Any] | list[str | _Pair | dict[str, Any]])]


class _Theirs(BaseModel):
    """Of another API: its clients may send more than is read here."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, arbitrary_types_allowed=True)


class _Ours(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)


_MODEL = Field(None, max_length=200, description="its name; the first that answers this where it is left out")
_INVARIANT = Field(False, description="the same bytes whatever else is asked at the time; slower")
_TRUNCATE = Field(None, description="read a part of what is too long (default: as the server is set)")


class OpenAIEmbeddings(_Theirs):
    """POST /v1/embeddings."""

    input: TextsOrIds
    model: str | None = _MODEL
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1, le=2**20)
    user: str | None = None
    prompt_name: str | None = Field(None, max_length=200, description="a prompt of the folder: query, passage ...")
    truncate: bool | None = _TRUNCATE
    batch_invariant: bool | None = _INVARIANT


class _Tei(_Theirs):
    model: str | None = _MODEL
    truncate: bool | None = _TRUNCATE
    truncation_direction: Annotated[Direction, PlainValidator(lambda value: _direction(value), str)] = "right"
    batch_invariant: bool = _INVARIANT


def _direction(value: Any) -> Direction:
    if not isinstance(value, str) or value.lower() not in ("left", "right"):
        raise ValueError("give left or right")
    return "left" if value.lower() == "left" else "right"


class Embed(_Tei):
    """POST /embed."""

    inputs: TextsOrIds
    normalize: bool = True
    prompt_name: str | None = Field(None, max_length=200)
    dimensions: int | None = Field(None, ge=1, le=2**20)


class EmbedAll(_Tei):
    """POST /embed_all."""

    inputs: TextsOrIds
    prompt_name: str | None = Field(None, max_length=200)


class Predict(_Tei):
    """POST /predict."""

    inputs: PredictRows
    raw_scores: bool = False


class Rerank(_Tei):
    """POST /rerank."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class SimilarityInputs(_Theirs):
    """One text, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(_Tei):
    """Settings of POST /similarity."""

    prompt_name: str | None = Field(None, max_length=200)


class Similarity(_Theirs):
    """POST /similarity."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None
    model: str | None = _MODEL


class Tokenize(_Theirs):
    """POST /tokenize."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = Field(None, max_length=200)
    model: str | None = _MODEL


class Decode(_Theirs):
    """POST /decode."""

    ids: TextsOrIds
    skip_special_tokens: bool = True
    model: str | None = _MODEL


class RerankV1(_Theirs):
    """POST /v1/rerank, as Cohere and Jina ask."""

    query: str
    documents: list[str | dict[str, Any]]
    model: str | None = _MODEL
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = Field(None, description="whether the documents come back (default: no)")
    truncate: bool | None = _TRUNCATE
    batch_invariant: bool = _INVARIANT


class Classify(_Ours):
    """POST /classify and /tag."""

    inputs: TaskRows
    model: str | list[str] | None = Field(
        None, description="a name, or several: heads on one trunk share one forward pass"
    )
    truncate: bool = Field(False, description="read the beginning of a long text; without it it is read in windows")
    batch_invariant: bool = _INVARIANT


class Fill(_Ours):
    """POST /fill."""

    inputs: str | list[str]
    top_k: int = Field(5, ge=1, le=100)
    model: str | None = _MODEL
    batch_invariant: bool = _INVARIANT


class Question(_Ours):
    """A question, and the text that holds its answer."""

    question: str
    context: str


class Answering(_Ours):
    """POST /answer."""

    inputs: Question | list[Question]
    model: str | None = _MODEL
    truncate: bool = Field(False, description="let a long question lose its end; the context is always read whole")
    batch_invariant: bool = _INVARIANT


class HubTask(BaseModel):
    """POST / and /models/NAME: what InferenceClient sends for any task; only what the task needs is looked at."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    inputs: Any = None
    model: str | None = _MODEL
    parameters: dict[str, Any] = Field(default_factory=dict)

    def given(self, model: str) -> dict[str, Any]:
        """All that was sent, settings at the top as for vectors or among the parameters, for the named model."""
        extra = {**self.parameters, **(self.model_extra or {}), "inputs": self.inputs, "model": model}
        return {name: value for name, value in extra.items() if value is not None}
