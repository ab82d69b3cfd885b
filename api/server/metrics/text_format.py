"""Families and their samples in Prometheus' text format, byte for byte as prometheus-client writes it.

With a thousand GPUs there are ten thousand samples, and the event loop of an API process stands still while they are
written. prometheus-client makes several objects for each of them, and checks and escapes each name anew; that takes
four times as long, see bench/README.md. So the lines are put together here, and prometheus-client's reader and writer
are what the tests hold them against. Labels stand in the order of their names, as families have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from prometheus_client.utils import floatToGoString

from core.metrics.family import Family
from core.metrics.tally import SUM

#: The name of the format.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[str, ...]


#: Prometheus' way to write a number.
_number: Callable[[float], str] = floatToGoString


class _Escaped(dict[str, str]):
    """Values of labels as they are written. Most come again and again, and then it is a look into a dictionary."""

    def __missing__(self, value: str) -> str:
        escaped = self[value] = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        return escaped


class _Numbers(dict[float, str]):
    """Numbers as they are written, likewise."""

    def __missing__(self, value: float) -> str:
        written = self[value] = _number(value)
        return written


class Text:
    """One answer, as it is written."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._escaped = _Escaped()
        self._numbers = _Numbers()

    def whole(self) -> bytes:
        """Return all that was written."""
        return "".join(self._lines).encode()

    def write(self, family: Family, samples: Iterable[tuple[Labels, float]]) -> None:
        """Write a family of counters or gauges."""
        self._lines.append(_head(family))
        form, escape, number = _form(family, ""), self._escaped.__getitem__, self._numbers.__getitem__
        self._lines += [form % (*map(escape, labels), number(value)) for labels, value in samples]

    def write_histogram(self, family: Family, by_labels: Mapping[Labels, Mapping[str, float]]) -> None:
        """Write a histogram from what its parts have counted, see `core.metrics.tally`."""
        self._lines.append(_head(family))
        bounds = [*(repr(float(bound)) for bound in family.buckets), "+Inf"]
        number = self._numbers
        bucket, count, total = _form(family, "_bucket"), _form(family, "_count"), _form(family, "_sum")
        for labels, parts in by_labels.items():
            values = tuple(map(self._escaped.__getitem__, labels))
            seen = 0.0
            for place, bound in enumerate(bounds):
                seen += parts.get(str(place), 0.0)
                self._lines.append(bucket % (bound, *values, number[seen]))
            self._lines.append(count % (*values, number[seen]))
            self._lines.append(total % (*values, number[parts.get(SUM, 0.0)]))


@cache
def _head(family: Family) -> str:
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {family.name} {text}\n# TYPE {family.name} {family.kind}\n"


@cache
def _form(family: Family, suffix: str) -> str:
    """Return the line of a sample, with places for the values of its labels and its own."""
    names = ("le", *family.labels) if suffix == "_bucket" else family.labels
    labels = ",".join(f'{name}="%s"' for name in names)
    return f"{family.name}{suffix}" + (f"{{{labels}}}" if labels else "") + " %s\n"
