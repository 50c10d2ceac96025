"""Model merging: the weights of several model folders into one folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tessera.files import atomic_folder
from tessera.model import hub, merging
from tessera.plan.architecture import EncoderConfig
from tessera.train import checkpoint


def merge_folders(
    models: Sequence[Path],
    target: Path,
    *,
    method: Literal["ties", "linear", "exponential"] = "ties",
    base: Path | None = None,
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    scale: float = 1.0,
    decay: float = 0.5,
    tokenizer: Path | None = None,
    describe: Callable[[EncoderConfig, str], str] = lambda config, summary: summary + "\n",
) -> Path:
    """Merges Hugging Face folders into one at `target`; the configuration is the first model's.

    tokenizer   folder of the tokenizer files to put beside it; None: the first model's own
    describe    (configuration, how it was merged) -> the model card
    Raises ValueError where the models do not fit together, naming the first weight that differs.
    """
    if len(models) < 2:
        raise ValueError(f"a merge needs at least two models, {len(models)} given")
    loaded = hub.load(models[0])
    states = [loaded.state_dict(), *(hub.load(path).state_dict() for path in models[1:])]
    match method:
        case "ties":
            if base is None:
                raise ValueError(
                    "ties adds task vectors to a base; give the model that the others branched from as base"
                )
            state = merging.ties(hub.load(base).state_dict(), states, weights=weights, density=density, scale=scale)
        case "linear":
            state = merging.linear(states, weights=weights)
        case "exponential":
            state = merging.exponential(states, decay=decay)
        case _:
            raise ValueError(f"unknown merge method {method!r}; known are ties, linear and exponential")
    loaded.load_state_dict(state)
    summary = f"Merged by {method} from {', '.join(f'{path.parent.name}/{path.name}' for path in models)}."
    with atomic_folder(target) as staging:
        hub.save(loaded, staging, tokenizer or models[0], describe(loaded.config, summary))
        checkpoint.seal(staging)
    return target
