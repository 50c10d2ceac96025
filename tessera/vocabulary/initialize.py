"""Initialization of new vocabulary rows from old ones: the mean of the pieces they replace, or by similarity (FOCUS).

A new row is a weighted sum of old rows, the same in the embedding, the decoder and its bias.

mean   the pieces that stood in its place, all alike. Source: Gee et al. 2022, "Fast Vocabulary Transfer",
       EMNLP industry track, arXiv:2402.09977
focus  old tokens that stand in the same company in the new text, the more alike the more weight, by sparsemax over
       cosines. Source: FOCUS, Dobler & de Melo 2023, arXiv:2305.14481, which takes the company from fastText; ours is
       positive PMI within a window, reduced by an SVD (Levy & Goldberg 2014, "Neural Word Embedding as Implicit Matrix
       Factorization"). A piece that is too rare for that has the mean of its pieces
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tessera.vocabulary.pieces import Learnt

Method = Literal["mean", "focus"]
Sum = tuple[NDArray[np.int64], NDArray[np.float64]]  # old ids, and their weights, which are 1 together

_WINDOW = 5  # tokens on either side
_WIDTH = 100
_SEEN = 5  # tokens that come less often have no company to speak of
_DRAWN = 64  # old rows of which the mean is taken for a piece that nothing stood for
_NEAREST = 20  # old tokens that weights are shared among


def new_rows(
    method: Method, learnt: Learnt, vocab_size: int, common: NDArray[np.int64], encoded: Sequence[NDArray[np.int32]]
) -> dict[int, Sum]:
    """Of which old rows each new one is a sum: new id -> old ids and weights.

    common   old ids to draw from for a piece that nothing old could write: the mean of some, others for each piece, so
             that no two of them begin as the same row
    encoded  the new text in ids of the extended vocabulary, for focus

    Raises ValueError for a method that is none.
    """
    if method not in get_args(Method):
        raise ValueError(f"init is {method!r}; give {' or '.join(get_args(Method))}")
    rows = {}
    for n, parts in enumerate(learnt.parts):
        old = np.array(parts, np.int64) if parts else drawn(common, learnt.pieces[n])
        rows[learnt.first + n] = old, np.full(len(old), 1 / len(old))
    if method == "focus":
        back = {new: old for old, new in learnt.ids(vocab_size).items()}
        rows |= _similar([*rows], back, encoded)
    return rows


def drawn(common: NDArray[np.int64], piece: str) -> NDArray[np.int64]:
    """Some old ids, by the hash of a piece."""
    seed = int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest(), "big")
    return np.sort(np.random.default_rng(seed).choice(common, min(_DRAWN, len(common)), replace=False))


def _similar(new: Sequence[int], back: dict[int, int], encoded: Sequence[NDArray[np.int32]]) -> dict[int, Sum]:
    """By company: of the new ids that are frequent enough."""
    vectors = company(encoded)
    ours = [i for i in new if i in vectors]
    old = [i for i in vectors if i in back]
    if not ours or not old:
        return {}
    table = np.stack([vectors[i] for i in old])
    found = {}
    for i in ours:
        scores = table @ vectors[i]
        best = np.argpartition(-scores, min(_NEAREST, len(scores)) - 1)[:_NEAREST]
        weights = sparsemax(scores[best])
        chosen = np.flatnonzero(weights)
        found[i] = np.array([back[old[best[n]]] for n in chosen], np.int64), weights[chosen]
    return found


def company(encoded: Sequence[NDArray[np.int32]]) -> dict[int, NDArray[np.float64]]:
    """A vector of length 1 for each token that is frequent enough: what stands around it."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    flat = np.concatenate([np.append(ids, -1) for ids in encoded]) if encoded else np.zeros(0, np.int32)
    names, place, counts = np.unique(flat, return_inverse=True, return_counts=True)
    frequent = (counts >= _SEEN) & (names >= 0)
    number = np.where(frequent, frequent.cumsum() - 1, -1)[place]
    size = int(frequent.sum())
    if size <= 2:
        return {}
    firsts, seconds = [], []
    for distance in range(1, _WINDOW + 1):
        a, b = number[:-distance], number[distance:]
        both = (a >= 0) & (b >= 0)
        firsts += [a[both], b[both]]
        seconds += [b[both], a[both]]
    rows, columns = np.concatenate(firsts), np.concatenate(seconds)
    together = coo_matrix((np.ones(len(rows)), (rows, columns)), (size, size)).tocsr().tocoo()
    total = np.asarray(together.sum(1)).ravel()
    weight = np.log(together.data * total.sum() / (total[together.row] * total[together.col]))
    positive = weight > 0
    matrix: Any = coo_matrix((weight[positive], (together.row[positive], together.col[positive])), (size, size)).tocsr()
    left, strength, _ = svds(matrix, k=min(_WIDTH, size - 1), random_state=0)
    vectors = left * np.sqrt(np.maximum(strength, 0))
    lengths = np.linalg.norm(vectors, axis=1)
    ids = names[frequent]
    return {int(ids[n]): vectors[n] / lengths[n] for n in range(size) if lengths[n] > 0}


def sparsemax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point of the simplex that is nearest to `scores`: weights of which many are 0.

    Source: Martins & Astudillo 2016, arXiv:1602.02068, algorithm 1.
    """
    ranked = np.sort(scores)[::-1]
    running = ranked.cumsum()
    place = np.arange(1, len(scores) + 1)
    held = place[1 + place * ranked > running][-1]
    return np.maximum(scores - (running[held - 1] - 1) / held, 0.0)
