"""Looks results up instead of training: whole searches in milliseconds, on networks that others trained."""

from pathlib import Path

from search_spaces.space import Architecture, SearchSpace
from server.store.specs import TableEvaluation
from workers.evaluators.tables import open_table
from workers.trial import Measurement, Report, Trial, TrialFailed


class TableEvaluator:
    """Measures a table's search metrics, `val_accuracy` (in %) where it is published.

    What the table holds out is given by `report` and `standing` alone, so that no proposer ever sees it.

    A table may list one network under several codes, each trained on its own (NAS-Bench-201). An architecture
    then has the result of its canonical code, the row that its key spells: a result that anybody can look up,
    as noisy as every other, where a mean over codes would favour networks by how often they are listed. The
    best networks of NAS-Bench-201, by validation and by test, have but one code; no optimum is lost.
    """

    def __init__(
        self, spec: TableEvaluation, space: SearchSpace, dataset: str, *, data_root: Path | None
    ) -> None:
        """Raises TableUnavailable, before any search starts."""
        self.table = open_table(space, dataset, data_root, name=spec.table, protocol=spec.protocol)
        self.signature = f"table/{self.table.name}/{spec.protocol}-{self.table.digest}"

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.table.searched

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        """Raises TrialFailed where the architecture is not in the table."""
        found = self.table.measured(trial.arch.genes)
        if found is None:
            raise TrialFailed(self._absent(trial.arch))
        return Measurement(found)

    def report(self, arch: Architecture) -> dict[str, float]:
        """What the table holds out, `test_accuracy` (in %) where it is published. Raises LookupError."""
        found = self.table.reported(arch.genes)
        if found is None:
            raise LookupError(self._absent(arch))
        return found

    def standing(self, arch: Architecture) -> dict[str, float]:
        """The report, and the place of every value among all codes of the table: `test_accuracy_rank`, and
        `test_accuracy_rank_to` where several share it. Raises LookupError.
        """
        told: dict[str, float] = {}
        for name, value in self.report(arch).items():
            first, last = self.table.rank(arch.genes, name)
            told |= {name: value, f"{name}_rank": first}
            if last > first:
                told[f"{name}_rank_to"] = last
        return told

    def _absent(self, arch: Architecture) -> str:
        return f"{arch.key} is not among the {len(self.table.rows):,} architectures of {self.table.source}"
