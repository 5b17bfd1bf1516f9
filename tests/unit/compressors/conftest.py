"""Two float models and the images that both saw, for tests that compress them."""

from __future__ import annotations

import pytest

from medge.data import dataset
from medge.model import Classifier
from tests.synthetic_run import write_data
from tests.teachers import SIZE, teacher_of


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dataset.DataSet:
    """Of the module's own SIZE, where it has one."""
    folder = tmp_path_factory.mktemp("data") / "1-data"
    write_data(folder, images=40, size=getattr(request.module, "SIZE", SIZE))
    return dataset.load(folder)


@pytest.fixture(scope="module")
def small(data: dataset.DataSet) -> Classifier:
    return teacher_of("mobilenetv3_small_100", data)


@pytest.fixture(scope="module")
def lite(data: dataset.DataSet) -> Classifier:
    return teacher_of("tf_efficientnet_lite0", data)
