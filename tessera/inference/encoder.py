"""Class `Encoder`: sentence embeddings, token embeddings, fill-mask and similarity, from any model folder.

    encoder = Encoder.from_pretrained("runs/mine/decay/final")
    vectors = encoder.encode(["one text", "another"])

It also stands where a SentenceTransformer or LangChain's Embeddings is expected; see docs/encode.md.
"""

# Shapes: n texts, t tokens of a text, h width of a vector.

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self, Unpack, cast

import numpy as np
import torch

from tessera.huggingface import hub
from tessera.huggingface.hf_files import refuse_adapter
from tessera.inference import compatibility, tuned
from tessera.inference import sentence_folder as folders
from tessera.inference.engine import Compile, EncodeOptions, Engine, Options, Pooling, Tokens, Vectors
from tessera.inference.fill_mask import MaskFiller
from tessera.inference.keywords import Keywords, checked_keywords, log_truncated, settled, text_rows
from tessera.inference.runtime import Runtime, copyable, kind, refuse_without_states
from tessera.inference.sentence_folder import Pipeline
from tessera.inference.similarity import scores
from tessera.inference.tokenize import check_vocabulary, checked, windows
from tessera.model.attention import choose
from tessera.model.precision import autocast, compute_dtype, find_device
from tessera.progress import Progress, silent
from tessera.tokenizer.tokenizer import Tokenizer


class Encoder:
    """A model, its tokenizer and what its folder says of pooling; see `from_pretrained`.

    model      what maps (tokens [T], starts [N+1]) to hidden states [T, C], with a `config`. It is no longer yours: it
               moves to the device, and where weights are not packed, as on GPUs, they are rounded to `dtype` for good
    pipeline   pooling and what comes after
    device     auto is CUDA where there is one
    dtype      of the matrix products; auto is bfloat16 where the hardware multiplies in it
    source     the folder it came from; without it nothing can be saved and no mask be filled
    threads    of torch, for the whole process; None leaves them

    Calls do not change it, so any number of threads may share it.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        pipeline: Pipeline | None = None,
        *,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        source: Path | None = None,
        threads: int | None = None,
        compile: Compile = "auto",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.config = config = cast(Any, model.config)
        check_vocabulary(tokenizer, config, source)
        self.pipeline = Pipeline() if pipeline is None else pipeline
        self.device = find_device(device)
        self.dtype = compute_dtype(dtype, self.device)
        backend: Any = getattr(model, "backend", None)  # models of other families bring their own
        self.attention = choose(backend, self.device, self.dtype) if backend else "transformers'"
        self.tokenizer, self.source = tokenizer, source
        self.engine = Engine(model, self.pipeline.steps, self.device, self.dtype, compile)
        width, most = self.pipeline.width(config.hidden_size), int(config.max_position_embeddings)
        self.dimensions = min(width, self.pipeline.dimensions or width)
        self.max_seq_length = min(self.pipeline.max_length or most, most)
        self.tuned: tuned.Choice | None = None  # by `tessera tune`
        self._fill: MaskFiller | None = None
        self._lock, self._said_cut = threading.Lock(), False
        self._opened: Callable[[], Self] | None = None  # makes another like this one

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        attention: str = "auto",
        threads: int | None = None,
        compile: Compile = "auto",
        drop_head: bool = False,
    ) -> Self:
        """A folder in the format of Hugging Face or of sentence-transformers, or its name on the Hub.

        attention  auto, reference, cpu or varlen; see model/attention.py
        compile    layers on a GPU: on, off, or auto: once so much is read that it pays
        drop_head  whether a classifier (or another head of a task) may be left out, for vectors of what is beneath it

        Where neither device, dtype nor attention is asked for, `tessera tune` may have chosen an engine: see tuned.py.
        Raises ValueError naming the file and what in it is missing, broken or not known here, and for such a head.
        """
        again = partial(cls.from_pretrained, device=device, dtype=dtype, attention=attention, threads=threads)
        whole = folders.local(name)
        pipeline, inside = folders.read(whole)
        refuse_adapter(inside)
        tokenizer, load = Tokenizer.load(inside), partial(hub.load_encoder, inside, attention, drop_head=drop_head)
        chosen = tuned.choice(inside, device, dtype, attention)
        if chosen is not None:
            model, device, dtype, threads = tuned.opened(chosen, inside, load, threads)
        elif kind(inside) is not None:  # exported: it computes in its own precision, on a CPU
            model, device, dtype = Runtime.open(inside, dtype=dtype, threads=threads), "cpu", "float32"
        else:
            model = load()
        here: dict[str, Any] = {"device": device, "dtype": dtype, "threads": threads, "compile": compile}
        found = cls(model, tokenizer, pipeline, source=inside, **here)
        found.tuned, found._opened = chosen, partial(again, whole.resolve(), compile=compile, drop_head=drop_head)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process (or a deep copy): how it was opened, and not the weights; read there once more."""
        if self._opened is None:
            raise TypeError(
                "an Encoder that was not opened with from_pretrained cannot be pickled or copied: its model may lie in "
                "no folder; save it, and open that folder where it is needed"
            )
        return self._opened, (), {"max_seq_length": self.max_seq_length}

    def __repr__(self) -> str:
        how = "+".join(self.pipeline.pooling) + (", normalized" if self.pipeline.normalize else "")
        without = compute_dtype("auto", self.device) is torch.float32
        where = f"{self.device}{', which has no bfloat16,' * without}"
        number = str(self.dtype).removeprefix("torch.")
        number += ", weights packed" * self.engine.packed + f", {self.tuned}" * (self.tuned is not None)
        how += f", at most {self.max_seq_length} tokens; {self.attention} attention on {where} in {number}"
        return f"Encoder({self.source}: {self.dimensions} dimensions, {how}, {torch.get_num_threads()} threads)"

    # ---------------------------------------------------------------------------------------------------- texts

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        on_progress: Progress | None = None,
        on_truncated: Callable[[int], None] | None = None,
        **options: Unpack[Keywords],
    ) -> Any:
        """Sentence embeddings: one vector for each text, float32 [n, h], in their order; of a single str one [h].

        texts            a list, or anything that yields texts: it is read once, some thousand at a time
        pooling          of POOLINGS in model/pooling.py, or several; None: as the folder says, mean where it does
                         not
        normalize        to length 1; None: as the folder says, yes where it does not
        prompt           stands before every text; prompt_name: the one of that name in the folder. With neither, the
                         folder's default prompt if it has one
        dimensions       the first so many of each vector, before it is normalized (Matryoshka, arXiv:2205.13147)
        max_length       tokens of a text, special ones included; None: what the model was made for
        long             truncate: a longer text ends there. chunk: it becomes several pieces of at most max_length
                         (sliding windows), whose vectors are averaged, each weighing as many tokens as it has
        overlap          tokens that a chunk shares with the one before; 0
        max_tokens       of a batch, 16,384, on a GPU 65,536; a longer piece is one of its own. Changes speed and memory
        batch_invariant  the same bytes for a text whatever it is encoded with: each goes through the model alone
        on_progress      called with (done, of how many; 0 where that is not known, "embedding")
        on_truncated     called with how many texts were too long and lost their end; without it, and where neither
                         max_length nor long says that it is meant, the log says so once
        The keywords of SentenceTransformer.encode mean what they mean there; see compatibility.py.

        Raises TypeError naming the place of what is no str, what is no list of texts and a keyword that nobody knows;
        ValueError for a text that is no Unicode, options that do not fit, and a model whose weights are not numbers.
        """
        given: Any = checked_keywords(options, Keywords.__optional_keys__)
        ours: Any = {name: value for name, value in given.items() if name in Options.__optional_keys__}
        how, some = self.how(**ours), text_rows(texts)
        if len(ours) < len(given):
            some = list(some)
            return compatibility.answer(
                lambda: self.encode(some, on_progress=on_progress, on_truncated=on_truncated, **ours),
                lambda: self._tokens(some, how),
                given,
                ours,
                some,
                single=isinstance(texts, str),
                prompt_length=how.reading.skipped(),
                device=self.device,
            )
        tell = on_truncated or (self._say_cut if not ours.keys() & {"max_length", "long"} else silent)
        rows = list(self._stream(some, how, on_progress, tell))
        if isinstance(texts, str):
            return rows[0][0]
        return np.concatenate(rows) if len(rows) > 1 else rows[0] if rows else np.empty((0, how.dimensions), np.float32)

    def stream(
        self, texts: Iterable[str], *, on_progress: Progress | None = None, **options: Unpack[Options]
    ) -> Iterator[Vectors]:
        """The rows of `encode`, some thousand at a time, for texts without end; our keywords of it."""
        return self._stream(text_rows(texts), self.how(**options), on_progress, silent)

    def _say_cut(self, texts: int) -> None:
        if not self._said_cut:
            self._said_cut = True
            log_truncated(self.source, texts, self.max_seq_length)

    def _stream(
        self, texts: Iterable[str], how: EncodeOptions, on_progress: Progress | None, on_cut: Callable[[int], None]
    ) -> Iterator[Vectors]:
        total, done, tell = len(texts) if isinstance(texts, Sequence) else 0, 0, on_progress or silent
        for window in windows(texts, how.reading.longest()):

            def report(share: float, done: int = done, texts: int = len(window)) -> None:
                tell(done + int(share * texts), total, "embedding")

            pieces, cut = how.reading.read(window)
            if cut:
                on_cut(cut)
            rows = self.engine.vectors(pieces, how, report)
            self.engine.check(rows, done)
            done += len(window)
            yield rows

    def how(self, **options: Unpack[Options]) -> EncodeOptions:
        """The options of `encode`, settled. Raises ValueError for what does not fit the model or itself."""
        options = checked_keywords(options, Options.__optional_keys__)
        refuse_without_states(self.engine.model, self.source)
        options.setdefault("max_tokens", self.tuned.max_tokens if self.tuned is not None else 16_384)
        return settled(options, self.tokenizer, self.pipeline, self.config, self.max_seq_length)

    # --------------------------------------------------------------------------------------------------- tokens

    def encode_tokens(
        self, texts: Iterable[str], *, prompt: str | None = "", max_length: int | None = None, max_tokens: int = 16_384
    ) -> list[Tokens]:
        """Token embeddings: hidden states, with the characters that each comes from; truncated to max_length.

        prompt  stands before every text, its tokens among the others, of no characters; None: the folder's default
        """
        return self._tokens(text_rows(texts), self.how(prompt=prompt, max_length=max_length, max_tokens=max_tokens))

    def _tokens(self, texts: Iterable[str], how: EncodeOptions) -> list[Tokens]:
        parts = (self.engine.tokens(window, how) for window in windows(texts, how.reading.longest()))
        return list(chain.from_iterable(parts))

    def fill_mask(self, texts: str | Iterable[str], top_k: int = 5) -> Any:
        """What may stand for each mask: for each text and each of its masks the top_k guesses; of one str its masks.

        A mask is written as the tokenizer writes it (`encoder.tokenizer.token(encoder.tokenizer.mask_id)`).

        Raises ValueError for a text without a mask or too long, and a folder without a masked-language-model head.
        """
        with self._lock:
            if self._fill is None:
                self._fill = MaskFiller.of(self.engine.model, self.tokenizer, self.source, self.max_seq_length)
        some = [checked(text, n) for n, text in enumerate(text_rows(texts))]
        with torch.inference_mode(), autocast(self.device, self.dtype):
            found = [self._fill.guess(text, n, top_k) for n, text in enumerate(some)]
        return found[0] if isinstance(texts, str) else found

    # ----------------------------------------------------------------- what others call it by, and what it writes

    def similarity(self, a: Any, b: Any) -> Any:
        """Scores [n, m] of all vectors of a [n, h] with all of b [m, h], by the folder's similarity: cosine, if none.

        Arrays give an array, torch's tensors a tensor. The higher, the more alike: distances are negative.
        """
        return scores(a, b, self.pipeline.similarity)

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        """Scores [n] of each vector of a [n, h] with the same row of b."""
        return scores(a, b, self.pipeline.similarity, paired=True)

    def encode_query(self, texts: str | Iterable[str], **options: Any) -> Any:
        """`encode` with the folder's prompt for queries, if it has one."""
        return self.encode(texts, **self._named(options, "query"))

    def encode_document(self, texts: str | Iterable[str], **options: Any) -> Any:
        """`encode` with the folder's prompt for documents, if it has one."""
        return self.encode(texts, **self._named(options, "document", "passage", "corpus"))

    def _named(self, options: dict[str, Any], *names: str) -> dict[str, Any]:
        """With the first prompt of these names, unless another was asked for."""
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options["prompt"] = next((self.prompts[name] for name in names if name in self.prompts), "")
        return options

    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """As LangChain asks for documents."""
        if isinstance(texts, str):
            raise TypeError("embed_documents takes a list of texts; of a single one embed_query gives the vector")
        rows: list[list[float]] = self.encode_document(texts).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """As LangChain asks for a query."""
        if not isinstance(text, str):
            raise TypeError(f"embed_query takes one str, not a {type(text).__name__}; embed_documents takes several")
        row: list[float] = self.encode_query(text).tolist()
        return row

    async def aembed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """The same, beside other work."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """As LangChain asks, beside other work."""
        return await asyncio.to_thread(self.embed_query, text)

    @property
    def prompts(self) -> dict[str, str]:
        """By name, as the folder has them."""
        return dict(self.pipeline.prompts)

    @property
    def similarity_fn_name(self) -> str:
        """cosine, dot, euclidean or manhattan."""
        return self.pipeline.similarity

    def get_embedding_dimension(self) -> int:
        """As sentence-transformers asks; `dimensions` is the same."""
        return self.dimensions

    def save(
        self,
        folder: str | Path,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        max_length: int | None = None,
    ) -> None:
        """A folder that `from_pretrained`, SentenceTransformer and AutoModel load, with equal vectors.

        Weights, tokenizer and card are copied from the folder this came from; what is given here changes what it says
        of pooling, length and prompts. Written whole or not at all.

        Raises FileExistsError where `folder` holds something, ValueError for what the model cannot do.
        """
        source = copyable(self.source)
        line, how = self.pipeline, self.how(pooling=pooling, normalize=normalize, prompt="", max_length=max_length)
        known = line.prompts if prompts is None else prompts
        pipeline = replace(
            line,
            pooling=how.pooling,
            normalize=how.normalize,
            prompts=known,
            default_prompt_name=default_prompt_name or (line.default_prompt_name if prompts is None else None),
        )
        folders.write(source, Path(folder), pipeline, self.config.hidden_size, how.reading.max_length)
