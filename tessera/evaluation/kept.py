"""Models of trials that are kept: as a folder that anybody loads, and as weights for another task to begin with.

The files of a sweep hold scores and no weights. What is kept is trained once more from the same weights, rows and seed,
which gives the same bytes on the same machine; a folder that is there already, of the same trial, is left as it is.
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tessera import checksums
from tessera.evaluation import trial as trials
from tessera.evaluation.trial import Group, Json, Kind, Scores, Start, Trial
from tessera.files import atomic_file, atomic_folder, read_json, write_json
from tessera.finetune import saved
from tessera.progress import Progress
from tessera.retrieval.retriever import Retriever

ABOUT = "tessera_trial.json"  # in a folder: which trial its model is of, and how good that was


def place(result: Path) -> Path:
    """Where the model of a result is kept; a task that trains a model for each language has a folder for each there."""
    return result.parent / "models" / result.stem


def keep(
    kind: Kind,
    group: Group,
    trial: Trial,
    start: Start,
    folder: Path,
    source: Path,
    outcome: Json,
    scores: Scores,
    report: Progress,
) -> None:
    """Trains the model of a finished trial once more and writes it, whole or not at all, unless it is there.

    source   the folder that the model came from
    outcome  what the file of the trial says
    scores   of the test set

    Raises FileExistsError where `folder` holds something else, ValueError where the model cannot be written (see
    finetune/saved.py) and where training gives another score than it gave before.
    """
    identity = trials.trial_identity(kind, group, trial, start)
    there = folder / ABOUT
    if there.is_file() and read_json(there).get("identity") == identity:
        return
    model, _ = kind.fit(group, trial, start.weights(), report)
    again = trials.validate(kind, group, model)
    if again != outcome["validation_by_language"]:
        raise ValueError(
            f"{folder}: nothing was written: trained once more, the model scores {again} on validation and not "
            f"{outcome['validation_by_language']} as before; results of another machine or version lie there. "
            "Evaluate again in a new folder"
        )
    about = {
        "identity": identity,
        "task": group.task.name,
        "kind": group.task.kind,
        "trained_on": group.name,
        "protocol": trial.protocol.name,
        "settings": trial.settings,
        "metric": group.task.metric,
        "validation": again,
        "test": scores,
    }
    with atomic_folder(folder, sealed=True) as draft:
        _write(model, draft / "model", source, group, _card(folder.name, about, model))
        for path in sorted((draft / "model").iterdir()):
            path.rename(draft / path.name)
        (draft / "model").rmdir()
        write_json(draft / ABOUT, about)


def _write(model: Any, folder: Path, source: Path, group: Group, card: str) -> None:
    if isinstance(model, Retriever):
        model.save(source, folder, card)
        return
    rows = next(iter(group.validation.values()), group.train)
    pair = getattr(group.train[0], "second", None) is not None
    saved.save(model, source, folder, list(rows), labels=group.labels, pair=pair, card=card)  # type: ignore[arg-type]


def _card(name: str, about: Json, model: Any) -> str:
    """README.md: what it was trained for, how, how good it is, and the lines that load it."""

    def said(scores: Mapping[str, Any]) -> str:
        return ", ".join(f"{language} {value:.4f}" for language, value in scores.items())

    metric = about["metric"]
    test = {language: row[metric] for language, row in about["test"].items() if metric in row}
    settings = ", ".join(f"{key} {value:g}" for key, value in about["settings"].items() if value is not None)
    lines = [f"# {name}\n", f"Fine-tuned with tessera for the task {about['task']} (kind {about['kind']})", ""]
    lines[1] += f" on {about['trained_on']}, by the protocol {about['protocol']}: {settings}."
    if about["validation"]:
        lines.append(f"- {metric} on validation, on which it was chosen: {said(about['validation'])}")
    if test:
        mean = f" (mean {statistics.fmean(test.values()):.4f})" if len(test) > 1 else ""
        lines.append(f"- {metric} on test: {said(test)}{mean}")
    use = "Predictor.from_pretrained(folder).predict(rows)"
    if isinstance(model, Retriever):
        use = "Encoder.from_pretrained(folder).encode(texts)"
    package = "tessera.prediction.predictor" if "Predictor" in use else "tessera"
    return "\n".join([*lines, "", "```python", f"from {package} import {use.partition('.')[0]}", use, "```", ""])


# ------------------------------------------------------------------------------------------------------------- weights


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What bears a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def keep_weights(path: Path, of: Json, model: Any) -> dict[str, Tensor]:
    """Writes encoder and head of a trained model, for another task to begin with. of: identity of the trial."""
    parts = {name: getattr(model, name) for name in ("encoder", "head") if hasattr(model, name)}  # retrievers have none
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, sealed=True) as draft:
        save_file(state, draft, metadata={"identity": json.dumps(of)})
    return state


def weights_of(path: Path, of: Json) -> dict[str, Tensor] | None:
    """What `keep_weights` wrote, if it is of this trial."""
    if not path.is_file():
        return None
    checksums.check(path)
    with safe_open(path, framework="pt") as file:
        kept = json.loads(file.metadata()["identity"]) == of
        return {name: file.get_tensor(name) for name in file.keys()} if kept else None  # noqa: SIM118  # it is no dict
