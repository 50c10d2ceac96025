"""Warnings about results in words: what a reader should know of the data before believing the scores.

They are read off results (results/result.py); evaluation/about.py puts them there.
"""

from collections.abc import Sequence
from typing import Any

from tessera.plan.errors import some
from tessera.results.result import Result


def remarks(one: Result) -> list[str]:
    """What a result says about its data that is no score, each a line."""
    about, lines = one.warnings, []
    if about.out_of_reach:
        lines.append(_out_of_reach(about.out_of_reach, one.examples))
    if about.left_out:
        lines.append(f"{about.left_out} rows are left out, the first: {about.first}")
    if one.protocol.get("skipped"):
        lines.append(f"{one.protocol['skipped']} rows cannot be used and are left out")
    if about.without_training:
        lines.append(f"not tested, since there is nothing to train on: {some(about.without_training, 8)}")
    for code, labels in about.unseen_labels.items():
        lines.append(f"labels of {code} that no training row has, so always wrong: {some(labels, 8)}")
    if about.f1_of:
        lines.append(f"f1 is of the class {about.f1_of!r}")
    return lines


def of_one_name(results: Sequence[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """What differs between protocols that bear one name, as those of different versions of tessera may.

    results  (what it is called, the name of its protocol, what else the protocol says) of one task
    """
    lines = []
    for name in dict.fromkeys(protocol for _, protocol, _ in results):
        (first, base), *others = [(label, settings) for label, protocol, settings in results if protocol == name]
        for label, settings in others:
            keys = [key for key in {**base, **settings} if base.get(key) != settings.get(key)]
            if keys:
                what = some([f"{key} {base.get(key)} and {settings.get(key)}" for key in keys], 4)
                lines.append(f"{first} and {label} were measured by two protocols called {name}: {what}")
    return lines


def _out_of_reach(lost: dict[str, int], examples: dict[str, int]) -> str:
    asked, several = sum(examples.values()), len(examples) > 1
    share = {code: count / max(1, examples.get(code, count)) for code, count in lost.items()}
    most = max(share, key=share.__getitem__)
    worst = f", most in {most}: {share[most]:.0%}" if several else ""
    return (
        f"no answer of {sum(lost.values())} of {asked} questions can be given ({sum(lost.values()) / max(1, asked):.1%}"
        f"{worst}): all are too long, or whole in no window"
    )
