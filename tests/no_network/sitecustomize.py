"""Read by every Python that starts with this folder on its path: only this machine can be spoken to.

What tries to leave it gets an OSError, and its address stands in the file that `NO_NETWORK_LOG` names.
"""

import os
import socket
from ipaddress import ip_address
from pathlib import Path

_HERE = {"localhost", "", None, socket.gethostname()}


def _refuse(address: object) -> None:
    host = address[0] if isinstance(address, tuple) else address
    if not isinstance(address, tuple) or host in _HERE:
        return
    try:
        if ip_address(str(host)).is_loopback:
            return
    except ValueError:
        pass
    with Path(os.environ["NO_NETWORK_LOG"]).open("a", encoding="utf-8") as log:
        log.write(f"{os.getpid()} {host}\n")
    raise OSError(101, "Network is unreachable")


class _Socket(socket.socket):
    def connect(self, address: object) -> None:
        _refuse(address)
        super().connect(address)  # type: ignore[arg-type]

    def connect_ex(self, address: object) -> int:
        _refuse(address)
        return super().connect_ex(address)  # type: ignore[arg-type]


_names = socket.getaddrinfo


def _looked_up(host: object, *others: object, **more: object) -> object:
    _refuse((host.decode() if isinstance(host, bytes) else host,))
    return _names(host, *others, **more)  # type: ignore[arg-type]


socket.socket = _Socket  # type: ignore[misc]
socket.getaddrinfo = _looked_up  # type: ignore[assignment]
