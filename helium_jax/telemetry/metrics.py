"""The owner of counters and histograms: declared once, counted and observed, served as text.

Names begin with `helium:`; metrics that vLLM has under the same meaning are served a second time
under its name, because that is what dashboards read. Labels take values of closed sets only
(finish reasons, route patterns, status codes), never text that a user sent.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Kind = Literal["counter", "gauge"]

_LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A number that somebody else counts, read when the metrics are asked for.

    Attributes:
        name: without the prefix `helium:`; a counter's ends in `_total`.
        kind: "counter" only grows, "gauge" goes up and down.
        help: what it is, with its unit.
        value: now.
        labels: of a closed set of values.
    """

    name: str
    kind: Kind
    help: str
    value: float
    labels: Mapping[str, str]


COUNTERS = {
    "prompt_tokens_total": ("Prompt tokens of answered requests", ()),
    "generation_tokens_total": ("Generated tokens sent to clients", ()),
    "request_success_total": ("Sequences that finished", ("finished_reason",)),
    "requests_cancelled_total": ("Requests whose client went away", ()),
    "http_requests_total": ("HTTP requests answered", ("route", "status")),
    "runs_total": ("Runs that came to an end", ("state",)),
    "run_rows_total": ("Rows of runs that came to an end", ("outcome",)),
    "run_calls_total": ("Calls of runs that reached the engine", ()),
    "run_prompt_tokens_total": ("Prompt tokens of runs, by where they came from", ("source",)),
    "result_cache_hits_total": ("Calls of runs whose answer was there already", ()),
    "tokens_precomputed_total": ("Prompt tokens computed ahead of the calls of runs", ()),
}
HISTOGRAMS: Mapping[str, tuple[str, tuple[float, ...], tuple[str, ...]]] = {
    "time_to_first_token_seconds": ("From the request's arrival to its first token", _LATENCY, ()),
    "inter_token_latency_seconds": ("Between a sequence's tokens", _PER_TOKEN, ()),
    "e2e_request_latency_seconds": ("From the request's arrival to its last token", _LATENCY, ()),
    "request_decode_time_seconds": ("From the first to the last token", _LATENCY, ()),
    "op_seconds": ("Of a run's call, from its submission to its end", _LATENCY, ("op_type",)),
    "estimate_error_ratio": (
        "Of a run: how far its calls' ends were from a cost model's, over the run's length",
        _SHARES,
        ("model",),
    ),
    "plan_seconds": ("Of a run: planning, precompute, and all of it", _LATENCY, ("phase",)),
}
# What means the same here and there. request_queue_time and request_prefill_time are absent:
# the waist does not tell when a request left the queue.
VLLM_ALIASES = frozenset(
    {
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prefix_cache_queries",
        "prefix_cache_hits",
        "prompt_tokens",
        "generation_tokens",
        "request_success",
        "num_preemptions",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_decode_time_seconds",
    }
)


class Metrics:
    """Every counter of one server, in a registry of its own.

    Attributes:
        registry: for embedding into another exposition.
    """

    def __init__(self, *, model_name: str) -> None:
        """`model_name` becomes the label of the vLLM aliases, as dashboards select by it."""
        self.registry = CollectorRegistry(auto_describe=False)
        self._sources: list[Callable[[], Iterable[Reading]]] = []
        own = CollectorRegistry(auto_describe=False)
        self._counters = {
            name: Counter(f"helium:{name}", text, labels, registry=own)
            for name, (text, labels) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(f"helium:{name}", text, labels, buckets=buckets, registry=own)
            for name, (text, buckets, labels) in HISTOGRAMS.items()
        }
        self.registry.register(_Collector(own, self._sources, model_name))  # type: ignore[arg-type]

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to a counter of COUNTERS."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds one observation to a histogram of HISTOGRAMS."""
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def add_source(self, source: Callable[[], Iterable[Reading]]) -> None:
        """Reads further numbers from `source` whenever the metrics are asked for."""
        self._sources.append(source)

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format, see CONTENT_TYPE."""
        return generate_latest(self.registry)


class _Collector:
    """Yields our own metrics, the readings, and both again under vLLM's names."""

    def __init__(
        self,
        own: CollectorRegistry,
        sources: list[Callable[[], Iterable[Reading]]],
        model_name: str,
    ) -> None:
        self._own = own
        self._sources = sources
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        readings = [reading for source in self._sources for reading in source()]
        for family in (*self._own.collect(), *_families(readings)):
            yield family
            name = family.name.removeprefix("helium:")
            if name in VLLM_ALIASES:
                yield _renamed(family, f"vllm:{name}", self._model_name)


def _families(readings: list[Reading]) -> Iterator[Metric]:
    by_name: dict[str, Metric] = {}
    for reading in readings:
        family = by_name.get(reading.name)
        if family is None:
            make = CounterMetricFamily if reading.kind == "counter" else GaugeMetricFamily
            family = by_name[reading.name] = make(f"helium:{reading.name}", reading.help)
        suffix = "_total" if reading.kind == "counter" else ""
        family.add_sample(family.name + suffix, dict(reading.labels), reading.value)
    yield from by_name.values()


def _renamed(family: Metric, name: str, model_name: str) -> Metric:
    """The same samples under another name, summed over workers by the reader if need be."""
    copy = Metric(name, family.documentation, family.type)
    copy.samples = [
        sample._replace(
            name=name + sample.name.removeprefix(family.name),
            labels={"model_name": model_name, **sample.labels},
        )
        for sample in family.samples
    ]
    return copy
