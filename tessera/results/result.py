"""Results of evaluations: one model on one task, and the only file that writes and reads result files.

    <out>/<model>.<task>.json                        what trains no encoder: bitext, probes, held-out text, mteb's tasks
    <out>/<model>.<task>.<protocol>[.oracle].json    what is fine-tuned or searched under a protocol

A result always names its metric, its data, its protocol and the fingerprint of its model, and languages as
plan/languages.py spells them. Files of tessera 0.1 are read too; `_upgraded` alone knows how those were.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tessera import __version__
from tessera.checksums import Damaged
from tessera.files import digest, keep_damaged, read_json, write_json
from tessera.plan.errors import one_line
from tessera.plan.fields import Strict
from tessera.plan.languages import by_language

HELD_OUT = "held_out"  # the task of held-out text, and its kind
TESSERA, OWN, MTEB = "tessera", "own", "mteb"  # where a task is defined: it comes along, it is the user's, or mteb's
_ALWAYS = ("model", "task", "kind", "metric", "fingerprint", "data", "tessera")
# left out of the file where they are empty
_SELDOM = ("lengths", "by_length", "about_data", "seconds_now", "defined", "dtype")
_LARGEST = 1e100  # of a number that can still be averaged
WORDS = {"name", "cite", "notes"}  # of a protocol: they change nothing

Json = dict[str, Any]
Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
Scores = dict[str, dict[str, Number]]  # language -> metric -> value


class Warnings(BaseModel):
    """What `about_data` says of rows that are no score; mteb's says other things, which may stand beside."""

    left_out: int = 0  # rows
    first: str = ""  # of them, in words
    out_of_reach: dict[str, int] = {}  # language -> questions of which no answer can be given
    without_training: tuple[str, ...] = ()  # languages that are not tested
    unseen_labels: dict[str, tuple[str, ...]] = {}  # language -> labels that no training row has
    f1_of: str = ""  # the class


class Result(Strict):
    """One model on one task. Shares are in [0, 1]; every language counts once in a mean."""

    model: str
    task: str
    kind: str
    metric: str  # by which models are chosen and compared; one of `average`
    protocol: Json  # how it was measured
    protocol_hash: str = ""  # of all of it but name, cite and notes
    fingerprint: str  # of the model's folder: files.fingerprint
    data: str  # fingerprint of the rows: equal where two results are of the same ones
    defined: str = ""  # where the task of that name is: TESSERA, OWN or MTEB; empty in files of before
    dtype: str = ""  # of matrix products; empty where it is not known
    seeds: tuple[int, ...] = ()
    oracle: bool = False  # settings chosen on the test set: an upper bound, not a result
    results: Scores
    average: dict[str, Number] = Field(default_factory=dict)  # metric -> mean over languages
    spread: dict[str, Number] = Field(default_factory=dict)  # metric -> standard deviation between languages
    # metric -> half the 95% interval of the average; None: no chance in it
    interval: dict[str, Number | None] = Field(default_factory=dict)
    examples: dict[str, int] = Field(default_factory=dict)  # language -> how many were scored
    chosen: Json = Field(default_factory=dict)  # what was trained on -> the settings that were chosen for it
    trials: tuple[Json, ...] = ()  # what was tried, and what came of it
    # retrieval: language -> length of what answers -> metric -> value
    lengths: dict[str, Scores] = Field(default_factory=dict)
    by_length: Scores = Field(default_factory=dict)  # the same over languages
    # metric -> language -> what each example adds
    outcomes: dict[str, dict[str, tuple[Number, ...]]] = Field(default_factory=dict)
    # of mteb: revision, and rows and characters beside those that mteb counts; else warnings, see evaluation/about.py
    about_data: Json = Field(default_factory=dict)
    seconds: float = 0.0  # of computing, trials of earlier calls too
    seconds_now: float | None = None  # of the call that wrote this
    tessera: str = __version__

    @model_validator(mode="before")
    @classmethod
    def _spelled_and_averaged(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        whole = {**data, **{key: by_language(data[key]) for key in ("results", "examples", "lengths") if key in data}}
        whole["outcomes"] = {metric: by_language(each) for metric, each in data.get("outcomes", {}).items()}
        whole["trials"] = [_spelled(trial) for trial in data.get("trials", ())]
        columns: dict[str, list[float]] = {}
        for code, row in whole.get("results", {}).items():
            for metric, value in row.items():
                if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _LARGEST:
                    raise ValueError(f"{metric} of {code} is {value!r:.100}; a finite number is needed")
                columns.setdefault(metric, []).append(float(value))
        whole.setdefault("average", {metric: statistics.fmean(values) for metric, values in columns.items()})
        whole.setdefault("spread", {metric: statistics.pstdev(values) for metric, values in columns.items()})
        whole["protocol_hash"] = whole.get("protocol_hash") or hash_of(whole.get("protocol", {}))
        return whole

    @model_validator(mode="after")
    def _names_a_metric_it_has(self) -> Self:
        if self.metric not in self.average:
            raise ValueError(f"names the metric {self.metric!r}, but has {', '.join(sorted(self.average)) or 'none'}")
        Warnings.model_validate(self.about_data)
        return self

    @property
    def warnings(self) -> Warnings:
        """What is to be known of the data before the scores are believed."""
        return Warnings.model_validate(self.about_data)


def write(path: Path, result: Result) -> Path:
    """Writes a result, whole or not at all, and returns its file; a damaged one there is kept as NAME.damaged."""
    nameless = [key for key in _ALWAYS if not getattr(result, key)]
    assert not nameless, f"{path}: a result says its {', '.join(nameless)}"
    whole = result.model_dump(mode="json")
    keep_damaged(path)
    write_json(path, {key: value for key, value in whole.items() if value or key not in _SELDOM}, sealed=True)
    return path


def read(path: Path) -> Result:
    """The result in a file. Raises ValueError naming a file that is none, and why."""
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: is no result of `tessera evaluate` ({error})") from error


def read_all(folder: Path) -> tuple[dict[Path, Result], list[str]]:
    """The results of a folder by their files, in sorted order; and in words what lies there besides."""
    found: dict[Path, Result] = {}
    left_out: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            found[path] = _read(path)
        except Damaged as error:
            left_out.append(f"{str(error).removeprefix(str(path.parent)).lstrip('/: ')}; left out")
        except (OSError, ValueError) as error:
            left_out.append(f"{path.name} is no result of an evaluation ({error}); left out")
    return found, left_out


def finished(path: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the file is a result that says all of `identity`, such as this protocol, these weights and these rows."""
    try:
        found = _read(path)
    except (OSError, ValueError):
        return False
    return all(getattr(found, key) == value for key, value in identity.items())


def identity_of(fingerprint: str, protocol: Json, data: str) -> Json:
    """What a result is known by where nothing is tried: the model, how it was measured, on what."""
    return {"fingerprint": fingerprint, "protocol_hash": hash_of(protocol), "data": data}


def hash_of(protocol: Json) -> str:
    """A hash of everything in a protocol that changes a result."""
    return digest({key: value for key, value in protocol.items() if key not in WORDS})


def _read(path: Path) -> Result:
    given = read_json(path)
    if not isinstance(given, dict) or not isinstance(given.get("results"), dict) or "model" not in given:
        raise ValueError("it has no `model` or no `results`")
    try:
        _Shape.model_validate(given)
        return Result.model_validate(_upgraded(given))
    except ValidationError as error:
        raise ValueError(one_line(error)[:1000]) from None


class _Shape(BaseModel):
    """What a file of any version has in common, so that it can be made into one of this version."""

    model_config = ConfigDict(extra="allow")

    protocol: Json | None = None
    kind: str = ""
    metric: str = ""
    data: str | Json = ""
    results: dict[str, Json]
    examples: Json = {}
    lengths: Json = {}
    outcomes: dict[str, Json] = {}
    trials: list[Json] = []


def _spelled(trial: Json) -> Json:
    keys = [key for key in ("test", "validation_by_language") if isinstance(trial.get(key), dict)]
    return {**trial, **{key: by_language(trial[key]) for key in keys}}


# ------------------------------------------------------------------------------------------------ files of version 0.1

_METRIC = {HELD_OUT: "bits_per_byte", "bitext": "accuracy", "probe": "accuracy"}  # of files that name none


def _upgraded(given: Json) -> Json:
    """What a file of any version says, as this version says it; a file of this version stays as it is.

    Those of 0.1 had several writers: a recipe's evaluation named no metric and kept seed and data elsewhere, an
    ablation's held-out text had counts among its metrics, mteb's data was a table.
    """
    whole = {**given, "protocol": {**(given.get("protocol") or {})}}
    kind = whole.setdefault("kind", "")
    whole.setdefault("metric", _METRIC.get(kind, "accuracy"))
    for key in ("fingerprint", "tessera", "task"):
        whole.setdefault(key, "")
    seed = whole.pop("seed", None)
    if kind == HELD_OUT:
        whole["protocol"] = {**{"max_tokens": None} | ({} if seed is None else {"seed": seed}), **whole["protocol"]}
        rows = whole["results"]
        if any("tokens" in row for row in rows.values()):
            whole.setdefault("examples", {code: row["tokens"] for code, row in rows.items()})
        whole["results"] = {
            code: {m: row[m] for m in ("bits_per_byte", "loss") if m in row} for code, row in rows.items()
        }
    if "data" not in whole:
        whole["data"] = whole["protocol"].pop("data", "")
    elif isinstance(whole["data"], dict):
        whole["about_data"], whole["data"] = whole["data"], digest(whole["data"])
    if (contrast := whole.pop("contrast", None)) is not None:
        whole["protocol"]["contrast"] = contrast
    return whole
