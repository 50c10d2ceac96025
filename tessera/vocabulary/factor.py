"""Factorized embedding: the table of tokens as one of lower rank and a projection, as ALBERT and ELECTRA have it.

BERT becomes ELECTRA, which is BERT with such a table, so that what comes out is a folder of transformers. The layer
norm after the table is folded into both: where the rank is enough, hidden states are what they were.
Source: Lan et al. 2020 (ALBERT), arXiv:1909.11942, section 3.1; Clark et al. 2020 (ELECTRA), arXiv:2003.10555.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tessera.files import atomic_folder, refuse_taken
from tessera.huggingface.hf_files import open_weights, refuse_infinite
from tessera.huggingface.transformers_folder import retold
from tessera.huggingface.transformers_model import quietly
from tessera.inference.tokenize import check_vocabulary
from tessera.json_files import shown
from tessera.progress import Silent, Watcher
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary import card, tables
from tessera.vocabulary.texts import Texts
from tessera.vocabulary.usage import count

# Shapes: V tokens, P positions, S segments, C hidden size, R rank.

_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_NORM = ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias")
_PROJECTION = ("embeddings_project.weight", "embeddings_project.bias")
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
_BERT_ONLY = ("pooler_fc_size", "use_cache", "classifier_dropout", "position_embedding_type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Factored:
    """What came out."""

    folder: Path
    rank: int
    parameters: tuple[int, int]  # before and after
    kept: float  # of the squared length of the rows of a text, by how often each token comes
    left_out: tuple[str, ...]


def factor(folder: str | Path, texts: Texts, out: str | Path, rank: int, *, watcher: Watcher | None = None) -> Factored:
    """Writes `folder`, an encoder of BERT's architecture, with an embedding of this rank to `out`.

    texts  tell how often each token comes: rows that come often are kept more exactly
    rank   width of the new table, at least 2 and less than the hidden size

    It is an approximation that training must make good. Raises FileExistsError where `out` holds something; ValueError
    for another architecture, a head that reads the table, and a rank that is none.
    """
    out, watcher = Path(out), watcher or Silent()
    refuse_taken(out)
    model = tables.ModelFolder.of(Path(folder))
    with ExitStack() as files:
        stored = {name: weight.file.get_tensor(name) for name, weight in open_weights(model.inside, files).items()}
    weights = _encoder(model, stored, rank)
    tokenizer = Tokenizer.load(model.inside)
    check_vocabulary(tokenizer, model, model.inside)
    counted = np.sum(list(count(tokenizer, texts.used, watcher.progress("factor")).values()), axis=0)
    often = torch.ones(model.vocab_size, dtype=torch.float64)  # rows may be more than the tokenizer has tokens
    often[: len(counted)] += torch.from_numpy(counted)
    made, kept = _factored(weights, often, rank)
    config = _config(model, rank)
    sizes = tuple(sum(values.numel() for values in some.values()) for some in (stored, made))
    with atomic_folder(out, sealed=True) as draft:
        left_out = list(tables.copy_rest(model.whole, model.inside, draft))
        inside = draft / model.inside.relative_to(model.whole)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (inside / "config.json").write_text(text, encoding="utf-8", newline="\n")
        save_file(made, inside / "model.safetensors", metadata={"format": "pt"})
        card.add(draft, card.factored(model.whole, rank, texts, (sizes[0], sizes[1]), kept, left_out))
    return Factored(folder=out, rank=rank, parameters=(sizes[0], sizes[1]), kept=kept, left_out=tuple(left_out))


def _encoder(model: tables.ModelFolder, stored: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The weights of BERT's encoder by their names in it, without its pooler. Raises ValueError as `factor`."""
    kind, width = model.config.get("model_type"), model.config.get("hidden_size")
    if kind != "bert" or model.config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(
            f"{model.inside}: model_type is {shown(kind)}; only BERT with a table of positions (MiniLM, e5-small, BGE) "
            "has a counterpart in transformers with a factorized embedding, ELECTRA"
        )
    if not isinstance(width, int) or not 2 <= rank < width:
        raise ValueError(f"rank is {rank}; give one from 2 on that is less than the hidden size, {shown(width)}")
    weights = {name.removeprefix("bert."): values for name, values in stored.items()}
    weights = {name: values for name, values in weights.items() if not name.startswith("pooler.")}
    if heads := sorted(name for name in weights if not name.startswith(("embeddings.", "encoder."))):
        raise ValueError(
            f"{model.inside}: {shown(heads[0])} ({len(heads)} weights) is of a head, which would not fit a factorized "
            "embedding; give the encoder alone, or a folder of sentence-transformers"
        )
    return {name: values for name, values in weights.items() if not name.endswith("position_ids")}


def _config(model: tables.ModelFolder, rank: int) -> dict[str, Any]:
    """config.json of the new model. ELECTRA's sizes are others than BERT's where a file does not say them."""
    from transformers import AutoConfig

    with retold(model.inside / "config.json"), quietly():
        known = AutoConfig.from_pretrained(model.inside, trust_remote_code=False, local_files_only=True)
    said = {key: value for key, value in model.config.items() if key not in _BERT_ONLY}
    new = {"architectures": ["ElectraModel"], "model_type": "electra", "embedding_size": rank}
    return {**said, **{key: getattr(known, key) for key in _SIZES}, **new}


def _factored(weights: Mapping[str, Tensor], often: Tensor, rank: int) -> tuple[dict[str, Tensor], float]:
    """ELECTRA's weights of BERT's, and the share of the squared length that is kept.

    often  [V], the weight of each token

    BERT norms e = word + position + segment, which begins by taking the mean of e from e. That is linear, so it is
    taken from the tables, and what is left is written in R - 1 directions B [C, R - 1]. ELECTRA norms over R numbers;
    their mean is 0, since they are written in directions H [R, R - 1] perpendicular to (1, ..., 1). A norm gives length
    sqrt(R) in place of sqrt(C): the projection makes it good, and takes scale and shift of BERT's norm as well.
    """
    found = {name: weights[f"embeddings.{name}.weight"].double() for name in _TABLES}
    found = {name: values - values.mean(1, keepdim=True) for name, values in found.items()}
    words, positions, segments = found.values()
    share = often / often.sum()
    moment = words.T @ (share[:, None] * words) + positions.T @ positions / len(positions)
    moment += segments[:1].T @ segments[:1]  # nearly all text is the first of a pair
    values, directions = torch.linalg.eigh(moment)
    base = directions[:, -(rank - 1) :]
    ones = torch.cat((torch.ones(rank, 1), torch.eye(rank)[:, : rank - 1]), 1).double()
    level = torch.linalg.qr(ones)[0][:, 1:]
    scale, shift = (weights[name].double() for name in _NORM)
    width = len(scale)
    new = {f"embeddings.{name}.weight": table @ base @ level.T for name, table in found.items()}
    new |= {_NORM[0]: torch.ones(rank), _NORM[1]: torch.zeros(rank)}
    new[_PROJECTION[0]] = scale[:, None] * (base @ level.T) * (width / rank) ** 0.5
    new[_PROJECTION[1]] = shift
    made = {name: values for name, values in weights.items() if name.startswith("encoder.")}
    made |= {name: values.to(weights["embeddings.word_embeddings.weight"].dtype) for name, values in new.items()}
    for name, tensor in made.items():
        refuse_infinite(name, tensor)
    kept = values[-(rank - 1) :].sum() / values.sum().clamp(min=1e-300)
    return {name: tensor.contiguous() for name, tensor in made.items()}, float(kept)
