"""Our text is prometheus-client's own, byte for byte: read and written by it, it is the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from api.server.metrics.samples import Sample, write_samples, write_sums
from api.server.metrics.text_format import Text
from core.metrics.counted import COUNTED
from core.metrics.family import Family, counter, gauge, histogram
from core.metrics.tally import Tally

VALUES = (0, 1, 1.0, 0.1, -2.5, 1e-9, 123456789.25, 1e21, 2**53, math.inf, -math.inf, math.nan, True)
LABELS = ("", "plain", 'with "quotes"', "back\\slash", "line\nbreak", "ünïcode 🖼", "a,b={c}", "100 %", "%s")


class Own(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def test_it_is_what_the_library_writes() -> None:
    gauges = GaugeMetricFamily("a_gauge", 'What it "is" \\ so\nfar.', labels=["what"])
    counters = CounterMetricFamily("a_things_total", "Things.", labels=["another", "what"])
    plain = GaugeMetricFamily("a_plain", "Without labels.", value=3)
    times = HistogramMetricFamily("a_seconds", "Seconds.", labels=["what"])
    samples: list[Sample] = []
    own = [
        gauge("a_gauge", gauges.documentation, "what"),
        counter("a_things_total", "Things.", "another", "what"),
        gauge("a_plain", "Without labels."),
    ]
    for number, value in enumerate(VALUES):
        gauges.add_metric([str(number)], value)
        samples.append(Sample(own[0], (str(number),), value))
    for label in LABELS:
        counters.add_metric([label, label], 1)
        samples.append(Sample(own[1], (label, label), 1))
        times.add_metric([label], [("0.5", 1.0), ("+Inf", 3.0)], 3.25)
    samples.append(Sample(own[2], (), 3))

    text = Text()
    write_samples(text, own, samples)
    parts = {"0": 1.0, "1": 2.0, "sum": 3.25}
    text.write_histogram(histogram("a_seconds", "Seconds.", (0.5,), "what"), {(label,): parts for label in LABELS})

    assert text.whole() == generate_latest(Own([gauges, counters, plain, times]))


def lines(families: dict[str, Family], sums: dict[str, float]) -> list[str]:
    """What is written of sums, without what is said of families."""
    text = Text()
    write_sums(text, families, sums)
    return [line for line in text.whole().decode().splitlines() if not line.startswith("#")]


def test_a_histogram_adds_up_its_buckets() -> None:
    family = histogram("a_seconds", "Seconds.", (0.5, 1.0))
    tally = Tally()
    for value in (0.1, 0.2, 0.7, 5.0):
        tally.observe(family, value)

    assert lines({family.name: family}, tally.take()) == [
        'a_seconds_bucket{le="0.5"} 2.0',
        'a_seconds_bucket{le="1.0"} 3.0',
        'a_seconds_bucket{le="+Inf"} 4.0',
        "a_seconds_count 4.0",
        "a_seconds_sum 6.0",
    ]


def test_what_another_version_counts_is_left_out() -> None:
    family = COUNTED["comfyline_leases_lost_total"]
    tally = Tally()
    tally.add(replace(family, labels=("new",)), "label")
    tally.add(replace(family, name="comfyline_news_total"))

    assert lines({family.name: family}, tally.take()) == ["comfyline_leases_lost_total 0.0"]


@pytest.mark.parametrize("name", COUNTED)
def test_zeros_are_shown_before_anything_was_counted(name: str) -> None:
    assert len(lines({name: COUNTED[name]}, {})) == len(COUNTED[name].zeros)
