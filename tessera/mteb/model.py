"""A model folder as mteb wants it."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.bulk.nearest import check_vectors
from tessera.inference.encoder import Encoder
from tessera.inference.sentence_folder import content_hash
from tessera.plan.shipped import pip_line
from tessera.progress import Progress, silent

Floats = NDArray[np.float32]

_REMEMBERED = 2**29  # bytes of vectors kept to give the same text again; tasks ask for their training texts many times


def library() -> Any:
    """The mteb module, asked for at the door."""
    try:
        import mteb
    except ImportError:
        raise ImportError(f"mteb is not installed; {pip_line('evaluate')}") from None
    return mteb


class Model:
    """A model folder as mteb wants it (its EncoderProtocol): every text is embedded once and remembered.

    model_name   a folder: ours, or any that `tessera.inference.encoder.Encoder` reads; what it says of pooling, length,
                 prompts and similarity holds
    pooling, max_length   instead of what the folder says
    dtype        of the matrix products; float32, the default here, gives to the last digit what others publish
    """

    def __init__(
        self,
        model_name: str | Path,
        *,
        device: str | None = None,
        name: str | None = None,
        pooling: str | None = None,
        max_length: int | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "float32",
        on_progress: Progress | None = None,
    ) -> None:
        library()
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        folder = Path(model_name)
        self.encoder = Encoder.from_pretrained(folder, device=device or "auto", dtype=dtype)
        self.progress = on_progress or silent
        self._how = {"pooling": pooling, "max_length": max_length}
        chosen = {**self._how, "dtype": None if dtype == "float32" else dtype}
        similarity = self.encoder.similarity_fn_name
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"local/{name or folder.resolve().name}",
                "revision": content_hash(folder),
                "n_parameters": _parameters(folder),
                "max_tokens": max_length or self.encoder.max_seq_length,
                "embed_dim": self.encoder.dimensions,
                "framework": ["PyTorch", "safetensors"],
                "similarity_fn_name": ScoringFunction(similarity),
                "use_instructions": bool(self.encoder.prompts),
                # what the caller changed gets a folder of its own among the results
                "experiment_kwargs": {key: value for key, value in chosen.items() if value is not None} or None,
            }
        )
        self._rows: dict[str, Floats] = {}

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Floats:
        """mteb's batches of texts -> float32 [n, width], in their order."""
        from mteb.models.abs_encoder import get_prompt_name

        prompts = self.encoder.prompts
        wanted = get_prompt_name(prompts, task_metadata, prompt_type) if prompts else None
        prompt = prompts[wanted] if wanted else ""
        texts = [text for batch in inputs for text in batch["text"]]
        new = [text for text in dict.fromkeys(texts) if prompt + text not in self._rows]
        if (len(self._rows) + len(new)) * self.encoder.dimensions * 4 > _REMEMBERED:
            self._rows, new = {}, list(dict.fromkeys(texts))
        what = f"{task_metadata.name} {hf_subset}"
        vectors = self.encoder.encode(
            new,
            prompt=prompt,
            on_progress=lambda done, total, _: self.progress(done, total, what),
            **self._how,  # type: ignore[arg-type]
        )
        check_vectors(vectors, new)
        known = self._rows | {prompt + text: vector for text, vector in zip(new, vectors, strict=True)}
        if len(known) * self.encoder.dimensions * 4 <= _REMEMBERED:
            self._rows = known
        rows = [known[prompt + text] for text in texts]
        return np.stack(rows) if rows else np.empty((0, self.encoder.dimensions), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """[n, m], by the similarity that the folder names."""
        return self.encoder.similarity(np.asarray(embeddings1), np.asarray(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Of row i with row i, [n]."""
        return self.encoder.similarity_pairwise(np.asarray(embeddings1), np.asarray(embeddings2))


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return total
