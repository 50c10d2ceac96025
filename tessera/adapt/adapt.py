"""Adapting a model to new languages, the whole way: look, trim, extend, train, average, compare.

    <out>/
      adapt.json        what was asked for
      look.json         what was seen of the model
      adapt.yaml        the recipe: yours to edit
      trimmed/          the model with fewer rows, where that is asked for
      extended/         the model with new rows, where they are needed
      run/              the run of the recipe, a run folder like any other
      tasks/            results of tasks, before and after
      retention.json    bits per byte and tasks before and after
      final -> run/<last stage>/final

The same call after an interruption goes on where it stood.
"""

from pathlib import Path
from typing import Any

from tessera import lock
from tessera.adapt import asked as asking
from tessera.adapt import recipe as recipes
from tessera.adapt import retention as retained
from tessera.adapt.adapted import LOOK, Adapted, Extension, advice, keep_look, keep_retention, planned, read_retention
from tessera.adapt.asked import AdaptError, Asked
from tessera.adapt.embedder import adapt_embedder
from tessera.adapt.given import read_given
from tessera.adapt.look import judge
from tessera.adapt.measure import measure
from tessera.adapt.recipe import Text
from tessera.adapt.sample import Sample
from tessera.adapt.tasks import scores
from tessera.corpus.prepare import IngestedCorpus
from tessera.evaluation import evaluate
from tessera.files import LOCK, fingerprint, link_folder, write_text
from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model
from tessera.inference.sentence_folder import ends_in_vectors
from tessera.plan.evaluation import Evaluation
from tessera.plan.loading import load
from tessera.plan.recipe import Recipe
from tessera.progress import Silent, Watcher
from tessera.run import documents_of, run
from tessera.secrets import redact
from tessera.vocabulary.extend import extend
from tessera.vocabulary.proof import Checked
from tessera.vocabulary.texts import MOST_BYTES, Texts
from tessera.vocabulary.trim import trim

RECIPE = "adapt.yaml"


def adapt(asked: Asked, out: str | Path, watcher: Watcher | None = None) -> Adapted[Any]:
    """Adapts a model as asked for, in the folder `out`; one that makes vectors as embedder.py says.

    Raises AdaptError where `out` holds something else or the model guesses no words, ValueError for text, tasks and a
    model that cannot be used: before anything is written; lock.AtWork where another process adapts there.
    """
    out, watcher = Path(out), watcher or Silent()
    asking.refuse_other(asked, out)
    model = find_model(asked.model)
    with lock.hold(out.with_name(f".{out.name}{LOCK}"), str(out)):
        if ends_in_vectors(model):
            return adapt_embedder(asked, out, model, watcher)
        if asked.pairs:
            raise AdaptError(
                f"--pairs teaches models that make vectors (with a modules.json); {asked.model} learns from plain "
                "text, by guessing words: leave it out"
            )
        return _adapt(asked, out, model, watcher)


def _adapt(asked: Asked, out: Path, model: Path, watcher: Watcher) -> Adapted[retained.Retained]:
    """Adapts a masked language model."""
    texts, sample = read_given(asked, watcher)
    seen, recipe = _planned(asked, out, model, texts, sample, watcher)
    asking.keep(asked, out)
    if seen is not None:
        keep_look(*seen, out)
        write_text(out / RECIPE, recipes.written(recipe))
    recipe = _with_credentials(load(out / RECIPE), texts)
    folder = run(recipe, out / "run", until="documents", watcher=watcher)
    _vocabulary(asked, out, recipe, folder, watcher)
    run(recipe, folder, watcher=watcher)
    final = folder / recipes.last_stage(recipe) / "final"
    link_folder(out / "final", final)
    models, roles = _models(out, recipe, model), recipes.roles(texts)
    rows = read_retention(out, of := fingerprint(final.resolve()), retained.Retained)
    if rows is None:
        rows = retained.retention(models, _of_run(documents_of(folder, recipe)).held_out, roles, watcher)
    how: dict[str, Any] = {"data": asked.data, "protocol": asked.protocol, "watcher": watcher}
    tasks = scores(models, asked.tasks, roles, out / "tasks", **how)
    keep_retention(rows, tasks, of, out)
    shown = ("bits per byte of hidden words, held-out text", *retained.table(rows))
    return Adapted(model=out / "final", rows=rows, table=shown, tasks=tasks)


def _planned(
    asked: Asked, out: Path, model: Path, texts: list[Text], sample: Sample, watcher: Watcher
) -> tuple[tuple[dict[str, Any], Extension] | None, Recipe]:
    """(what is seen of the model, and pieces for which languages; the recipe); once that is there, only the recipe."""
    evaluate.check(Evaluation(tasks=asked.tasks, data=asked.data, protocol=asked.protocol), rows=True)
    if (out / RECIPE).is_file():
        return None, load(out / RECIPE)
    seen = judge(measure(model, sample, watcher))
    if seen.measured.no_head is not None:
        _refuse_headless(asked, seen.measured.no_head)
    new = recipes.new_languages(texts)
    needing = seen.cut_small(new)
    pieces = recipes.PIECES * len(needing) if asked.extend is None else asked.extend
    start = out / "extended" if pieces else out / "trimmed" if asked.trim else model
    config = hub.load_any(model).config
    positions = getattr(config, "positions", None) or config.max_position_embeddings
    where = recipes.relative(start) if start != model else asked.model if "/" in asked.model else f"./{asked.model}"
    recipe = recipes.recipe_of(asked, texts, seen.measured, where, positions, bool(pieces))
    watcher.say(f"verdict: {seen.verdict}; {recipes.described(recipe)}")
    for line in advice(asked, seen, pieces, needing):
        watcher.warn(line)
    if not asked.replay:
        watcher.warn(
            "no text is replayed (--replay): languages that the model knows are forgotten in part; the average at the "
            "end gives some of it back"
        )
    return (seen.as_json(), Extension(pieces=pieces, languages=needing or sorted(new))), recipe


def _refuse_headless(asked: Asked, why: str) -> None:
    raise AdaptError(
        f"{asked.model} guesses no words, and it is by guessing words that a model learns from plain text: {why}. Give "
        "the masked language model that it was made of; or, if it makes vectors, a folder that says how (with "
        "sentence-transformers: SentenceTransformer(folder).save(other), or tessera's Encoder.save), which is adapted "
        "as such"
    )


# ---------------------------------------------------------------------------------------------------------- the stages


def _with_credentials(recipe: Recipe, texts: list[Text]) -> Recipe:
    """The recipe with the URLs as they were given: what is written of them lacks their credentials."""
    given = {redact(text.path): text.path for text in texts}
    sources = tuple(one.model_copy(update={"path": given.get(one.path, one.path)}) for one in recipe.corpus.sources)
    return recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update={"sources": sources})})


def _of_run(read: IngestedCorpus, languages: set[str] | None = None) -> Texts:
    """What a run trains on and what it holds out, by language: at most so much of each as fits memory."""
    texts = Texts()
    for store, side in (("train", texts.used), ("held_out", texts.held_out)):
        sizes: dict[str, int] = {}
        for code, text in read.texts(store):  # type: ignore[arg-type]
            if (languages is None or code in languages) and sizes.get(code, 0) < MOST_BYTES:
                sizes[code] = sizes.get(code, 0) + len(text.encode())
                side.setdefault(code, []).append(text)
    return texts


def _vocabulary(asked: Asked, out: Path, recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    """Makes the folder that the recipe starts from, of the text that the run trains on."""
    start, model = Path(recipe.phases[0].from_), find_model(asked.model)
    if start.name == "extended" and start.parent == out and start.exists():
        return
    if asked.trim and not (out / "trimmed").exists():
        done = trim(
            model, _of_run(documents_of(folder, recipe)), out / "trimmed", check=Checked(speed=False), watcher=watcher
        )
        watcher.say(f"trimmed: {done.rows[0]:,} rows -> {done.rows[1]:,}")
    if asked.trim:
        model = out / "trimmed"
    if (grown := out / "extended") == start and not grown.exists():
        added = planned(out)
        if added is None:
            raise AdaptError(f"{out / LOOK}: is missing, and what is added stands in it; adapt into another folder")
        new, pieces = set(added.languages), added.pieces
        all_ = _of_run(documents_of(folder, recipe))
        mine = Texts(*({code: side[code] for code in side if code in new} for side in (all_.used, all_.held_out)))
        others = Texts(*({code: side[code] for code in side if code not in new} for side in (all_.used, all_.held_out)))
        done_ = extend(model, mine, grown, pieces, watched=others, watcher=watcher)
        watcher.say(f"extended: {len(done_.pieces):,} new pieces, {done_.rows[1]:,} rows")


def _models(out: Path, recipe: Recipe, model: Path) -> dict[str, Path]:
    """What is compared: the model as it was, after the last phase, and the average."""
    names = [recipe.phases[-1].name, *(merge.name for merge in recipe.merges)]
    return {"before": model, **{name: out / "run" / name / "final" for name in names}}
