"""BPE merges: which tokens a token is made of, and the closure of a set of tokens under that.

A text is merged in the order of ranks, the leftmost first. Merges never cross the edges of a token that stands in the
end, so inside it the same merges happen, in the same order, as in its own string alone. Hence a vocabulary that holds,
with each token, every token on the way to it, gives the old ids to all texts whose tokens it holds.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

Pair = tuple[str, str]
Json = dict[str, Any]


def pairs(model: Json) -> list[Pair]:
    """The merges of a tokenizer.json by rank; "a b" in older files, ["a", "b"] today."""
    found = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or ())
    return [(first, second) for first, second in found]


class Merges:
    """The merges of a vocabulary, by which the string of a token is put together."""

    def __init__(self, model: Json) -> None:
        self.prefix: str = model.get("continuing_subword_prefix") or ""
        self.suffix: str = model.get("end_of_word_suffix") or ""
        self.rank = {pair: rank for rank, pair in enumerate(pairs(model))}  # of a pair that comes twice, the last

    def joined(self, pair: Pair) -> str:
        """What a merge makes."""
        return pair[0] + pair[1].removeprefix(self.prefix)

    def parts(self, token: str) -> set[str]:
        """Every token on the way from its characters to it, itself included; only itself where no merges lead to it."""
        symbols, seen = self._characters(token), {token}
        seen.update(symbols)
        while len(symbols) > 1:
            ranked = [(self.rank.get(pair), n) for n, pair in enumerate(itertools.pairwise(symbols))]
            known = [(rank, n) for rank, n in ranked if rank is not None]
            if not known:
                return {token}
            at = min(known)[1]
            symbols[at : at + 2] = [self.joined((symbols[at], symbols[at + 1]))]
            seen.add(symbols[at])
        return seen

    def _characters(self, token: str) -> list[str]:
        """How the model begins: continuing characters bear a prefix, the last one the mark of a word's end."""
        inside = bool(self.prefix) and token.startswith(self.prefix) and len(token) > len(self.prefix)
        ends = bool(self.suffix) and token.endswith(self.suffix) and len(token) > len(self.suffix)
        letters = list(token.removeprefix(self.prefix if inside else "").removesuffix(self.suffix if ends else ""))
        symbols = [letter if n == 0 and not inside else self.prefix + letter for n, letter in enumerate(letters)]
        if ends and symbols:
            symbols[-1] += self.suffix
        return symbols


def kept_merges(model: Json, vocabulary: Mapping[str, int] | Sequence[str]) -> list[list[str]]:
    """The merges by rank of which both parts and the outcome are in a smaller vocabulary."""
    merges = Merges(model)
    return [
        [*pair]
        for pair in pairs(model)
        if pair[0] in vocabulary and pair[1] in vocabulary and merges.joined(pair) in vocabulary
    ]
