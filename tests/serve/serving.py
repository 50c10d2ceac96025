"""A real server in a process of its own, on a free port, over tiny models; the fixtures of all tests of serving."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import small_encoder
import torch
import transformers
from patience import HANGS
from task_models import SHAPE, TOKENS, bert, named

from tessera.huggingface import transformers_model

HOUSE = Path(__file__).parents[2]
TAGS = named("O", "B-water", "I-water", "B-food")


@dataclass
class Server:
    """A process of `tessera serve`, its address, and what it has said."""

    process: subprocess.Popen
    url: str = ""
    listener: threading.Thread | None = None
    said: list[str] = field(default_factory=list)

    def post(self, path, body, **more):
        return httpx.post(self.url + path, json=body, timeout=HANGS, **more)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.listener.join(30)
            self.process.stdout.close()


def start(*words):
    """A server of `tessera serve WORDS --port 0`, once it is warm; its lines are kept."""
    command = [sys.executable, "-m", "tessera", "serve", *map(str, words), "--port", "0", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HOUSE), environment.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=HOUSE, env=environment
    )
    server, up = Server(process), threading.Event()

    def listen():
        for line in process.stdout:
            server.said.append(line.rstrip("\n"))
            if found := re.search(r"serving at (http://\S+)", line):
                server.url = found[1]
                up.set()
        up.set()

    server.listener = threading.Thread(target=listen, daemon=True)
    server.listener.start()
    assert up.wait(120), server.said
    assert server.url, server.said
    return server


def heads_on_one_trunk(place, count):
    """Folders of classifiers whose encoders are equal and whose heads are not."""
    folders = []
    first = bert(place / "head0", "BertForSequenceClassification", **named("water", "food", "sky"))
    folders.append(first)
    for number in range(1, count):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(first)
        torch.manual_seed(number)
        torch.nn.init.normal_(model.classifier.weight, 0.0, 0.5)
        folder = place / f"head{number}"
        with transformers_model.quietly():
            model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(first).save_pretrained(folder)
        folders.append(folder)
    return folders


def masked(place):
    """A BERT that fills masks, and embeds."""
    torch.manual_seed(3)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SHAPE)).eval()
    with transformers_model.quietly():
        model.save_pretrained(place)
    vocabulary = {token: n for n, token in enumerate(TOKENS)}
    transformers.BertTokenizer(vocab=vocabulary, model_max_length=32).save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """One tiny folder of each kind of model."""
    place = tmp_path_factory.mktemp("served")
    topics = heads_on_one_trunk(place, 2)
    return {
        "small": small_encoder.write_model(place / "ours"),
        "masked": masked(place / "masked"),
        "topics": topics[0],
        "moods": topics[1],
        "several": bert(
            place / "several", "BertForSequenceClassification", problem_type="multi_label_classification",
            **named("water", "food", "sky"),
        ),
        "number": bert(place / "number", "BertForSequenceClassification", problem_type="regression", num_labels=1),
        "ranker": bert(
            place / "ranker", "BertForSequenceClassification", num_labels=1, sentence_transformers={"version": "6"}
        ),
        "tagger": bert(place / "tagger", "BertForTokenClassification", **TAGS),
        "reader": bert(place / "reader", "BertForQuestionAnswering"),
    }  # fmt: skip


@pytest.fixture(scope="session")
def server(folders):
    """All of them behind one server."""
    found = start(*(f"{name}={folder}" for name, folder in folders.items()), "--dtype", "float32", "--log-requests")
    yield found
    found.stop()


@pytest.fixture(scope="session")
def guarded(folders, tmp_path_factory):
    """A small one that asks for a key, may hold little, and reads short bodies."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text("first-key\nsecond-key\n")
    limits = ["--max-texts", "4", "--max-body", "2000", "--max-queue-tokens", "64", "--auto-truncate"]
    found = start(f"small={folders['small']}", "--api-key-file", keys, *limits, "--cors-origin", "https://a.example")
    yield found
    found.stop()


def wait_until(holds, seconds=HANGS):
    """Waits for what another process is about to do."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.02)
