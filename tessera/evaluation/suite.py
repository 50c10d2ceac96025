"""One model on all tasks of a recipe, every text embedded once; one JSON file for each task.

    <out>/<model>.<task>.json     model, task, kind, protocol, seed, fingerprint (of the weights),
                                  results {language: {metric: value}}, average and spread over languages,
                                  examples {language: how many were scored}, seconds, tessera (version);
                                  outcomes {metric: {language: [what each example adds]}};
                                  of a probe also chosen {language: C, and its accuracy on the rows it was chosen on}

A task whose file says the same protocol and the same weights is finished and is not run again.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.data.shards import INDEX, Shards
from tessera.data.tokenizer import Tokenizer
from tessera.evaluation import bitext, probe
from tessera.evaluation.tasks import Bitext, Probing, read_task
from tessera.files import fingerprint
from tessera.inference.encode import embed
from tessera.model import hub
from tessera.model.precision import compute_dtype
from tessera.plan.recipe import Evaluation, Machine
from tessera.plan.result import HELD_OUT, Result, finished, identity_of, write
from tessera.train import held_out as held_out_text

Progress = Callable[[int, int, str], None]
Results = dict[str, dict[str, float]]


def evaluate(
    model_folder: str | Path,
    evaluation: Evaluation,
    out: str | Path,
    *,
    name: str,
    held_out: str | Path | None = None,
    seed: int = 0,
    machine: Machine | None = None,
    on_progress: Progress | None = None,
) -> list[Path]:
    """Runs what is not finished and returns the files of all tasks, held-out text first.

    model_folder   a Hugging Face folder with its tokenizer
    name           of the model, in the names of the files
    held_out       token store; None: held-out text is not measured
    seed           of the held-out masks; the rest has no chance in it
    machine        where it runs; changes speed, not results (bfloat16 moves the last digits)

    Each file is written whole or not at all, as soon as its task is done. Raises ValueError for data that cannot be
    read, ImportError where a probe lacks scikit-learn.
    """
    model_folder, out, machine = Path(model_folder), Path(out), machine or Machine()
    report = on_progress or (lambda done, total, what: None)
    weights = fingerprint(model_folder)
    files: list[Path] = []
    model: _Model | None = None
    if held_out is not None:
        identity = identity_of(weights, protocol := _held_out_protocol(evaluation, seed), _rows_of(Path(held_out)))
        files.append(out / f"{name}.{HELD_OUT}.json")
        if not finished(files[-1], identity):
            model = model or _Model.load(model_folder, evaluation.pooling, machine)
            began = time.perf_counter()
            measured = model.bits_per_byte(Path(held_out), evaluation.mask_ratio, seed, report)
            result = Result(
                model=name,
                task=HELD_OUT,
                kind=HELD_OUT,
                metric="bits_per_byte",
                protocol=protocol,
                **identity,
                seeds=(seed,),
                results={code: {m: row[m] for m in ("bits_per_byte", "loss")} for code, row in measured.items()},
                examples={code: int(row["tokens"]) for code, row in measured.items()},
                seconds=round(time.perf_counter() - began, 2),
            )
            write(files[-1], result)
    for number, task in enumerate(evaluation.tasks):
        report(number, len(evaluation.tasks), f"reads {task.name}")
        data = read_task(task)
        protocol = {**data.protocol, "pooling": evaluation.pooling}
        identity = identity_of(weights, protocol, protocol.pop("data"))
        files.append(out / f"{name}.{task.name}.json")
        if finished(files[-1], identity):
            continue
        model = model or _Model.load(model_folder, evaluation.pooling, machine)
        began = time.perf_counter()
        model.remember(data.texts(), report)
        chosen: Results = {}
        if isinstance(data, Bitext):
            results, outcomes = bitext_results(data, model.look_up)
        else:
            results, outcomes, chosen = probe_results(data, model.look_up, report)
        result = Result(
            model=name,
            task=task.name,
            kind=task.task,
            metric="accuracy",
            protocol=protocol,
            **identity,
            results=results,
            interval=dict.fromkeys(next(iter(results.values()))),  # there is no chance in it
            examples=data.examples(),
            chosen=chosen,
            outcomes=outcomes,
            seconds=round(time.perf_counter() - began, 2),
        )
        write(files[-1], result)
    return files


def bitext_results(
    data: Bitext, look_up: Callable[[Sequence[str]], NDArray[np.float32]]
) -> tuple[Results, bitext.Outcomes]:
    """Retrieval among the pairs of each language, both ways; and what each pair adds."""
    return bitext.in_languages((language, look_up(a), look_up(b)) for language, (a, b) in data.pairs.items())


def probe_results(
    data: Probing, look_up: Callable[[Sequence[str]], NDArray[np.float32]], report: Progress | None = None
) -> tuple[Results, bitext.Outcomes, Results]:
    """One probe for each training file, tested on every language that it is for; what it has right; what was chosen."""
    probes: dict[str, tuple[probe.Probe, probe.Chosen]] = {}
    results, chosen, right = {}, {}, {}
    for number, (language, (source, (texts, labels))) in enumerate(data.test.items()):
        if report is not None:
            report(number, len(data.test), f"probes {language}")
        if source not in probes:
            rows = {
                name: part[source] for name, part in (("train", data.train), ("validation", data.validation)) if part
            }
            vectors = {name: (look_up(given), answers) for name, (given, answers) in rows.items()}
            probes[source] = probe.choose(vectors["train"], vectors.get("validation"))
        trained, how = probes[source]
        predicted = trained.predict(look_up(texts))
        results[language] = probe.scores(predicted, labels)
        right[language] = [float(said == label) for said, label in zip(predicted, labels, strict=True)]
        chosen[language] = {"C": how.c, "accuracy": how.accuracy[how.c], "rows": how.rows}
    return results, {"accuracy": right}, chosen


@dataclass(slots=True)
class _Model:
    """A loaded model and the vectors of all texts it has read."""

    model: hub.AnyMaskedLM
    tokenizer: Tokenizer
    pooling: Literal["mean", "cls"]
    machine: Machine
    rows: dict[str, int]
    vectors: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path, pooling: Literal["mean", "cls"], machine: Machine) -> "_Model":
        device = "cuda" if machine.device == "auto" and torch.cuda.is_available() else machine.device
        model = hub.load_any(folder, attention=machine.attention).to("cpu" if device == "auto" else device)
        nothing = np.empty((0, model.config.hidden_size), np.float32)
        return cls(model, Tokenizer.load(folder), pooling, machine, {}, nothing)

    def bits_per_byte(self, folder: Path, mask_ratio: float, seed: int, report: Progress) -> Results:
        return held_out_text.bits_per_byte(
            self.model,
            Shards.open(folder),
            self.tokenizer,
            mask_ratio=mask_ratio,
            seed=seed,
            dtype=compute_dtype(self.machine.dtype, next(self.model.parameters()).device),
            batch_tokens=self.machine.micro_batch_tokens,
            on_progress=report,
        )

    def remember(self, texts: Iterable[str], report: Progress) -> None:
        """Embeds the texts that were not seen before."""
        new = [text for text in dict.fromkeys(texts) if text not in self.rows]
        added = embed(
            self.model,
            self.tokenizer,
            new,
            pooling=self.pooling,
            max_tokens=self.machine.micro_batch_tokens,
            dtype=self.machine.dtype,
            on_progress=report,
        )
        self.rows.update(zip(new, range(len(self.rows), len(self.rows) + len(new)), strict=True))
        self.vectors = np.concatenate((self.vectors, added))

    def look_up(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.vectors[[self.rows[text] for text in texts]]


def _held_out_protocol(evaluation: Evaluation, seed: int) -> dict[str, Any]:
    context = held_out_text.CONTEXT
    return {
        "mask_ratio": evaluation.mask_ratio,
        "replacement": "mask",
        "context": context,
        "max_tokens": None,
        "seed": seed,
    }


def _rows_of(folder: Path) -> str:
    """A fingerprint of a token store."""
    index = folder / INDEX
    if not index.is_file():
        raise ValueError(f"{folder}: no token store here ({INDEX} is missing); prepare the corpus first")
    return hashlib.sha256(index.read_bytes()).hexdigest()[:16]
