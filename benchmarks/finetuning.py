"""Fine-tuning on CPUs: ours beside transformers.Trainer and sentence-transformers' trainer, as people run them.

    python benchmarks/finetuning.py --data DATA [--model FOLDER] [--kinds classify pair tag span retrieve] [--steps 40]
    python benchmarks/finetuning.py --rehearse        tiny shapes and made-up rows, to see that all of it runs

The same rows, first weights, learning rate, schedule, AdamW, steps and seeds for all; the order of the rows and the
weights of a new head are each side's own. Trainer runs with its defaults (float32, padded to the longest of a batch)
and with bf16=True (autocast). All run in this process and take turns, seed by seed, in an order that moves on with each
seed. What is compared is processor time of this process, which neighbours on the machine stretch little; wall time is
given beside it. Ours tokenizes within that time, Trainer before it. A ratio is taken within each seed; its mean and its
least and greatest are given. Without --model it is a small ModernBERT with random weights, which shows speed and learns
little. The last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import finetuning_peers as peers

Numbers = dict[str, Any]

OURS = ("tessera", "tessera, float32")
PEERS = ("Trainer, float32", "Trainer, bf16")
AIMS = {PEERS[0]: 2.5, PEERS[1]: 2.0}  # times the speed of each
TASKS = {
    "classify": ("sib200", "eng_Latn"),
    "pair": ("cosqa-pairs", "code"),
    "tag": ("udpos-treebanks", "English-EWT"),
    "span": ("xquad-articles", "en"),
    "retrieve": ("xquad-articles", "en"),  # a question, and the paragraph that answers it
}
SHAPE = {
    "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 1024, "attention_output_dropout": 0.0,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3,
}  # fmt: skip
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """The data of a kind."""

    kind: str
    metric: str
    labels: Sequence[str]
    train: Sequence[Any]
    test: Sequence[Any]

    def score(self, answers: Any) -> float:
        from tessera.prediction import metrics

        if self.kind == "retrieve":
            return float(answers["ndcg@10"])
        right = [peers.right(self.kind, row) for row in self.test]
        return metrics.score(self.metric, answers, right, names=self.labels)  # type: ignore[arg-type]


@dataclass(slots=True)
class Found:
    """What each seed gave a contestant."""

    processor: list[float] = field(default_factory=list)  # seconds
    seconds: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    padding: float = 0.0  # beside each token that is read


def main(given: argparse.Namespace) -> Numbers:
    """Runs every contestant on every kind, prints the tables and the JSON line."""
    import torch

    torch.set_num_threads(given.threads)
    whole: Numbers = {}
    with tempfile.TemporaryDirectory() as place:
        for kind in given.kinds:
            rows = _rows(kind, given)
            model = given.model or _random_model(Path(place) / kind, rows, TINY if given.rehearse else {})
            whole[kind] = _compare(rows, model, given)
    setting = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
    print(json.dumps({"benchmark": "finetuning", "aims": AIMS, "kinds": whole, "setting": setting}))
    return whole


def _compare(rows: Rows, model: Path, given: argparse.Namespace) -> Numbers:
    """All contestants on one kind, in turns."""
    size = given.batch if rows.kind != "span" else max(1, given.batch // 2)
    how = peers.Setting(steps=given.steps, batch=size, max_length=given.max_length, stride=given.max_length // 4)
    print(f"\n{rows.kind}: {len(rows.train):,} rows to train on, {given.steps} steps of {size}, rate {given.rate:g}, "
          f"seeds {given.seeds}, {model.name}, {given.threads} threads", flush=True)  # fmt: skip
    found = {name: Found() for name in given.only}
    for turn, seed in enumerate(given.seeds):
        names = list(found)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            trained, score = (_ours if name in OURS else _theirs)(name, rows, model, how, given.rate, seed)
            one = found[name]
            one.processor.append(trained.processor)
            one.seconds.append(trained.seconds)
            one.scores.append(score)
            one.padding = trained.padding
    print(f"{'':<18} {'processor s':>12} {'wall s':>8} {'padding':>8} {rows.metric:>20}")
    for name, one in found.items():
        print(f"{name:<18} {_mean(one.processor):>12.1f} {_mean(one.seconds):>8.1f} {one.padding:>8.0%} "
              f"{_mean(one.scores):>12.3f} ± {_spread(one.scores):.3f}", flush=True)  # fmt: skip
    ratios = {f"{ours} / {name}": _ratio(found[ours], found[name])
              for name in PEERS for ours in OURS if {ours, name} <= {*found}}  # fmt: skip
    for name, ratio in ratios.items():
        aim = AIMS[name.partition(" / ")[2]]
        print(f"{name}: {ratio['mean']:.2f}x ({ratio['least']:.2f} to {ratio['greatest']:.2f}), aim {aim:g}x, "
              f"{rows.metric} {ratio['score']:+.3f}", flush=True)  # fmt: skip
    return {
        "metric": rows.metric,
        "found": {name: {k: getattr(one, k) for k in Found.__slots__} for name, one in found.items()},
        "ratios": ratios,
    }


def _ratio(ours: Found, other: Found) -> Numbers:
    """How many times faster, within each seed, and by how much the score is higher."""
    each = [theirs / mine for mine, theirs in zip(ours.processor, other.processor, strict=True)]
    score = _mean(ours.scores) - _mean(other.scores)
    return {"mean": _mean(each), "least": min(each), "greatest": max(each), "score": score}


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


# ------------------------------------------------------------------------------------------------------ the contestants


def _ours(name: str, rows: Rows, model: Path, how: peers.Setting, rate: float, seed: int) -> tuple[Any, float]:
    from tessera.finetune.learner import pretrained
    from tessera.finetune.loop import predict, train
    from tessera.plan.recipe import Machine
    from tessera.plan.task import Protocol

    protocol = Protocol(
        name="benchmark", steps=how.steps, batch_size=how.batch, learning_rates=(rate,), warmup_ratio=how.warmup,
        weight_decay=how.weight_decay, betas=how.betas, eps=how.eps, max_length=how.max_length, stride=how.stride,
        temperature=how.temperature, negatives=0,
    )  # fmt: skip
    machine = Machine(device="cpu", dtype="float32" if name == OURS[1] else "auto")
    if rows.kind == "retrieve":
        from tessera.retrieval import contrastive
        from tessera.retrieval.retriever import Contrast, Retriever

        retriever, _ = Retriever.from_pretrained(model, machine, contrast=Contrast(), max_length=how.max_length)
        seconds = _timed(lambda: contrastive.train(retriever, rows.train, protocol, rate=rate, seed=seed))
        return _trained(*seconds), rows.score(_searched(rows, retriever.queries, retriever.documents))
    learner = pretrained(model, machine).learner(rows.kind, len(rows.labels), protocol, seed=seed)  # type: ignore[arg-type]
    seconds = _timed(lambda: train(learner, rows.train, protocol, rate=rate, seed=seed))
    return _trained(*seconds), rows.score(predict(learner, rows.test))


def _theirs(name: str, rows: Rows, model: Path, how: peers.Setting, rate: float, seed: int) -> tuple[Any, float]:
    bf16 = name == PEERS[1]
    if rows.kind == "retrieve":
        trained, network = peers.fit_retriever(model, rows.train, how, rate=rate, seed=seed, bf16=bf16)

        def embed(texts: Sequence[str]) -> Any:
            return network.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

        return trained, rows.score(_searched(rows, embed, embed))
    trained = peers.fit(rows.kind, model, rows.train, len(rows.labels), how, rate=rate, seed=seed, bf16=bf16)
    return trained, rows.score(trained.answer(rows.test))


def _searched(rows: Rows, queries: Any, documents: Any) -> dict[str, float]:
    """Measures of the test questions among all paragraphs of test."""
    from tessera.data.examples import Search
    from tessera.retrieval.ranking import averages, measure, rank

    search = Search(
        queries={row.id: row.query for row in rows.test},
        corpus={row.positive: row.positive for row in rows.test},
        relevant={row.id: {row.positive: 1} for row in rows.test},
    )
    return averages(measure(search, rank(search, queries, documents)))


def _timed(work: Any) -> tuple[float, float]:
    began, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - worked


def _trained(seconds: float, processor: float) -> peers.Trained:
    return peers.Trained(answer=list, tokens=0, padding=0.0, seconds=seconds, processor=processor)


# ------------------------------------------------------------------------------------------------------------- the rows


def _rows(kind: str, given: argparse.Namespace) -> Rows:
    if given.rehearse:
        return _made_up(kind)
    from tessera.data.examples import Triple
    from tessera.evaluation import catalogue, load

    name, language = TASKS[kind]
    task = catalogue.find(name)
    labels = () if task.kind == "span" else load.labels(task, given.data, language)
    train, test = (
        load.load(task, part, language, given.data, names=labels or None, limit=limit)
        for part, limit in (("train", given.train_examples), ("test", given.test_examples))
    )
    if kind != "retrieve":
        return Rows(kind, task.metric, labels, train, test)
    pairs = [[Triple(query=one.question, positive=one.context, id=one.id, row=one.row) for one in part]
             for part in (train, test)]  # fmt: skip
    return Rows(kind, "ndcg@10", (), *pairs)


def _made_up(kind: str) -> Rows:
    """Rows that mean nothing, in two lengths."""
    rows = [_made_up_row(kind, n) for n in range(12)]
    metric = {"span": "squad_f1", "retrieve": "ndcg@10"}.get(kind, "accuracy")
    return Rows(kind, metric, () if kind in ("span", "retrieve") else ("a", "b"), rows[:8], rows[8:])


def _made_up_row(kind: str, n: int) -> Any:
    from tessera.data.examples import Labelled, Question, Tagged, Triple

    words = tuple(f"word{(n + i) % 5}" for i in range(4 + 6 * (n % 2)))
    text, place = " ".join(words), {"id": str(n), "row": f"row {n}"}
    match kind:
        case "tag":
            return Tagged(words=words, tags=tuple(i % 2 for i in range(len(words))), **place)
        case "span":
            return Question(question="word1", context=text, answers=((words[0], 0),), **place)
        case "retrieve":
            return Triple(query=words[0] + str(n), positive=f"{text} {n}", **place)
        case _:
            return Labelled(text=text, second="word1" if kind == "pair" else None, label=n % 2, **place)


def _random_model(folder: Path, rows: Rows, smaller: Numbers) -> Path:
    """A small ModernBERT with random weights, and a tokenizer of the rows."""
    import torch

    from tessera.huggingface import hub
    from tessera.model.mlm import MaskedLM, initialize
    from tessera.plan.architecture import PRESETS, EncoderConfig
    from tessera.plan.corpus import TokenizerTraining
    from tessera.tokenizer import tokenizer

    texts = [part if isinstance(part, str) else " ".join(part) for row in rows.train for part in _texts(row)]
    training = TokenizerTraining(vocab_size=512 if smaller else 32_768)
    tokenizer.train({"all": texts}, training, folder.with_name(f"{folder.name}-tokenizer"), model_max_length=1024)
    shape = {**PRESETS["mmbert-small"].model_dump(), "vocab_size": training.vocab_size, **SHAPE, **smaller}
    model = MaskedLM(EncoderConfig.model_validate(shape))
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, folder, folder.with_name(f"{folder.name}-tokenizer"))
    return folder


def _texts(row: Any) -> list[Any]:
    names = ("text", "second", "words", "question", "context", "query", "positive")
    return [part for name in names if (part := getattr(row, name, None))]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says. Ends the program where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder below which the tasks' paths lie")
    parser.add_argument("--model", type=Path, help="a folder; else a small one with random weights")
    parser.add_argument("--kinds", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32, help="rows of a step; of span half as many")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--train-examples", type=int, default=1000)
    parser.add_argument("--test-examples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS])
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes and made-up rows; measures nothing")
    given = parser.parse_args(words)
    if given.rehearse:
        given.model, given.steps, given.batch, given.seeds, given.max_length = None, 2, 4, [0], 48
    elif given.data is None:
        parser.error("--data is needed: the folder below which the tasks' paths lie; or --rehearse")
    return given


if __name__ == "__main__":
    main(arguments())
