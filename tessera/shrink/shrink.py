"""Model shrinking: a curve of size, speed and score, each point a folder that sentence-transformers loads.

curve = shrink("models/minilm", read_texts(["text/eng_Latn.jsonl"]), "small", sizes=[4, 3])

small/3-layers/       a model folder each
small/evaluation/     results, as `tessera evaluate` writes them
small/shrink.json     the curve
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tessera import lock
from tessera.files import LOCK, digest, model_name, read_json, remove_folder, remove_leftovers, write_json
from tessera.inference import sentence_folder as folders
from tessera.model import hub
from tessera.model.hf_files import config_json
from tessera.model.precision import compute_dtype, find_device
from tessera.model.task_config import names_task
from tessera.plan.recipe import Machine
from tessera.progress import Silent, Watcher
from tessera.retrieval.sweep import model_fingerprint, rows_fingerprint, settings_of
from tessera.shrink import importance, measure, teach
from tessera.shrink.card import FILE, Point, table, written
from tessera.shrink.importance import By
from tessera.shrink.layers import Kept, Stack
from tessera.shrink.measure import Tasks
from tessera.shrink.passages import passages
from tessera.shrink.teach import Learnt, Lesson
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.proof import Checked
from tessera.vocabulary.texts import Texts
from tessera.vocabulary.trim import trim

HELD = 500  # passages of held-out documents that vectors are compared on
_LOOKED_AT, _LONGEST = 128, 128  # passages that importance is measured on, and their tokens
_EVALUATION, _TEACHER = "evaluation", ".teacher"


@dataclass(frozen=True, slots=True)
class Curve:
    """The whole model first, then smaller ones, the largest first."""

    points: list[Point]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows."""
        return table(self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """In which way a model is made smaller."""

    by: By = "vectors"
    taught: bool = True
    trim: bool = False  # leave out tokens that the text does not use, before layers
    rates: tuple[float, ...] = teach.RATES
    epochs: float = 1.0
    batch: int = 64
    timed: bool = True


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
    sizes  numbers of layers; none: about three quarters, a half and a third of them

    Raises, before anything is written: ValueError for a folder that gives no vectors, layers that cannot be left out,
    sizes that it cannot have, and an `out` that holds points made otherwise.
    """
    out, watcher = Path(out), watcher or Silent()
    machine = _exact(machine or Machine())
    stack = Stack.of(folder)
    _refuse_other_heads(stack)
    chosen = _sizes(stack, sizes)
    pipeline, _ = folders.read(stack.whole)
    if pipeline.pooling not in (("mean",), ("cls",)) or pipeline.lower_case:
        what = "lower-cases texts" if pipeline.lower_case else f"pools by {'+'.join(pipeline.pooling)}"
        raise ValueError(f"{folder}: {what}; what is taught here pools by mean or cls, and leaves case to tokens")
    measure.check(tasks)
    prompts = [text for text in pipeline.prompts.values() if text]
    lesson = _lesson(stack, texts, how, prompts, machine)
    with lock.hold(out / LOCK, f"smaller models in {out}"):
        remove_leftovers(out)
        points = [_whole(stack)]
        base = stack
        if how.trim:
            base = Stack.of(_trimmed(stack, texts, out, watcher))
            points.append(_whole(base))
        kept = _importance(base, lesson, how.by, chosen, watcher)
        maker = _Maker(stack, base, lesson, how, out, watcher)
        points += [maker.point(kept[size]) for size in chosen]
        remove_folder(out / _TEACHER)
        points = _measured(points, lesson, how, tasks, out, machine, watcher)
        said = [{**asdict(point), "folder": str(point.folder)} for point in points]
        write_json(out / FILE, {"of": model_name(stack.whole), "by": how.by, "points": said}, sealed=True)
    return Curve(points)


def _exact(machine: Machine) -> Machine:
    """With the number format said: a folder that was tuned (`tessera tune`) would else be taken in another engine."""
    number = str(compute_dtype(machine.dtype, find_device(machine.device))).removeprefix("torch.")
    return machine.model_copy(update={"dtype": number})


def _refuse_other_heads(stack: Stack) -> None:
    """Raises ValueError for what gives no vectors: its head could not be taught here, and is never dropped."""
    if folders.ends_in_vectors(stack.whole):
        return
    given = config_json(stack.inside)
    kind = next(iter(given.get("architectures") or []), "")
    if names_task(given):
        raise ValueError(
            f"{stack.inside} is {kind}: what is made smaller here gives vectors, and the head of a task cannot be "
            "taught yet. Shrink the model that it was fine-tuned from, and fine-tune the small one (tessera finetune)"
        )
    if kind.endswith("ForMaskedLM"):
        raise ValueError(
            f"{stack.inside} is {kind}, a masked language model: what is made smaller here gives vectors, and a small "
            "one would no longer fill masks. If its vectors are meant, make a folder that says so, in Python:\n"
            f'  tessera.Encoder.from_pretrained("{stack.inside}").save("encoder")'
        )


def _sizes(stack: Stack, asked: Sequence[int]) -> list[int]:
    """Numbers of layers, the largest first."""
    there = stack.sizes
    wrong = [size for size in asked if size not in there]
    if wrong:
        why = f"; kinds of attention repeat after {stack.period} layers" if stack.period > 1 else ""
        raise ValueError(f"{wrong[0]} layers: give some of {', '.join(map(str, there))}, of {stack.count}{why}")
    near = [min(there, key=lambda size: (abs(size - share * stack.count), size)) for share in (0.75, 0.5, 1 / 3)]
    return sorted(set(asked or near), reverse=True)


def _lesson(stack: Stack, texts: Texts, how: How, prompts: Sequence[str], machine: Machine) -> Lesson:
    longest = folders.read(stack.whole)[0].max_length
    protocol = teach.protocol(how.rates, how.epochs, how.batch, longest) if how.taught else None
    learn, held = passages(texts.used, prompts), passages(texts.held_out, prompts)
    met = {one.text for one in learn}
    held = [one for one in held if one.text not in met]
    step = max(1, len(held) // HELD)
    held = held[::step][:HELD]
    if not held:
        raise ValueError("no passage of the held-out documents is new; give more text (--text)")
    return Lesson(protocol=protocol, learn=learn, held=held, machine=machine)


def _importance(stack: Stack, lesson: Lesson, by: By, sizes: Sequence[int], watcher: Watcher) -> dict[int, Kept]:
    step = max(1, len(lesson.learn) // _LOOKED_AT)
    some = [one.text for one in lesson.learn[::step][:_LOOKED_AT]]
    ids = [row[:_LONGEST] for row in Tokenizer.load(stack.inside).encode_batch(some)]
    encoder = hub.load_encoder(stack.inside, lesson.machine.attention).to(find_device(lesson.machine.device)).eval()
    pipeline, _ = folders.read(stack.whole)
    tell = watcher.progress("importance")
    if by == "block":
        cost = importance.influence_cost(importance.block_influence(stack, encoder, ids))
    else:
        cost = importance.vectors_cost(stack, encoder, pipeline, ids, tell)
    found = importance.smaller(stack, sizes, cost)
    for size, (kept, lost) in found.items():
        watcher.say(f"{size} layers: {' '.join(map(str, kept))} are kept, at a cost of {lost:.4f}")
    return {size: kept for size, (kept, _) in found.items()}


def _whole(stack: Stack) -> Point:
    all_, mine = stack.parameters()
    return Point(
        name=model_name(stack.whole), folder=stack.whole, layers=stack.count, kept=tuple(range(stack.count)),
        parameters=all_, in_layers=mine, untaught=1.0, cosine=1.0, scores={},
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

    whole: Stack  # the model that is given
    base: Stack  # the same, or with fewer tokens: what layers are left out of, and the teacher
    lesson: Lesson
    how: How
    out: Path
    watcher: Watcher

    def point(self, kept: Kept) -> Point:
        """One model, made where it is not there."""
        place, lesson, protocol = self.out / f"{len(kept)}-layers", self.lesson, self.lesson.protocol
        asked = None if protocol is None else [settings_of(protocol), protocol.rates()]
        rows = rows_fingerprint(lesson.learn, lesson.held)
        identity = digest([model_fingerprint(self.base.whole), kept, asked, rows])
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
            write_json(draft / FILE, {**said, **asdict(found)}, sealed=True)
            card = written(self.whole, self.base, kept, self.how.by, lesson, found, parts)
            (draft / "README.md").write_text(card, encoding="utf-8", newline="\n")

        teach.taught(self.base, kept, lesson, place, self.out / _TEACHER, finish, self.watcher)
        return _read(place, read_json(place / FILE))


def _read(place: Path, said: dict[str, Any]) -> Point:
    return Point(
        name=place.name, folder=place, layers=len(said["kept"]), kept=tuple(said["kept"]),
        parameters=said["parameters"], in_layers=said["in_layers"], untaught=said["before"], cosine=said["after"],
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
