"""The process: start, readiness, stop, port; clients that vanish; requests that are nonsense."""

import json
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from patience import HANGS
from serving import HOUSE, start, wait_until

SLOW = {"inputs": ["one two three"] * 2000, "batch_invariant": True, "model": "small"}  # a forward pass for each


def gauge(server, name):
    text = httpx.get(server.url + "/metrics", timeout=HANGS).text
    return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])


def raw_request(server, body):
    """A connection on which a request was sent, whose answer nobody has read."""
    host, port = server.url.removeprefix("http://").split(":")
    found = socket.create_connection((host, int(port)), timeout=HANGS)
    data = json.dumps(body).encode()
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    found.sendall(head.encode() + data)
    return found


def vanish(server, body, *, before=0):
    """A client that goes away while it is waited for."""
    with raw_request(server, body):
        wait_until(lambda: gauge(server, "te_queue_size") > before)


@pytest.fixture
def own(folders):
    found = start(f"small={folders['small']}")
    yield found
    if found.process.poll() is None:
        found.stop(signal.SIGKILL)


def test_what_is_at_work_is_answered_when_the_server_is_told_to_stop(own):
    answers = []
    asking = threading.Thread(target=lambda: answers.append(own.post("/embed", SLOW)))
    asking.start()
    wait_until(lambda: gauge(own, "te_queue_size") > 0)
    assert own.stop(signal.SIGTERM) == 0
    asking.join(60)
    assert answers[0].status_code == 200
    assert len(answers[0].json()) == 2000
    assert any("requests at work are answered first" in line for line in own.said)
    assert own.said[-1] == "stopped"


@pytest.mark.slow
def test_what_takes_too_long_is_not_waited_for_when_the_server_stops(folders):
    own = start(f"small={folders['small']}", "--stop-timeout", "0.2")
    with raw_request(own, SLOW), raw_request(own, SLOW), raw_request(own, SLOW):
        wait_until(lambda: gauge(own, "te_queue_size") > 0)
        assert own.stop(signal.SIGINT) == 0


def test_a_second_server_on_the_same_port_says_so(server, folders):
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-m", "tessera", "serve", str(folders["small"]), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOUSE, check=False, timeout=HANGS)
    assert done.returncode == 2
    assert f"127.0.0.1:{port} is taken: another program listens there" in done.stderr.replace("\n", " ")


def test_what_cannot_be_served_is_said_before_anything_is_answered(tmp_path):
    for given, said in ((["/nowhere"], "/nowhere: no such folder"), ([tmp_path], "config.json")):
        command = [sys.executable, "-m", "tessera", "serve", *map(str, given), "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HOUSE, check=False, timeout=HANGS)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_client_that_goes_away_is_computed_no_further(server):
    before = gauge(server, "tessera_gone_clients_total")
    vanish(server, SLOW)
    wait_until(lambda: gauge(server, "tessera_gone_clients_total") > before)
    wait_until(lambda: gauge(server, "te_queue_size") == 0)
    assert server.post("/embed", {"inputs": "x"}).status_code == 200


def memory(server):
    """Resident memory in MB, and open files."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
    return resident, len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.mark.slow
def test_a_thousand_clients_that_go_away_leave_nothing_behind(own):
    def some(count):
        for _ in range(count):
            raw_request(own, {**SLOW, "inputs": SLOW["inputs"][:50]}).close()
        wait_until(lambda: gauge(own, "te_queue_size") == 0)

    some(100)
    resident, files = memory(own)
    some(1000)
    after, after_files = memory(own)
    assert after < resident + 40
    assert after_files <= files + 5
    assert own.post("/embed", {"inputs": "x"}).status_code == 200


# ------------------------------------------------------------------------------------------------------------ nonsense

PATHS = (
    "/v1/embeddings", "/v1/rerank", "/embed", "/embed_all", "/predict", "/rerank", "/similarity", "/tokenize",
    "/decode", "/classify", "/tag", "/fill", "/answer", "/", "/models/topics", "/models/masked", "/models/reader",
)  # fmt: skip
FIELDS = (
    "input", "inputs", "model", "encoding_format", "dimensions", "truncate", "truncation_direction", "normalize",
    "prompt_name", "raw_scores", "query", "texts", "documents", "top_n", "ids", "parameters", "question", "context",
    "source_sentence", "sentences", "top_k", "batch_invariant", "return_text", "user", "words", "options",
)  # fmt: skip
WORDS = (
    "", "x", "the river", "[MASK]", "<|mask|>", "\0", "\u202e", "عربي", "日本", "a" * 3000, "small", "topics", "tagger",
    "base64", "Left", "🙂" * 40, "ﷺ" * 30, "\ufeff", "e\u0301" * 50,
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 7, 10**9, 2**31, 2**63, 2**64, 10**40, 0.5, 1e308, True, False, None)


def value(rng, depth=0):
    kind = rng.random()
    if depth < 4 and kind < 0.25:
        return [value(rng, depth + 1) for _ in range(rng.choice([0, 1, 2, 2, 3, 9]))]
    if depth < 4 and kind < 0.35:
        return {rng.choice(FIELDS): value(rng, depth + 1) for _ in range(rng.randint(0, 4))}
    return rng.choice(WORDS) if kind < 0.75 else rng.choice(NUMBERS)


def nonsense(rng):
    """A path and bytes that may be a request, nearly one, or none."""
    path = rng.choice(PATHS)
    body = {rng.choice(FIELDS): value(rng) for _ in range(rng.randint(0, 5))}
    body |= {name: value(rng) for name in ("input", "inputs", "query") if rng.random() < 0.5}
    data = bytearray(json.dumps(body, ensure_ascii=rng.random() < 0.5).encode())
    match rng.randint(0, 9):
        case 0:
            for _ in range(rng.randint(1, 5)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            data[rng.randrange(len(data)) : 0] = rng.choice([b"\xff", b"\xed\xa0\x80", b"\0", b"[" * 500, b"1" * 5000])
        case 3:
            return path, rng.randbytes(rng.randint(0, 300))
        case 4:
            return path, json.dumps(value(rng)).encode()
    return path, bytes(data)


def fuzz(server, count, seed):
    """Sends requests made of nonsense; none may fail on the server's side. How many had each status."""
    rng, seen = random.Random(seed), {}
    with httpx.Client(base_url=server.url, timeout=HANGS) as client:
        for number in range(count):
            path, data = nonsense(rng)
            answer = client.post(path, content=data, headers={"Content-Type": "application/json"})
            assert answer.status_code < 500, (number, seed, path, data, answer.text)
            json.loads(answer.content)
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_is_refused_and_never_a_failure(server, seed):
    seen = fuzz(server, 150, seed)
    assert {200, 400, 422} <= set(seen)


@pytest.mark.slow
def test_a_hundred_thousand_requests_of_nonsense_leave_the_server_as_it_was(server):
    fuzz(server, 2000, 10**6)
    resident, files = memory(server)
    many = [threading.Thread(target=fuzz, args=(server, 12_500, seed)) for seed in range(100, 108)]
    failures = []
    threading.excepthook = lambda found: failures.append(found.exc_value)
    try:
        for one in many:
            one.start()
        for one in many:
            one.join()
    finally:
        threading.excepthook = threading.__excepthook__
    assert not failures
    after, after_files = memory(server)
    assert after < resident + 100
    assert after_files <= files + 8
    assert server.post("/embed", {"inputs": "x"}).status_code == 200


def test_bytes_that_are_no_http_end_their_connection_alone(server):
    host, port = server.url.removeprefix("http://").split(":")
    rng = random.Random(5)
    for data in (
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        rng.randbytes(999),
    ):
        with socket.create_connection((host, int(port)), timeout=HANGS) as raw:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
    assert server.post("/embed", {"inputs": "x"}).status_code == 200
