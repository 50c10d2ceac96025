"""No verb opens a socket unless it is asked to: reports that libraries send of their own accord are off."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import offline
import pytest

from tessera.telemetry import OFF

HOUSE = Path(__file__).parents[2]


@pytest.fixture
def attempts(monkeypatch, tmp_path):
    """What this test tries and writes down, away from the file that would end it."""
    for owner in (socket.socket, socket):
        for name in ("connect", "connect_ex", "sendto", "getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            if hasattr(owner, name):
                monkeypatch.setattr(owner, name, getattr(owner, name))
    offline.block(str(tmp_path / "attempts.txt"))
    return tmp_path / "attempts.txt"


def with_socket(kind, use):
    with socket.socket(socket.AF_INET, kind) as one:
        use(one)


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.create_connection(("example.invalid", 443), timeout=1),
        lambda: socket.getaddrinfo("example.invalid", 80),
        lambda: socket.gethostbyname("example.invalid"),
        lambda: with_socket(socket.SOCK_STREAM, lambda one: one.connect_ex(("192.0.2.1", 80))),
        lambda: with_socket(socket.SOCK_DGRAM, lambda one: one.sendto(b"x", ("192.0.2.1", 9))),
        lambda: __import__("urllib.request").request.urlopen("http://example.invalid/", timeout=1),
    ],
)
def test_what_leaves_this_machine_is_refused_and_written_down(attempts, reach):
    with pytest.raises(OSError, match="a test reached for the network"):
        reach()
    assert "test_offline.py" in attempts.read_text()


def test_what_stays_on_this_machine_is_left_alone(attempts):
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1]), timeout=5).close()
    assert not attempts.exists()


def test_children_of_a_test_are_refused_too(tmp_path):
    folder = offline.for_children(str(tmp_path / "attempts.txt"))
    code = "import socket\ntry: socket.getaddrinfo('example.invalid', 80)\nexcept OSError as error: print(error)"
    given = os.environ | {"PYTHONPATH": folder}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert "a test reached for the network: getaddrinfo example.invalid" in done.stdout
    assert "getaddrinfo example.invalid" in (tmp_path / "attempts.txt").read_text()


def in_a_child(code):
    given = {key: value for key, value in os.environ.items() if key not in OFF}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reports_are_off_as_soon_as_tessera_is_there():
    said = in_a_child("import os, tessera; from tessera.telemetry import OFF; print([os.environ[k] for k in OFF])")
    assert said.strip() == str(list(OFF.values()))


def test_who_wants_to_send_reports_says_so():
    code = "import os; os.environ['DO_NOT_TRACK'] = '0'; import tessera; print(os.environ['DO_NOT_TRACK'])"
    assert in_a_child(code).strip() == "0"


LIBRARIES = {
    "huggingface_hub": "from huggingface_hub import constants; assert constants.HF_HUB_DISABLE_TELEMETRY",
    "openvino": "import openvino.tools.ovc.telemetry_utils as t; assert 'stub' in t.tm.__name__, t.tm",
    "nncf": "from nncf.telemetry.wrapper import telemetry as t; assert type(t).__name__ != 'NNCFTelemetry'",
    "daft": "from daft import scarf_telemetry as t; assert t.opted_out()",
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_see_that_reports_are_off(library):
    pytest.importorskip(library)
    in_a_child(f"import tessera\n{LIBRARIES[library]}")


def test_what_is_off_is_documented():
    page = (HOUSE / "docs" / "libraries.md").read_text(encoding="utf-8")
    for name in (*OFF, "openvino_telemetry"):
        assert f"`{name}`" in page, name
