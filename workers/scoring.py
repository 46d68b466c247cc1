"""What metrics come to under a search's objectives and constraints."""

from collections.abc import Mapping

from search_spaces.space import Cost
from server.store.specs import ScaleSpec, SearchSpec

Scores = tuple[float, ...]


def scorable(spec: SearchSpec | ScaleSpec, metrics: Mapping[str, float]) -> bool:
    """Whether the metrics hold everything that the objectives and constraints ask for."""
    asked = {objective.metric for objective in spec.objectives}
    return asked <= metrics.keys() and (spec.constraints.latency_ms is None or "latency_ms" in metrics)


def scores(spec: SearchSpec | ScaleSpec, metrics: Mapping[str, float]) -> Scores:
    """One score per objective, higher is better."""
    return tuple(objective.score(metrics[objective.metric]) for objective in spec.objectives)


def violation(spec: SearchSpec | ScaleSpec, metrics: Mapping[str, float], cost: Cost) -> float:
    """How far the constraints are broken, all together; 0 when they hold.

    What is proposed keeps those on the cost. The baseline, and what earlier searches have tried, may not.
    """
    limits, latency = spec.constraints.limits(), spec.constraints.latency_ms
    broken = sum(abs(limit.excess(getattr(cost, name))) for name, limit in limits.items())
    return broken if latency is None else broken + abs(latency.bound().excess(metrics["latency_ms"]))
