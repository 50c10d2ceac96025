"""Fine-tuning on CPUs: ours beside transformers.Trainer, as people run it.

    python benchmarks/finetuning.py --data DATA [--model FOLDER] [--task sib200] [--language eng_Latn] [--steps 60]

The same rows, first weights, learning rate, schedule, AdamW, steps of 32 examples and seeds for all: the order of the
rows and the weights of a new head are each side's own. Trainer is run with its defaults (float32, padded to the longest
of a batch) and with bf16=True. Each contestant runs in a process of its own. Tokens are those of the rows; padding
counts for nobody. What is timed is training and, by itself, answering the test set, the fastest of the seeds; ours
tokenizes within that time. Ratios are given of processor time too, which neighbours on the machine do not stretch.
Without --model it is a small ModernBERT with random weights, which shows speed and learns little. Needs accelerate
beside transformers. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

OURS = ("tessera", "tessera, float32")
PEERS = ("Trainer, float32", "Trainer, bf16")
AIM = 3.0  # times the speed of Trainer with its defaults
BATCH, WARMUP, WEIGHT_DECAY, BETAS, EPS = 32, 0.1, 0.01, (0.9, 0.98), 1e-6
SHAPE = {
    "vocab_size": 32_768,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "attention_output_dropout": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "mask_token_id": 3,
}


def main(given: argparse.Namespace) -> None:
    """Runs every contestant, prints the tables and the JSON line."""
    with tempfile.TemporaryDirectory() as place:
        if given.model is None:
            given.model = Path(place) / "model"
            _child("weights", given)
        what = (
            f"{given.task} {given.language}, {given.steps} steps of {BATCH}, seeds {given.seeds}, rate {given.rate:g}"
        )
        print(f"{what}, {given.threads} threads\n", flush=True)
        print(f"{'':<20} {'trained tokens/s':>17} {'padding beside':>15} {'answers/s':>10} {given.metric:>16}")
        found = {}
        for name in given.only:
            found[name] = row = _child(name, given)
            spread = statistics.stdev(row["scores"]) if len(row["scores"]) > 1 else 0.0
            speed, answers = row["tokens_per_second"], row["answers_per_second"]
            print(f"{name:<20} {speed:>17,.0f} {row['padding']:>15.0%} {answers:>10,.1f} "
                  f"{statistics.fmean(row['scores']):>8.3f} ± {spread:.3f}", flush=True)  # fmt: skip
    ratios = {}
    for name in (n for n in (OURS[1], *PEERS) if n in found and OURS[0] in found):
        ours, other = found[OURS[0]], found[name]
        ratios[name] = {
            "training": ours["tokens_per_second"] / other["tokens_per_second"],
            "processor": ours["tokens_per_processor_second"] / other["tokens_per_processor_second"],
            "answering": ours["answers_per_second"] / other["answers_per_second"],
            "score": statistics.fmean(ours["scores"]) - statistics.fmean(other["scores"]),
        }
        aim = f", aim {AIM:g}x" if name == PEERS[0] else ""
        print(f"\ntessera beside {name}: training {ratios[name]['training']:.2f}x{aim} "
              f"(processor time {ratios[name]['processor']:.2f}x), "
              f"answering {ratios[name]['answering']:.2f}x, score {ratios[name]['score']:+.3f}", end="")  # fmt: skip
    print("\n")
    setting = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items() if k not in ("only", "measure")}
    print(json.dumps({
        "benchmark": "finetuning",
        "ours": {name: found[name] for name in OURS if name in found},
        "peers": {name: found[name] for name in PEERS if name in found},
        "ratios": ratios,
        "setting": setting,
    }))  # fmt: skip


def _child(name: str, given: argparse.Namespace) -> Numbers:
    """What a process of its own printed last."""
    plain = {k: v for k, v in vars(given).items() if k not in ("only", "measure", "seeds")}
    command = [sys.executable, __file__, "--measure", name, "--seeds", *map(str, given.seeds)]
    command += [part for key, value in plain.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    env = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------- what the children do


def measure(name: str, given: argparse.Namespace) -> Numbers:
    """One contestant with every seed, in this process."""
    import torch

    torch.set_num_threads(given.threads)
    if name == "weights":
        return _write_model(given)
    rows = _Rows(given)
    found = [(_tessera if name in OURS else _trainer)(name, given, rows, seed) for seed in given.seeds]
    return {
        "tokens_per_second": max(f["tokens"] / f["training"] for f in found),
        "answers_per_second": len(rows.test) / min(f["answering"] for f in found),
        "tokens_per_processor_second": max(f["tokens"] / f["processor"] for f in found),
        "padding": statistics.fmean(f["padding"] for f in found),
        "scores": [rows.score(f["answers"]) for f in found],
        "seconds": [f["training"] for f in found],
    }


class _Rows:
    """The data of the task."""

    def __init__(self, given: argparse.Namespace) -> None:
        from tessera.evaluation import catalogue, load

        self.task = catalogue.find(given.task)
        if self.task.kind not in ("classify", "pair", "tag"):
            raise SystemExit(f"{given.task} is of kind {self.task.kind}; give one of kind classify, pair or tag")
        self.metric, self.language = given.metric, given.language
        self.labels = load.labels(self.task, given.data, given.language)
        self.train = load.load(self.task, "train", given.language, given.data, names=self.labels)
        self.test = load.load(
            self.task, "test", given.language, given.data, names=self.labels, limit=given.test_examples
        )

    def score(self, answers: list[Any]) -> float:
        from tessera.prediction import metrics

        right = [row.tags if self.task.kind == "tag" else row.label for row in self.test]
        return metrics.score(self.metric, answers, right, names=self.labels, language=self.language)


def _write_model(given: argparse.Namespace) -> Numbers:
    import torch

    from tessera.model import hub
    from tessera.model.mlm import MaskedLM, initialize
    from tessera.plan.architecture import PRESETS, EncoderConfig
    from tessera.plan.corpus import TokenizerTraining
    from tessera.tokenizer import tokenizer

    rows = _Rows(given)
    texts = [" ".join(row.words) if rows.task.kind == "tag" else row.text for row in rows.train]
    training = TokenizerTraining(vocab_size=SHAPE["vocab_size"])
    tokenizer.train({"all": texts}, training, given.model.with_name("tokenizer"), model_max_length=1024)
    model = MaskedLM(EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **SHAPE}))
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, given.model, given.model.with_name("tokenizer"))
    return {}


def _tessera(name: str, given: argparse.Namespace, rows: _Rows, seed: int) -> Numbers:
    from tessera.finetune.learner import pretrained
    from tessera.finetune.loop import predict, train
    from tessera.plan.recipe import Machine
    from tessera.plan.task import Protocol

    protocol = Protocol(
        name="benchmark",
        steps=given.steps,
        batch_size=BATCH,
        learning_rates=(given.rate,),
        warmup_ratio=WARMUP,
        weight_decay=WEIGHT_DECAY,
        betas=BETAS,
        eps=EPS,
        max_length=given.max_length,
    )
    dtype = "float32" if name == OURS[1] else "auto"
    start = pretrained(given.model, Machine(device="cpu", dtype=dtype))
    learner = start.learner(rows.task.kind, len(rows.labels), protocol, seed=seed)
    clock = _Clock()
    course = train(learner, rows.train, protocol, rate=given.rate, seed=seed)
    clock.trained()
    answers = predict(learner, rows.test)
    return {"tokens": course.tokens, "padding": 0.0, "answers": answers, **clock.times()}


def _trainer(name: str, given: argparse.Namespace, rows: _Rows, seed: int) -> Numbers:
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(given.model)
    tagging = rows.task.kind == "tag"
    kind = transformers.AutoModelForTokenClassification if tagging else transformers.AutoModelForSequenceClassification
    transformers.set_seed(seed)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = kind.from_pretrained(given.model, num_labels=len(rows.labels))
    collate: Any = transformers.DataCollatorWithPadding(tokenizer)
    if tagging:
        collate = transformers.DataCollatorForTokenClassification(tokenizer)
    count = {"tokens": 0, "room": 0}

    def counted(batch: list[Numbers]) -> Any:
        made = collate(batch)
        count["tokens"] += int(made["attention_mask"].sum())
        count["room"] += made["attention_mask"].numel()
        return made

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=given.steps,
            per_device_train_batch_size=BATCH,
            learning_rate=given.rate,
            warmup_steps=round(WARMUP * given.steps),
            lr_scheduler_type="linear",
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            adam_epsilon=EPS,
            seed=seed,
            bf16=name == PEERS[1],
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        sets = [
            datasets.Dataset.from_list(_encoded(tokenizer, part, tagging, given)) for part in (rows.train, rows.test)
        ]
        trainer = transformers.Trainer(model, arguments, train_dataset=sets[0], data_collator=counted)
        clock = _Clock()
        trainer.train()
        clock.trained()
        tokens, room = count["tokens"], count["room"]
        said = trainer.predict(sets[1])
        times = clock.times()
    guesses = said.predictions.argmax(-1)
    answers = guesses.tolist()
    if tagging:
        answers = [
            [int(tag) for tag, label in zip(guess, wanted, strict=True) if label != -100]
            for guess, wanted in zip(guesses, said.label_ids, strict=True)
        ]
    return {"tokens": tokens, "padding": 1 - tokens / room, "answers": answers, **times}


class _Clock:
    """Seconds of training and of answering, by the wall and of this process."""

    def __init__(self) -> None:
        self.began, self.work = time.perf_counter(), time.process_time()

    def trained(self) -> None:
        self.middle, self.worked = time.perf_counter(), time.process_time() - self.work

    def times(self) -> Numbers:
        return {
            "training": self.middle - self.began,
            "processor": self.worked,
            "answering": time.perf_counter() - self.middle,
        }


def _encoded(tokenizer: Any, rows: list[Any], tagging: bool, given: argparse.Namespace) -> list[Numbers]:
    """As the documentation of transformers does it."""
    how = {"truncation": True, "max_length": given.max_length}
    if not tagging:
        return [
            {**tokenizer(row.text, row.second, **how), "labels": row.label}
            if row.second is not None
            else {**tokenizer(row.text, **how), "labels": row.label}
            for row in rows
        ]
    found = []
    for row in rows:
        encoded = tokenizer(list(row.words), is_split_into_words=True, **how)
        words = encoded.word_ids()
        first = [word is not None and (at == 0 or words[at - 1] != word) for at, word in enumerate(words)]
        labels = [row.tags[word] if new else -100 for word, new in zip(words, first, strict=True)]
        found.append({**encoded, "labels": labels})
    return found


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder below which the task's `path` lies")
    parser.add_argument("--model", type=Path, help="a folder; else a small one with random weights")
    parser.add_argument("--task", default="sib200")
    parser.add_argument("--language", default="eng_Latn")
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--test-examples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _given()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
    else:
        main(arguments)
