"""The peers, by name: the systems that rayqueue is measured against. To add one, add one file here that binds `PEER`.

Nothing is imported before `PEERS` is first looked into, so a load process that needs one peer's client loads no other.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from benchmarks.harness.system import Peer

_BINDS_PEER = re.compile(r"^PEER\b.*=", re.MULTILINE)


class PeerFiles(Mapping[str, Peer]):
    """Peer's name → peer, over the modules of a package that bind `PEER`, in the order of their file names.

    A module is imported only if its text binds the name: the others here may need clients that are not installed.
    """

    def __init__(self, package: str, path: Sequence[str]) -> None:
        """Over the package of this name; `path` is its `__path__`."""
        self._package = package
        self._path = path

    @cached_property
    def _peers(self) -> dict[str, Peer]:
        names = sorted(module.name for module in pkgutil.iter_modules(self._path))
        files = {name: Path(folder, f"{name}.py") for folder in self._path for name in names}
        found = [name for name, file in files.items() if file.is_file() and _BINDS_PEER.search(file.read_text())]
        peers: list[Peer] = [importlib.import_module(f"{self._package}.{name}").PEER for name in found]
        return {peer.name: peer for peer in peers}

    def __getitem__(self, name: str) -> Peer:
        return self._peers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._peers)

    def __len__(self) -> int:
        return len(self._peers)


PEERS: Mapping[str, Peer] = PeerFiles(__name__, __path__)
