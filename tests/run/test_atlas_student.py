"""`make atlas`, shrunken: every command that it would run, on a tiny teacher and a few lines of three languages."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import zstandard
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tessera.inference.encoder import Encoder

HOUSE = Path(__file__).parents[2]
WORDS = {
    "eng_Latn": ["save", "open", "file", "page", "print", "close", "empty", "new", "old", "paper"],
    "deu_Latn": ["sichern", "öffnen", "Datei", "Seite", "drucken", "schließen", "leer", "neu", "alt", "Papier"],
    "zgh_Tfng": ["ⵃⴹⵓ", "ⵔⵥⵎ", "ⴰⴼⴰⵢⵍⵓ", "ⵜⴰⵙⵏⴰ", "ⵙⵉⴳⴳⵣ", "ⵔⴳⵍ", "ⵉⵅⵡⴰ", "ⵎⴰⵢⵏⵓ", "ⴰⵇⴱⵓⵔ", "ⵍⴽⴰⵖⴹ"],
}


def line(language, numbers):
    return " ".join(WORDS[language][n] for n in numbers) + "."


def compressed(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zstandard.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    said = [random.integers(0, 10, 6).tolist() for _ in range(1500)]
    compressed(
        place / "pairs" / "pairs.jsonl.zst",
        [
            {
                "src_lang": code,
                "tgt_lang": "eng_Latn",
                "src": line(code, one),
                "tgt": line("eng_Latn", one),
                "source": "x",
            }
            for one in said
            for code in ("deu_Latn", "zgh_Tfng")
        ],
    )
    for code in WORDS:
        compressed(place / "train" / f"{code}.jsonl.zst", [{"text": line(code, one)} for one in said[:300]])
    return place


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A BERT over a Unigram vocabulary of two of the languages, as a sentence-transformers folder."""
    import transformers

    place, random = tmp_path_factory.mktemp("teacher"), np.random.default_rng(1)
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    known = [line(code, random.integers(0, 10, 6)) for _ in range(300) for code in ("eng_Latn", "deu_Latn")]
    inner.train_from_iterator(known, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, inner.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.BertConfig(
        vocab_size=inner.get_vocab_size(), max_position_embeddings=128, pad_token_id=1, initializer_range=0.2, **shape
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(place / "bare")
    inner.save(str(place / "bare" / "tokenizer.json"))
    roles = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>",
             "pad_token": "<pad>", "mask_token": "<mask>"}  # fmt: skip
    told = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, "model_max_length": 128}
    (place / "bare" / "tokenizer_config.json").write_text(json.dumps(told))
    Encoder.from_pretrained(place / "bare").save(place / "teacher", pooling="mean", normalize=True)
    return place / "teacher"


def commands(**values):
    """What `make atlas` would run, line by line, with this Python and this checkout."""
    given = [f"{name}={value}" for name, value in {"BIN": "bin", "STAMP": "README.md", **values}.items()]
    shown = subprocess.run(
        ["make", "-n", "atlas", *given], cwd=HOUSE, capture_output=True, text=True, check=True
    ).stdout
    for said in shown.replace("\\\n", " ").splitlines():
        words = shlex.split(said)
        if words[:3] == ["nice", "-n", "10"]:
            start = {"bin/python": [sys.executable], "bin/tessera": [sys.executable, "-m", "tessera"]}[words[3]]
            yield [*start, *words[4:]]


@pytest.mark.slow
def test_the_commands_make_a_student_of_more_languages_than_its_teacher_knows(data, teacher, tmp_path):
    shrunken = {
        "ATLAS_ROWS": 100, "ATLAS_NEW_ROWS": 40, "ATLAS_RANK": 24, "ATLAS_LAYERS": "0,1", "ATLAS_NEURONS": 40,
        "ATLAS_STEPS": 250, "ATLAS_RATE": 3e-3,
    }  # fmt: skip
    ran = list(commands(DATA=data, TEACHER=teacher, ATLAS=tmp_path, **shrunken))
    assert [" ".join(words).split("tessera ")[-1].split()[0] for words in ran[1:]] == [
        "vocabulary", "vocabulary", "vocabulary", "shrink", "finetune",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    for words in ran:
        done = subprocess.run(words, cwd=HOUSE, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    whole, student = Encoder.from_pretrained(teacher), Encoder.from_pretrained(tmp_path / "model")
    said = [np.random.default_rng(n).integers(0, 10, 6).tolist() for n in range(50, 90)]

    due = whole.encode([line("eng_Latn", one) for one in said])

    def distance(model):
        return float(np.square(model.encode([line("zgh_Tfng", one) for one in said]) - due).sum(1).mean())

    # nearer to what the teacher says of the English than the best answer that is the same for every text
    assert distance(student) < 0.9 * float(np.square(due - due.mean(0)).sum(1).mean()) < distance(whole)
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < (teacher / "model.safetensors").stat().st_size
