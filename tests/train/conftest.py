"""A small cache and a model, and what trains the one on the other."""

from pathlib import Path

import pytest
import torch

from cache.plans.spec import PlanSpec
from tests.helpers.caches import write_cache
from tests.helpers.models import write_model
from train.loop.loss_scale import LossScale
from train.loop.resolution import epoch_steps
from train.loop.setup import TrainingSetup, make_optimizer
from train.models.fit import CacheRequirements
from train.models.loading import load_model
from train.settings import Settings

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache") / "toy", {"train": 170, "test": 30})


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model", num_hidden_layers=2)


@pytest.fixture
def make_job(toy, model_folder):
    """Makes a job on the toy cache from settings."""

    def make(spec: PlanSpec | None = None, model_folder: Path = model_folder, **flags) -> TrainingSetup:
        spec = spec or toy["train"].default_spec()
        settings = Settings(cache=str(toy.folder), **{"precision": "fp32", "device": "cpu", "epochs": 1, **flags})
        model = load_model(model_folder, CacheRequirements(toy, 48), settings.seed)
        steps = epoch_steps(toy["train"], spec, settings)
        optimizer = make_optimizer(model, settings)
        scale = LossScale(CPU) if settings.precision == "fp16" else None
        return TrainingSetup(
            model, model, optimizer, toy, toy["train"], spec, settings, CPU, steps, {}, loss_scale=scale
        )

    return make
