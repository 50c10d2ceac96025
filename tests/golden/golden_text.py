"""Everything that the golden tests give to the command line: text, a recipe, tasks, a protocol, a model.

All of it is drawn by `random.Random`, whose `random()` gives the same numbers in every Python, so that it is the same
bytes everywhere: trials and shards of it can be compared between machines to the last bit.
"""

import hashlib
import json
import random
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("recorded")
_WORDS = {
    "deu": "haus fluss brot nacht stein wolke unter blau alt schnell klein nah fern hält sieht und",
    "fao": "hús á breyð nátt steinur skýggj undir blátt gamalt skjótt lítið nær fjarur heldur sær og",
    "ell": "σπίτι ποτάμι ψωμί νύχτα πέτρα σύννεφο κάτω μπλε παλιό γρήγορο μικρό κοντά μακριά κρατά βλέπει και",
    "eng": "house river bread night stone cloud under blue old quick small near far holds sees and",
}  # word i says the same in every language; the first four are what labels, tags and answers are about
WORDS = {language: words.split() for language, words in _WORDS.items()}
SCRIPTS = {"deu": "deu_Latn", "fao": "fao_Latn", "ell": "ell_Grek", "eng": "eng_Latn"}
THINGS = 4
COUNTS = {"train": 48, "validation": 16, "test": 16}
Row = dict[str, Any]


# A number below `count`, a choice of words: of random() alone, which is the only method that promises to stay as it is.
def below(rng: random.Random, count: int) -> int:
    return int(rng.random() * count)


def meaning(rng: random.Random, least: int, most: int) -> list[int]:
    """Numbers of words that say nothing of a label."""
    return [THINGS + below(rng, len(WORDS["deu"]) - THINGS) for _ in range(least + below(rng, most - least + 1))]


def say(language: str, numbers: Iterable[int]) -> str:
    return " ".join(WORDS[language][n] for n in numbers)


def about(rng: random.Random, *things: int) -> list[int]:
    """A sentence with these words in it."""
    words = meaning(rng, 2, 8)
    for thing in things:
        words.insert(below(rng, len(words) + 1), thing)
    return words


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# ------------------------------------------------------------------------------------------------- a corpus, a recipe


def write_corpus(folder: Path) -> None:
    """Three languages, pairs, and a bit of all that is dropped: copies, near copies, what is short or repetitive."""
    for language, count in (("deu", 160), ("fao", 120), ("ell", 60)):
        rng = random.Random(f"corpus {language}")
        texts = [say(language, about(rng, below(rng, THINGS), *meaning(rng, 0, 40))) for _ in range(count)]
        long = [say(language, meaning(rng, 60, 80)) for _ in range(3)]
        texts += [*texts[:7], *long, *(f"{text} {WORDS[language][0]}" for text in long)]  # copies, near copies
        texts += [WORDS[language][5], f"{WORDS[language][1]} " * 30]  # short, repetitive
        write_rows(folder / "web" / f"{SCRIPTS[language]}.jsonl", [{"text": text} for text in texts])
    rng = random.Random("pairs")
    pairs = [(language, meaning(rng, 6, 12)) for language in ("deu", "fao", "ell") for _ in range(24)]
    rows = [_pair(language, words) for language, words in pairs]
    rows += [rows[0], {**rows[1], "tgt": rows[1]["src"]}]  # one comes twice, of one both sides are the same
    write_rows(folder / "pairs.jsonl", rows)


def _pair(language: str, words: list[int]) -> Row:
    sides = {"src": say(language, words), "tgt": say("eng", words)}
    return {**sides, "src_lang": SCRIPTS[language], "tgt_lang": SCRIPTS["eng"]}


def write_recipe(path: Path, corpus: Path, data: Path, tokenizer: Path | None = None) -> Path:
    """Two phases of six steps each, and an evaluation. tokenizer: instead of one that is trained on the corpus."""
    phase = {
        "tokens": 6_000, "context": 64, "batch_tokens": 1_000, "mask_ratio": 0.3, "mask_replacement": "80-10-10",
        "learning_rate": {"peak": 1e-2, "warmup": 1_000},
        "optimizer": {"name": "stableadamw", "weight_decay": 1e-4, "fully_decoupled": True},
        "mixture": {"temperature": 0.5, "shares": {"parallel": 0.2}},
    }  # fmt: skip
    recipe = {
        "name": "golden", "seed": 7,
        "corpus": {
            "sources": [
                {"name": "web", "path": str(corpus / "web")},
                {"name": "parallel", "path": str(corpus / "pairs.jsonl"), "kind": "pairs"},
            ],
            "filters": {"min_characters": 12, "repetition": {}},
            "duplicates": {"exact": True, "near": {}},
            "held_out": {"share": 0.15},
        },
        "tokenizer": {"vocab_size": 400, "sample_bytes": 50_000} if tokenizer is None else {"path": str(tokenizer)},
        "model": {"preset": "mmbert-small", "override": {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 16, "local_attention": 16, "vocab_size": 400}},
        "phases": [
            {"name": "first", "from": "scratch", **phase},
            {"name": "second", "from": "first", **phase, "mask_ratio": 0.15, "learning_rate": {
                "peak": 1e-2, "decay": 6_000, "shape": "one_minus_sqrt"}},
        ],
        "evaluation": {"every": 3_000, "max_tokens": 200, "mask_ratio": 0.3, "tasks": [
            {"task": "bitext", "name": "mining", "path": str(data / "same")},
            {"task": "probe", "name": "topics", "train": str(data / "topic" / "{language}" / "train.jsonl"),
             "validation": str(data / "topic" / "{language}" / "validation.jsonl"),
             "test": str(data / "topic" / "{language}" / "test.jsonl")},
        ]},
        "machine": {"device": "cpu", "dtype": "float32", "threads": 1, "micro_batch_tokens": 300},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe, indent=1), encoding="utf-8")  # JSON is YAML
    return path


# ---------------------------------------------------------------------------------------------------------- ten kinds


def _topic(rng: random.Random, language: str) -> Row:
    label = below(rng, THINGS)
    return {"text": say(language, about(rng, label)), "label": WORDS["eng"][label]}


def _twin(rng: random.Random, language: str) -> Row:
    one, two = below(rng, THINGS), below(rng, THINGS)
    both = {"text": say(language, about(rng, one)), "second": say(language, about(rng, two))}
    return {**both, "label": "other" if two < 2 else "same"}


def _grade(rng: random.Random, language: str) -> Row:
    label = below(rng, THINGS)
    texts = {"text": say(language, meaning(rng, 2, 8)), "second": say(language, about(rng, label))}
    return {**texts, "label": 100.0 - 20.0 * label}


def _choice(rng: random.Random, language: str) -> Row:
    right = below(rng, 3)
    options = [about(rng, 0 if n == right else 1 + below(rng, THINGS - 1)) for n in range(3)]
    texts = {f"option{n}": say(language, option) for n, option in enumerate(options)}
    return {"text": say(language, meaning(rng, 2, 8)), **texts, "label": right}


def _names(rng: random.Random, language: str) -> Row:
    words = about(rng, below(rng, THINGS), below(rng, THINGS))
    tags = ["O" if n >= THINGS else "B-PER" if n % 2 else "B-LOC" for n in words]
    return {"words": [WORDS[language][n] for n in words], "tags": tags}


def _where(rng: random.Random, language: str) -> Row:
    before, answer, after = (
        say(language, meaning(rng, 2, 6)),
        say(language, [below(rng, THINGS), 5]),
        meaning(rng, 2, 6),
    )
    context = f"{before} {answer} {say(language, after)}"
    return {"question": say(language, [7, 8]), "context": context, "answer": [answer], "start": [len(before) + 1]}


def _asked(rng: random.Random, language: str) -> Row:
    thing = below(rng, THINGS)
    pair = {"query": say(language, about(rng, thing)), "answer": say(language, [thing, *meaning(rng, 3, 12)])}
    return {**pair, "wrong": [say(language, about(rng, (thing + 1) % THINGS))]}


def _sought(rng: random.Random, language: str) -> Row:
    return {"query": say(language, about(rng, below(rng, THINGS))), "relevant": f"d{below(rng, 12)}"}


def _same(rng: random.Random, language: str) -> Row:
    """Two sentences of which one is half in the other's words, so that even random weights find some."""
    words = meaning(rng, 4, 8)
    mixed = " ".join(WORDS["eng" if n % 3 == 0 else language][word] for n, word in enumerate(words))
    return {**_pair(language, words), "tgt": mixed}


def _steps(rng: random.Random, language: str) -> Row:
    right = [below(rng, 2) for _ in range(1 + below(rng, 3))]
    return {"text": say(language, meaning(rng, 2, 5)), "steps": [say(language, about(rng, n)) for n in right],
            "label": right}  # fmt: skip


ROWS: dict[str, Callable[[random.Random, str], Row]] = {
    "topic": _topic, "topic_full": _topic, "twin": _twin, "grade": _grade, "choice": _choice, "names": _names,
    "where": _where, "asked": _asked, "sought": _sought, "same": _same, "steps": _steps,
}  # fmt: skip

# `topic`, `same` and what reads them have their languages under codes of three letters, the others under whole ones:
# people's data folders have both.
TASKS: dict[str, Row] = {
    "topic": {
        "kind": "classify", "data": {}, "columns": {"id": "id", "text": "text", "label": "label"},
        "metric": "accuracy", "also": ["macro_f1"], "train": "own",
    },
    "twin": {
        "kind": "pair", "data": {}, "columns": {"id": "id", "text": "text", "second": "second", "label": "label"},
        "labels": ["same", "other"], "metric": "accuracy", "also": ["f1", "mcc"], "train": "deu_Latn",
    },
    "grade": {
        "kind": "regress",
        "data": {"splits": {"train": "train", "validation": {"from": "train", "share": 0.25}, "test": "test"}},
        "columns": {"id": "id", "text": "text", "second": "second", "label": "label"},
        "range": [0, 100], "metric": "spearman", "also": ["pearson"], "train": "all",
    },
    "choice": {
        "kind": "choose", "data": {},
        "columns": {"id": "id", "text": "text", "options": ["option0", "option1", "option2"], "label": "label"},
        "metric": "accuracy", "train": "deu_Latn",
    },
    "choice-after": {
        "kind": "choose", "data": {"path": "choice/{language}/{split}.jsonl"},
        "columns": {"id": "id", "text": "text", "options": ["option0", "option1", "option2"], "label": "label"},
        "metric": "accuracy", "train": "deu_Latn",
    },
    "names": {
        "kind": "tag", "data": {}, "columns": {"id": "id", "words": "words", "tags": "tags"},
        "labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], "metric": "entity_f1", "also": ["accuracy"],
        "train": "deu_Latn",
    },
    "where": {
        "kind": "span", "data": {},
        "columns": {"id": "id", "question": "question", "context": "context", "answers": "answer", "starts": "start"},
        "metric": "squad_f1", "also": ["exact_match"], "train": "deu_Latn",
    },
    "asked": {
        "kind": "retrieve", "data": {},
        "columns": {"id": "id", "query": "query", "positive": "answer", "negatives": "wrong"},
        "metric": "ndcg@10", "also": ["mrr@10"], "train": "deu_Latn",
    },
    "sought": {
        "kind": "retrieve", "data": {"splits": {"test": "test"}},
        "corpus": {"path": "sought/{language}/documents.jsonl", "splits": {"test": "documents"},
                   "columns": {"document_id": "id", "document": "text"}},
        "columns": {"id": "id", "query": "query", "relevant": "relevant"}, "metric": "ndcg@10", "train": "none",
    },
    "same": {
        "kind": "bitext", "data": {"splits": {"test": "test"}}, "columns": {"id": "id", "text": "src", "second": "tgt"},
        "metric": "accuracy", "also": ["margin_f1"], "train": "none",
    },
    "topic-probe": {
        "kind": "probe", "data": {"path": "topic/{language}/{split}.jsonl"},
        "columns": {"id": "id", "text": "text", "label": "label"},
        "metric": "accuracy", "also": ["macro_f1"], "train": "own",
    },
    "steps": {
        "kind": "reward", "data": {}, "columns": {"id": "id", "text": "text", "steps": "steps", "label": "label"},
        "metric": "accuracy", "also": ["macro_f1"], "train": "deu_Latn",
    },
}  # fmt: skip
PROTOCOL = {
    "short": {
        "steps": 10, "batch_size": 8, "learning_rates": [1e-4, 1e-2], "seeds": [0, 1], "warmup_ratio": 0.1,
        "weight_decay": 0.01, "max_length": 64, "stride": 16,
        "kinds": {
            "classify": {"epochs": 2, "patience": 1},
            "tag": {"labelling": "majority"},
            "retrieve": {"temperature": 0.1},
        },
        "tasks": {"choice-after": {"steps": 4, "seeds": [0], "from_task": "siqa"}},
    }
}  # fmt: skip


def write_data(folder: Path) -> None:
    """Rows of every task, tasks.yaml and protocol.yaml."""
    for name, row in ROWS.items():
        for language in ("deu", "fao", "ell"):
            place = folder / name / (language if name in ("topic", "same") else SCRIPTS[language])
            for split, count in COUNTS.items():
                if split != "test" and name in ("same", "sought"):
                    continue
                rng = random.Random(f"{name} {language} {split}")
                rows = [{"id": f"{split}-{n}", **row(rng, language)} for n in range(count)]
                write_rows(place / f"{split}.jsonl", rows)
            if name == "sought":
                rng = random.Random(f"documents {language}")
                documents = [{"id": f"d{n}", "text": say(language, about(rng, n % THINGS))} for n in range(12)]
                write_rows(place / "documents.jsonl", documents)
    rng = random.Random("siqa")  # what the task `choice-after` begins with, as tessera's catalogue describes it
    rows = [_choice(rng, "eng") for _ in range(400)]
    roles = {"context": "text", "answerA": "option0", "answerB": "option1", "answerC": "option2"}
    rows = [{**{to: row[at] for to, at in roles.items()}, "question": "?", "label": row["label"] + 1} for row in rows]
    write_rows(folder / "siqa" / "en" / "train.jsonl", rows)
    (folder / "tasks.yaml").write_text(json.dumps(TASKS, indent=1), encoding="utf-8")
    (folder / "protocol.yaml").write_text(json.dumps(PROTOCOL, indent=1), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ a model


def write_model(folder: Path) -> None:
    """A model of the recorded shape and tokenizer; its weights follow from its folder's name.

    They are multiples of 1/4096 and written here byte by byte, so that the file, and with it the fingerprint that
    trials are known by, is the same on every machine and with every version of every library.
    """
    folder.mkdir(parents=True)
    for path in sorted((RECORDED / "model").iterdir()):
        if path.name != "weights.json":
            shutil.copyfile(path, folder / path.name)
    shapes = json.loads((RECORDED / "model" / "weights.json").read_text(encoding="utf-8"))
    header, parts, end = {}, [], 0
    for name, shape in sorted(shapes.items()):
        raw = _weights(f"{folder.name} {name}", shape, around=1 if len(shape) == 1 and "norm" in name else 0)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + len(raw)]}
        parts.append(raw)
        end += len(raw)
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    head += b" " * (-len(head) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))


def _weights(seed: str, shape: list[int], *, around: int) -> bytes:
    count = 1
    for size in shape:
        count *= size
    raw = b"".join(hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(-(-count // 16)))
    numbers = struct.unpack(f"<{count}h", raw[: 2 * count])
    return struct.pack(f"<{count}f", *(around + (n >> 4) / 4096 / 2 for n in numbers))  # within 1/4 of `around`
