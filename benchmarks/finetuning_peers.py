"""Fine-tuning as the documentation of transformers and sentence-transformers shows it: what ours is held against.

    python benchmarks/finetuning_peers.py MODEL --data DATA --protocol FILE:NAME [--task TASK] [--bf16]

Reads the rows, splits and protocol that `tessera finetune` (DATA alone) or `tessera evaluate` (--task) reads, trains by
`transformers.Trainer` with its defaults (float32, padded to the longest of a batch) once for each rate, takes the rate
that is best on validation, trains it with the other seeds, and prints a JSON line of the scores on test.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

CLASSES = {
    **dict.fromkeys(("classify", "pair", "regress"), "AutoModelForSequenceClassification"),
    "tag": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}
LONGEST_ANSWER, BEST = 30, 20  # tokens; starts and ends that are looked at: those of transformers' example


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What both sides are told alike."""

    epochs: float = 3.0
    steps: int | None = None  # instead of epochs
    batch: int = 32
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_length: int = 256
    stride: int = 128
    temperature: float = 0.05

    @classmethod
    def of(cls, protocol: Any) -> "Setting":
        """As a protocol of ours says it."""
        return cls(
            epochs=protocol.epochs or 1.0, steps=protocol.steps, batch=protocol.batch_size,
            warmup=protocol.warmup_ratio, weight_decay=protocol.weight_decay, betas=protocol.betas, eps=protocol.eps,
            max_length=protocol.max_length, stride=protocol.stride, temperature=protocol.temperature,
        )  # fmt: skip

    def arguments(self, rows: int, rate: float, seed: int, bf16: bool, folder: str) -> Numbers:
        """Of any Trainer."""
        steps = self.steps or math.ceil(self.epochs * math.ceil(rows / self.batch))
        return {
            "output_dir": folder, "max_steps": steps, "per_device_train_batch_size": self.batch,
            "per_device_eval_batch_size": 32, "learning_rate": rate, "warmup_steps": round(self.warmup * steps),
            "lr_scheduler_type": "linear", "weight_decay": self.weight_decay, "adam_beta1": self.betas[0],
            "adam_beta2": self.betas[1], "adam_epsilon": self.eps, "seed": seed, "bf16": bf16, "use_cpu": True,
            "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_strategy": "no",
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model and what its training took."""

    answer: Callable[[Sequence[Any]], list[Any]]  # rows -> answers; of a retriever its model's `encode` is here
    tokens: int
    padding: float  # share of what the model read
    seconds: float
    processor: float  # seconds of the process


def fit(
    kind: str, model: str | Path, rows: Sequence[Any], labels: int, how: Setting, *, rate: float, seed: int, bf16: bool
) -> Trained:
    """Trains by Trainer on rows of a kind with a head."""
    import datasets
    import transformers

    _quiet(transformers)
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    outputs = {} if kind == "span" else {"num_labels": 1 if kind == "regress" else labels}
    network = getattr(transformers, CLASSES[kind]).from_pretrained(model, **outputs)
    collate: Any = {
        "tag": transformers.DataCollatorForTokenClassification, "span": transformers.DataCollatorWithPadding
    }.get(kind, transformers.DataCollatorWithPadding)(tokenizer)  # fmt: skip
    count = {"tokens": 0, "room": 0}

    def counted(batch: list[Numbers]) -> Any:
        made = collate([{k: v for k, v in row.items() if not k.startswith("_")} for row in batch])
        count["tokens"] += int(made["attention_mask"].sum())
        count["room"] += made["attention_mask"].numel()
        return made

    with tempfile.TemporaryDirectory() as folder:
        train = datasets.Dataset.from_list(encoded(kind, tokenizer, rows, how))
        arguments = transformers.TrainingArguments(**how.arguments(len(train), rate, seed, bf16, folder))
        trainer = transformers.Trainer(network, arguments, train_dataset=train, data_collator=counted)
        seconds, processor = _timed(trainer.train)
    tokens, room = count["tokens"], count["room"]

    def answer(asked: Sequence[Any]) -> list[Any]:
        if kind == "span":
            return _spans(trainer, tokenizer, asked, how)
        said = trainer.predict(datasets.Dataset.from_list(encoded(kind, tokenizer, asked, how)))
        if kind == "regress":
            return [float(row) for row in said.predictions[:, 0]]
        guesses = said.predictions.argmax(-1)
        if kind != "tag":
            return list(guesses.tolist())
        return [_whole([int(t) for t, label in zip(guess, wanted, strict=True) if label != -100], row)
                for guess, wanted, row in zip(guesses, said.label_ids, asked, strict=True)]  # fmt: skip

    return Trained(answer=answer, tokens=tokens, padding=1 - tokens / room, seconds=seconds, processor=processor)


def fit_retriever(model: str | Path, rows: Sequence[Any], how: Setting, *, rate: float, seed: int, bf16: bool) -> Any:
    """(what its training took, the model) by the trainer of sentence-transformers on triples: in-batch negatives."""
    import datasets
    import sentence_transformers as st
    import transformers
    from sentence_transformers import losses

    _quiet(transformers)
    transformers.set_seed(seed)
    network = st.SentenceTransformer(str(model), device="cpu", local_files_only=True)
    network.max_seq_length = how.max_length
    loss = losses.MultipleNegativesRankingLoss(network, scale=1 / how.temperature)
    pairs = datasets.Dataset.from_list([{"anchor": row.query, "positive": row.positive} for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        given = how.arguments(len(pairs), rate, seed, bf16, folder) | {"dataloader_drop_last": True}
        trainer = st.SentenceTransformerTrainer(
            network, st.SentenceTransformerTrainingArguments(**given), train_dataset=pairs, loss=loss
        )
        seconds, processor = _timed(trainer.train)
    network.eval()
    return Trained(answer=list, tokens=0, padding=0.0, seconds=seconds, processor=processor), network


def encoded(kind: str, tokenizer: Any, rows: Sequence[Any], how: Setting) -> list[Numbers]:
    """Rows as tokens and labels."""
    if kind == "span":
        return [window for n, row in enumerate(rows) for window in _windows(tokenizer, n, row, how)]
    cut = {"truncation": True, "max_length": how.max_length}
    if kind != "tag":
        return [
            {**(tokenizer(row.text, **cut) if row.second is None else tokenizer(row.text, row.second, **cut)),
             **({} if row.label is None else {"labels": float(row.label) if kind == "regress" else row.label})}
            for row in rows
        ]  # fmt: skip
    found = []
    for row in rows:
        one = tokenizer(list(row.words), is_split_into_words=True, **cut)
        words = one.word_ids()
        first = [word is not None and (at == 0 or words[at - 1] != word) for at, word in enumerate(words)]
        tags = row.tags or (0,) * len(row.words)
        found.append({**one, "labels": [tags[word] if new else -100 for word, new in zip(words, first, strict=True)]})
    return found


def _whole(tags: list[int], row: Any) -> list[int]:
    """A tag for each word: those that were cut off bear the first one."""
    return tags + [0] * (len(row.words) - len(tags))


def _windows(tokenizer: Any, number: int, row: Any, how: Setting) -> list[Numbers]:
    """A question with each window of its context, and where the answer stands there, else the first token."""
    made = tokenizer(
        row.question.strip(), row.context, truncation="only_second", max_length=how.max_length, stride=how.stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    found = []
    for at, ids in enumerate(made["input_ids"]):
        offsets = [
            o if s == 1 else None for o, s in zip(made["offset_mapping"][at], made.sequence_ids(at), strict=True)
        ]
        start = end = 0
        if row.answers:
            text, begin = row.answers[0]
            stop = begin + len(text)
            inside = [n for n, o in enumerate(offsets) if o is not None and o[0] < stop and o[1] > begin]
            known = [o for o in offsets if o is not None]
            if inside and known[0][0] <= begin and known[-1][1] >= stop:
                start, end = inside[0], inside[-1]
        window = {"input_ids": ids, "attention_mask": made["attention_mask"][at]}
        if "token_type_ids" in made:
            window["token_type_ids"] = made["token_type_ids"][at]
        found.append({**window, "start_positions": start, "end_positions": end, "_row": number, "_offsets": offsets})
    return found


def _spans(trainer: Any, tokenizer: Any, rows: Sequence[Any], how: Setting) -> list[str]:
    """The text of the likeliest answer to each question, as transformers' example run_qa finds it."""
    import datasets
    import numpy as np

    windows = encoded("span", tokenizer, rows, how)
    plain = [{k: v for k, v in window.items() if not k.startswith("_")} for window in windows]
    starts, ends = trainer.predict(datasets.Dataset.from_list(plain)).predictions[:2]
    best: list[tuple[float, str]] = [(-math.inf, "")] * len(rows)
    for window, first, last in zip(windows, starts, ends, strict=True):
        offsets, row = window["_offsets"], window["_row"]
        for start in np.argsort(-first[: len(offsets)])[:BEST].tolist():
            for end in np.argsort(-last[: len(offsets)])[:BEST].tolist():
                if offsets[start] is None or offsets[end] is None or not start <= end < start + LONGEST_ANSWER:
                    continue
                score = float(first[start] + last[end])
                if score > best[row][0]:
                    best[row] = (score, rows[row].context[offsets[start][0] : offsets[end][1]])
    return [text for _, text in best]


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the wall, and of this process."""
    began, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - worked


def _quiet(transformers: Any) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


# ------------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is trained together, as ours reads it: validation and test by language."""

    kind: str
    metrics: Sequence[str]
    labels: Sequence[str]
    train: Sequence[Any]
    validation: dict[str, Sequence[Any]]
    test: dict[str, Sequence[Any]]


def read(given: argparse.Namespace, protocol: Any) -> list[Rows]:
    """The rows of a task's groups, or of a file or folder."""
    if given.task is None:
        from tessera.finetune import scores
        from tessera.labelled import dataset

        data = dataset.read(given.data, dataset.Options(kind=given.kind))
        parts = [{x: [e for e, y in zip(part.examples, part.languages, strict=True) if x == y]
                  for x in sorted(set(part.languages))} for part in (data.validation, data.test)]  # fmt: skip
        return [Rows(kind=data.kind, metrics=scores.metrics_of(data), labels=data.labels, train=data.train.examples,
                     validation=parts[0], test=parts[1])]  # fmt: skip
    from tessera.evaluation import catalogue, groups

    task = catalogue.find(given.task)
    if given.language:
        task = task.model_copy(update={"languages": tuple(given.language)})
    found = groups.read_groups(task, protocol, Path(given.data))
    labelled = groups.read_labels(found, protocol, Path(given.data))
    return [
        Rows(kind=task.kind, metrics=(task.metric, *task.also), labels=group.labels, train=group.train,
             validation=dict(group.validation), test={x: labelled[x] for x in group.test})
        for group in found
    ]  # fmt: skip


def right(kind: str, row: Any) -> Any:
    """What a metric compares an answer with."""
    return {"tag": lambda: list(row.tags), "span": lambda: [text for text, _ in row.answers]}.get(
        kind, lambda: row.label
    )()


def score(rows: Rows, part: dict[str, Sequence[Any]], answers: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Each metric of each language."""
    from tessera.prediction import metrics

    return {
        language: {
            name: metrics.score(name, answers[language], [right(rows.kind, row) for row in some], names=rows.labels)
            for name in rows.metrics
        }
        for language, some in part.items()
    }


def main(given: argparse.Namespace) -> None:
    """Trains what the protocol says and prints scores, a JSON line at the end."""
    import torch

    from tessera.evaluation import catalogue

    torch.set_num_threads(given.threads)
    protocol = catalogue.protocol(given.protocol)
    how, all_rows, seeds = Setting.of(protocol), read(given, protocol), protocol.seeds[: given.seeds]
    tested: dict[int, list[dict[str, dict[str, float]]]] = {seed: [] for seed in seeds}
    sizes: dict[int, list[int]] = {seed: [] for seed in seeds}
    began, worked, chosen = time.perf_counter(), time.process_time(), []
    for rows in all_rows:

        def once(rate: float, seed: int, rows: Rows = rows) -> tuple[float, Any]:
            done = fit(rows.kind, given.model, rows.train, len(rows.labels), how, rate=rate, seed=seed, bf16=given.bf16)
            said = {x: done.answer(some) for x, some in rows.validation.items()}
            value = statistics.fmean(row[rows.metrics[0]] for row in score(rows, rows.validation, said).values())
            print(f"rate {rate:g}, seed {seed}: {value:.4f} on validation, {done.processor:.0f} s", flush=True)
            return value, score(rows, rows.test, {x: done.answer(some) for x, some in rows.test.items()})

        first = {rate: once(rate, seeds[0]) for rate in protocol.rates()}
        rate = max(first, key=lambda one: first[one][0])
        chosen.append(rate)
        for seed in seeds:
            tested[seed].append(first[rate][1] if seed == seeds[0] else once(rate, seed)[1])
            sizes[seed] += [len(some) for some in rows.test.values()]
        print(f"rate {rate:g}: {json.dumps([t[-1] for t in tested.values()])}", flush=True)
    whole = [
        {name: sum(row[name] * n for row, n in zip(rows, sizes[seed], strict=True)) / sum(sizes[seed])
         for name in rows[0]}
        for seed, several in tested.items()
        for rows in [[row for languages in several for row in languages.values()]]
    ]  # fmt: skip
    print(json.dumps({
        "model": str(given.model), "rates": chosen, "seeds": list(seeds), "bf16": given.bf16,
        "by_row": whole, "by_language": tested, "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--protocol", required=True, help="FILE.yaml:NAME, or one that comes along")
    parser.add_argument("--task", help="a task of `tessera evaluate`, by name or of a file")
    parser.add_argument("--language", action="append")
    parser.add_argument("--kind")
    parser.add_argument("--seeds", type=int, help="only so many of the protocol's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    main(parser.parse_args())
