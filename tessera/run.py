"""A run is a graph of stages, walked in order: what is finished is skipped, what was interrupted goes on.

    documents -> tokenizer -> shards -> phases (a graph of `from`) -> merges -> evaluation -> report.html

Every stage leaves files in the run folder and reads only files, so each can be run alone, later, elsewhere.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from tessera import checksums, lock, preflight
from tessera.corpus import losses, prepare
from tessera.corpus.tokenize import PAIRS
from tessera.data.shards import Shards, verify
from tessera.evaluation.evaluate import evaluate_recipe
from tessera.files import LOCK, atomic_folder, remove_leftovers, write_json, write_text
from tessera.huggingface import hub
from tessera.huggingface.hf_files import located
from tessera.inference import sentence_folder
from tessera.inference.text_scorer import Scorer
from tessera.lessons.hard_negatives import mine
from tessera.lessons.teacher_vectors import teach
from tessera.plan import fit
from tessera.plan.errors import some
from tessera.plan.fields import is_folder
from tessera.plan.loading import changes, dump, load, science
from tessera.plan.recipe import Recipe
from tessera.plan.token_counts import Inventory
from tessera.progress import Silent, Watcher
from tessera.report import summarize, write_report
from tessera.results import result
from tessera.tokenizer.sample import sample
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.tokenizer.tokenizer import train as train_tokenizer
from tessera.train import distributed
from tessera.train.merge_models import check_model, merge_stage
from tessera.train.reading import reading
from tessera.train.start import check_tokenizers
from tessera.train.trainer import Text, train

Stage = Literal["documents", "tokenizer", "shards", "train", "merge", "evaluate", "report"]
EMBEDDER = "embedder"  # beside `final`
_SHOWN_REASONS = 5  # of each source; the rest is in the report
_SPARE_ROWS = 1_024  # of embeddings that a preset may have for the sake of round sizes
_CHECKED_TOKENS = 10**10  # a few seconds of reading
STAGES: tuple[Stage, ...] = get_args(Stage)


class RunError(ValueError):
    """A run that cannot go on as asked, with what to do."""


def run(
    recipe: Recipe,
    folder: str | Path,
    *,
    until: Stage = "report",
    accept_changes: bool = False,
    watcher: Watcher | None = None,
) -> Path:
    """Walks the stages of `recipe` in `folder` up to and with `until`; returns the folder.

    The same call after an interruption goes on where it stood. Raises RunError where the folder holds a run of
    another recipe (`machine` and `notes` may differ), naming the keys; `accept_changes` goes on with the new values
    for what is not finished. Raises PreflightError before anything is written where something that a stage will need
    is missing, and lock.AtWork where another process is at work there. Under torchrun every process calls this: all
    train, the leader does the rest while the others wait, and raise LostProcess where it ends.
    """
    folder, watcher = Path(folder), watcher or Silent()
    world = distributed.join(recipe.machine)
    if not world.leads:
        watcher = Silent()
    try:
        with distributed.watched(world), contextlib.ExitStack() as held:
            stages = STAGES[: STAGES.index(until) + 1]
            if world.leads:
                preflight.check(recipe, folder, stages)
                held.enter_context(lock.hold(folder / LOCK, str(folder)))
                _open(recipe, folder, accept_changes, watcher)
            for stage in stages:
                if stage == "train":
                    asked, recipe = recipe, _settled(recipe, folder)
                    if world.leads and asked != recipe:
                        _write_recipe(recipe, folder)
                        for line in changes(science(asked), science(recipe)):
                            watcher.say(f"as the text allows: {line}")
                    _train(recipe, folder, world, watcher)
                elif world.leads:
                    _ALONE[stage](recipe, folder, watcher)
                distributed.wait(world)
    finally:
        distributed.leave(world)
    return folder


def _open(recipe: Recipe, folder: Path, accept_changes: bool, watcher: Watcher) -> None:
    """Makes the folder, or checks that it is this recipe's."""
    check_tokenizers(recipe, folder)
    path = folder / "recipe.yaml"
    others = [inside for inside in folder.iterdir() if inside not in (path, folder / LOCK)]
    recipe = _settled(recipe, folder)
    if path.exists() and others:  # alone, nothing was made of it yet
        checksums.check_text(path)
        before = _settled(load(path), folder)
        differing = changes(science(before), science(recipe))
        if not any((folder / phase.name).exists() for phase in before.phases):  # prepared and planned, not yet begun
            differing = [line for line in differing if not _of_training(line)]
        if differing and not accept_changes:
            raise RunError(
                f"{folder} holds a run of another recipe; these differ (before -> now):\n  "
                + "\n  ".join(differing)
                + "\nGive another folder (--out), or --accept-changes to go on with the new values; "
                "finished stages stay as they are"
            )
        for line in differing:
            watcher.say(f"accepted change: {line}")
    elif not path.exists() and others:
        raise RunError(
            f"{folder} is not empty and holds no recipe.yaml, so it is not a run; give another folder (--out)"
        )
    remove_leftovers(folder)
    _write_recipe(recipe, folder)


def _of_training(line: str) -> bool:
    """Whether a change is of phases alone; the tokenizer knows the longest context."""
    key = line.partition(":")[0]
    return key.startswith("phases.") and key.count(".") > 1 and not key.endswith(".context")


def _write_recipe(recipe: Recipe, folder: Path) -> None:
    write_text(folder / "recipe.yaml", checksums.sealed_text(dump(recipe)))


def _settled(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with numbers in place of `tokens: auto`, where there is text to settle them by."""
    if not any(phase.auto for phase in recipe.phases) or not (folder / "shards").exists():
        return recipe
    shards = Shards.open(folder / "shards" / "train")
    return fit.settled(recipe, Inventory(buckets=tuple(shards.buckets), origin=str(shards.folder)))


def documents_of(folder: str | Path, recipe: Recipe) -> prepare.IngestedCorpus:
    """The documents of a run of this recipe that were read before, and which of them go where."""
    return _read(recipe, Path(folder), Silent())


def _documents(recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    if not (folder / "shards").exists():
        _read(recipe, folder, watcher)


def _read(recipe: Recipe, folder: Path, watcher: Watcher) -> prepare.IngestedCorpus:
    """The corpus, read and looked at once; what is done already is only opened."""
    machine = recipe.machine
    models = {source.score for source in recipe.corpus.sources if source.score and is_folder(source.score)}
    return prepare.read(
        recipe.corpus,
        folder / "documents",
        engine=machine.engine,
        workers=machine.threads,
        scorers={name: Scorer(name, dtype="float32") for name in models},  # the same tiers on every machine
        on_progress=watcher.progress("documents"),
        say=watcher.warn,
    )


def _tokenizer(recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    target = folder / "tokenizer"
    if target.exists():
        return
    progress = watcher.progress("tokenizer")
    with atomic_folder(target, sealed=True) as staging:
        if recipe.tokenizer.path is not None:
            Tokenizer.load(located(recipe.tokenizer.path)).copy_to(staging)
        else:
            texts = sample(_read(recipe, folder, Silent()).texts(), recipe.tokenizer)
            longest = max(phase.context for phase in recipe.phases)
            train_tokenizer(texts, recipe.tokenizer, staging, model_max_length=longest, on_progress=progress)
    tokenizer = Tokenizer.load(target)
    progress(1, 1, f"{tokenizer.vocab_size:,} tokens")
    if (said := _about_vocabulary(recipe, tokenizer.vocab_size)) is not None:
        watcher.warn(said)


def _about_vocabulary(recipe: Recipe, found: int) -> str | None:
    """What people should know where the vocabulary is not of the size that the recipe, or the preset, says."""
    wanted = recipe.tokenizer.vocab_size
    if recipe.tokenizer.path is None and found < wanted:
        return (
            f"tokenizer: {found:,} tokens, fewer than the {wanted:,} of tokenizer.vocab_size: the text has no more "
            f"pairs that it holds {recipe.tokenizer.min_frequency} times (tokenizer.min_frequency)"
        )
    rows = recipe.model.config().vocab_size if recipe.model.preset is not None else found
    if recipe.tokenizer.path is not None and rows - found > _SPARE_ROWS:
        return (
            f"tokenizer: {found:,} tokens, but model.preset {recipe.model.preset} keeps {rows:,} rows of embeddings: "
            f"{rows - found:,} are never used; set model.override.vocab_size to {found} if that is not meant"
        )
    return None


def _shards(recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    if (folder / "shards").exists():
        return
    read = _read(recipe, folder, Silent())
    report = prepare.encode(
        read,
        Tokenizer.load(folder / "tokenizer"),
        folder / "shards",
        library=recipe.machine.tokenize,
        workers=recipe.machine.threads,
        sides=any(phase.pairs for phase in recipe.phases),
        on_progress=watcher.progress("shards"),
    )
    for store in ("train", "held_out"):
        total = report.total(store)
        watcher.say(f"{store}: {total['documents']:,} documents, {total['tokens']:,} tokens, {total['bytes']:,} bytes")
    if (lost := losses.lost_since(read.files, report.languages, report.skipped)) is not None:
        watcher.warn(lost)
    if without := sorted(code for code, stores in report.languages.items() if "held_out" not in stores):
        watcher.warn(
            f"held_out: nothing of {some(without, 10)}, which have too few documents (corpus.held_out.min_documents, "
            "share): their bits per byte are not measured"
        )
    for source, notes in report.notes.items():
        for what, n in notes.items():
            watcher.say(f"{source}: {n:,} {what}")
    for source, reasons in report.skipped.items():
        shown = list(reasons.items())[:_SHOWN_REASONS]
        for reason, found in shown:
            example = found["example"]
            watcher.warn(f"{source}: {found['count']:,} dropped: {reason} (for example {example})")
        rest = [found["count"] for found in reasons.values()][_SHOWN_REASONS:]
        if rest:
            watcher.warn(
                f"{source}: {sum(rest):,} more for {len(rest)} other reasons; see "
                f"{folder / 'shards' / 'report.json'}, or tessera prepare --show-dropped 3"
            )


def _train(recipe: Recipe, folder: Path, world: distributed.World, watcher: Watcher) -> None:
    todo = [phase for phase in recipe.phases if not (folder / phase.name / "final").exists()]
    if not todo:
        return
    text = _text(recipe, folder, watcher)
    masked = [phase for phase in todo if phase.kind == "masked"]
    fit.check(masked, text.train.buckets)  # all phases: the last would be refused after days of training the others
    for phase in todo:
        if phase.kind != "masked":
            reading(recipe, phase, text)
    for phase in todo:
        for merge in (merge for merge in recipe.merges if merge.name == phase.from_):
            if world.leads:
                merge_stage(merge, recipe, folder, watcher)
            distributed.wait(world)
        taught = teach(recipe, phase, folder, text, world, watcher)
        beforehand = taught or mine(recipe, phase, folder, text, world, watcher)
        train(recipe, phase, folder, text, world, watcher.progress(phase.name), watcher, beforehand)
        distributed.wait(world)


def _text(recipe: Recipe, folder: Path, watcher: Watcher) -> Text:
    """What the phases read; every byte of it is checked, unless that would take minutes."""
    tokenizer = Tokenizer.load(folder / "tokenizer")
    train_shards = Shards.open(folder / "shards" / "train")
    held_out = Shards.open(folder / "shards" / "held_out")
    pairs = None
    if any(phase.pairs for phase in recipe.phases):
        if not (folder / "shards" / PAIRS).is_dir():
            raise RunError(
                f"{folder / 'shards'} was written before the recipe had phases that read pairs; remove it, and it is "
                "made anew from the documents"
            )
        pairs = Shards.open(folder / "shards" / PAIRS)
    for shards in (train_shards, held_out, *((pairs,) if pairs is not None else ())):
        if shards.tokens > _CHECKED_TOKENS:
            watcher.warn(f"{shards.folder}: too large to check at every start; see tessera verify")
        else:
            verify(shards.folder)
        if shards.tokenizer_fingerprint != tokenizer.fingerprint:
            raise RunError(
                f"{folder / 'shards'} was written with another tokenizer than {folder / 'tokenizer'}; "
                "remove one of them"
            )
    return Text(
        train=train_shards, held_out=held_out, tokenizer=tokenizer, tokenizer_folder=folder / "tokenizer", pairs=pairs
    )


def _merge(recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    for merge in recipe.merges:
        merge_stage(merge, recipe, folder, watcher)
    _embedders(recipe, folder, watcher)


def _embedders(recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    """A folder for sentence-transformers beside the model of each stage that trained sentence embeddings."""
    for name in (stage.name for stages in (recipe.phases, recipe.merges) for stage in stages):
        final, target = folder / name / "final", folder / name / EMBEDDER
        if not recipe.embeds(name) or not final.exists() or target.exists():
            continue
        check_model(final.resolve(), watcher)
        config = hub.read_config(final)
        longest = max(phase.context for phase in recipe.phases if phase.kind != "masked")
        with atomic_folder(target, sealed=True) as draft:
            sentence_folder.write(final, draft, sentence_folder.Pipeline(), config.hidden_size, longest)
        watcher.say(f"{name}: {target} is its folder for sentence-transformers")


def _evaluate(recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    for line in result.read_all(folder / "evaluation")[1]:
        watcher.warn(f"{folder / 'evaluation'}: {line}; what the recipe asks for is measured again")
    held_out: Path | None = folder / "shards" / "held_out"
    if not Shards.open(folder / "shards" / "held_out").documents:
        watcher.warn("shards/held_out holds no text, so bits per byte are not measured; see corpus.held_out")
        held_out = None
    for name in (stage.name for stages in (recipe.phases, recipe.merges) for stage in stages):
        if not (folder / name / "final").exists():
            continue
        check_model((folder / name / "final").resolve(), watcher)
        results = evaluate_recipe(
            folder / name / "final",
            recipe.evaluation,
            folder / "evaluation",
            name=name,
            held_out=None if recipe.embeds(name) else held_out,  # a vector predicts no token
            seed=recipe.seed,
            machine=recipe.machine,
            on_progress=watcher.progress(f"evaluate {name}"),
        )
        list(results)


def _report(recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    write_json(folder / "summary.json", summarize(folder), sealed=True)
    watcher.progress("report")(1, 1, str(write_report(folder)))


_ALONE: dict[str, Callable[[Recipe, Path, Any], None]] = {
    "documents": _documents,
    "tokenizer": _tokenizer,
    "shards": _shards,
    "merge": _merge,
    "evaluate": _evaluate,
    "report": _report,
}
