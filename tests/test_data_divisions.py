"""Published data sets: their divisions, on label vectors of the public sizes."""

import numpy as np
import pytest

from temper.data import available_splits, catalogue
from temper.data.catalogue import CATALOGUE, SPLITS, describe, published, sizes

# Sizes from the facts sheets: the Guide's section 1 and Epsilon-Scheduling's section 4.
PARTS = {
    "caltech101": (101, 5899, 1042, 1000),
    "fgvc-aircraft-2013b": (100, 3334, 3333, 1000),
    "flowers-102": (102, 1020, 1020, 1000),
    "oxford-iiit-pet": (37, 3128, 552, 1000),
    "stanford_cars": (196, 6922, 1222, 1000),
    "uc-merced-land-use-dataset": (21, 1428, 252, 420),
    "cub-200-2011": (200, 5394, 600, 5794),
    "stanford-dogs": (120, 10800, 1200, 8580),
    "caltech256": (257, 14649, 771, 15187),
}
PUBLIC_SIZES = {
    "caltech101": {None: 8677},
    "fgvc-aircraft-2013b": {"train": 3334, "validation": 3333, "test": 3333},
    "flowers-102": {"train": 1020, "validation": 1020, "test": 6149},
    "oxford-iiit-pet": {"train": 3680, "test": 3669},
    "stanford_cars": {"train": 8144, "test": 8041},
    "uc-merced-land-use-dataset": {None: 2100},
    "cub-200-2011": {"train": 5994, "test": 5794},
    "stanford-dogs": {"train": 12000, "test": 8580},
    "caltech256": {None: 30607},
}


def label_vector(images, classes):
    return np.random.default_rng(3).permutation(np.arange(images) % classes)


def divisions(known):
    """(labels of a published part, where they go), for every published part."""
    for part in known.published:
        labels = label_vector(part.images, known.classes)
        yield labels, part.divide(labels)


def test_the_sets_of_both_studies():
    assert list(CATALOGUE) == list(PARTS)
    for name, (classes, *counts) in PARTS.items():
        assert (published(name).classes, list(sizes(name).values())) == (classes, counts)
        assert {part.part: part.images for part in published(name).published} == PUBLIC_SIZES[name]
        assert available_splits(name) == available_splits(f"{name}:elsewhere") == SPLITS
    guide = [name for name, known in CATALOGUE.items() if "guide" in known.studies]
    assert guide == list(PARTS)[:6]
    later = [name for name, known in CATALOGUE.items() if "epsilon-scheduling" in known.studies]
    assert set(later) == {"cub-200-2011", "stanford-dogs", "caltech256", "fgvc-aircraft-2013b", "stanford_cars"}
    assert [row["name"] for row in describe()] == list(PARTS)
    assert describe()[0]["validation"] == 1042
    assert all("draw of our own" in row["rule"] for row in describe() if row["studies"] == "epsilon-scheduling")


@pytest.mark.parametrize("name", PARTS)
def test_the_rule_gives_the_published_counts(name):
    found = {}
    for labels, division in divisions(published(name)):
        together = np.concatenate(list(division.values()))
        assert len(np.unique(together)) == len(together)
        assert together.min() >= 0
        assert together.max() < len(labels)
        for split, positions in division.items():
            if not len(positions):
                continue
            assert split not in found
            found[split] = len(positions)
            # Every class, in proportion: the vectors are balanced, so the parts are.
            in_part = np.bincount(labels[positions], minlength=published(name).classes)
            assert in_part.max() - in_part.min() <= 2 or name == "caltech256"
            assert in_part.min() > 0
    assert found == sizes(name)


def test_the_larger_test_part_before_the_cut():
    labels = label_vector(8677, 101)
    division = catalogue._guide_undivided(labels)
    assert 8677 - len(division["train"]) - len(division["validation"]) == 1736


def test_divisions_are_always_the_same():
    for name in ("caltech101", "cub-200-2011"):
        for (_, one), (_, other) in zip(divisions(published(name)), divisions(published(name)), strict=True):
            assert all(np.array_equal(one[split], other[split]) for split in one)
    # Golden: what scikit-learn 1.9 and numpy 2 draw from 40 labels; other versions must draw the same.
    labels = np.arange(40) % 4
    drawn = {split: sorted(part.tolist()) for split, part in catalogue._guide_undivided(labels).items()}
    assert drawn["validation"] == [2, 7, 8, 10, 17]
    assert drawn["test"] == [6, 9, 12, 18, 23, 24, 25, 39]
    own = {split: sorted(part.tolist()) for split, part in catalogue._per_class(labels, validation=1, train=6).items()}
    assert {split: len(part) for split, part in own.items()} == {"train": 24, "validation": 4, "test": 12}
    assert own["validation"] == [9, 16, 19, 22]
