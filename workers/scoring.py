"""What metrics come to under a search's objectives and constraints."""

from collections.abc import Mapping

from server.store.specs import ScaleSpec, SearchSpec

Scores = tuple[float, ...]


def scorable(spec: SearchSpec | ScaleSpec, metrics: Mapping[str, float]) -> bool:
    """Whether the metrics hold everything that the objectives and constraints ask for."""
    asked = {objective.metric for objective in spec.objectives}
    return asked <= metrics.keys() and (spec.constraints.latency_ms is None or "latency_ms" in metrics)


def scores(spec: SearchSpec | ScaleSpec, metrics: Mapping[str, float]) -> Scores:
    """One score per objective, higher is better."""
    return tuple(objective.score(metrics[objective.metric]) for objective in spec.objectives)


def violation(spec: SearchSpec | ScaleSpec, metrics: Mapping[str, float]) -> float:
    """How far the constraints that are known only after measuring are broken; 0 when they hold."""
    limit = spec.constraints.latency_ms
    return 0.0 if limit is None else abs(limit.bound().excess(metrics["latency_ms"]))
