"""Initialising or resuming a phase: from its own last whole checkpoint, another phase, a folder, or nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tessera import checksums
from tessera.data.shards import Shards
from tessera.files import digest, write_json
from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model, located, tokenizers_differ
from tessera.huggingface.transformers_model import TransformersConfig, TransformersMaskedLM
from tessera.json_files import Strictly, read_own
from tessera.model.attention import choose
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.precision import compute_dtype
from tessera.model.resize import resize
from tessera.plan import schedule
from tessera.plan.architecture import EncoderConfig, parameters
from tessera.plan.fields import hub_name, is_folder
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.progress import Watcher
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.train import checkpoint, distributed, metrics
from tessera.train.bad_steps import Steps
from tessera.train.checkpoint import Position
from tessera.train.embedding import Embeddings
from tessera.train.freeze import NewRows, freeze, kept_rows, learning
from tessera.train.gradient import Cut, Objective, SeededDropout
from tessera.train.optimizer import build, clip_gradients
from tessera.train.speed import speed_up, tokens_at_once

STARTED_FROM = "started_from.json"  # which model a phase that starts from a folder found there
_DECIDES = ("config.json", "tokenizer.json")


class TrainingError(ValueError):
    """Training that cannot go on, with the step and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What a phase reads and how it is written down."""

    train: Shards
    held_out: Shards | None
    tokenizer: Tokenizer
    tokenizer_folder: Path
    pairs: Shards | None = None  # sides of pairs, where a phase trains sentence embeddings on them


@dataclass(slots=True, kw_only=True)
class TrainState:
    """All that changes while a phase is trained."""

    model: hub.AnyMaskedLM
    objective: nn.Module  # the model as it is spread over the processes
    noise: SeededDropout | None  # of the dropout; None is PyTorch's own
    optimizer: torch.optim.Optimizer
    position: Position
    cut: Cut  # of batches into passes
    rows: NewRows | None  # where nothing but these learns

    def clip(self, limit: float | None) -> Tensor:
        """The norm of the gradient of all that learns; scales it down to `limit` where that is given."""
        if self.rows is not None:
            self.rows.take_gradients()
        return clip_gradients(learning(self.model, self.rows), limit)

    def update(self) -> None:
        """A step of the optimizer."""
        self.optimizer.step()
        if self.rows is not None:
            self.rows.put_back()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Where a phase goes back to, and what it leaves out from there."""

    folder: Path | None  # a checkpoint, or None for the phase's own start
    left_out: list[Steps]  # in all; the last one ends at the step that went wrong


def start(
    recipe: Recipe, phase: Phase, run: Path, text: Text, world: distributed.World, watcher: Watcher,
    back: Rollback | None, buckets: int,
) -> TrainState:  # fmt: skip
    """Model, optimizer and position, ready for the next step.

    back      instead of the last checkpoint
    buckets   that the phase reads from
    Raises TrainingError where the phase that this one comes from is damaged or its vocabulary does not fit.
    """
    own = _last(run / phase.name, world, watcher) if back is None else back.folder
    if own is not None:
        _check_tokenizer(own, text.tokenizer, phase, carried=True)
        model, position = hub.load_any(own, attention=recipe.machine.attention), checkpoint.position(own)
        carried: Path | None = own
    else:
        model, position, carried = _begin(recipe, phase, run, text, world, buckets)
    if back is None:
        checkpoint.check_clock(phase, position)
        _say_where(watcher, phase, run / phase.name, own, position.step)
    else:
        step = back.left_out[-1][1] + 1
        position = replace(
            position, step=step, tokens=schedule.boundary(phase, step), left_out=[list(s) for s in back.left_out]
        )
        watcher.warn(f"{phase.name}: going back to {own.name if own else 'its start'}, on with step {step}")
    if isinstance(model, TransformersMaskedLM):
        _check_foreign(model, phase, recipe, world)
    if phase.kind != "masked" and world.size > 1 and recipe.machine.parallel == "fsdp2":
        raise TrainingError(f"{phase.name}: {phase.kind} spreads whole models only; set machine.parallel: ddp")
    if phase.freeze == "all_but_new_rows" and world.size > 1 and recipe.machine.parallel == "fsdp2":
        raise TrainingError(f"{phase.name}: freeze: all_but_new_rows needs whole tables; set machine.parallel: ddp")
    model.to(world.device).train()
    rows = freeze(model, phase, kept_rows(recipe, phase, run, world))
    dtype = compute_dtype(recipe.machine.dtype, world.device)
    at_once = tokens_at_once(model, phase, recipe.machine, world)
    cut = Cut.of(model, world, dtype, at_once, phase.context)
    if phase.kind == "masked":
        whole: nn.Module = Objective(model)
    else:
        assert isinstance(model, MaskedLM), "checked above"
        whole = Embeddings(model.encoder)
    speed_up(model, phase, recipe.machine, cut, dtype, watcher)
    on_cpu = world.device.type == "cpu" and not cut.layouts
    noise = SeededDropout(model) if on_cpu and isinstance(model, MaskedLM) else None
    objective = distributed.spread(whole, world, recipe.machine.parallel)
    optimizer = build(model, phase.optimizer, phase.learning_rate.peak, learning(model, rows))
    if carried is not None:
        checkpoint.load_optimizer(carried, optimizer)
    return TrainState(
        model=model, objective=objective, noise=noise, optimizer=optimizer, position=position, cut=cut, rows=rows
    )


def _say_where(watcher: Watcher, phase: Phase, folder: Path, own: Path | None, step: int) -> None:
    """Whether a phase that was begun before goes on or begins anew, and how many steps are made again."""
    lost = max(0, metrics.last_step(folder) - step)
    again = f"; {lost:,} steps after it had no checkpoint and are made again" if lost else ""
    if own is not None:
        watcher.say(f"{phase.name}: resuming at {own.name} of {schedule.total_steps(phase):,} steps{again}")
    elif lost:
        watcher.warn(f"{phase.name}: begins anew: it was stopped after {lost:,} steps, before its first checkpoint")


def _last(folder: Path, world: distributed.World, watcher: Watcher) -> Path | None:
    """The phase's own last whole checkpoint. One process looks, since every byte is read."""
    found, broken = distributed.from_lead(checkpoint.latest(folder) if world.leads else (None, []), world)
    for problem in broken:
        watcher.warn(f"{problem}; going back to the last whole checkpoint")
    return found


def _begin(
    recipe: Recipe, phase: Phase, run: Path, text: Text, world: distributed.World, buckets: int
) -> tuple[hub.AnyMaskedLM, Position, Path | None]:
    """(model, position, checkpoint whose optimizer state goes on or None) at the start of a phase."""
    backend = recipe.machine.attention
    counts = [0] * buckets
    fresh = Position(step=0, tokens=0, tokens_read=0, documents=0, total_tokens_before=0, tokens_by_bucket=counts)
    carried = None
    model: hub.AnyMaskedLM
    if phase.from_ == "scratch":
        config, other = architecture(recipe, text.tokenizer), recipe.model.resize
        if other is None:
            model = drawn = MaskedLM(config, attention=backend)
            initialize(drawn, torch.Generator().manual_seed(recipe.seed))
        else:
            folder = find_model(other.from_)
            _check_tokenizer(folder, text.tokenizer, phase)
            model = resize(hub.load(folder, attention=backend), config, other.how)
    elif is_folder(phase.from_):
        folder = find_model(phase.from_)
        changed = distributed.from_lead(_replaced(folder, phase, recipe, run) if world.leads else None, world)
        if changed is not None:
            raise TrainingError(changed)
        _check_tokenizer(folder, text.tokenizer, phase)
        model = hub.load_any(folder, attention=backend)
        _check_vocabulary(model.config, text.tokenizer, phase.from_)
    else:
        parent = (run / phase.from_ / "final").resolve()
        merged = next((merge for merge in recipe.merges if merge.name == phase.from_), None)
        found = checkpoint.damage if merged is None else checksums.damage
        problem = distributed.from_lead(found(parent) if world.leads else None, world)
        if problem is not None:
            raise TrainingError(
                f"{phase.name} comes from {phase.from_}, but {problem}; remove {parent} and {run / phase.from_}/final "
                f"and start the run again: {phase.from_} goes on from its last whole checkpoint"
            )
        _check_tokenizer(parent, text.tokenizer, phase, carried=True)
        model = hub.load_any(parent, attention=backend)
        before = sum(recipe.phase(name).tokens for name in recipe.chain(phase.name)[:-1])
        if merged is None:
            before = checkpoint.position(parent).total_tokens
        fresh = replace(fresh, total_tokens_before=before)
        if merged is None and phase.keep_optimizer and recipe.phase(phase.from_).moves_as(phase):
            carried = parent
    if phase.rope_theta is not None and isinstance(model, MaskedLM):
        model.encoder.set_rope_theta(phase.rope_theta.global_, phase.rope_theta.local)
    return model, fresh, carried


class _Began(Strictly):
    fingerprint: str | None = None


def _replaced(folder: Path, phase: Phase, recipe: Recipe, run: Path) -> str | None:
    """Notes which model a phase starts from, or says that another phase, or an earlier start of this one, found another
    in that folder: nothing else would show that it was replaced."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix == ".safetensors" or path.name in _DECIDES]
    found = digest({path.name: checksums.sha256(path) for path in files})
    for other in (one.name for one in recipe.phases if one.from_ == phase.from_):
        place = run / other / STARTED_FROM
        before = read_own(_Began, place).fingerprint if place.is_file() else None
        if before not in (None, found):
            return (
                f"{phase.name} starts from {folder}, which has changed since {other} began: it was {before}, now it is "
                f"{found}; put back what was there, or start a new run (--out)"
            )
    write_json(run / phase.name / STARTED_FROM, {"from": phase.from_, "fingerprint": found}, sealed=True)
    return None


def _check_foreign(model: TransformersMaskedLM, phase: Phase, recipe: Recipe, world: distributed.World) -> None:
    """Raises TrainingError for what only our own families can do."""
    kind, room = model.config.model_type, model.config.positions
    own = "layers of tessera's own families"
    problems = (
        (room is not None and phase.context > room,
         f"context is {phase.context}, but a {kind} has positions for {room}; set context to {room} or less"),
        (phase.rope_theta is not None,
         f"rope_theta moves the rotary positions of tessera's own families, and a {kind} is none; leave it out"),
        (phase.optimizer.name == "muon",
         f"optimizer.name is muon, which knows the {own}, not those of a {kind}; take adamw or stableadamw"),
        (phase.kind != "masked",
         f"{phase.kind} trains models of the {own.removeprefix('layers of ')}, not a {kind}; tessera finetune does"),
        (world.size > 1 and recipe.machine.parallel == "fsdp2",
         f"machine.parallel is fsdp2, which spreads the {own}, not those of a {kind}; set machine.parallel: ddp"),
    )  # fmt: skip
    for there, problem in problems:
        if there:
            raise TrainingError(f"{phase.name}: {problem}")


def architecture(recipe: Recipe, tokenizer: Tokenizer) -> EncoderConfig:
    """The recipe's architecture with the tokenizer's vocabulary and special tokens.

    A tokenizer that the recipe trains sets the vocabulary size; one that it loads must fit into the preset's.
    """
    ids = {
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "mask_token_id": tokenizer.mask_id,
    }
    if recipe.tokenizer.path is None:
        return recipe.model.config(vocab_size=tokenizer.vocab_size, **ids)
    config = recipe.model.config(**ids)
    _check_vocabulary(config, tokenizer, f"model.preset {recipe.model.preset}")
    return config


def check_tokenizers(recipe: Recipe, run: Path) -> None:
    """Before anything is written: whether phases that start from a folder read text as its model was trained to.

    Raises TrainingError naming the phase, the folder and what differs.
    """
    for phase in recipe.phases:
        resized = recipe.model.resize.from_ if phase.from_ == "scratch" and recipe.model.resize else None
        source = resized or (phase.from_ if is_folder(phase.from_) else None)
        if source is None or phase.foreign_tokenizer or (run / phase.name).exists() or not _is_here(source):
            continue
        if recipe.tokenizer.path is None:
            raise TrainingError(
                f"{phase.name} starts from {source}, whose embedding knows the tokens of its own tokenizer, but the "
                f"recipe trains a new one. Set tokenizer.path: {source}; or {_MEANT}"
            )
        _check_tokenizer(find_model(source), Tokenizer.load(located(recipe.tokenizer.path)), phase)


def _is_here(source: str) -> bool:
    """Whether a model is there to be looked at; preflight has fetched what is on the Hub."""
    return Path(source).is_dir() or hub_name(source) is not None


_MEANT = "foreign_tokenizer: true in this phase, if the embedding is meant to learn other tokens"


def _check_tokenizer(folder: Path, tokenizer: Tokenizer, phase: Phase, *, carried: bool = False) -> None:
    """Raises TrainingError where the tokenizer in a model's folder would read text otherwise; by ids, not by bytes.

    carried   the folder is of this run: then no key of the recipe makes another tokenizer right
    """
    file = folder / "tokenizer.json"
    if (phase.foreign_tokenizer and not carried) or (carried and not file.is_file()):
        return  # checkpoints of runs that were given no tokenizer files
    what = f"{phase.name}: the tokenizer of {folder} and {tokenizer.path}"
    if not file.is_file():
        raise TrainingError(
            f"{phase.name}: {folder} has no tokenizer.json, so nobody knows whether its ids are the tokens of "
            f"{tokenizer.path}; put that of its training there, or set {_MEANT}"
        )
    ids, rule = tokenizers_differ(file, tokenizer.path)
    if ids is None and rule is None:
        theirs = Tokenizer.load(file)
        if (theirs.template, theirs.mask_id) == (tokenizer.template, tokenizer.mask_id):
            return
        rule = "mask_token in their tokenizer_config.json"
    way = "put back the tokenizer of this run" if carried else f"set tokenizer.path: {folder}, or {_MEANT}"
    raise TrainingError(f"{what} differ: {ids or f'{rule} is another'}; {way}")


def _check_vocabulary(config: EncoderConfig | TransformersConfig, tokenizer: Tokenizer, where: str) -> None:
    if config.vocab_size < tokenizer.vocab_size:
        raise TrainingError(
            f"{where} has {config.vocab_size} embeddings, but the tokenizer has {tokenizer.vocab_size} tokens; "
            "set model.override.vocab_size, or use the tokenizer of that model"
        )


def described(model: hub.AnyMaskedLM, world: distributed.World, dtype: torch.dtype) -> tuple[str, str, str]:
    """Size and attention, how documents go through, and positions, in words."""
    if isinstance(model, TransformersMaskedLM):
        return (
            f"{model.config.parameters / 1e6:.1f}M parameters, {type(model.model).__name__} run by transformers "
            f"(attention: {model.model.config._attn_implementation}, whole documents)",
            "padded in groups of similar length",
            f"positions for {model.config.max_position_embeddings} tokens",
        )
    config = model.config
    layers = range(config.num_hidden_layers)
    local = sum(config.window(layer) is not None for layer in layers)
    window = f"{config.local_attention} tokens in {local} of {len(layers)} layers" if local else "whole documents"
    return (
        f"{parameters(config)['total'] / 1e6:.1f}M parameters, attention "
        f"{choose(model.encoder.backend, world.device, dtype)} (window: {window})",
        "packed without padding",
        f"RoPE theta {config.global_rope_theta:g} global, {config.local_rope_theta:g} local",
    )
