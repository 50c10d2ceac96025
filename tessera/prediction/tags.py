"""Tagging schemes: BIO, BIOES and BILOU, in which the tags of words say where entities begin and go on.

A tag is a letter, a dash and the kind of an entity, as B-PER, or O. Where there is one kind of entity its letters may
stand alone, as B, I and O; that kind is called "_" then, as seqeval calls it.
"""

import re
from collections.abc import Sequence

UNNAMED = "_"  # the kind of an entity whose tags are letters alone
_SCHEMED = re.compile(r"O|[BIESLUM]-.+", re.DOTALL)
_LETTERS = {*"OBIESLUM"}
_GOES_ON = {"I": "BI", "M": "BIM", "E": "BIM", "L": "BI"}  # which letters may stand before, of the same name


def _bare(names: Sequence[str]) -> bool:
    return {"B", "I"} <= {*names} <= _LETTERS


def says_entities(names: Sequence[str]) -> bool:
    """Whether the tags of a model say where entities begin and go on: all of them, or some would be lost."""
    try:
        return scheme(names) != ""
    except ValueError:
        return False


def of_spans(labels: Sequence[str]) -> tuple[str, ...]:
    """The tags of BIO that spans with these labels need, O first; as they are where they are just these already."""
    kinds = dict.fromkeys(name[2:] if name.startswith(("B-", "I-")) else name for name in labels if name != "O")
    needed = ("O", *(f"{letter}-{kind}" for kind in kinds for letter in "BI"))
    return tuple(labels) if {*labels} == {*needed} else needed


def scheme(names: Sequence[str]) -> str:
    """BIO or BIOES (also as BILOU) where names of tags say where an entity begins and goes on; "" where they do not.

    Raises ValueError where some do and others do not.
    """
    if _bare(names):
        return "BIO" if {*names} <= {*"BIO"} else "BIOES"
    marked = [name for name in names if name != "O" and _SCHEMED.fullmatch(name)]
    if not any(name.startswith(("B-", "I-")) for name in marked):
        return ""
    plain = [name for name in names if not _SCHEMED.fullmatch(name)]
    if plain:
        raise ValueError(
            f"the tag {plain[0]!r} has no B- or I- before it, but {marked[0]!r} has; write all tags the same way"
        )
    return "BIO" if {name[0] for name in marked} <= set("BI") else "BIOES"


def broken_at(tags: Sequence[str]) -> int | None:
    """The first word whose tag cannot stand behind the one before it, as I-PER behind O; None where all can."""
    before = "O"
    for number, tag in enumerate(tags):
        allowed = _GOES_ON.get(tag[0], "") if tag != "O" else ""
        if allowed and not (before[0] in allowed and before[1:] == tag[1:]):
            return number
        before = tag
    return None


def entities(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first word, behind the last, kind) of each entity of BIO, BIOES or BILOU labels, as lenient as seqeval.

    One begins at B, S or U, and wherever a kind does not go on from the word before; it ends behind E, L, S and U, at
    another kind, at a beginning, and at whatever is of no entity.
    """
    found: list[tuple[int, int, str]] = []
    begin, kind, open_ = 0, "", False
    for n, label in enumerate([*labels, "O"]):
        letter, own = _parts(label)
        goes_on = open_ and letter in ("I", "M", "E", "L") and own == kind
        if open_ and not goes_on:
            found.append((begin, n, kind))
            open_ = False
        if letter != "O" and not goes_on:
            begin, kind, open_ = n, own, True
        if open_ and letter in ("E", "L", "S", "U"):
            found.append((begin, n + 1, kind))
            open_ = False
    return found


def _parts(label: str) -> tuple[str, str]:
    """The letter of a tag and its kind; a tag of no scheme is as O."""
    if label in _LETTERS:
        return label, UNNAMED
    letter, dash, kind = label.partition("-")
    return (letter, kind) if dash and kind and letter in _LETTERS else ("O", "")
