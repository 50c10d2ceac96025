"""Model merging: the weights of several model folders into one folder."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tessera import checksums
from tessera.files import atomic_folder, refuse_taken, write_json
from tessera.huggingface import hub, merging
from tessera.huggingface.hf_files import find_model
from tessera.huggingface.model_card import card
from tessera.huggingface.transformers_model import TransformersConfig
from tessera.plan.architecture import EncoderConfig
from tessera.plan.fields import is_folder
from tessera.plan.recipe import Merge, Recipe
from tessera.progress import Watcher
from tessera.train import checkpoint
from tessera.train.start import TrainingError


def merge_folders(
    models: Sequence[Path],
    target: Path,
    *,
    method: merging.Method = "ties",
    base: Path | None = None,
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    scale: float = 1.0,
    decay: float = 0.5,
    config_of: Path | None = None,
    tokenizer: Path | None = None,
    describe: Callable[[EncoderConfig | TransformersConfig, str], str] = lambda config, summary: summary + "\n",
) -> Path:
    """Merges Hugging Face folders into one at `target`.

    config_of   the model whose configuration and tokenizer rules hold where they differ; see `merging.merge`
    tokenizer   folder of the tokenizer files to put beside it; None: those of `config_of`, else the first model's own
    describe    (configuration, how it was merged) -> the model card
    Raises ValueError where the models do not fit together, naming what differs.
    """
    refuse_taken(target)
    models = [find_model(model) for model in models]
    base, config_of = (found and find_model(found) for found in (base, config_of))
    merged = merging.merge(
        models, method, base=base, weights=weights, density=density, scale=scale, decay=decay, config_of=config_of,
        tokenizer=tokenizer,
    )  # fmt: skip
    summary = f"Merged by {method} from {', '.join(f'{path.parent.name}/{path.name}' for path in models)}."
    with atomic_folder(target, sealed=True) as staging:
        hub.save(merged, staging, tokenizer or config_of or models[0], describe(merged.config, summary))
    return target


def merge_stage(merge: Merge, recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    """Makes `<folder>/<merge>/final` of a run, unless it is there. Raises TrainingError where a model is not whole."""
    target = folder / merge.name
    if (target / "merge.json").exists():
        return
    progress = watcher.progress(merge.name)
    models = [_place(folder, name) for name in merge.models]
    if merge.checkpoints_of is not None:
        models = checkpoint.checkpoints(folder / merge.checkpoints_of)[-merge.last :]
        if len(models) < 2:
            raise TrainingError(
                f"merge {merge.name}: {merge.checkpoints_of} has {len(models)} checkpoint; "
                "set checkpoint_every of that phase to fewer tokens than it has"
            )
    names = [f"{path.parent.name}/{path.name}" for path in models]
    base = _place(folder, merge.base) if merge.base else None
    for path in (*models, *((base,) if base else ())):
        if path.is_relative_to(folder.resolve()):
            check_model(path, watcher)
    merge_folders(
        models,
        target / "final",
        method=merge.method,
        base=base,
        weights=merge.weights,
        density=merge.density,
        scale=merge.scale,
        decay=merge.decay,
        config_of=_place(folder, merge.config_of) if merge.config_of else None,
        tokenizer=folder / "tokenizer",
        describe=partial(card, recipe, merge.name),
    )
    write_json(target / "merge.json", {**merge.model_dump(mode="json"), "read": names}, sealed=True)
    progress(1, 1, f"{merge.method} of {', '.join(names)}")


def _place(run: Path, name: str) -> Path:
    """The model of a phase, or the folder that is named."""
    return find_model(name).resolve() if is_folder(name) else (run / name / "final").resolve()


def check_model(folder: Path, watcher: Watcher) -> None:
    """Raises TrainingError where a model of the run is not what was written."""
    if (wrong := checksums.damage(folder)) is not None:
        raise TrainingError(
            f"{wrong}; remove {folder} and {folder.parent / 'final'} and start the run again: "
            f"{folder.parent.name} is made anew, a phase from its last whole checkpoint on"
        )
    if not (folder / checksums.MANIFEST).is_file():
        watcher.say(f"{folder}: has no {checksums.MANIFEST} to compare it with; taken as it is")
