"""A dry run of a recipe: what it will do, by phase and language, in tokens, steps, rates, hours and bytes."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tessera.plan import cost, schedule
from tessera.plan.architecture import EncoderConfig, parameters
from tessera.plan.corpus import Bucket
from tessera.plan.errors import some
from tessera.plan.fields import at, hub_name, is_folder
from tessera.plan.mixture import MixtureSchedule, mixture_of
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.plan.token_counts import Inventory, PhaseText, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the hours are stated for."""

    gpu: str = "h100"
    gpus: int = 1
    mfu: float = 0.4  # share of the GPU's peak that is reached


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePlan:
    """What one phase reads of one language, all its sources and tiers together."""

    language: str
    available: int | None  # tokens; None: not known
    share: float  # of the phase's tokens
    share_start: float  # as the phase begins and ends, where its mixture moves
    share_end: float
    tokens: int
    epochs: float | None
    most_epochs: float | None  # of its most repeated bucket
    capped: bool  # max_epochs takes something from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """The settings at one end of a phase."""

    learning_rate: float
    mask_ratio: float
    temperature: float
    batch_tokens: int
    rope_theta: tuple[float, float] | None  # global, local; None: as the model has it


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlan:
    name: str
    from_: str
    tokens: int
    steps: int
    batch_tokens: int
    context: int
    mean_length: float | None  # tokens of a piece of a document; None: not known
    start: Joint
    end: Joint
    flops: float | None  # None: the model is a folder's
    gpu_hours: float | None
    memory: dict[str, float] | None  # bytes of one GPU, by part
    moves: bool  # whether shares change within the phase
    languages: tuple[LanguagePlan, ...]  # the largest share first; empty where the text is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole plan; `dataclasses.asdict` of it is what `--json` prints."""

    recipe: str
    preset: str | None
    parameters: dict[str, int] | None
    machine: Machine
    gpu_memory: float  # bytes that one GPU has
    inventory: str | None  # where the sizes are from
    phases: tuple[PhasePlan, ...]
    merges: tuple[str, ...]
    warnings: tuple[str, ...]
    mining: tuple[str, ...] = ()  # what phases with hard negatives do before they begin


def overview(
    recipe: Recipe, inventory: Inventory | None = None, machine: Machine | None = None, warn_epochs: float = 5.0
) -> Overview:
    """The plan of a recipe.

    inventory    how much text there is (plan/token_counts.py); without it languages stay unknown
    machine      the GPUs that hours and memory are stated for
    warn_epochs  a language that is read more often in one phase is warned of

    Raises ValueError where a mixture does not fit the text, naming the phase, where a phase is still to be settled by
    text (plan/fit.py), or the machine is not known.
    """
    machine = machine or Machine()
    if machine.gpus < 1:
        raise ValueError(f"--gpus: {machine.gpus} GPUs; give at least 1")
    config = _architecture(recipe, inventory)
    warnings = list(inventory.warnings) if inventory is not None else []
    phases = []
    for phase in recipe.phases:
        reads = inventory is not None and phase.kind == "masked"  # pairs have a store of their own
        text = text_of(recipe, phase, inventory) if reads and inventory is not None else None
        planned, warned = _phase(recipe, phase, text, config, machine, warn_epochs)
        phases.append(planned)
        warnings += warned
    has = cost.gpu(machine.gpu).memory
    for planned in phases:
        if (needs := sum((planned.memory or {}).values())) > 0.95 * has:
            warnings.append(
                f"{planned.name}: needs about {needs / 1e9:.0f} GB of a {machine.gpu}'s {has / 1e9:.0f} GB; "
                "lower machine.micro_batch_tokens"
            )
    return Overview(
        recipe=recipe.name,
        preset=recipe.model.preset,
        parameters=parameters(config) if config is not None else None,
        machine=machine,
        gpu_memory=has,
        inventory=inventory.origin if inventory is not None else None,
        phases=tuple(phases),
        merges=tuple(
            f"{m.name}: {m.method} of {', '.join(m.models) or f'last {m.last} of {m.checkpoints_of}'}"
            for m in recipe.merges
        ),
        warnings=tuple(warnings),
        mining=tuple(_mining(phase, config) for phase in recipe.phases if phase.contrast and phase.contrast.negatives),
    )


def _mining(phase: Phase, config: EncoderConfig | None) -> str:
    how = phase.contrast
    assert how is not None
    said = (
        f"{phase.name}: before it begins, the model that it starts from mines {how.negatives} hard negatives of each "
        f"pair among {how.among:,} pairs"
    )
    if config is None:
        return said
    reads, compares = cost.mining_flops(config, phase, phase.context)
    return f"{said}: at most {reads:.2e} FLOPs to read them all, {compares:.1e} to compare one with the others"


def _architecture(recipe: Recipe, inventory: Inventory | None) -> EncoderConfig | None:
    """The model as it will be made: a tokenizer that the recipe trains sets the vocabulary."""
    if recipe.model.preset is None:
        return None
    if recipe.tokenizer.path is not None:
        return recipe.model.config()
    known = inventory.vocab_size if inventory is not None else None
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "mask_token_id"))
    return recipe.model.config(vocab_size=known or recipe.tokenizer.vocab_size, **ids)


def _phase(
    recipe: Recipe,
    phase: Phase,
    text: PhaseText | None,
    config: EncoderConfig | None,
    machine: Machine,
    warn_epochs: float,
) -> tuple[PhasePlan, list[str]]:
    languages: tuple[LanguagePlan, ...] = ()
    last, length, warnings = schedule.total_steps(phase) - 1, None, []
    if text is not None:
        try:
            shares = mixture_of(text.phase, text.buckets, text.available)
        except ValueError as error:
            raise ValueError(f"phases.{phase.name}.mixture: {error}") from None
        languages = _languages(text, shares)
        length = _mean_length(phase, text.buckets, shares.mean())
        warnings = [*text.warnings, *_warnings(phase, languages, warn_epochs)]
    flops = cost.phase_flops(config, phase, length or phase.context) if config is not None else None
    planned = PhasePlan(
        name=phase.name,
        from_=phase.from_,
        tokens=phase.tokens,
        steps=last + 1,
        batch_tokens=phase.batch_tokens,
        context=phase.context,
        mean_length=length,
        start=_joint(phase, 0, 0, 0.0),
        end=_joint(phase, last, max(0, last - 1), 1.0),  # the last batch is what remains
        flops=flops,
        gpu_hours=cost.gpu_hours(flops, machine.gpu, machine.mfu) if flops is not None else None,
        memory=_memory(recipe, phase, config, machine) if config else None,
        moves=phase.mixture.moves,
        languages=languages,
    )
    return planned, warnings


def _memory(recipe: Recipe, phase: Phase, config: EncoderConfig, machine: Machine) -> dict[str, float]:
    fitting = cost.fitting_tokens(config, phase, cost.gpu(machine.gpu).memory, machine.gpus)
    at_once, hopper = recipe.machine.micro_batch_tokens or fitting, machine.gpu in cost.HOPPER
    return cost.memory(config, phase, at_once, machine.gpus, own_windows=hopper)


def _joint(phase: Phase, step: int, whole: int, progress: float) -> Joint:
    """The settings of a step; `whole` is one whose batch is not cut short."""
    theta = phase.rope_theta
    return Joint(
        learning_rate=schedule.learning_rate_at(phase, step),
        mask_ratio=at(phase.predicted, progress),
        temperature=at(phase.mixture.temperature, progress),
        batch_tokens=schedule.boundary(phase, whole + 1) - schedule.boundary(phase, whole),
        rope_theta=(theta.global_, theta.local) if theta is not None else None,
    )


def _mean_length(phase: Phase, buckets: Sequence[Bucket], shares: Sequence[float]) -> float | None:
    """Tokens of the piece that a token stands in, in the mean over what is read; documents of one bucket count as
    equally long."""
    known = [(s, b) for s, b in zip(shares, buckets, strict=True) if b.documents]
    whole = sum(share for share, _ in known)
    if whole < 0.5:
        return None
    return sum(share * min(phase.context, b.tokens / b.documents) for share, b in known) / whole


def _languages(text: PhaseText, shares: MixtureSchedule) -> tuple[LanguagePlan, ...]:
    """Buckets added up by language, the largest share first."""
    phase, mean = text.phase, shares.mean()
    first, last = shares.shares[0], shares.shares[-1]
    limit = phase.mixture.max_epochs or float("inf")
    members: dict[str, list[int]] = {}
    for i, bucket in enumerate(text.buckets):
        if mean[i] > 0:
            members.setdefault(bucket.language, []).append(i)
    plans = []
    for language, parts in members.items():
        available = sum(text.available[i] for i in parts)
        known = available != float("inf")
        share = sum(mean[i] for i in parts)
        repeated = [mean[i] * phase.tokens / text.available[i] for i in parts]
        plans.append(
            LanguagePlan(
                language=language,
                available=int(available) if known else None,
                share=share,
                share_start=sum(first[i] for i in parts),
                share_end=sum(last[i] for i in parts),
                tokens=round(share * phase.tokens),
                epochs=share * phase.tokens / available if known else None,
                most_epochs=max(repeated) if any(repeated) else None,
                capped=any(epochs >= limit * (1 - 1e-6) for epochs in repeated),
            )
        )
    return tuple(sorted(plans, key=lambda plan: (-plan.share, plan.language)))


def _warnings(phase: Phase, languages: Sequence[LanguagePlan], warn_epochs: float) -> list[str]:
    warnings, limit = [], warn_epochs * (1 + 1e-6)
    often = sorted((p for p in languages if (p.most_epochs or 0) > limit), key=lambda p: -(p.most_epochs or 0))
    if often:
        named = some([f"{p.language} ({p.most_epochs:.1f})" for p in often])
        warnings.append(f"{phase.name}: {len(often)} languages are read more than {warn_epochs:g} times: {named}")
    capped = sorted((p for p in languages if p.capped), key=lambda p: -p.tokens)
    if capped:
        named = some([p.language for p in capped])
        warnings.append(f"{phase.name}: max_epochs {phase.mixture.max_epochs:g} bites for {len(capped)}: {named}")
    return warnings


# -------------------------------------------------------------------------------------- what is not there


def missing_paths(recipe: Recipe) -> list[str]:
    """Paths on this machine that a recipe names and that are not there, each as a place in the recipe, and the path.

    Addresses elsewhere (hf://, s3:// ...) are not looked at.
    """
    return [
        f"{place}: there is nothing at {path!r}{_perhaps(place, path)}"
        for place, path in _named(recipe)
        if not _there(path)
    ]


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for source in recipe.corpus.sources:
        yield f"corpus.sources.{source.name}.path", source.path
        if source.score is not None and is_folder(source.score) and ":" not in source.score:
            yield f"corpus.sources.{source.name}.score", source.score
    filters = recipe.corpus.filters
    if filters.language is not None and is_folder(filters.language.model):
        yield "corpus.filters.language.model", filters.language.model
    for name, places in (filters.contamination.sets if filters.contamination is not None else {}).items():
        yield from ((f"corpus.filters.contamination.sets.{name}", place) for place in places)
    if recipe.tokenizer.path is not None:
        yield "tokenizer.path", recipe.tokenizer.path
    for phase in recipe.phases:
        if is_folder(phase.from_):
            yield f"phases.{phase.name}.from", phase.from_
    for merge in recipe.merges:
        yield from ((f"merges.{merge.name}", place) for place in merge.folders)
    if recipe.model.resize is not None:
        yield "model.resize.from", recipe.model.resize.from_
    if recipe.evaluation.data is not None:
        yield "evaluation.data", recipe.evaluation.data


def _perhaps(place: str, path: str) -> str:
    """What is said of a model that may be on the Hub: `tessera run` fetches it, looking does not."""
    model = place == "tokenizer.path" or place.endswith(".from") or place.startswith("merges.")
    return "; a run looks for it on the Hugging Face Hub" if model and hub_name(path) else ""


def _there(path: str) -> bool:
    path = path.removeprefix("file://")
    place = Path(path).expanduser()
    return "://" in path or place.exists() or any(glob.iglob(str(place), recursive=True))
