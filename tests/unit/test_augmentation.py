"""Augmented batches: torchvision's geometry, repeatable, shared among processes, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medge import augmentation, torchvision_ops
from medge.data.dataset import DataSet
from medge.data.dataset import load as load_data
from medge.sections import Augment
from tests.tiny_data import data_stage

STILL = Augment(rotation_degrees=0, flip_probability=0, zoom=(1, 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load_data(data_stage(tmp_path_factory.mktemp("data"), train=50).folder)


def batches(data: DataSet, augment: Augment, **options: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    given = {"batch_size": 16, "seed": 1, "epoch": 0, **options}
    return list(augmentation.augmented_batches(data, data.indices("train"), augment, **given))


def test_a_batch_holds_uint8_images_and_their_labels(data: DataSet) -> None:
    images, labels = batches(data, Augment())[0]
    assert ((16, 32, 32, 3), torch.uint8, torch.int64) == (tuple(images.shape), images.dtype, labels.dtype)


def test_without_augmentation_each_image_comes_once_as_it_is(data: DataSet) -> None:
    found = {images[k].numpy().tobytes(): int(labels[k]) for images, labels in batches(data, STILL) for k in range(16)}
    rows = data.indices("train")
    expected = {data.read([row])[0].tobytes(): int(data.label[row]) for row in rows}
    assert len(found) == 48  # 50 images in batches of 16: two wait for another epoch
    assert found.items() <= expected.items()


def test_fewer_images_than_a_batch_still_make_one(data: DataSet) -> None:
    assert [len(labels) for _, labels in batches(data, Augment(), batch_size=64)] == [50]


def test_the_same_seed_and_epoch_give_the_same_batches_and_others_do_not(data: DataSet) -> None:
    first, again, other = (torch.cat([i for i, _ in batches(data, Augment(), epoch=e)]) for e in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_processes_share_each_batch_without_overlap(data: DataSet) -> None:
    whole = batches(data, Augment())
    shares = [batches(data, Augment(), rank=rank, world=2) for rank in (0, 1)]
    for (images, _), (even, _), (odd, _) in zip(whole, *shares, strict=True):
        assert torch.equal(images[0::2], even)
        assert torch.equal(images[1::2], odd)


@pytest.mark.parametrize(("flip", "vertical", "axis"), [(1, 0, 1), (0, 1, 0)])
def test_flips_are_about_the_axis_they_name(data: DataSet, flip: float, vertical: float, axis: int) -> None:
    plain = batches(data, STILL)[0][0]
    section = Augment(rotation_degrees=0, zoom=(1, 1), flip_probability=flip, vertical_flip_probability=vertical)
    assert torch.equal(plain.flip(axis + 1), batches(data, section)[0][0])


@settings(max_examples=25)
@given(degrees=st.floats(-45, 45), zoom=st.floats(0.6, 1.6))
def test_rotation_and_zoom_are_those_of_torchvision(degrees: float, zoom: float) -> None:
    torchvision_ops.define_missing()
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import affine

    image = np.zeros((33, 33, 3), dtype=np.uint8)
    image[8:20, 5:14] = np.random.default_rng(0).integers(0, 256, (12, 9, 3))
    expected = affine(
        Image.fromarray(image), angle=degrees, translate=[0, 0], scale=zoom, shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )  # fmt: skip
    one = np.array([0.0])
    draws = augmentation._Draws(one.astype(int), one + degrees, one + zoom, one > 0, one > 0)
    augmentation._transform(image, draws, 0)
    difference = np.abs(image.astype(int) - np.asarray(expected).astype(int))
    assert difference.max() <= 2


def test_a_consumer_may_stop_early(data: DataSet) -> None:
    stream = augmentation.augmented_batches(data, data.indices("train"), Augment(), batch_size=4, seed=0, epoch=0)
    next(stream)
    stream.close()
