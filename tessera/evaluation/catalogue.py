"""The tasks and protocols that come with tessera, and those of your own files.

find("xnli")                        one that comes with tessera
find("my.yaml:reviews")             one of a file of yours; `my.yaml` alone where the file has but one
choose(["glue", "sib200"])          several: names, whole groups (the files they are written in), files
protocol("eurobert", task, "xlm-roberta")
"""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tessera.evaluation import load, rows
from tessera.plan.errors import did_you_mean, mistakes
from tessera.plan.loading import read_yaml
from tessera.plan.task import Kind, Protocol, Task

TASKS = Path(__file__).with_name("tasks")
PROTOCOLS = Path(__file__).with_name("protocols.yaml")
FAMILIES, KINDS, BY_TASK = "families", "kinds", "tasks"  # what a protocol changes for some models and tasks


class TaskError(ValueError):
    """A task or protocol that cannot be used, in words for the person who wrote it."""


@cache
def known() -> tuple[Task, ...]:
    """All tasks that come with tessera, by group and in the order of their files."""
    found = [task for path in sorted(TASKS.glob("*.yaml")) for task in read(path)]
    names = [task.name for task in found]
    assert len(set(names)) == len(names), "two tasks of one name"
    return tuple(found)


def groups() -> dict[str, tuple[Task, ...]]:
    """The tasks of each file that comes with tessera."""
    found: dict[str, list[Task]] = {}
    for task in known():
        found.setdefault(task.group, []).append(task)
    return {name: tuple(tasks) for name, tasks in found.items()}


def find(name: str) -> Task:
    """The task of that name, or of a file. Raises TaskError with the nearest name."""
    if (path := _file(name)) is not None:
        tasks = read(path)
        wanted = name.removeprefix(str(path)).removeprefix(":")
        if not wanted and len(tasks) == 1:
            return tasks[0]
        match = [task for task in tasks if task.name == wanted]
        if not match:
            all_names = ", ".join(task.name for task in tasks)
            raise TaskError(f"{path}: has the tasks {all_names}; say which, as in {path}:{tasks[0].name}")
        return match[0]
    for task in known():
        if task.name == name:
            return task
    hint = did_you_mean(name, [*(task.name for task in known()), *groups()])
    raise TaskError(f"no task is called {name!r}; {hint} Your own are named by their file, as in my.yaml:name")


def choose(names: Iterable[str | Task]) -> list[Task]:
    """Tasks by names, groups and files, and those that are written out, in that order, each once."""
    found: dict[str, Task] = {}
    for name in names:
        path = None if isinstance(name, Task) else _file(name)
        if isinstance(name, Task):
            tasks: Sequence[Task] = [name]
        elif name in groups():
            tasks = groups()[name]
        elif path is not None and name == str(path):
            tasks = read(path)
        else:
            tasks = [find(name)]
        for task in tasks:
            if found.setdefault(task.name, task) != task:
                raise TaskError(f"two tasks are called {task.name!r}; results are kept by name, so give yours another")
    return list(found.values())


def read(path: Path) -> tuple[Task, ...]:
    """The tasks of a YAML file: {name: what it is}. Raises TaskError with file, task and key."""
    given = _yaml(path)
    found = []
    for name, fields in given.items():
        if not isinstance(fields, dict):
            raise TaskError(f"{path}: {name}: keys and values are needed here (see tessera/evaluation/tasks)")
        data = {"name": str(name), "group": path.stem, **fields}
        try:
            found.append(Task.model_validate(data))
        except ValidationError as error:
            lines = (": ".join(filter(None, (f"{path}: {name}", *pair))) for pair in mistakes(error, data, Task))
            raise TaskError("\n".join(lines)) from None
    if not found:
        raise TaskError(f"{path}: holds no tasks")
    return tuple(found)


def protocol(name: str, task: Task | None = None, family: str | None = None) -> Protocol:
    """A protocol by name, or of a file (my.yaml:name), as it is for a task and a family of models.

    family   as protocols.yaml calls it: a `model_type` of Hugging Face, or `mmbert`. EuroBERT's protocol takes the
             AdamW of each model's own paper; one that it does not know gets that of the protocol

    What it says for a kind of task goes over what it says for all, for a task over that, for a family over that.
    """
    path, given, wanted = PROTOCOLS, _protocols(PROTOCOLS), name
    if (file := _file(name)) is not None:
        path, given, wanted = file, _protocols(file), name.removeprefix(str(file)).removeprefix(":")
    if wanted not in given:
        raise TaskError(f"{path}: no protocol is called {wanted!r}; {did_you_mean(wanted, given)}")
    fields = dict(given[wanted])
    changes: dict[str, dict[str, Any]] = {key: fields.pop(key, {}) for key in (KINDS, BY_TASK, FAMILIES)}
    merged = {"name": wanted, **fields}
    for key, part in ((KINDS, task and task.kind), (BY_TASK, task and task.name), (FAMILIES, family)):
        change = changes[key].get(part, {}) if part else {}
        if "steps" in change or "epochs" in change:
            merged = {k: v for k, v in merged.items() if k not in ("steps", "epochs")}
        merged |= change
    try:
        return Protocol.model_validate(merged)
    except ValidationError as error:
        lines = (": ".join(filter(None, (f"{path}: {wanted}", *pair))) for pair in mistakes(error, merged, Protocol))
        raise TaskError("\n".join(lines)) from None


def protocols() -> tuple[str, ...]:
    """The names of the protocols that come with tessera."""
    return tuple(_protocols(PROTOCOLS))


def table(tasks: Iterable[Task], folder: Path | None = None) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of `tessera evaluate --list`; with a folder, also whether the test rows lie there."""
    columns = ["task", "kind", "languages", "metric", "trained on", "from"]
    rows = [[t.name, t.kind, _languages(t, folder), t.metric, _trained(t), _from(t)] for t in tasks]
    if folder is None:
        return columns, rows
    return [*columns, "here"], [[*row, _here(task, folder)] for task, row in zip(tasks, rows, strict=True)]


def _languages(task: Task, folder: Path | None) -> str:
    if task.languages == "all":
        try:
            return f"{len(load.languages(task, folder))}, as found" if folder else "as found"
        except rows.DataError:
            return "none found"
    several = task.languages
    return " ".join(several) if len(several) <= 3 else f"{len(several)}: {' '.join(several[:3])} ..."


def _trained(task: Task) -> str:
    return task.train if isinstance(task.train, str) else " ".join(task.train)


def _from(task: Task) -> str:
    source = task.data
    place = source.hub or source.path or f"{task.name}/..."
    extra = task.train_data.hub or task.train_data.path if task.train_data else None
    return place if extra is None else f"{place}, trained on {extra}"


def _here(task: Task, folder: Path) -> str:
    language = None if task.languages == "all" else task.languages[0]
    return "yes" if rows.there(task.data, task.name, load.name_of(task, "test"), folder, language) else "no"


def _file(name: str) -> Path | None:
    """The file that a name means, if it means one."""
    for ending in (".yaml", ".yml"):
        before, sign, _ = name.partition(ending)
        if sign:
            return Path(before + ending)
    return None


@cache
def _protocols(path: Path) -> dict[str, dict[str, Any]]:
    given = _yaml(path)
    for name, fields in given.items():
        parts = {key: fields.get(key, {}) for key in (KINDS, BY_TASK, FAMILIES)} if isinstance(fields, dict) else None
        if parts is None or not all(
            isinstance(p, dict) and all(isinstance(f, dict) for f in p.values()) for p in parts.values()
        ):
            raise TaskError(f"{path}: {name}: keys and values are needed here")
        for kind in parts[KINDS]:
            if kind not in Kind.__args__:  # type: ignore[attr-defined]
                raise TaskError(f"{path}: {name}: {KINDS}: no kind {kind!r}; {did_you_mean(kind, Kind.__args__)}")  # type: ignore[attr-defined]
    return given


def _yaml(path: Path) -> dict[str, Any]:
    try:
        given = read_yaml(path)
    except ValueError as error:
        raise TaskError(str(error)) from None
    if not isinstance(given, dict):
        raise TaskError(f"{path}: names and what they stand for are needed here, as in tessera/evaluation/tasks")
    return given
