"""Plain supervised classification: cross-entropy on labels."""

from torch import nn
from torch.nn import functional

from workers.training.method import Batch, Clock, Step, TrainingMethod


class Supervised(TrainingMethod):
    """Cross-entropy, with label smoothing as in Inception-v3 (arXiv 1512.00567, section 7)."""

    views = ("images", "labels")

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch, clock: Clock) -> Step:
        logits, labels = self.model(batch["images"]).float(), batch["labels"]
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        accuracy = 100 * (logits.detach().argmax(1) == labels).float().mean()  # percent
        return Step(loss, {"accuracy": accuracy})

    def deployed(self) -> nn.Module:
        return self.model
