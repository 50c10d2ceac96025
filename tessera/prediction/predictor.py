"""Class `Predictor`: text classification, token classification, question answering and reranking by any model folder.

    predictor = Predictor.from_pretrained("runs/topics")
    predictor.predict(["one text", "another"])          # [{"label": "sports", "score": 0.93, "scores": {...}}, ...]

A folder is what `tessera finetune` or transformers wrote. What one row is, and what is said of it:

    classify    a text, or a pair     label, score, scores: of each label, adding up to 1
    multilabel  a text, or a pair     labels: those whose probability reaches their threshold, scores: of each
    regress     a text, or a pair     score: a number
    rerank      a query and a text    score: from 0 to 1
    choose      a text and options    choice: the number of the option, scores: of each
    tag         a text, or its words  entities (label, text, start, end, score) where labels are B-, I- ...; tags else
    span        a question, a text    answer, start, end, score: characters of the text; "" for none

A long text that was read in several windows has `windows`, their number; one that lost its end has `truncated`.
"""

# Shapes: n rows, K labels.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch

from tessera.huggingface import hub
from tessera.huggingface.hf_files import config_json
from tessera.huggingface.task_heads import GraphHead, TaskModel
from tessera.huggingface.transformers_folder import marks_segments
from tessera.huggingface.transformers_model import TransformersEncoder
from tessera.inference import runtime, tuned
from tessera.inference.sentence_folder import local, tokenizer_length
from tessera.inference.tokenize import check_vocabulary
from tessera.inference.tuned import Choice
from tessera.model.encoder import Encoder
from tessera.model.precision import compute_dtype, find_device
from tessera.model.task_config import read_task
from tessera.packed.bert import PackedBert
from tessera.packed.encoder import PackedEncoder, packed
from tessera.prediction import answers
from tessera.prediction.features import Reader
from tessera.prediction.item_scores import predicted
from tessera.prediction.requests import Request, cut, request, rows_of
from tessera.progress import Progress, silent
from tessera.tokenizer.tokenizer import Tokenizer

Prediction = dict[str, Any]
Row = str | Sequence[str] | Mapping[str, Any]

_BUDGET = 16_384  # tokens of a batch
_ROWS, _CHARACTERS = 4_096, 2**21  # read, computed and answered together: bounds the memory, not the result


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Predictor:
    """A model with the head of a task, ready to be asked; see `from_pretrained`.

    Calls do not change it, so any number of threads may share it.
    """

    model: TaskModel
    reader: Reader
    device: torch.device
    dtype: torch.dtype
    encoder: Any  # the fastest form of the model's
    source: Path | None = None
    tuned: Choice | None = None  # by `tessera tune`

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        attention: str = "auto",
        max_length: int | None = None,
        threads: int | None = None,
    ) -> Self:
        """A folder with the head of a task, of any family, or its name on the Hub; also one that was exported.

        device      auto is CUDA where there is one
        dtype       of the matrix products; auto is bfloat16 where the hardware multiplies in it
        max_length  tokens of a document; None: as tokenizer_config.json says, else as many as the model has positions
        threads     of torch, for the whole process; None leaves them, but for what was tuned

        Where neither device, dtype nor attention is asked for, `tessera tune` may have chosen an engine: see
        inference/tuned.py. Raises ValueError naming the file and what in it is missing, broken or not known here.
        """
        folder = local(folder)
        chosen = tuned.choice(folder, device, dtype, attention, head=True)
        if chosen is not None:
            chosen = chosen.model_copy(update={"threads": threads or chosen.threads})
            torch.set_num_threads(chosen.threads)
            return cls.of_choice(chosen, folder, folder / tuned.FOLDER, max_length=max_length)
        if threads is not None:
            torch.set_num_threads(threads)
        if runtime.kind(folder) is not None:
            if device not in ("auto", "cpu"):
                raise ValueError(f"{folder} holds a graph that runs on the CPU, but device is {device!r}; give cpu")
            return cls._of_graph(folder, runtime.Runtime.open(folder, dtype=dtype), max_length)
        return cls.of(
            hub.load_task(folder, attention),
            Tokenizer.load(folder),
            folder,
            device=device,
            dtype=dtype,
            max_length=max_length,
        )

    @classmethod
    def of_choice(cls, chosen: Choice, folder: Path, place: Path, *, max_length: int | None = None) -> Self:
        """A folder in the engine that `tessera tune` chose, on the CPU, with the threads that torch has.

        place  where what the engine needs lies, beside the weights
        """
        if chosen.engine == "graph":
            graph = runtime.Runtime.open(place / tuned.GRAPH, dtype=chosen.dtype, threads=chosen.threads)
            return replace(cls._of_graph(folder, graph, max_length), tuned=chosen)
        model = hub.load_task(folder)
        found = cls.of(model, Tokenizer.load(folder), folder, device="cpu", dtype=chosen.dtype, max_length=max_length)
        if chosen.engine == "int8" and isinstance(model.encoder, Encoder):
            found = replace(found, encoder=tuned.in_int8(model.encoder, place / tuned.STEPS, chosen.dtype))
        return replace(found, tuned=chosen)

    @classmethod
    def of(
        cls,
        model: TaskModel,
        tokenizer: Tokenizer,
        source: Path | None = None,
        *,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        max_length: int | None = None,
        segments: bool | None = None,
    ) -> Self:
        """A model that is there already; it is no longer yours."""
        config, task = model.config, model.task
        check_vocabulary(tokenizer, config, source)
        most = config.max_position_embeddings
        where = find_device(device)
        if segments is None:
            wrapped = isinstance(model.encoder, TransformersEncoder) and model.encoder.config.segments > 1
            segments = wrapped and source is not None and marks_segments(source)
        reader = Reader(
            kind=task.kind,
            tokenizer=tokenizer,
            max_length=_length(max_length, tokenizer, source, most),
            labelling=task.labelling,
            stride=task.stride,
            no_answer=task.no_answer,
            segments=segments,
            labels=task.outputs,
        )
        number = compute_dtype(dtype, where)
        model = model.to(where).eval()
        return cls(
            model=model, reader=reader, device=where, dtype=number, encoder=packed(model.encoder, number), source=source
        )

    @classmethod
    def _of_graph(cls, folder: Path, graph: runtime.Runtime, most: int | None) -> Self:
        """An exported model, on the CPU."""
        task = read_task(config_json(folder), folder / "config.json")
        runtime.refuse_without_logits(graph, folder)
        number: Literal["float32", "bfloat16"] = "bfloat16" if graph.dtype is torch.bfloat16 else "float32"
        return cls.of(
            TaskModel(cast(Any, graph), GraphHead(), task),
            Tokenizer.load(folder),
            folder,
            device="cpu",
            dtype=number,
            max_length=most,
            segments=runtime.SEGMENTS in graph.inputs,
        )

    def __repr__(self) -> str:
        number = str(self.dtype).removeprefix("torch.")
        labels = f", {len(self.labels)} labels" if self.labels else ""
        how = "weights packed" if isinstance(self.encoder, PackedEncoder | PackedBert) else type(self.encoder).__name__
        return (
            f"Predictor({self.source}: {self.kind}{labels}, at most {self.reader.max_length} tokens; "
            f"on {self.device} in {number}, {how}{f', {self.tuned}' if self.tuned else ''}, "
            f"{torch.get_num_threads()} threads)"
        )

    @property
    def kind(self) -> str:
        """classify, multilabel, regress, rerank, choose, tag or span."""
        return self.model.task.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """Their names, in the order of the logits."""
        return self.model.task.labels

    def predict(
        self,
        rows: Iterable[Row],
        *,
        long: Literal["windows", "truncate"] = "windows",
        max_tokens: int | None = None,
        on_progress: Progress | None = None,
    ) -> list[Prediction]:
        """What the model says of each row, in their order.

        rows         texts; (text, text) for a pair; or mappings: {text}, {text, second}, {query, document}, {text,
                     options}, {words}, {question, context}
        long         of a single text of more than max_length tokens. windows: it is read in several, with the model's
                     stride in common, and probabilities are averaged by their tokens; truncate: its beginning is read.
                     A pair is always cut, the longer text first; tags and answers always cover the whole text
        max_tokens   of a batch; None: as was tuned, else 16,384. Changes speed and memory only

        Raises ValueError naming the row that is not of this kind, TypeError for what holds no rows.
        """
        return list(self.stream(rows, long=long, max_tokens=max_tokens, on_progress=on_progress))

    def stream(
        self,
        rows: Iterable[Row],
        *,
        long: Literal["windows", "truncate"] = "windows",
        max_tokens: int | None = None,
        on_progress: Progress | None = None,
    ) -> Iterator[Prediction]:
        """The same one by one, for rows without end: some thousand are in memory."""
        if long not in ("windows", "truncate"):
            raise ValueError(f"long is {long!r}; give windows or truncate")
        return self._stream(rows_of(rows), long, self._budget(max_tokens), on_progress or silent)

    def _stream(self, rows: Iterable[Row], long: str, max_tokens: int, on_progress: Progress) -> Iterator[Prediction]:
        total, done = len(rows) if isinstance(rows, Sequence) else 0, 0
        for some in _together(
            request(row, number, self.kind, self.reader.tokenizer) for number, row in enumerate(rows)
        ):

            def report(part: int, of: int, what: str, done: int = done, size: int = len(some)) -> None:
                on_progress(done + size * part // max(of, 1), total, what)

            yield from self._answers(some, long, max_tokens, report)
            done += len(some)

    def logits(self, rows: Iterable[Row], *, max_tokens: int | None = None) -> list[np.ndarray[Any, Any]]:
        """The logits of each row, truncated: [K] of a document, [options], [m, K] of tokens asked for, [n, 2]."""
        asked = [request(row, number, self.kind, self.reader.tokenizer) for number, row in enumerate(rows_of(rows))]
        items = self.reader.items([one.example for one in asked])
        return predicted(
            self.encoder, self.model.head, items, self.reader, self.device, self.dtype,
            max_tokens=self._budget(max_tokens),
        )  # fmt: skip

    def _budget(self, asked: int | None) -> int:
        return asked or (self.tuned.max_tokens if self.tuned is not None else _BUDGET)

    def _answers(self, some: list[Request], long: str, max_tokens: int, report: Progress) -> Iterator[Prediction]:
        items = cut(self.reader, some) if long == "windows" else self.reader.items([one.example for one in some])
        scores = predicted(
            self.encoder,
            self.model.head,
            items,
            self.reader,
            self.device,
            self.dtype,
            max_tokens=max_tokens,
            on_progress=report,
        )
        wrong = next((item for item, rows in zip(items, scores, strict=True) if not np.isfinite(rows).all()), None)
        if wrong is not None:
            raise ValueError(f"rows[{some[wrong.example].number}]: the model's scores are not finite; is it broken?")
        yield from answers.of(self.model.task, some, items, scores)


def _length(asked: int | None, tokenizer: Tokenizer, source: Path | None, most: int) -> int:
    """Tokens of a document. Raises ValueError where special tokens alone take them, or the model has no room."""
    if asked is None:
        return min((tokenizer_length(source) if source else None) or most, most)
    special = sum(map(len, tokenizer.template))
    if not special < asked <= most:
        raise ValueError(f"max_length is {asked}; special tokens take {special}, and the model reads at most {most}")
    return asked


def _together(asked: Iterable[Request]) -> Iterator[list[Request]]:
    """Requests in order, as many together as fit in memory."""
    some: list[Request] = []
    size = 0
    for one in asked:
        some.append(one)
        size += one.characters
        if len(some) == _ROWS or size >= _CHARACTERS:
            yield some
            some, size = [], 0
    if some:
        yield some
