"""Windows and macOS, simulated: no symbolic links, no `resource`, no advice for memory maps, an Apple GPU's choices."""

import ast
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tessera import files
from tessera.data import blocks
from tessera.model import attention, cross_entropy
from tessera.model.precision import compute_dtype, find_device
from tessera.plan.recipe import Machine
from tessera.train import checkpoint, distributed, throughput

PACKAGE = Path(files.__file__).parent
CPU = torch.device("cpu")


@pytest.fixture
def no_links(monkeypatch):
    """As on Windows without the right to make links."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refused)
    monkeypatch.setattr(Path, "symlink_to", refused)


def folder(path: Path, text: str) -> Path:
    (path / "training").mkdir(parents=True)
    (path / "model.safetensors").write_text(text, encoding="utf-8")
    (path / "training" / "state.json").write_text(text, encoding="utf-8")
    return path


def test_a_folder_is_linked_by_its_relative_path_where_that_can_be(tmp_path):
    target = folder(tmp_path / "phase" / "checkpoint-2", "two")
    files.link_folder(tmp_path / "phase" / "final", target)
    assert os.readlink(tmp_path / "phase" / "final") == "checkpoint-2"
    shutil.move(tmp_path / "phase", tmp_path / "moved")
    assert (tmp_path / "moved" / "final" / "model.safetensors").read_text() == "two"


@pytest.mark.parametrize("hard_links", [True, False])
def test_where_there_are_no_links_the_same_files_stand_there(tmp_path, no_links, monkeypatch, hard_links):
    if not hard_links:
        monkeypatch.setattr(os, "link", os.symlink)
    link, first, second = (tmp_path / name for name in ("final", "checkpoint-1", "checkpoint-2"))
    checkpoint.point(link, folder(first, "one"))
    assert not link.is_symlink()
    assert (link / "training" / "state.json").read_text() == "one"
    assert os.path.samefile(link / "model.safetensors", first / "model.safetensors") is hard_links
    checkpoint.point(link, folder(second, "two"))  # what stood there gives way
    assert (link / "model.safetensors").read_text() == "two"
    files.remove_folder(second)
    assert (link / "model.safetensors").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "final"]


def test_a_link_gives_way_to_a_folder_and_a_folder_to_a_link(tmp_path, monkeypatch):
    link, first, second = tmp_path / "final", folder(tmp_path / "a", "one"), folder(tmp_path / "b", "two")
    files.link_folder(link, first)
    with monkeypatch.context() as windows:
        windows.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError("no")))
        files.link_folder(link, second)
    assert (link.is_symlink(), (link / "model.safetensors").read_text()) == (False, "two")
    assert (first / "model.safetensors").read_text() == "one"
    files.link_folder(link, first)
    assert (link.is_symlink(), (link / "model.safetensors").read_text()) == (True, "one")


def test_a_link_to_nothing_is_refused_where_there_are_no_links(tmp_path, no_links):
    with pytest.raises(FileNotFoundError, match=r"gone: is no folder, so .*final cannot lead to it"):
        files.link_folder(tmp_path / "final", tmp_path / "gone")


def test_windows_syncs_files_that_may_be_written_and_no_folders(tmp_path, monkeypatch):
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flags: opened.append((os.path.basename(path), flags)) or real(path, flags)
    )
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    monkeypatch.setattr(files.os, "name", "nt")
    try:
        files.sync(FakeFolder())
        files.sync(tmp_path / "a.txt")
    finally:
        monkeypatch.undo()
    assert opened == [("a.txt", os.O_RDWR)]


class FakeFolder:
    def is_dir(self) -> bool:
        return True


def test_without_the_resource_module_a_store_is_read_and_memory_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(blocks, "resource", None)
    np.arange(5000).tofile(tmp_path / "a.bin")
    array = blocks.MmapArray(tmp_path / "a.bin", np.dtype("<i8"))
    array.expect(np.array([0, 4000]), np.array([10, 4900]))
    assert array.values[4000:4003].tolist() == [4000, 4001, 4002]
    assert throughput.used_memory(CPU) == 0.0


def test_without_advice_for_memory_maps_a_store_is_read(tmp_path, monkeypatch):
    class Plain(mmap.mmap):
        """A map as Windows has it."""

        @property
        def madvise(self) -> None:
            raise AttributeError("madvise")

    monkeypatch.setattr(blocks.mmap, "mmap", Plain)
    np.arange(50).tofile(tmp_path / "a.bin")
    array = blocks.MmapArray(tmp_path / "a.bin", np.dtype("<i8"))
    array.expect(np.array([0]), np.array([10]))
    assert array.values[:3].tolist() == [0, 1, 2]


def test_everything_can_be_imported_where_the_modules_of_unix_are_not():
    code = f"import sys, importlib\nsys.modules.update(dict.fromkeys({sorted(UNIX_ONLY)}))\n"
    code += "for name in ('train.trainer', 'corpus.prepare', 'inference.encoder', 'run', 'doctor', 'cli'):\n"
    code += "    importlib.import_module('tessera.' + name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


UNIX_ONLY = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_of_unix_alone_is_imported_with_a_file_and_text_has_its_encoding(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert not UNIX_ONLY & {alias.name for alias in node.names}, f"line {node.lineno}"
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        given = {keyword.arg for keyword in node.keywords}
        if node.func.attr in ("read_text", "write_text"):
            assert "encoding" in given, f"line {node.lineno}: the encoding is cp1252 on Windows"
        if node.func.attr == "open" and any(
            isinstance(a, ast.Constant) and a.value in ("r", "w", "a") for a in node.args
        ):
            assert "encoding" in given, f"line {node.lineno}: the encoding is cp1252 on Windows"


def test_text_has_the_same_bytes_on_every_system(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "linesep", "\r\n")
    files.write_text(tmp_path / "a.txt", "one\ntwo\n")
    assert (tmp_path / "a.txt").read_bytes() == b"one\ntwo\n"


# ---------------------------------------------------------------------------------------------------------- Apple's GPU


def test_apples_gpu_is_refused_in_words_where_there_is_none():
    with pytest.raises(ValueError, match="device is 'mps', but PyTorch sees none here; give one that is here"):
        find_device("mps")
    with pytest.raises(ValueError, match="PyTorch sees none here"):
        distributed.join(Machine(device="mps"))
    with pytest.raises(ValueError, match="device is 'gpu'; give one that is here, as auto, cpu, cuda, cuda:1 or mps"):
        find_device("gpu")


def test_apples_gpu_is_taken_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    mps = find_device("mps")
    assert (mps.type, find_device("auto").type == "mps") == ("mps", False)
    assert compute_dtype("auto", mps) in (torch.float32, torch.bfloat16)
    assert attention.choose("auto", mps) == "reference"
    assert {"cpu", "cuda", "mps"} <= set(cross_entropy._HELD) & set(cross_entropy._WORKED_ON) & set(throughput._SIDES)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one GPU for one process; start without torchrun"):
        distributed.join(Machine(device="mps"))
