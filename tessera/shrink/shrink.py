"""Model shrinking: a curve of size, speed and score, each point a folder that sentence-transformers loads.

curve = shrink("models/minilm", read_texts(["text/eng_Latn.jsonl"]), "small", sizes=[4, 3])

small/3-layers/       a model folder each
small/evaluation/     results, as `tessera evaluate` writes them
small/shrink.json     the curve
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tessera import lock
from tessera.files import LOCK, digest, model_name, read_json, remove_leftovers, write_json
from tessera.inference import sentence_folder as folders
from tessera.model.precision import compute_dtype, find_device
from tessera.plan.recipe import Machine
from tessera.progress import Silent, Watcher
from tessera.retrieval.sweep import model_fingerprint, rows_fingerprint, settings_of
from tessera.shrink import gives, importance, measure, spans, teach
from tessera.shrink.card import Point, table, written
from tessera.shrink.gives import Gives
from tessera.shrink.importance import By
from tessera.shrink.layers import Kept, Stack
from tessera.shrink.measure import Tasks
from tessera.shrink.passages import passages
from tessera.shrink.teach import FILE, Learnt, Lesson, solved_on
from tessera.vocabulary.proof import Checked
from tessera.vocabulary.texts import Texts
from tessera.vocabulary.trim import trim

HELD = 500  # passages of held-out documents that vectors are compared on
_LOOKED_AT = 128  # passages that importance is measured on
_EVALUATION, _IMPORTANCE = "evaluation", "importance.json"


@dataclass(frozen=True, slots=True)
class Curve:
    """The whole model first, then smaller ones, the largest first."""

    points: list[Point]
    near: str  # what nearness to the whole model is: cosine, or agreement

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows."""
        return table(self.points, self.near)


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """In which way a model is made smaller."""

    by: Literal["reconstruction", "outcome", "block"] = "reconstruction"
    keep: Kept = ()  # these layers, counted from 0, whatever their importance
    neurons: int | None = None  # of each feed-forward network that are kept; None: all
    solve: bool = True  # layers are reconstructed, before they are taught
    taught: bool = True
    trim: bool = False  # leave out tokens that the text does not use, before layers
    rates: tuple[float, ...] = teach.RATES
    epochs: float = 1.0
    batch: int = 32
    timed: bool = True

    @property
    def way(self) -> By:
        """How it is found which layers stay."""
        return "choice" if self.keep else self.by


def shrink(
    folder: str | Path,
    texts: Texts,
    out: str | Path,
    *,
    sizes: Sequence[int] = (),
    how: How = How(),
    tasks: Tasks = Tasks(),
    machine: Machine | None = None,
    watcher: Watcher | None = None,
) -> Curve:
    """Smaller models of the one in a folder, in `out`; what is finished there is not made again.

    texts  plain, by language; importance is measured, and students are taught, on those that are used, and compared on
           those that are held out
    sizes  numbers of layers; none: those that `how` names, or about three quarters, a half and a third of them

    Raises ValueError, before anything is computed, for a folder whose students could not be taught, layers that cannot
    be left out and sizes that it cannot have; later for an `out` that holds models made otherwise.
    """
    out, watcher = Path(out), watcher or Silent()
    machine = _exact(machine or Machine())
    stack = Stack.of(folder)
    _check_neurons(stack, how)
    chosen = [_named(stack, how.keep, sizes)] if how.keep else _sizes(stack, sizes, how)
    gives.refuse(stack)
    measure.check(tasks)
    lesson = _lesson(stack, texts, how)
    with lock.hold(out / LOCK, f"smaller models in {out}"):
        remove_leftovers(out)
        points = [_whole(stack)]
        base = stack
        if how.trim:
            base = Stack.of(_trimmed(stack, texts, out, watcher))
            points.append(_whole(base))
        given = gives.of(base, machine, [one.text for one in lesson.held])
        kept = {len(how.keep): how.keep} if how.keep else _importance(given, base, lesson, how.by, chosen, out, watcher)
        maker = _Maker(given, stack, base, lesson, how, out, watcher)
        points += [maker.point(kept[size]) for size in chosen]
        points = _measured(points, lesson, how, tasks, out, machine, watcher)
        said = [{**asdict(point), "folder": str(point.folder)} for point in points]
        about = {"of": model_name(stack.whole), "by": how.way, "near": given.called}
        write_json(out / FILE, {**about, "points": said}, sealed=True)
    return Curve(points, given.called)


def _exact(machine: Machine) -> Machine:
    """With the number format said: a folder that was tuned (`tessera tune`) would else be taken in another engine."""
    number = str(compute_dtype(machine.dtype, find_device(machine.device))).removeprefix("torch.")
    return machine.model_copy(update={"dtype": number})


def _check_neurons(stack: Stack, how: How) -> None:
    """Raises ValueError for a number of neurons that it cannot have."""
    if how.neurons is None:
        return
    if not how.solve:
        raise ValueError("neurons are left out by reconstruction, and that is switched off; leave out one of the two")
    if not 0 < how.neurons < stack.neurons:
        there = stack.neurons or "does not say how many"
        raise ValueError(f"{how.neurons} neurons: {stack.inside}/config.json has {there}; give fewer, and at least one")


def _sizes(stack: Stack, asked: Sequence[int], how: How) -> list[int]:
    """Numbers of layers, the largest first; where neurons are left out, all of them is one."""
    there = [*([stack.count] if how.neurons else []), *stack.sizes]
    wrong = [size for size in asked if size not in there]
    if wrong:
        why = f"; kinds of attention repeat after {stack.period} layers" if stack.period > 1 else ""
        raise ValueError(f"{wrong[0]} layers: give some of {', '.join(map(str, there))}, of {stack.count}{why}")
    near = [min(there, key=lambda size: (abs(size - share * stack.count), size)) for share in (0.75, 0.5, 1 / 3)]
    return sorted(set(asked or near), reverse=True)


def _named(stack: Stack, keep: Kept, sizes: Sequence[int]) -> int:
    """How many layers are named. Raises ValueError for those that are none, or cannot be loaded without the others."""
    if sizes:
        raise ValueError("layers are named, and numbers of layers are given; give one or the other")
    if list(keep) != sorted(set(keep)) or not set(keep) < set(range(stack.count)):
        raise ValueError(
            f"layers to keep are {', '.join(map(str, keep))}; name some of 0 to {stack.count - 1}, rising, and not all"
        )
    if stack.period > 1:
        raise ValueError(
            f"{stack.inside}: kinds of attention repeat after {stack.period} layers, so layers are not named one by "
            "one; say how many are kept"
        )
    return len(keep)


def _lesson(stack: Stack, texts: Texts, how: How) -> Lesson:
    vectors = folders.ends_in_vectors(stack.whole)
    prompts = [text for text in folders.read(stack.whole)[0].prompts.values() if text] if vectors else []
    protocol = teach.protocol(how.rates, how.epochs, how.batch) if how.taught else None
    learn, held = passages(texts.used, prompts), passages(texts.held_out, prompts)
    met = {one.text for one in learn}
    held = [one for one in held if one.text not in met]
    step = max(1, len(held) // HELD)
    held = held[::step][:HELD]
    if not held:
        raise ValueError("no passage of the held-out documents is new; give more text (--text)")
    return Lesson(protocol=protocol, solve=how.solve, neurons=how.neurons, learn=learn, held=held)


def _importance(
    given: Gives, stack: Stack, lesson: Lesson, by: By, sizes: Sequence[int], out: Path, watcher: Watcher
) -> dict[int, Kept]:
    """The layers that are kept of each number; measured once, and remembered in `out`."""
    all_, fewer = {stack.count: tuple(range(stack.count))}, [size for size in sizes if size < stack.count]
    if not fewer:
        return all_
    step = max(1, len(lesson.learn) // _LOOKED_AT)
    some = [one.text for one in lesson.learn[::step][:_LOOKED_AT]]
    read = rows_fingerprint(lesson.learn, []) if by == "reconstruction" else some
    place, identity = out / _IMPORTANCE, digest([*model_fingerprint(stack.whole), by, read])
    said = read_json(place) if place.is_file() else {}
    kept = {int(size): tuple(layers) for size, layers in said.get("kept", {}).items()}
    if said.get("identity") == identity and kept.keys() >= set(fewer):
        return kept | all_
    found = _ways(given, stack, lesson, by, some, min(fewer), watcher)
    for size in fewer:
        layers, lost = found[size]
        watcher.say(f"{size} layers: {' '.join(map(str, layers))} are kept, at a cost of {lost:.4f}")
    kept = {size: layers for size, (layers, _) in found.items()}
    write_json(place, {"identity": identity, "kept": {str(size): layers for size, layers in kept.items()}}, sealed=True)
    return kept | all_


def _ways(
    given: Gives, stack: Stack, lesson: Lesson, by: By, some: Sequence[str], least: int, watcher: Watcher
) -> dict[int, tuple[Kept, float]]:
    """The layers that are kept of each number from `least` on, and what that costs."""
    encoder, tell = given.student(stack.whole).encoder, watcher.progress("importance")
    sizes = [size for size in stack.sizes if size >= least]
    if by == "reconstruction":
        return spans.cheapest(stack, spans.costs(stack, encoder, solved_on(given, lesson), tell), sizes)
    if by == "block":
        cost = importance.influence_cost(importance.block_influence(stack, encoder, given.read(some)))
    else:
        cost = importance.outcome_cost(stack, encoder, lambda one: given.outcome(one, some), tell)
    return importance.smaller(stack, sizes, cost)


def _whole(stack: Stack) -> Point:
    all_, mine = stack.parameters()
    return Point(
        name=model_name(stack.whole), folder=stack.whole, layers=stack.count, kept=tuple(range(stack.count)),
        neurons=stack.neurons, parameters=all_, in_layers=mine, untaught=1.0, near=1.0, scores={},
    )  # fmt: skip


def _trimmed(stack: Stack, texts: Texts, out: Path, watcher: Watcher) -> Path:
    """The folder with the tokens that its texts use, as `tessera vocabulary trim`; made where it is not there."""
    place = out / "trimmed"
    identity = digest([*model_fingerprint(stack.whole), sorted(texts.used.items()), sorted(texts.held_out.items())])
    about = place.with_suffix(".json")
    if place.exists():
        if not about.is_file() or read_json(about).get("identity") != identity:
            raise ValueError(f"{place}: was trimmed otherwise; remove it, or give another --out")
        watcher.say(f"{place}: is there already")
        return place
    done = trim(stack.whole, texts, place, check=Checked(speed=False), watcher=watcher)
    write_json(about, {"identity": identity}, sealed=True)
    watcher.say(f"{place}: {done.rows[0]:,} tokens, {done.rows[1]:,} of them kept")
    return place


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the models of a curve."""

    given: Gives
    whole: Stack  # the model that is given
    base: Stack  # the same, or with fewer tokens: what layers are left out of, and the teacher
    lesson: Lesson
    how: How
    out: Path
    watcher: Watcher

    def point(self, kept: Kept) -> Point:
        """One model, made where it is not there."""
        lesson, protocol = self.lesson, self.lesson.protocol
        place = self.out / (f"{len(kept)}-layers" + (f"-{lesson.neurons}" if lesson.neurons else ""))
        asked = None if protocol is None else [settings_of(protocol), protocol.rates()]
        rows = rows_fingerprint(lesson.learn, lesson.held)
        identity = digest([model_fingerprint(self.base.whole), kept, asked, rows, lesson.solve, lesson.neurons])
        if place.exists():
            said = read_json(place / FILE) if (place / FILE).is_file() else {}
            if said.get("identity") != identity:
                raise ValueError(f"{place}: holds a model that was made otherwise; remove it, or give another --out")
            self.watcher.say(f"{place}: is there already")
            return _read(place, said)
        self.watcher.say(f"{place}: {len(kept)} layers")

        def finish(draft: Path, found: Learnt) -> None:
            parts = self.base.parameters(draft)
            said: dict[str, Any] = {"identity": identity, "kept": kept, "parameters": parts[0], "in_layers": parts[1]}
            said["neurons"] = lesson.neurons or self.base.neurons
            write_json(draft / FILE, {**said, **asdict(found)}, sealed=True)
            card = written(self.given, self.whole, self.base, kept, self.how.way, lesson, found, parts)
            (draft / "README.md").write_text(card, encoding="utf-8", newline="\n")

        teach.taught(self.given, self.base, kept, lesson, place, finish, self.watcher)
        return _read(place, read_json(place / FILE))


def _read(place: Path, said: dict[str, Any]) -> Point:
    return Point(
        name=place.name, folder=place, layers=len(said["kept"]), kept=tuple(said["kept"]), neurons=said["neurons"],
        parameters=said["parameters"], in_layers=said["in_layers"], untaught=said["before"], near=said["after"],
        tokens=said["tokens"], scores={},
    )  # fmt: skip


def _measured(
    points: Sequence[Point], lesson: Lesson, how: How, tasks: Tasks, out: Path, machine: Machine, watcher: Watcher
) -> list[Point]:
    """With speeds, and scores where tasks are asked for."""
    found = {}
    if how.timed:
        watcher.say("measuring speed")
        texts = [one.text for one in lesson.held]
        found = measure.speeds({one.name: one.folder for one in points}, texts, machine)
    return [
        replace(
            one,
            speed=found.get(one.name, 0.0),
            scores=measure.scores(one.folder, one.name, tasks, out / _EVALUATION, machine, watcher),
        )
        for one in points
    ]
