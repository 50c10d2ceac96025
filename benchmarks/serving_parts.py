"""What benchmarks/serving.py measures with: servers in processes of their own, and a closed loop of clients.

python benchmarks/serving_parts.py locked MODEL PORT THREADS     # the two servers that one would write today
python benchmarks/serving_parts.py unlocked MODEL PORT THREADS
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]
TICK = os.sysconf("SC_CLK_TCK")


def peer(kind: str, model: str, port: int, threads: int) -> None:
    """FastAPI around sentence-transformers: `locked` computes one request at a time, `unlocked` each in its thread."""
    import contextlib
    import threading

    import torch
    import uvicorn
    from fastapi import FastAPI
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    encoder, app = SentenceTransformer(model, device="cpu"), FastAPI()
    lock: Any = threading.Lock() if kind == "locked" else contextlib.nullcontext()

    @app.post("/embed")
    def embed(body: dict[str, Any]) -> Any:
        inputs = body["inputs"]
        with lock:
            rows = encoder.encode([inputs] if isinstance(inputs, str) else inputs, show_progress_bar=False)
        return rows.tolist()

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


class Server:
    """A process that serves, its port, and what it has used."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port

    def cpu(self) -> float:
        """Seconds of the processor, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self, what: str = "VmRSS") -> float:
        """Resident MB now; VmHWM: at most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{what}:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0


@contextmanager
def ours(folders: Sequence[str], threads: int, *more: str) -> Iterator[Server]:
    """`tessera serve` over some folders, warm."""
    command = [sys.executable, "-m", "tessera", "serve", *folders, "--port", "0", "--threads", str(threads), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "300"})
    try:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"serving at http://\S+:(\d+)", line) for line in process.stdout)))
        yield Server(process, int(found[1]))
    finally:
        process.terminate()
        process.wait()


@contextmanager
def theirs(kind: str, model: str, threads: int) -> Iterator[Server]:
    """One of the two above, once it answers."""
    with _started([sys.executable, __file__, kind, model], ["{port}", str(threads)], {"inputs": "warm"}) as server:
        yield server


@contextmanager
def infinity(program: str, model: str, threads: int) -> Iterator[Server]:
    """infinity-emb, which needs libraries older than ours: its program in an environment of its own."""
    command = [program, "v2", "--model-id", model, "--engine", "torch", "--device", "cpu", "--log-level", "error"]
    offline = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with _started(command, ["--port", "{port}"], {"input": ["warm"]}, "/embeddings", **offline) as server:
        yield server


@contextmanager
def _started(
    command: list[str], more: list[str], body: Numbers, path: str = "/embed", **environment: str
) -> Iterator[Server]:
    """A server once it answers; {port} in `more` stands for a free one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*command, *(one.format(port=port) for one in more)]
    process = subprocess.Popen(command, text=True, env={**os.environ, **environment})
    try:
        while True:
            try:
                asyncio.run(closed_loop(port, [body], clients=1, seconds=0.1, path=path))
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} did not start") from None
                time.sleep(0.3)
        yield Server(process, port)
    finally:
        process.terminate()
        process.wait()


async def closed_loop(
    port: int, bodies: Sequence[Numbers], *, clients: int, seconds: float, path: str = "/embed", least: int = 1
) -> Numbers:
    """Each client sends, waits for the answer, sends again; seconds of each answer, statuses, wall seconds.

    least   requests of each client, however long they take

    The client writes bytes that are there already and reads no JSON: what it costs is little, and the same for all.
    """
    written = []
    for body in bodies:
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        written.append(head.encode() + data)
    took: list[float] = []
    statuses: dict[int, int] = {}
    began = time.perf_counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
        place = number
        while place < number + least * clients or time.perf_counter() - began < seconds:
            sent = time.perf_counter()
            writer.write(written[place % len(written)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            took.append(time.perf_counter() - sent)
            status = int(head[9:12])
            statuses[status] = statuses.get(status, 0) + 1
            place += clients
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return {"took": took, "statuses": statuses, "seconds": time.perf_counter() - began}


def measured(
    server: Server, bodies: Sequence[Numbers], *, clients: int, seconds: float, path: str = "/embed"
) -> Numbers:
    """Requests a second, p50 and p99 in ms, and requests of each second of the server's processor."""
    before = server.cpu()
    found = asyncio.run(closed_loop(server.port, bodies, clients=clients, seconds=seconds, path=path))
    cpu, took = server.cpu() - before, sorted(found["took"])
    return {
        "requests": len(took),
        "per_second": len(took) / found["seconds"],
        "per_cpu_second": len(took) / max(cpu, 1 / TICK),
        "p50": 1000 * took[len(took) // 2],
        "p99": 1000 * took[int(0.99 * (len(took) - 1))],
        "statuses": found["statuses"],
        "cpu_share": cpu / found["seconds"],
    }


if __name__ == "__main__":
    peer(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
