"""How numbers, times and architectures read on a page."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from server.store.tables import STOPPED_EARLY

NOTHING = "–"
UNSAID = ("call", "key", "confirms")  # parts of events that only programs want
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: object) -> str:
    """Four digits: `0.6213`, `89.20`, `1,235`, `1.2e-07`. A dash for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOTHING
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "NaN")
    if isinstance(value, int) or (abs(value) >= 1000 and abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:#.4g}" if abs(value) >= 0.1 else f"{value:.4g}"


def quantity(value: float | None) -> str:
    """Three significant digits and a unit prefix: `52.5 M`, `980`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for scale, prefix in SCALES:
        if abs(value) >= scale * 0.9995:
            shown = value / scale
            places = 0 if abs(shown) >= 99.95 else 1 if abs(shown) >= 9.995 else 2
            return f"{shown:.{places}f} {prefix}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `2 h 04 min`, `3 d 4 h`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def file_size(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} B"
    return quantity(size_bytes).replace("k", "kB") if size_bytes < 1e6 else quantity(size_bytes) + "B"


def change(value: float, reference: float) -> str:
    """The relative change from `reference`: `-38 %`, `+4.1 %`. Empty where there is none to name."""
    if not (math.isfinite(value) and math.isfinite(reference)) or reference == 0:
        return ""
    percent = 100 * (value - reference) / abs(reference)
    if abs(percent) >= 1000:
        return f"×{value / reference:.3g}"
    return f"{percent:+.{0 if abs(percent) >= 10 else 1}f} %".replace("-", "−")


def moment(at: datetime | None) -> str:
    return NOTHING if at is None else f"{at:%d %b %Y, %H:%M} UTC"


def clock(at: datetime) -> str:
    return f"{at:%H:%M:%S}"


def option(value: object) -> str:
    """One option of a choice."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def compact(architecture: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An architecture in few words: what the names of its choices share, and the options in a row.

    `{"channels_8": 16, "channels_4": 32, "heads": 2}` reads `channels 16·32`, `heads 2`.
    """
    groups: dict[str, list[str]] = {}
    for name, value in architecture.items():
        groups.setdefault(_stem(name), []).append(option(value))
    return [(stem, "·".join(values)) for stem, values in groups.items()]


def early(reason: object) -> bool:
    """Whether this is why a candidate was stopped early."""
    return isinstance(reason, str) and reason.startswith(STOPPED_EARLY)


def pretty_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def event_text(data: Mapping[str, Any]) -> str:
    """What an event says besides its name: the reason first, then the figures, then all else but ids."""
    rest = {name: value for name, value in data.items() if name not in UNSAID and value not in ("", None)}
    said = [str(rest.pop("reason"))] if "reason" in rest else []
    metrics = rest.pop("metrics", None)
    if isinstance(metrics, Mapping):
        said += [f"{name} {number(value)}" for name, value in metrics.items()]
    said += [f"{name} {_told(value)}" for name, value in rest.items()]
    return " · ".join(said)


def _told(value: object) -> str:
    """Things that have names by their names, and anything else as it is."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, float):
        return number(value)
    if (
        isinstance(value, list)
        and value
        and all(isinstance(item, Mapping) and "name" in item for item in value)
    ):
        return ", ".join(str(item["name"]) for item in value)
    return json.dumps(value, default=str)


def _stem(name: str) -> str:
    """`channels_8` -> `channels`, `stage2.layer1` -> `stage2`, `s1_l1` -> `s1`, `heads` -> `heads`."""
    for separator in (".", "_"):
        if separator in name:
            return name.partition(separator)[0]
    return name.rstrip("0123456789") or name
