"""Parameters and MACs as the measurement: for trying things out, at no expense."""

from search_spaces.space import SearchSpace
from workers.trial import Measurement, Report, Trial


class CostEvaluator:
    """Measures `score`, the parameters with a minus sign: the smaller, the better."""

    signature = "cost"

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        return Measurement({"score": -self.space.cost_of(trial.arch).params})
