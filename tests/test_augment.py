"""Augmentation: exact values, exact distributions, keypoints that move along."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from batches import make_batch, make_keypoints, raw
from vireid.data.augment import (
    Augment,
    ChannelExchange,
    ChannelRandomErasing,
    JitterOrBlur,
    ViewAugment,
    flip_keypoints,
)

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def uint8_batch(n=6, size=(24, 12), keypoints=False):
    points = make_keypoints(n, size) if keypoints else None
    return raw(make_batch(range(n), [0] * (n // 2) + [1] * (n - n // 2), size, range(n), points))


def test_channel_copy_and_grey_values():
    planes = torch.arange(12.0).view(1, 3, 2, 2).expand(64, 3, 2, 2)
    out = ChannelExchange(mode="rgb_gray")(planes, generator())
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])
    seen = {tuple(round(v, 4) for v in plane[0].flatten().tolist()) for plane in out}
    assert seen == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (3.26, 4.2599, 5.2598, 6.2597)}


@pytest.mark.parametrize(
    ("mode", "gray", "expected"),
    [
        ("rgb", 0.5, {"r": 1 / 3, "g": 1 / 3, "b": 1 / 3}),
        ("rgb_gray", 0.5, {"r": 0.25, "g": 0.25, "b": 0.25, "gray": 0.25}),
        ("adaptive", 0.5, {"r": 0.25, "g": 0.25, "b": 0.25, "gray": 0.125, "same": 0.125}),
        ("adaptive", 0.6, {"r": 0.25, "g": 0.25, "b": 0.25, "gray": 0.15, "same": 0.10}),
    ],
)
def test_channel_exchange_frequencies(mode, gray, expected):
    images = torch.tensor([1.0, 2, 4]).view(1, 3, 1, 1).expand(200_000, 3, 1, 1)
    out = ChannelExchange(mode=mode, gray=gray)(images, generator(1)).flatten(1)
    names = {1.0: "r", 2.0: "g", 4.0: "b"}
    same = (out == images.flatten(1)).all(1)
    counts = {"same": int(same.sum())}
    for value, number in zip(*np.unique(out[~same, 0].numpy(), return_counts=True), strict=True):
        counts[names.get(float(value), "gray")] = int(number)
    shares = {name: count / len(out) for name, count in counts.items() if count}
    assert shares == pytest.approx(expected, abs=0.005)


def test_erasing_frequency_area_and_values():
    images = torch.zeros(20_000, 3, 72, 36)
    out = ChannelRandomErasing(p=0.5)(images, generator(2))
    erased = out[:, 0] != 0
    share = erased.float().mean((1, 2))
    hit = share > 0
    assert hit.float().mean() == pytest.approx(0.5, abs=0.02)
    assert share[hit].min() > 0.01
    assert share[hit].max() < 0.42
    assert share[hit].mean() == pytest.approx(0.20, abs=0.01)
    assert torch.equal(out[:, 1] != 0, erased)
    assert out[hit][0, :, erased[hit][0]][:, 0].tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    rows, columns = erased[hit].any(2).sum(1), erased[hit].any(1).sum(1)
    assert torch.equal(rows * columns, erased[hit].sum((1, 2)))  # one rectangle each
    assert rows.max() < 72
    assert columns.max() < 36
    assert torch.equal(ChannelRandomErasing(p=0)(images[:9], generator(2)), images[:9])


def test_erasing_per_channel_draws_three_rectangles():
    out = ChannelRandomErasing(p=1.0, regions="per_channel")(torch.zeros(50, 3, 32, 16), generator())
    masks = out != 0
    assert any(not torch.equal(m[0], m[1]) for m in masks)


def test_exchange_after_erasing_copies_the_constant_and_raw_space_keeps_gray():
    view = ViewAugment(erasing=ChannelRandomErasing(p=1.0), exchange=ChannelExchange(mode="rgb"))
    batch = Augment(pad=0, flip=0, visible=view)(uint8_batch(40), MEAN, STD, generator())
    visible = batch.images[batch.modality == 0]
    assert torch.equal(visible[:, 0], visible[:, 1])
    constants = torch.tensor([0.4914, 0.4822, 0.4465])
    assert all(any((image == c).any() for c in constants) for image in visible)
    gray = uint8_batch(8)
    gray.images = gray.images[:, :1].expand(-1, 3, -1, -1)
    copied = Augment(pad=0, flip=0, infrared=ViewAugment(exchange=ChannelExchange(mode="rgb", space="raw")))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)
    raw = copied(gray, mean, std, generator())
    expected = (gray.images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(raw.images, expected, atol=1e-6)


def test_grey_in_the_first_epochs_only():
    augment = Augment(pad=0, flip=0, visible=ViewAugment(gray=1, gray_epochs=2))
    shown = [augment(uint8_batch(), MEAN, STD, generator(), epoch).images[:3] for epoch in range(4)]
    assert [torch.equal(images[:, 0], images[:, 2]) for images in shown] == [True, True, False, False]


def test_an_image_is_jittered_or_blurred():
    images = torch.rand(200, 3, 12, 8, generator=generator())
    out = JitterOrBlur(p=0.8, contrast=0, radius=2, sigma=(1.5, 1.5))(images, generator(1))
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 1.5) ** 2)
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    found = {"same": 0, "blurred": 0, "bright": 0}
    for image, changed in zip(images.double().numpy(), out.double().numpy(), strict=True):
        windows = sliding_window_view(np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect"), (5, 5), (1, 2))
        darkest = image.argmin()
        factor = changed.flat[darkest] / image.flat[darkest]
        if np.array_equal(image, changed):
            found["same"] += 1
        elif np.allclose(changed, (windows * kernel).sum((3, 4)), atol=1e-5):
            found["blurred"] += 1
        elif 0.7 <= factor <= 1.3 and np.allclose(changed, (factor * image).clip(0, 1), atol=1e-4):
            found["bright"] += 1
    assert sum(found.values()) == 200
    assert [count / 200 for count in found.values()] == pytest.approx([0.2, 0.4, 0.4], abs=0.08)
    flat = torch.full((50, 3, 12, 8), 0.5)
    flat[:, :, :6] = 0.3
    steps = JitterOrBlur(p=1, brightness=0, radius=0)(flat, generator())[:, 0].diff(dim=1)[:, 5, 0] / 0.2
    assert 0.7 <= steps.min() < 0.8
    assert 1.2 < steps.max() <= 1.3


def test_crop_and_flip_are_literal():
    batch = uint8_batch(64, size=(10, 8), keypoints=True)
    images, points = batch.images.clone(), batch.keypoints.clone()
    out = Augment(pad=3, flip=0.5)(batch, (0.0,) * 3, (1.0,) * 3, generator())
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)))
    seen = set()
    for i in range(64):
        matches = [
            (top, left, flip)
            for top in range(7)
            for left in range(7)
            for flip in (False, True)
            if np.array_equal(
                padded[i, :, top : top + 10, left : left + 8][..., :: -1 if flip else 1],
                np.rint(out.images[i].numpy() * 255).astype(np.uint8),
            )
        ]
        assert len(matches) == 1
        top, left, flip = matches[0]
        seen.add(matches[0])
        moved = points[i] + torch.tensor([3.0 - left, 3.0 - top, 0])
        assert torch.allclose(out.keypoints[i], flip_keypoints(moved[None], 8)[0] if flip else moved)
    assert len(seen) > 30


def test_twins_follow_the_visible_rows():
    twin = ViewAugment(exchange=ChannelExchange(mode="rgb"))
    out = Augment(visible_twin=twin)(uint8_batch(6), MEAN, STD, generator())
    assert out.modality.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert out.view.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert out.pid.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5]
    twins = out.images[out.view == 1]
    assert torch.equal(twins[:, 0], twins[:, 2])
    assert not torch.equal(out.images[0, 0], out.images[0, 1])


def test_same_generator_same_batch():
    augment = Augment(visible=ViewAugment(gray=0.5, erasing=ChannelRandomErasing(p=0.5)))
    first, again, other = (augment(uint8_batch(), MEAN, STD, generator(s)).images for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flipping_keypoints_twice_changes_nothing():
    points = uint8_batch(keypoints=True).keypoints
    assert torch.allclose(flip_keypoints(flip_keypoints(points, 12), 12), points)
    assert torch.equal(flip_keypoints(points, 12)[:, 2, 2], points[:, 5, 2])
