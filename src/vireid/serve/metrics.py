"""Prometheus metrics of one service process; no label names a person, a user or a case."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_PICTURES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counters, in a registry of their own so that several services fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        count = partial(Counter, registry=self.registry)
        measure = partial(Histogram, registry=self.registry)
        show = partial(Gauge, registry=self.registry)
        self.requests = count("vireid_requests", "Requests answered", ("method", "route", "status"))
        self.seconds = measure("vireid_request_seconds", "Time to answer a request", ("route",), buckets=_SECONDS)
        self.searches = count("vireid_searches", "Searches by verdict", ("verdict",))
        self.search_seconds = measure("vireid_search_seconds", "Time of a search without embedding", buckets=_SECONDS)
        self.batch = measure("vireid_embedding_batch", "Pictures embedded in one pass", buckets=_PICTURES)
        self.refused = count("vireid_refused", "Requests refused for load", ("reason",))
        self.running = show("vireid_requests_running", "Requests running or waiting")
        self.items = show("vireid_items", "Stored items", ("gallery",))

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)
