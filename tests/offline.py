"""No test reaches for another machine: sockets and names that are not of this one are refused, and end the test.

Children of a test are told by a sitecustomize.py on their PYTHONPATH, which is this file and a call. Libraries that
send reports swallow their errors, so every attempt is also written down.
"""

import contextlib
import socket
import tempfile
import traceback
from pathlib import Path

_HERE = ("", "0.0.0.0", "::", "::1", "localhost", "ip6-localhost")


def own_addresses() -> set[str]:
    """The addresses by which this machine would reach others, which is what Ray calls its own; nothing is sent."""
    found = set()
    for family, elsewhere in ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            found.add(str(probe.getsockname()[0]))
    return found


_OWN = own_addresses()


def is_here(host: object) -> bool:
    """Whether a host is this machine: loopback, nothing, its own name or address."""
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or not isinstance(name, str) or name.startswith("127."):
        return True
    return name in (*_HERE, *_OWN, socket.gethostname())


def block(log: str) -> None:
    """Refuses what leaves this machine, in this process, and writes it down in the file `log`."""

    def refuse(what: str) -> None:
        stack = "".join(traceback.format_stack(limit=40)[:-2])
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{what}\n{stack}\n")
        raise OSError(f"a test reached for the network: {what}")

    def guarded(name: str) -> None:
        inner = getattr(socket.socket, name)

        def call(self: socket.socket, *given: object) -> object:
            address = given[-1]
            plain = self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple)
            # A datagram socket that connects sends nothing: so libraries ask for the address of this machine.
            asks = name != "sendto" and self.type == socket.SOCK_DGRAM
            if plain and not asks and not is_here(address[0]):
                refuse(f"{name} {address[0]}:{address[1]}")
            return inner(self, *given)

        setattr(socket.socket, name, call)

    def looked_up(name: str) -> None:
        inner = getattr(socket, name)

        def call(host: object, *given: object, **named: object) -> object:
            if not is_here(host):
                refuse(f"{name} {host}")
            return inner(host, *given, **named)

        setattr(socket, name, call)

    for name in ("connect", "connect_ex", "sendto"):
        guarded(name)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        looked_up(name)


def for_children(log: str) -> str:
    """A folder to put on the PYTHONPATH of other processes, which are blocked then as this one is."""
    folder = Path(tempfile.mkdtemp(prefix="tessera-offline-"))
    text = Path(__file__).read_text(encoding="utf-8")
    (folder / "sitecustomize.py").write_text(f"{text}\n\nblock({log!r})\n", encoding="utf-8")
    return str(folder)
