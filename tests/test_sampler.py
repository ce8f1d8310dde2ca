"""Identity batches: the papers' lengths, balance, ranks, determinism."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vireid.data.sampler import Sampling, epoch_batches, steps_per_epoch
from vireid.errors import InputError
from vireid.recipe import load_recipe, packaged_recipe, packaged_recipes, recipe_names


def table(identities=10, visible=7, infrared=7):
    labels = np.repeat(np.arange(identities), visible + infrared)
    modality = np.tile([0] * visible + [1] * infrared, identities)
    return labels, modality


@pytest.mark.parametrize(
    ("visible", "infrared", "steps"), [(22258, 11909, 696), (2060, 2060, 65), (70, 70, 3), (64, 64, 3)]
)
def test_epoch_length(visible, infrared, steps):
    modality = np.array([0] * visible + [1] * infrared)
    assert steps_per_epoch(modality, Sampling()) == steps


@pytest.mark.parametrize(
    ("data", "images", "hicmd"),
    [
        ("sysu_mm01", (22258, 11909), (20284, 9929)),  # Hi-CMD trains on the 296 identities without those of `val`
        ("regdb", (2060, 2060), (2060, 2060)),
        ("llcm", (16946, 13975), (16946, 13975)),
    ],
)
def test_recipes_expect_the_batches_of_the_complete_training_set(data, images, hicmd):
    modality = {True: np.repeat([0, 1], hicmd), False: np.repeat([0, 1], images)}
    names = [name for name in recipe_names() if data in packaged_recipes(name)]
    recipes = [load_recipe(packaged_recipe(name, data)) for name in names]
    own = [r for r in recipes if r.sampling.steps is None and r.method != "nformer"]  # which counts sequences
    assert len(own) >= 9
    expected = [steps_per_epoch(modality[r.method == "hicmd"], r.sampling) for r in own]
    assert [r.expected_steps for r in own] == expected
    pools = [r for r in recipes if r.method == "nformer"]
    assert [r.sampling.kind for r in pools] == ["single"], "no image stands twice among NFormer's tokens"


def test_cross_batches_pair_the_labels_of_both_modalities():
    labels, modality = table()
    batches = epoch_batches(labels, modality, Sampling(), seed=0, epoch=0)
    assert len(batches) == 3
    for batch in batches:
        assert modality[batch].tolist() == [0] * 32 + [1] * 32
        assert np.array_equal(labels[batch[:32]], labels[batch[32:]])
        assert len(np.unique(labels[batch])) == 8
        assert np.array_equal(labels[batch[:32]], np.repeat(labels[batch[:32:4]], 4))


def test_batches_depend_on_seed_and_epoch_only():
    labels, modality = table()
    draw = lambda seed, epoch: np.stack(epoch_batches(labels, modality, Sampling(), seed=seed, epoch=epoch))  # noqa: E731
    assert np.array_equal(draw(1, 2), draw(1, 2))
    assert not np.array_equal(draw(1, 2), draw(1, 3))
    assert not np.array_equal(draw(1, 2), draw(2, 2))


def test_pivots_are_each_image_once_and_pairs_count_by_infrared_images():
    counts = [(2, 1), (2, 1), (2, 1), (2, 1), (2, 1), (2, 40), (3, 0)]
    labels = np.repeat(np.arange(7), [sum(c) for c in counts])
    modality = np.concatenate([[0] * v + [1] * i for v, i in counts])
    sampling = Sampling(kind="pivot", identities=6, pairs=2, visible=1, infrared=1)
    batches = np.stack(epoch_batches(labels, modality, sampling, seed=0, epoch=0))
    people = labels[batches]  # two pairs and two negatives of either modality, visible first
    assert len(batches) == len(labels) - 3  # a person without infrared images is no pair
    assert np.array_equal(people[:, :2], people[:, 4:6])
    assert all(len(set(row)) == 6 for row in people)
    shown = np.bincount(batches[:, [0, 4]].ravel(), minlength=len(labels))[: len(labels) - 3]
    assert (shown >= 1).all(), "every image is the pivot once"
    assert np.bincount(people[:, 0]).tolist() == [3] * 5 + [42]
    others = people[people[:, 0] != 5][:, 1]
    assert (others == 5).mean() > 0.7, "40 of 44 infrared images; drawn uniformly it would be a fifth"


@pytest.mark.parametrize("kind", ["cross", "pivot", "single"])
def test_ranks_share_a_global_batch_by_identity(kind):
    labels, modality = table(12, 8, 8)
    sampling = Sampling(kind=kind)
    whole = epoch_batches(labels, modality, sampling, seed=0, epoch=1)
    parts = [epoch_batches(labels, modality, sampling, seed=0, epoch=1, rank=r, world_size=2) for r in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert not set(labels[first]) & set(labels[second])
        assert sorted(batch) == sorted([*first, *second])


def test_single_batches_use_each_image_once():
    labels = np.repeat(np.arange(20), [9] * 18 + [2, 4])
    batches = epoch_batches(labels, np.zeros_like(labels), Sampling(kind="single", identities=4), seed=0, epoch=0)
    used = np.concatenate(batches)
    enough = used[labels[used] != 18]
    assert len(set(enough)) == len(enough)
    for batch in batches:
        assert np.unique(labels[batch], return_counts=True)[1].tolist() == [4] * 4


@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 4), st.integers(1, 6))
def test_unequal_counts(seed, visible, infrared, identities):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(6), np.arange(6), rng.integers(0, 6, 30)])
    modality = np.concatenate([np.zeros(6, int), np.ones(6, int), rng.integers(0, 2, 30)])
    sampling = Sampling(identities=identities, visible=visible, infrared=infrared, steps=2)
    for batch in epoch_batches(labels, modality, sampling, seed=seed, epoch=0):
        assert (modality[batch] == 0).sum() == identities * visible
        assert (modality[batch] == 1).sum() == identities * infrared


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pairs_then_identities_of_one_modality_by_turns(size):
    labels, modality = table(18, 8, 8)
    full, few = Sampling(identities=18, visible=1, infrared=1), Sampling(identities=18, pairs=6, visible=1, infrared=1)
    draws = [epoch_batches(labels, modality, few, seed=0, epoch=1, rank=r, world_size=size) for r in range(size)]
    for whole, *parts in zip(epoch_batches(labels, modality, full, seed=0, epoch=1), *draws, strict=True):
        visible, infrared = whole[:18], whole[18:]
        assert sorted(np.concatenate(parts)) == sorted([*visible[:6], *visible[6::2], *infrared[:6], *infrared[7::2]])
        assert all((np.unique(labels[part], return_counts=True)[1] == 2).sum() == 6 // size for part in parts)
        assert all((modality[part] == 0).sum() == (modality[part] == 1).sum() for part in parts)  # of negatives, too


@pytest.mark.parametrize(
    ("sampling", "world_size", "sentence"),
    [
        (Sampling(identities=11), 1, "needs sampling.identities=11 identities with images in every sampled modality"),
        (Sampling(kind="single", identities=11), 1, "the training set has 10"),
        (Sampling(identities=9), 2, "sampling.identities=9 cannot be divided over 2 devices"),
        (Sampling(identities=8, pairs=3), 2, "sampling.pairs=3 cannot be divided over 2 devices"),
        (Sampling(identities=8, pairs=6), 2, "let sampling.identities exceed pairs by a multiple of 4"),
    ],
)
def test_sampling_errors(sampling, world_size, sentence):
    with pytest.raises(InputError, match=sentence):
        epoch_batches(*table(), sampling, seed=0, epoch=0, world_size=world_size)


def test_a_modality_without_images_and_a_batch_without_images_are_named():
    with pytest.raises(InputError, match=r"no visible image to train on: set sampling.visible=0, sampling.kind=single"):
        epoch_batches(*table(visible=0), Sampling(), seed=0, epoch=0)
    for wrong in ({"visible": 0, "infrared": 0}, {"kind": "single", "visible": 0}):
        with pytest.raises(ValueError, match="a batch holds no image"):
            Sampling(**wrong)
    for wrong in ({"kind": "single"}, {"infrared": 0}):
        with pytest.raises(ValueError, match=r"sampling.pairs needs images of both modalities"):
            Sampling(pairs=2, **wrong)
    with pytest.raises(ValueError, match=r"sampling.kind=pivot needs images of both modalities"):
        Sampling(kind="pivot", visible=0)
    with pytest.raises(ValueError, match=r"sampling.pairs=9 exceeds sampling.identities=8"):
        Sampling(pairs=9)
