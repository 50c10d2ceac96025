"""Adapting an embedding model (sentence-transformers) to new languages: extended, and taught by distillation.

    <out>/
      adapt.json        what was asked for
      look.json         what was seen of the model
      trimmed/          the model with fewer rows, where that is asked for
      extended/         the model with new pieces
      placed/           its new rows trained, alone
      taught/           all weights trained on translations, where there are some
      tasks/            results of tasks, before and after
      retention.json    vectors and tasks before and after
      final -> the last of these folders

A model that makes vectors guesses no words, so that plain text does not teach it a language. What plain text does is to
put new pieces in their place: the model as it was is the teacher, and the extended model learns to say of a text in
fewer tokens what the teacher says of it in more, of the whole and of each word (retrieval/token_states.py). Nothing but
the new rows learns, so a text without a new piece keeps its vector, bit for bit. Translations teach more: both sides
are drawn to the teacher's vector of the side that it knows, and replayed text to the vectors that it had (Reimers and
Gurevych 2020, arXiv:2004.09813).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.adapt import asked as asking
from tessera.adapt import passages, vectors
from tessera.adapt.adapted import Adapted, Extension, advice, keep_look, keep_retention, planned, read_retention
from tessera.adapt.asked import AdaptError, Asked
from tessera.adapt.given import read_given
from tessera.adapt.hidden_words import PASSAGE_BYTES
from tessera.adapt.look import Look, judge
from tessera.adapt.measure import measure
from tessera.adapt.passages import Chosen, Passages
from tessera.adapt.recipe import PIECES, Text, new_languages, roles
from tessera.adapt.tasks import scores
from tessera.evaluation import evaluate
from tessera.files import fingerprint, link_folder
from tessera.inference import sentence_folder
from tessera.plan.evaluation import Evaluation
from tessera.plan.task import Protocol
from tessera.progress import Silent, Watcher
from tessera.retrieval import distil
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.retriever import Retriever
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.train.freeze import added_rows
from tessera.vocabulary.card import FILE as VOCABULARY
from tessera.vocabulary.extend import extend
from tessera.vocabulary.proof import Checked
from tessera.vocabulary.texts import Texts
from tessera.vocabulary.trim import trim

TOKENS, EPOCHS = 400_000, 8  # read in a stage if nothing is said: the text so often, at most so much
ROWS_PEAK, ALL_PEAK = 1e-2, 2e-4  # the highest rate where new rows learn alone, and where all weights do
_ROWS_BATCH, _ALL_BATCH = 16, 32  # texts of a step

_BESIDE = 16  # tokens of a prompt and special ones: passages are so short that any vocabulary reads them to the end


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the stages have in common."""

    asked: Asked
    model: Path
    out: Path
    pieces: int
    texts: Mapping[str, Texts]  # by role
    passages: Mapping[str, Passages]  # by role
    translated: tuple[list[Sentence], list[Sentence]]  # to learn from, held out
    watcher: Watcher


def adapt_embedder(asked: Asked, out: Path, model: Path, watcher: Watcher | None = None) -> Adapted[vectors.Kept]:
    """Adapts the embedding model in the folder `model` as asked for, in the folder `out`.

    Raises AdaptError where nothing of it can be taught by what is given, ValueError for text, translations and tasks
    that cannot be used: before anything is written. Whoever calls holds the lock of `out`.
    """
    watcher = watcher or Silent()
    if asked.average is not None:
        raise AdaptError(
            f"average is {asked.average}, but {asked.model} makes vectors: replayed text is held by those that it had "
            "before, and nothing is averaged; leave it out"
        )
    evaluate.check(Evaluation(tasks=asked.tasks, data=asked.data, protocol=asked.protocol), rows=True)
    given, sample = read_given(asked, watcher)
    translated = passages.translations(asked.pairs, new_languages(given))
    seen, added = None, planned(out)
    if added is None:
        seen = judge(measure(model, sample, watcher))
        added = Extension(pieces=_pieces(asked, seen, given, watcher), languages=sorted(new_languages(given)))
    if not added.pieces and not asked.pairs:
        why = f"its vocabulary serves {', '.join(sorted(new_languages(given)))}"
        raise AdaptError(
            f"{asked.model} has nothing to learn from this: {why if asked.extend is None else 'no pieces are added'}, "
            "and plain text shows a model that makes vectors no more than where new pieces belong; add pieces all the "
            "same (--extend 1000), give translations (--pairs FILE), or use the model as it is"
        )
    asking.keep(asked, out)
    if seen is not None:
        keep_look(seen.as_json(), added, out)
    texts, room = passages.texts_by_role(asked, given, watcher), min(PASSAGE_BYTES, _length(model) - _BESIDE)
    some = {role: passages.of_texts(text, room) for role, text in texts.items()}
    work = _Work(
        asked=asked, model=model, out=out, pieces=added.pieces, texts=texts, passages=some, translated=translated,
        watcher=watcher,
    )  # fmt: skip
    return _made(work, roles(given))


def _made(work: _Work, roles_: Mapping[str, str]) -> Adapted[vectors.Kept]:
    """The stages, and what they kept; what is there is not made again."""
    stages = _stages(work)
    final = list(stages.values())[-1]
    link_folder(work.out / "final", final)
    rows = read_retention(work.out, of := fingerprint(sentence_folder.read(final)[1]), vectors.Kept)
    if rows is None:
        held = {role: some.held_out for role, some in work.passages.items()}
        rows = vectors.kept(stages, held, work.translated[1], work.watcher)
    asked = work.asked
    how: dict[str, Any] = {"data": asked.data, "protocol": asked.protocol, "watcher": work.watcher}
    tasks = scores(stages, asked.tasks, roles_, work.out / "tasks", **how)
    keep_retention(rows, tasks, of, work.out)
    shown = ("held-out text: cosine to the vectors of the model as it was", *vectors.table(rows))
    return Adapted(model=work.out / "final", rows=rows, table=shown, tasks=tasks)


def _pieces(asked: Asked, seen: Look, given: Sequence[Text], watcher: Watcher) -> int:
    """How many pieces are added: as asked for, or so many for each language that is cut small."""
    needing = seen.cut_small(new_languages(given))
    pieces = PIECES * len(needing) if asked.extend is None else asked.extend
    watcher.say(f"verdict: {seen.verdict}")
    for line in advice(asked, seen, pieces, needing):
        watcher.warn(line)
    if asked.pairs and not asked.replay:
        watcher.warn("no text is replayed (--replay): translations move all weights, and with them other languages")
    return pieces


# ----------------------------------------------------------------------------------------------------------- the stages


def _stages(work: _Work) -> dict[str, Path]:
    """The folders of the stages, by what the table calls them; those that are there are not made again."""
    stages, place, texts = {"before": work.model}, work.model, work.texts
    if work.asked.trim:
        place = stages["trimmed"] = work.out / "trimmed"
        if not place.exists():
            done = trim(
                work.model, passages.together(*texts.values()), place, check=Checked(speed=False), watcher=work.watcher
            )
            work.watcher.say(f"trimmed: {done.rows[0]:,} rows -> {done.rows[1]:,}")
    if work.pieces:
        grown = stages["extended"] = work.out / "extended"
        if not grown.exists():
            others = passages.together(texts["replay"], texts["watch"])
            made = extend(place, texts["new"], grown, work.pieces, watched=others, watcher=work.watcher)
            work.watcher.say(f"extended: {len(made.pieces):,} new pieces, {made.rows[1]:,} rows")
        place = stages["placed"] = work.out / "placed"
        if not place.exists():
            _place(work, grown, place)
    if work.translated[0]:
        before, place = place, work.out / "taught"
        stages["taught"] = place
        if not place.exists():
            _teach(work, before, place)
    return stages


def _place(work: _Work, grown: Path, out: Path) -> None:
    """Trains the new rows alone, on passages in which they stand."""
    rows = added_rows(grown / VOCABULARY)
    most, share = work.asked.tokens or TOKENS, work.asked.share
    found = passages.of_new_pieces(work.passages, _reading(grown), set(rows), most, share)
    if not found.learn or not found.held:
        raise AdaptError(f"{grown}: new pieces stand in too little of the text to be taught; give more of it (--text)")
    _distil(work, grown, out, found, ROWS_PEAK, rows, states=True)


def _teach(work: _Work, start: Path, out: Path) -> None:
    """Trains all weights on translations, beside replayed text."""
    most, share = work.asked.tokens or TOKENS, work.asked.share
    found = passages.of_translations(work.translated, work.passages["replay"], _reading(start), most, share)
    _distil(work, start, out, found, ALL_PEAK, ())


def _distil(
    work: _Work, start: Path, out: Path, found: Chosen, peak: float, rows: Sequence[int], *, states: bool = False
) -> None:
    """Distils the model as it was into a copy of `start`, in so many epochs that about as much is read as was asked."""
    asked = work.asked
    epochs = max(1, min(EPOCHS, round((asked.tokens or TOKENS) / max(1, found.tokens))))
    protocol = Protocol(
        name="adapt", epochs=epochs, batch_size=_ROWS_BATCH if rows else _ALL_BATCH,
        learning_rates=(asked.peak or peak,), warmup_ratio=0.1, patience=2, seeds=(asked.seed,), max_length=512,
    )  # fmt: skip
    prompt = Retriever.from_pretrained(work.model)[0].contrast.document_prompt
    done = distil.run(
        start, work.model, found.learn, out, protocol=protocol, held_out=found.held, rows=rows, states=states,
        teacher_prompt=prompt, watcher=work.watcher,
    )  # fmt: skip
    before, after = (one["all"]["cosine"] for one in (done.before, done.after))
    work.watcher.say(f"{out.name}: cosine to the vectors of before {before:.4f} -> {after:.4f} on held-out text")


def _length(model: Path) -> int:
    """Tokens that a model reads of a text."""
    return Retriever.from_pretrained(model)[0].max_length


def _reading(folder: Path) -> Tokenizer:
    return Tokenizer.load(sentence_folder.read(folder)[1])
