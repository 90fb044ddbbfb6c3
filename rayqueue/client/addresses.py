"""Bootstrap addresses: "grpc://host:port,..." or "host:port,..."."""

from __future__ import annotations

from rayqueue.errors import ConfigError


def parse_addresses(servers: str) -> list[tuple[str, int]]:
    """Hosts and ports of a bootstrap list; IPv6 hosts stand in brackets.

    Raises:
        ConfigError: an entry is not host:port.
    """
    found = []
    for entry in servers.split(","):
        text = entry.strip().removeprefix("grpc://").rstrip("/")
        if not text:
            continue
        host, _, port = text.rpartition(":")
        if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(f"bootstrap.servers entry {entry.strip()!r} is not host:port, such as 127.0.0.1:9500")
        found.append((host.strip("[]"), int(port)))
    if not found:
        raise ConfigError("bootstrap.servers is empty: give host:port,... (`rayqueue status` prints it), or 'auto'")
    return found


def format_addresses(addresses: list[tuple[str, int]]) -> str:
    """The bootstrap list of some addresses."""
    return ",".join(f"grpc://[{host}]:{port}" if ":" in host else f"grpc://{host}:{port}" for host, port in addresses)
