"""Colours and marks that all plots share: a system looks the same everywhere, in grey and to the colour-blind too."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's colours, which people of every kind of colour vision tell apart.
COLORS = {
    "rayqueue": "#0072B2",
    "kafka": "#D55E00",
    "redis": "#009E73",
    "nats": "#CC79A7",
    "ray.util.queue": "#E69F00",
    "flight": "#56B4E9",
}
OTHER = "#666666"
MARKERS = {"rayqueue": "o", "kafka": "s", "redis": "^", "nats": "D", "ray.util.queue": "v"}


def system_of(side: str) -> str:
    """The system a side such as "rayqueue streamed" belongs to."""
    return side.split(" ")[0]


def color(side: str) -> str:
    """A side's colour."""
    return COLORS.get(system_of(side), OTHER)


def marker(side: str) -> str:
    """A side's mark on lines."""
    return MARKERS.get(system_of(side), "x")


def line(side: str) -> str:
    """A side's kind of line: a system itself is solid, its variants are not."""
    _, _, variant = side.partition(" ")
    return {"": "-", "default": "--", "streamed": ":"}.get(variant, "-.")


def outcome_of(results: dict[str, Any], workload: str) -> dict[str, Any] | None:
    """A workload's outcome, if it ran."""
    return next((one for one in results["outcomes"] if one["workload"] == workload), None)
