"""Model merging: the weights of several model folders into one folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tessera.checksums import seal
from tessera.files import atomic_folder, refuse_taken
from tessera.model import hub, merging
from tessera.model.hf_files import find_model
from tessera.plan.architecture import EncoderConfig


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
    describe: Callable[[EncoderConfig, str], str] = lambda config, summary: summary + "\n",
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
    with atomic_folder(target) as staging:
        hub.save(merged, staging, tokenizer or config_of or models[0], describe(merged.config, summary))
        seal(staging)
    return target
