"""Temperature sampling over languages for distillation: which pairs each step learns from."""

from collections.abc import Sequence
from itertools import count, islice

import numpy as np

from tessera.finetune.loop import Plan
from tessera.plan.task import Protocol
from tessera.retrieval.pairs import Sentence


def plan(pairs: Sequence[Sentence], protocol: Protocol, seed: int, temperature: float = 1.0) -> Plan:
    """Which pairs each step learns from; languages in proportion to n ** temperature, n the pairs of each.

    temperature   1: as they are there, 0: all alike (exponent on sizes, Conneau et al. 2020, arXiv:1911.02116, 3.1)

    An epoch has as many pairs as there are. Each language goes through its own before any of them comes again.
    """
    if not 0 <= temperature <= 1:
        raise ValueError(f"temperature is {temperature}; it is an exponent on the sizes of languages, from 0 to 1")
    languages: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        languages.setdefault(pair.language, []).append(number)
    plain = Plan.of(len(pairs), protocol, seed)
    if temperature == 1 or len(languages) < 2:
        return plain
    weights = np.array([len(numbers) for numbers in languages.values()]) ** temperature
    each = (weights / weights.sum() * len(pairs)).tolist()  # of an epoch; parts of one add up over epochs

    def batches(epoch: int) -> list[list[int]]:
        drawn: list[int] = []
        for place, (numbers, share) in enumerate(zip(languages.values(), each, strict=True)):
            begin = round(epoch * share)
            for at in range(begin, round((epoch + 1) * share)):
                turn, inside = divmod(at, len(numbers))
                if inside == 0 or at == begin:
                    order = np.random.default_rng([seed, place, turn, 1]).permutation(len(numbers))
                drawn.append(numbers[order[inside]])
        mixed = np.array(drawn)[np.random.default_rng([seed, epoch]).permutation(len(drawn))].tolist()
        size = min(protocol.batch_size, len(mixed))
        return [mixed[first : first + size] for first in range(0, len(mixed), size)]

    every = (np.array(batch) for epoch in count() for batch in batches(epoch))
    return Plan(tuple(islice(every, len(plain.batches))), plain.epoch)


def met(pairs: Sequence[Sentence], protocol: Protocol, temperature: float) -> list[int]:
    """The pairs that some step of some seed learns from, in the order in which they come."""
    steps = [batch for seed in protocol.seeds for batch in plan(pairs, protocol, seed, temperature).batches]
    return list(dict.fromkeys(np.concatenate(steps).tolist()))
