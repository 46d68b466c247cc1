"""RFID by short training: real networks, a few steps, real digits."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from models import build
from models.inception import Inception
from search_spaces import NAMED, SPACES, find
from search_spaces.space import Architecture, Decoded, ModelSpec
from server.store.methods import METRICS
from server.store.specs import DiffusionEvaluation, DiffusionRecipe
from workers.evaluators import make_evaluator
from workers.evaluators.diffusion import VAL_IMAGES, VAL_TIMES, DiffusionEvaluator, diffusion_method
from workers.evaluators.fid import NOISE_SEED
from workers.networks import untrained
from workers.training.data import load
from workers.training.features import INCEPTION_FILE
from workers.training.methods.diffusion import noise_error
from workers.training.noise import make_process
from workers.trial import Diverged, Measurement, Trial, TrialFailed

SPACE = SPACES["unet-8"]
BASELINE = SPACE.architecture(SPACE.baseline_genes or ())
SMALL = SPACE.architecture((0,) * len(SPACE.choices))
FAST = DiffusionEvaluation(steps=3, batch=16, images=32, sampling_steps=5)


def evaluator(
    cache: Path, spec: DiffusionEvaluation = FAST, *, data_root: Path | None = None
) -> DiffusionEvaluator:
    made = make_evaluator(spec, SPACE, "digits", data_root=data_root, cache=cache)
    assert isinstance(made, DiffusionEvaluator)
    return made


def measure(
    made: DiffusionEvaluator, folder: Path, *, arch: Architecture = SMALL, seed: int = 0
) -> Measurement:
    return made.evaluate(Trial(arch, seed, folder), lambda step, metrics: None)


def test_an_evaluation_gives_every_metric_and_its_files(digits_cache: Path, tmp_path: Path) -> None:
    reports = []
    trial = Trial(SMALL, 0, tmp_path / "new")
    made = evaluator(digits_cache).evaluate(
        trial, lambda step, metrics: reports.append((step, dict(metrics)))
    )
    assert set(made.metrics) == {"fid", "kid", "val_loss", "train_loss"}
    assert made.relative == {"rfid": "fid"}
    assert {*made.metrics, *made.relative} == set(METRICS["diffusion"])  # what a request may ask for
    assert made.metrics["fid"] > 0
    assert made.device_seconds > 0
    assert [step for step, _ in reports] == [1, 2, 3]
    assert reports[0][1]["mse"] == pytest.approx(1.0, abs=0.1)  # an untrained network predicts no noise

    assert sorted(path.name for path in trial.folder.iterdir()) == [
        "curve.json",
        "model.safetensors",
        "samples.png",
    ]
    curve = json.loads((trial.folder / "curve.json").read_text())
    assert curve == [{"step": step, **metrics} for step, metrics in reports]
    assert made.metrics["train_loss"] == pytest.approx(sum(entry["mse"] for entry in curve) / 3)
    with Image.open(trial.folder / "samples.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * picture.height - 20 > 600


def test_the_kept_weights_are_the_ones_that_were_measured(digits_cache: Path, tmp_path: Path) -> None:
    made = evaluator(digits_cache)
    measured = measure(made, tmp_path)
    named = SPACE.model_of(SMALL)
    network = build(named.name, **named.kwargs).eval()
    network.load_state_dict(load_file(tmp_path / "model.safetensors"))
    error = noise_error(
        network,
        make_process(FAST.schedule, FAST.timesteps),
        load("digits", None).val[:VAL_IMAGES].signed(),
        times=VAL_TIMES,
        seed=NOISE_SEED,
    )
    assert error == pytest.approx(measured.metrics["val_loss"])


def test_the_same_trial_gives_the_same_figures_in_another_process(digits_cache: Path, tmp_path: Path) -> None:
    first, second = evaluator(digits_cache), evaluator(digits_cache)
    torch.manual_seed(1)
    left = measure(first, tmp_path / "a")
    torch.manual_seed(2)
    right = measure(second, tmp_path / "b")
    assert left.metrics == right.metrics
    assert first.signature == second.signature
    assert measure(second, tmp_path / "c", seed=1).metrics != left.metrics


def test_training_longer_brings_the_samples_nearer(digits_cache: Path, tmp_path: Path) -> None:
    def measured(steps: int) -> Mapping[str, float]:
        spec = DiffusionEvaluation(steps=steps, batch=64, images=128)
        return measure(evaluator(digits_cache, spec), tmp_path, arch=BASELINE).metrics

    short, long = measured(3), measured(50)
    assert all(long[name] < 0.9 * short[name] for name in ("fid", "kid", "val_loss", "train_loss"))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 4},
        {"weighting": "p2"},
        {"images": 33},
        {"ema": 0.5},
        {"schedule": "linear"},
        {"learning_rate": 1e-4},
    ],
)
def test_another_protocol_has_another_signature(change: dict[str, object], digits_cache: Path) -> None:
    assert (
        evaluator(digits_cache).signature != evaluator(digits_cache, FAST.model_copy(update=change)).signature
    )


def test_the_signature_names_images_and_feature_network(digits_cache: Path) -> None:
    signature = evaluator(digits_cache).signature
    assert signature.startswith("diffusion/digits-")
    assert "/classifier-digits-v1-" in signature


def test_inception_serves_where_its_weights_are(digits_cache: Path, tmp_path: Path) -> None:
    asked = FAST.model_copy(update={"features": "inception"})
    with pytest.raises(FileNotFoundError, match=INCEPTION_FILE):
        _ = evaluator(digits_cache, asked, data_root=tmp_path).signature
    torch.manual_seed(0)
    torch.save(Inception().state_dict(), tmp_path / INCEPTION_FILE)
    assert "/inception-v3-" in evaluator(digits_cache, asked, data_root=tmp_path).signature
    # on grey images only at wish
    assert "/classifier-" in evaluator(digits_cache, data_root=tmp_path).signature


def test_a_run_that_leaves_the_numbers_is_a_failed_trial(digits_cache: Path, tmp_path: Path) -> None:
    wild = FAST.model_copy(update={"learning_rate": 1e30, "clip": None, "ema_ramp": False, "ema": 0.0})
    with pytest.raises(Diverged):
        measure(evaluator(digits_cache, wild), tmp_path)
    last_step = wild.model_copy(update={"steps": 1})  # its only loss was finite: the samples tell
    with pytest.raises(Diverged, match="samples|loss"):
        measure(evaluator(digits_cache, last_step.model_copy(update={"learning_rate": 1e38})), tmp_path)


def test_a_report_may_stop_the_trial(digits_cache: Path, tmp_path: Path) -> None:
    def stop(step: int, metrics: object) -> None:
        raise TrialFailed("enough")

    with pytest.raises(TrialFailed, match="enough"):
        evaluator(digits_cache).evaluate(Trial(SMALL, 0, tmp_path), stop)


def test_a_lost_trial_goes_on_from_its_checkpoint(
    digits_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.evaluators.diffusion.CHECKPOINT_EVERY", 2)
    spec = FAST.model_copy(update={"steps": 6})
    whole = measure(evaluator(digits_cache, spec), tmp_path / "whole")

    class Lost(Exception):
        pass

    def lose(step: int, metrics: object) -> None:
        if step == 5:
            raise Lost

    with pytest.raises(Lost):
        evaluator(digits_cache, spec).evaluate(Trial(SMALL, 0, tmp_path / "lost"), lose)
    other: list[int] = []  # of a job that trains the same network now
    evaluator(digits_cache, spec).evaluate(
        Trial(SMALL, 0, tmp_path / "other", id="other"), lambda step, metrics: other.append(step)
    )
    assert other[0] == 1
    steps: list[int] = []
    again = evaluator(digits_cache, spec).evaluate(
        Trial(SMALL, 0, tmp_path / "again"), lambda step, metrics: steps.append(step)
    )
    assert steps == [5, 6]
    assert {name: again.metrics[name] for name in ("fid", "val_loss")} == {
        name: whole.metrics[name] for name in ("fid", "val_loss")
    }
    assert list((digits_cache / "checkpoints").iterdir()) == []


def test_a_trial_lost_while_sampling_is_not_trained_again(
    digits_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.evaluators.diffusion.CHECKPOINT_EVERY", 2)
    whole = measure(evaluator(digits_cache), tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr("workers.evaluators.diffusion.drawn", lambda *_, **__: torch.empty(1 << 60))
        with pytest.raises(TrialFailed, match="out of memory"):
            measure(evaluator(digits_cache), tmp_path / "lost")
    steps: list[int] = []
    again = evaluator(digits_cache).evaluate(
        Trial(SMALL, 0, tmp_path / "again"), lambda step, metrics: steps.append(step)
    )
    assert steps == []
    assert again.metrics["fid"] == whole.metrics["fid"]


def test_sampling_steps_that_no_stride_gives_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no integer stride"):
        evaluator(tmp_path, FAST.model_copy(update={"sampling_steps": 600}))


def test_images_of_the_wrong_shape_are_refused_by_name(tmp_path: Path) -> None:
    made = make_evaluator(FAST, SPACES["unet-32"], "digits", data_root=None, cache=tmp_path)
    with pytest.raises(ValueError, match="digits has images of shape"):
        _ = made.signature


def test_a_candidate_starts_from_the_weights_of_its_donor_where_that_is_asked_for(
    digits_cache: Path, tmp_path: Path
) -> None:
    measure(evaluator(digits_cache, FAST.model_copy(update={"steps": 30})), tmp_path / "donor", arch=BASELINE)
    donor = (BASELINE, tmp_path / "donor" / "model.safetensors")
    inheriting = FAST.model_copy(update={"inherit": True})

    def first_error(spec: DiffusionEvaluation, trial: Trial) -> float:
        errors: list[float] = []
        evaluator(digits_cache, spec).evaluate(trial, lambda step, metrics: errors.append(metrics["mse"]))
        return errors[0]

    heir = SPACE.architecture((*BASELINE.genes[:4], 0))  # the baseline without attention
    alone = first_error(inheriting, Trial(heir, 0, tmp_path / "alone"))
    assert alone == pytest.approx(1.0, abs=0.1)
    assert first_error(inheriting, Trial(heir, 0, tmp_path / "heir", donor=donor)) < 0.9 * alone
    assert first_error(FAST, Trial(heir, 0, tmp_path / "off", donor=donor)) == alone
    assert evaluator(digits_cache, inheriting).signature != evaluator(digits_cache).signature


def test_a_network_that_predicts_its_variance_is_trained_to(digits_cache: Path, tmp_path: Path) -> None:
    """As the spaces for larger images have it: twice the channels come out."""

    def model(decoded: Decoded) -> ModelSpec:
        named = SPACE.model(decoded)
        return ModelSpec(named.name, {**named.kwargs, "learned_sigma": True})

    space = replace(SPACE, model=model)
    made = make_evaluator(FAST, space, "digits", data_root=None, cache=digits_cache)
    reports = []
    made.evaluate(Trial(SMALL, 0, tmp_path), lambda step, metrics: reports.append(metrics))
    assert all(report["vb"] > 0 for report in reports)
    assert load_file(tmp_path / "model.safetensors")["out.weight"].shape[0] == 2


@pytest.mark.parametrize(("name", "terms"), [("ddpm-cifar10", {"mse"}), ("iddpm-cifar10", {"mse", "vb"})])
def test_the_published_networks_are_trained_with_the_variance_that_they_have(
    name: str, terms: set[str]
) -> None:
    arch, recipe = NAMED[name], DiffusionRecipe(timesteps=10, sampling_steps=10)
    space = find(arch.space)
    method = diffusion_method(recipe, space, untrained(space, arch, seed=0), 255)
    images = torch.zeros(1, *space.inputs)
    with torch.no_grad():
        losses = method.losses(images, torch.tensor([5]), torch.ones_like(images))
    assert losses.keys() == terms
    assert losses["mse"].item() == 1.0  # untrained, it predicts no noise at all
