"""The tasks and protocols that come with tessera, and those of your own files.

find("xnli")                        one that comes with tessera
find("my.yaml:reviews")             one of a file of yours; `my.yaml` alone where the file has but one
choose(["glue", "sib200"])          several: names, whole groups (the files they are written in), files
protocol("eurobert", task, "xlm-roberta")
"""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tessera.evaluation import load, rows
from tessera.plan import loading
from tessera.plan.errors import did_you_mean, mistakes
from tessera.plan.task import Kind, Protocol, Task

TASKS = Path(__file__).with_name("tasks")
PROTOCOLS = Path(__file__).with_name("protocols.yaml")
Model = TypeVar("Model", bound=BaseModel)
FAMILIES, KINDS, BY_TASK = "families", "kinds", "tasks"  # what a protocol changes for some models and tasks
UNCHOSEN = "without_validation"  # and for tasks that have no split to choose by


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
    path, wanted = _file(name)
    tasks = known() if path is None else read(path)
    if path is not None and not wanted and len(tasks) == 1:
        return tasks[0]
    for task in tasks:
        if task.name == wanted:
            return task
    if path is not None:
        all_names = ", ".join(task.name for task in tasks)
        raise TaskError(f"{path}: has the tasks {all_names}; say which, as in {path}:{tasks[0].name}")
    hint = did_you_mean(name, [*(task.name for task in known()), *groups()])
    raise TaskError(f"no task is called {name!r}; {hint} Your own are named by their file, as in my.yaml:name")


def comes_along(task: Task) -> bool:
    """Whether a task is the one of that name that comes with tessera, maybe in some of its languages."""
    ours = next((one for one in known() if one.name == task.name), None)
    said = {"languages", "group", "fold", "cite", "notes"}
    return ours is not None and task.model_dump(exclude=said) == ours.model_dump(exclude=said)


def choose(names: Iterable[str | Task]) -> list[Task]:
    """Tasks by names, groups and files, and those that are written out, in that order, each once.

    Raises TaskError where a file of yours calls another task by the name of one that comes along. One that is written
    out in a recipe may be called so, as earlier recipes do; its results say so and stand beside nothing published.
    """
    found: dict[str, Task] = {}
    for name in names:
        if isinstance(name, Task):
            tasks: Sequence[Task] = [name]
        elif name in groups():
            tasks = groups()[name]
        else:
            path, wanted = _file(name)
            tasks = [find(name)] if path is None or wanted else read(path)
            if path is not None:
                _refuse_known(path, tasks)
        for task in tasks:
            if found.setdefault(task.name, task) != task:
                raise TaskError(f"two tasks are called {task.name!r}; results are kept by name, so give yours another")
    return list(found.values())


def _refuse_known(path: Path, tasks: Sequence[Task]) -> None:
    names = {task.name for task in known()}
    for task in tasks:
        if task.name in names and not comes_along(task):
            raise TaskError(
                f"{path}: {task.name} is the name of a task that comes with tessera, and this is another; results, "
                f"protocols and published numbers go by name, so give yours another, as my-{task.name}"
            )


def read(path: Path) -> tuple[Task, ...]:
    """The tasks of a YAML file: {name: what it is}. Raises TaskError with file, task and key."""
    given = read_yaml(path)
    found = []
    for name, fields in given.items():
        if not isinstance(fields, dict):
            raise TaskError(f"{path}: {name}: keys and values are needed here (see tessera/evaluation/tasks)")
        data = {"name": str(name), "group": path.stem, **fields}
        found.append(checked(Task, data, f"{path}: {name}"))
    if not found:
        raise TaskError(f"{path}: holds no tasks")
    return tuple(found)


def protocol(name: str, task: Task | None = None, family: str | None = None) -> Protocol:
    """A protocol by name, or of a file (my.yaml:name), as it is for a task and a family of models.

    family   as protocols.yaml calls it: a `model_type` of Hugging Face, or `mmbert`. EuroBERT's protocol takes the
             AdamW of each model's own paper; one that it does not know gets that of the protocol

    What it says for a kind of task goes over what it says for all, for a task over that, for a family over that; what
    it says for tasks without a validation split goes over all.
    """
    file, wanted = _file(name)
    path = file or PROTOCOLS
    given = _protocols(path)
    if file is not None and not wanted and len(given) == 1:
        wanted = next(iter(given))
    if file is not None and not wanted:
        raise TaskError(
            f"{path}: has the protocols {', '.join(given)}; say which, as in {path}:{next(iter(given), 'name')}"
        )
    if wanted not in given:
        raise TaskError(f"{path}: no protocol is called {wanted!r}; {did_you_mean(wanted, given)}")
    if file is not None and given[wanted] != _protocols(PROTOCOLS).get(wanted, given[wanted]):
        raise TaskError(
            f"{path}: {wanted} is the name of a protocol that comes with tessera, and this is another; results are "
            f"kept by its name, so give yours another, as my-{wanted}"
        )
    fields = dict(given[wanted])
    changes: dict[str, dict[str, Any]] = {key: fields.pop(key, {}) for key in (KINDS, BY_TASK, FAMILIES)}
    unchosen = fields.pop(UNCHOSEN, {})
    merged = {"name": wanted, **fields}
    by_name = task.name if task is not None and (file is not None or comes_along(task)) else None
    for key, part in ((KINDS, task and task.kind), (BY_TASK, by_name), (FAMILIES, family)):
        change = changes[key].get(part, {}) if part else {}
        if "steps" in change or "epochs" in change:
            merged = {k: v for k, v in merged.items() if k not in ("steps", "epochs")}
        merged |= change
    if task is not None and task.trained and not task.has("validation"):
        merged |= unchosen
    return checked(Protocol, merged, f"{path}: {wanted}")


def checked(model: type[Model], fields: Any, place: str) -> Model:
    """What fields say, as a strict model. Raises TaskError with the place and each key that is wrong."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        lines = (": ".join(filter(None, (place, *pair))) for pair in mistakes(error, fields, model))
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


def _file(name: str) -> tuple[Path | None, str]:
    """The file that a name means, if it means one, and what is meant of it."""
    for ending in (".yaml", ".yml"):
        before, sign, after = name.partition(ending)
        if sign:
            return Path(before + ending), after.removeprefix(":")
    return None, name


@cache
def _protocols(path: Path) -> dict[str, dict[str, Any]]:
    given = read_yaml(path)
    for name, fields in given.items():
        parts = {key: fields.get(key, {}) for key in (KINDS, BY_TASK, FAMILIES)} if isinstance(fields, dict) else None
        if (
            parts is None
            or not isinstance(fields.get(UNCHOSEN, {}), dict)
            or not all(isinstance(p, dict) and all(isinstance(f, dict) for f in p.values()) for p in parts.values())
        ):
            raise TaskError(f"{path}: {name}: keys and values are needed here")
        for kind in parts[KINDS]:
            if kind not in get_args(Kind):
                raise TaskError(f"{path}: {name}: {KINDS}: no kind {kind!r}; {did_you_mean(kind, get_args(Kind))}")
    return given


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a file. Raises TaskError."""
    try:
        given: Any = loading.read_yaml(path)
    except ValueError as error:
        raise TaskError(str(error)) from None
    if not isinstance(given, dict):
        raise TaskError(f"{path}: names and what they stand for are needed here, as in tessera/evaluation/tasks")
    return given
