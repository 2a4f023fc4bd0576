"""Caltech101 as it was published, through the catalogue: the Guide's division of the real images."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from temper.data import load
from temper.data.catalogue import SPLITS, sizes
from temper.data.pixels import Pixels

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(shared_data, tmp_path_factory):
    """The three parts, read from all 9,144 files in their original layout."""
    archive = shared_data / "images" / "caltech101_112px.zip"
    if not archive.is_file():
        pytest.skip("needs caltech101_112px.zip, all images of Caltech101, among the developers' data")
    root = tmp_path_factory.mktemp("caltech")
    with zipfile.ZipFile(archive) as whole:
        whole.extractall(root)
    return {part: load(f"caltech101:{root}", split=part) for part in SPLITS}


def files(part):
    return [part.images.files.root / member for member in part.images.files.members]


def test_counts_of_the_guide(parts):
    counts = {name: len(part) for name, part in parts.items()}
    assert counts == {"train": 5899, "validation": 1042, "test": 1000}
    assert counts == sizes("caltech101")
    assert len({file for part in parts.values() for file in files(part)}) == 5899 + 1042 + 1000


def test_every_class_is_in_every_part_and_its_label_is_its_folder(parts):
    for name, part in parts.items():
        of_file = [file.parent.name for file in files(part)]
        assert [part.class_names[label] for label in part.labels] == of_file, name
        assert len(set(of_file)) == part.num_classes == 101, name
        assert "BACKGROUND_Google" not in part.class_names


def test_parts_have_the_classes_in_their_proportions(parts):
    # 85 % of 80 % and 15 % of 80 % of a class: nowhere more than rounding away
    train, validation = (np.bincount(parts[name].labels) for name in ("train", "validation"))
    assert np.abs(validation - 0.15 * (train + validation)).max() <= 1


def test_greyscale_images_are_colour_images_of_equal_channels(parts):
    grey = {name: [Image.open(file).mode == "L" for file in files(part)] for name, part in parts.items()}
    assert min(map(sum, grey.values())) > 0
    test = Pixels(parts["test"], image_size=96)
    images = torch.stack([test[index][0] for index in range(len(test))])
    assert images.shape == (1000, 3, 96, 96)
    alike = (images == images[:, :1]).all(dim=(1, 2, 3))
    assert alike[grey["test"]].all()
    assert not alike[[not each for each in grey["test"]]].all()
