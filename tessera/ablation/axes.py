"""Ablation axes and the baseline: one phase of a recipe, and what `--vary` makes of it.

    --vary phases.decay.mask_ratio=0.05,0.1,0.3

is an axis: a key of the phase and values, each of them YAML, as in a YAML list without its brackets. One axis moves at
a time, the rest stays as in the recipe, as in the ablations of EuroBERT (arXiv:2503.05500, section 4). The phase as the
recipe has it is the baseline.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tessera.files import digest
from tessera.plan.errors import did_you_mean
from tessera.plan.loading import RecipeError, load, parse_yaml
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe

BASELINE = "reference"  # the name of its folder, and in the files
_LONG = 40  # letters of a value


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The phase with one value changed, or models of other variants merged."""

    name: str  # of its folder, letters and digits only where possible
    label: str  # for people: the value as YAML
    phase: Phase
    merged: tuple[str, ...] = ()  # names of the variants that it joins; it is not trained then


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    key: str  # within the phase: mask_ratio, mixture.shares.code
    variants: tuple[Variant, ...]  # in the order given; a value that the recipe has is the baseline


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    recipe: Recipe
    baseline: Variant
    axes: tuple[Axis, ...]

    @property
    def phase(self) -> Phase:
        return self.baseline.phase

    @property
    def variants(self) -> list[Variant]:
        """All that is trained or merged, the baseline first, each once."""
        every = [self.baseline, *(v for axis in self.axes for v in axis.variants)]
        return list({variant.name: variant for variant in every}.values())


def read(
    path: str | Path, vary: Sequence[str], overrides: dict[str, str] | None = None, merge: Sequence[str] = ()
) -> Ablation:
    """An ablation out of a recipe and its axes, each written as key=value,value.

    overrides   changes that hold for all variants, the baseline too
    merge       keys of axes that get one variant more, which joins the models of their values

    Raises RecipeError where a key is no key of a phase, where axes are of several phases, and where a value makes the
    recipe invalid.
    """
    recipe = load(path, overrides)
    if not vary:
        raise RecipeError("nothing is varied; write an axis as --vary phases.NAME.mask_ratio=0.05,0.1,0.3")
    asked = [_split(text) for text in vary]
    names = [_phase_of(key, recipe, text) for (key, _), text in zip(asked, vary, strict=True)]
    if len(set(names)) > 1:
        raise RecipeError(
            f"--vary: {' and '.join(dict.fromkeys(names))} are two phases, and the baseline is one; ablate one after "
            "the other"
        )
    keys = [key.split(".", 2)[2] for key, _ in asked]
    if twins := [key for key in keys if keys.count(key) > 1]:
        raise RecipeError(f"--vary: {twins[0]} is varied twice; give all its values in one list")
    known = [key for key, _ in asked]
    for key in merge:
        if key not in known:
            raise RecipeError(f"--merge {key}: this is not varied; {did_you_mean(key, known)}")
    baseline = Variant(name=BASELINE, label=BASELINE, phase=recipe.phase(names[0]))
    axes = []
    for (key, values), short in zip(asked, keys, strict=True):
        variants = {}
        for value in values:
            variant = _variant(path, overrides or {}, key, value, baseline, short)
            if variant.name != BASELINE or BASELINE not in variants:
                variants[variant.name] = variant
        if key in merge:
            joined = _merged(short, list(variants.values()), baseline)
            variants[joined.name] = joined
        axes.append(Axis(key=short, variants=tuple(variants.values())))
    return Ablation(recipe=recipe, baseline=baseline, axes=tuple(axes))


def _split(text: str) -> tuple[str, list[Any]]:
    """`key=1,{a: 2}` -> (key, [1, {"a": 2}])."""
    key, sign, given = text.partition("=")
    if not sign or not given.strip():
        raise RecipeError(f"--vary {text}: write it as key=value,value, e.g. phases.decay.mask_ratio=0.05,0.1")
    try:
        values = parse_yaml(f"[{given}]")
    except ValueError as error:
        why = str(error).removeprefix(":").strip()
        raise RecipeError(
            f"--vary {text:.200}: {given[:80]!r} is not a YAML list without its brackets ({why}); close what is open, "
            "and put the whole in quotes against the shell, as 'phases.decay.crop=null,{how: complementary}'"
        ) from None
    return key.strip(), values


def _phase_of(key: str, recipe: Recipe, text: str) -> str:
    known = [phase.name for phase in recipe.phases]
    parts = key.split(".", 2)
    if parts[0] != "phases":
        raise RecipeError(
            f"--vary {text}: all variants come from one checkpoint, so only a phase can vary; a key begins with "
            f"phases.NAME, where NAME is one of {', '.join(known)}"
        )
    if len(parts) < 3:
        raise RecipeError(f"--vary {text}: name a key of the phase, e.g. phases.{known[-1]}.mask_ratio")
    if parts[1] not in known:
        raise RecipeError(f"--vary {text}: {parts[1]!r} is no phase of the recipe; {did_you_mean(parts[1], known)}")
    if parts[2] in ("name", "from"):
        raise RecipeError(
            f"--vary {text}: {parts[2]} is the same for all variants"
            + ("; --from says where they start" if parts[2] == "from" else "; it decides the order of the batches")
        )
    return parts[1]


def _variant(
    path: str | Path, overrides: dict[str, str], key: str, value: Any, baseline: Variant, short: str
) -> Variant:
    written = json.dumps(value, ensure_ascii=False, default=str)
    try:
        recipe = load(path, {**overrides, **_room(baseline.phase, short, value), key: written})
    except RecipeError as error:
        raise RecipeError(f"--vary {key}={label(value)}: {error}") from None
    phase = recipe.phase(baseline.phase.name)
    if phase == baseline.phase:
        told = label(value) if len(label(value)) <= _LONG else "as in the recipe"
        return Variant(name=BASELINE, label=told, phase=phase)
    name = f"{_slug(short)}-{_slug(label(value))}"
    return Variant(name=name, label=_told(value, value_at(baseline.phase, short), value_at(phase, short)), phase=phase)


def _room(phase: Phase, key: str, value: Any) -> dict[str, str]:
    """The other shares of a mixture in which every token has a fixed share, where one share changes.

    They keep their proportions. Where languages share what the fixed shares leave, they make the room themselves.
    """
    name, shares = key.removeprefix("mixture.shares."), phase.mixture.shares
    plain = {k: share for k, share in shares.items() if isinstance(share, (int, float))}
    if name == key or len(plain) < len(shares) or abs(sum(plain.values()) - 1) > 1e-6:
        return {}
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        return {}  # it is refused in words by the recipe
    before = plain.pop(name, 0.0)
    factor = (1 - value) / (1 - before) if before < 1 else 1.0
    return {f"phases.{phase.name}.mixture.shares.{k}": repr(share * factor) for k, share in plain.items()}


def _merged(short: str, variants: list[Variant], baseline: Variant) -> Variant:
    if len(variants) < 2:
        raise RecipeError(f"--merge joins the models of an axis, and {short} has one value")
    parents = tuple(variant.name for variant in variants)
    name = f"{_slug(short)}-merged-{digest(parents)[:6]}"
    return Variant(name=name, label="merged", phase=baseline.phase, merged=parents)


def value_at(phase: Phase, key: str) -> Any:
    """What stands at a dotted key of the phase; None where there is nothing."""
    here: Any = phase.model_dump(mode="json", by_alias=True)
    for part in key.split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return here


def _told(given: Any, before: Any, now: Any) -> str:
    """The value; of keys and values only those that the baseline has otherwise."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return label(given)
    old, new = _leaves(before), _leaves(now)
    return ", ".join(f"{key}: {label(new.get(key))}" for key in {**new, **old} if old.get(key) != new.get(key))


def _leaves(value: dict[str, Any]) -> dict[str, Any]:
    """{a: {b: 1}} -> {a.b: 1}; `languages` stays one value."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and key != "languages":
            found |= {f"{key}.{deeper}": leaf for deeper, leaf in _leaves(inner).items()}
        else:
            found[key] = inner
    return found


def label(value: Any) -> str:
    """A value as one would write it: 0.1, null, {how: complementary}."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False).strip()
    return text.removesuffix("...").strip()


def _slug(text: str) -> str:
    """The text as a part of a folder name, with a hash where more than a slash had to be replaced."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:_LONG]
    return plain if plain == text.replace("/", "-") else f"{plain}-{digest(text)[:6]}".strip("-")
