"""The environment of our tasks and actors in Ray."""

from __future__ import annotations

import os
from typing import Any


def runtime_env(python_path: str) -> dict[str, Any] | None:
    """None, or an environment in which `rayqueue` is found in the given directory (a checkout, not installed)."""
    if not python_path:
        return None
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(dict.fromkeys([python_path, *given]))}}
