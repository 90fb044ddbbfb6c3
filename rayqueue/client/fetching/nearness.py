"""Whether a server may be on this host: worth a connection, over which its nonce file proves it or does not."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache


@lru_cache(maxsize=1024)
def may_be_here(host: str) -> bool:
    """Whether `host` is an address of this machine. A name is not looked up, which could take seconds: it has to be
    this machine's own."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        return host in ("localhost", socket.gethostname())
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
