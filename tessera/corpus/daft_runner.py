"""Parallel execution over many files, by Daft: on the cores of this machine (native runner), or on a Ray cluster.

    choose("native")
    for result in spread(task, jobs, workers=2): ...

The same call gives the same results on both. A cluster is Ray's business: `ray start` on each of its machines, which
must all see the same paths; docs/corpus.md has a script for Slurm.
"""

import atexit
import builtins
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tessera.plan.shipped import pip_line

if TYPE_CHECKING:
    import daft

Engine = Literal["native", "ray"]
Item = TypeVar("Item")

PROCESS_BYTES = 2**23  # of input: processes of their own cost a second, which less than this is not worth
TASK_BYTES = 2**24  # of input: small files share a task

_KILLED = re.compile(
    r"EOF reached|UDF process|Broken pipe|Connection reset|ActorDied|WorkerCrashed|OutOfMemory|worker died",
    re.IGNORECASE,
)

# No reports of its use, and no noise.
_SETTINGS = {"DO_NOT_TRACK": "1", "DAFT_PROGRESS_BAR": "0", "DAFT_SHOW_QUERY_ID": "0"}


def choose(engine: Engine) -> None:
    """Makes Daft run on this engine from here on; one process can use only one.

    Raises ImportError naming the extra that is missing, ValueError where the process already uses the other.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)  # Daft reads them when it is imported
    try:
        import daft
        from daft.exceptions import DaftCoreException
    except ImportError:
        raise ImportError(f"preparing text needs Daft; {pip_line('prepare')}") from None
    if engine == "ray":
        try:
            import ray
        except ImportError:
            raise ImportError(f"machine.engine is ray; {pip_line('cluster')}") from None
        if not ray.is_initialized():
            _join(ray)
    with contextlib.suppress(DaftCoreException):  # a runner can be set only once
        daft.set_runner_ray() if engine == "ray" else daft.set_runner_native()
    if daft.get_or_infer_runner_type() != engine:
        raise ValueError(
            f"machine.engine is {engine!r}, but this process runs Daft on {daft.get_or_infer_runner_type()!r} already; "
            "use a new process"
        )


def _join(ray: ModuleType) -> None:
    """Joins the Ray cluster that it finds, or starts one here.

    A cluster that starts asks the addresses of three clouds where it is, although reports of its use are off, unless a
    file in the home folder says how it was launched; so it starts, workers included, with a home that has an empty one.
    """
    home = {"HOME": os.environ["HOME"]} if "HOME" in os.environ else {}
    os.environ["HOME"] = tempfile.mkdtemp(prefix="tessera-ray-")
    atexit.register(
        shutil.rmtree, os.environ["HOME"], ignore_errors=True
    )  # Ray looks after it has said that it is there
    Path(os.environ["HOME"], "ray_bootstrap_config.yaml").write_text("{}", encoding="utf-8")
    try:
        ray.init(
            log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False,
            runtime_env={"env_vars": _SETTINGS},
        )  # fmt: skip
    finally:
        os.environ.pop("HOME")
        os.environ.update(home)


def spread(task: Callable[[Item], Any], jobs: Sequence[Item], *, workers: int, processes: bool = True) -> Iterator[Any]:
    """`task(job)` for each job, results as they come; the engine that was chosen does the work.

    task       can be sent to another process, and gives what JSON can say; what it keeps lives as long as its worker
    workers    how many at a time; on Ray, at most: it has as many as the cluster has cores
    processes  False where there is too little to do for a process to be worth its start: then here, one by one

    The first task that raises ends it: jobs that have not begun are not begun, and its exception is raised here.
    """
    import daft

    on_ray = daft.get_or_infer_runner_type() == "ray"
    if not jobs or not (processes or on_ray):
        yield from map(task, jobs)
        return
    # Daft starts processes only where neither the column nor the result is a Python object: numbers in, text out.
    wrapped = daft.cls(use_process=True, max_concurrency=min(workers, len(jobs)))(_worker())
    frame = daft.from_pydict({"job": list(range(len(jobs)))})
    frame = frame.into_partitions(len(jobs)) if on_ray else frame.into_batches(1)
    for row in _watched(frame.select(wrapped(task, list(jobs))(daft.col("job")).alias("done")).iter_rows()):
        done = json.loads(row["done"])
        if "error" in done:
            raise _error(**done)
        yield done["result"]


def _watched(rows: Iterator[Any]) -> Iterator[Any]:
    """The rows; raises ChildProcessError with what to do where a worker was killed, of which Daft says what it saw."""
    try:
        yield from rows
    except Exception as error:  # the native runner and Ray have several kinds
        if not _KILLED.search(str(error)):
            raise
        raise ChildProcessError(
            "a worker process of Daft was ended from outside, most often because memory was short; run the same "
            "command again, files that are finished are kept (with fewer machine.threads if memory was short)"
        ) from error


def grouped(items: Sequence[Item], sizes: Sequence[int], least: int) -> list[list[Item]]:
    """Batches of consecutive items, each of at least `least` bytes; the last one may be smaller."""
    groups: list[list[Item]] = []
    room = 0
    for item, size in zip(items, sizes, strict=True):
        if room <= 0:
            groups.append([])
            room = least
        groups[-1].append(item)
        room -= size
    return groups


def _error(error: str, given: list[Any]) -> Exception:
    """What a task raised: the same, or the nearest that can be told here."""
    kind = getattr(builtins, error, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return kind(*given)
    return RuntimeError(f"{error}: {', '.join(map(str, given))}")


def read_parquet(paths: Sequence[Path]) -> "daft.DataFrame":
    """The rows of some files."""
    import daft

    # Daft takes paths for patterns, and relative ones with brackets for addresses.
    return daft.read_parquet([re.sub(r"([][*?{}\\])", r"\\\1", str(path.absolute())) for path in paths])


def _live_as_long_as_parent() -> None:
    """Ends this worker with the process that started it, however that ended; Ctrl-C in a terminal is for the latter."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    with contextlib.suppress(ValueError):  # not the main thread: then Daft has taken care of it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True, name="parent").start()


def _worker() -> type:
    """The class that Daft runs; made late, because Daft is imported late."""
    import daft

    class Worker:
        def __init__(self, task: Callable[[Any], Any], jobs: Sequence[Any]) -> None:
            self.task, self.jobs = task, jobs
            _live_as_long_as_parent()

        @daft.method(return_dtype=daft.DataType.string())
        def __call__(self, number: int) -> str:
            try:
                return json.dumps({"result": self.task(self.jobs[number])})
            except Exception as error:  # Daft would wrap it in its own, and Ray would try again
                given = [value if isinstance(value, int | str) else str(value) for value in error.args]
                if isinstance(error, OSError) and error.filename is not None:
                    given.append(str(error.filename))
                return json.dumps({"error": type(error).__name__, "given": given})

    return Worker
