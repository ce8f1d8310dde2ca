"""Dress a skeleton: a person as about 45 rounded cones, each of one material."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vireid.synth.body import Point, Skeleton
from vireid.synth.wardrobe import Identity, Outfit, Slot


@dataclass(frozen=True)
class Solids:
    """Rounded cones (hulls of two spheres), flattened along one axis; N rows, metres.

    Attributes:
        start, end: (N, 3) centres of the two spheres.
        start_radius, end_radius: (N,).
        axis: (N, 3) unit vector of the flattening.
        thickness: (N,) factor of the flattening, 1 for a round section.
        side, front: (N, 3) the person's left and forward directions, for patterns.
        material: (N,) row of the material table.
        open_end: (N,) whether the far cap is cut away (hems, sleeves).
    """

    start: NDArray[np.float32]
    end: NDArray[np.float32]
    start_radius: NDArray[np.float32]
    end_radius: NDArray[np.float32]
    axis: NDArray[np.float32]
    thickness: NDArray[np.float32]
    side: NDArray[np.float32]
    front: NDArray[np.float32]
    material: NDArray[np.int64]
    open_end: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.material)

    def transformed(self, rotation: ArrayLike, shift: ArrayLike) -> Solids:
        """Return the solids rotated by a (3, 3) matrix, then moved by a (3,) vector."""
        turn = np.asarray(rotation, dtype=np.float32).T
        move = np.asarray(shift, dtype=np.float32)
        return replace(
            self,
            start=self.start @ turn + move,
            end=self.end @ turn + move,
            axis=self.axis @ turn,
            side=self.side @ turn,
            front=self.front @ turn,
        )


class _Part(NamedTuple):
    start: Point
    end: Point
    start_radius: float
    end_radius: float
    thickness: float
    axis: Point
    material: int
    open_end: bool


FORWARD = np.array([0.0, 0.0, 1.0])
LEFT = np.array([1.0, 0.0, 0.0])


@dataclass
class _Tailor:
    """Collects parts; `unit` scales radii given for a person of 1 m."""

    joints: Skeleton
    unit: float
    parts: list[_Part] = field(default_factory=list)

    def add(
        self,
        start: Point | str,
        end: Point | str,
        radii: tuple[float, float],
        material: Slot,
        *,
        ease: float = 0.0,
        thickness: float = 1.0,
        axis: Point = FORWARD,
        open_end: bool = False,
    ) -> None:
        first = self.joints[start] if isinstance(start, str) else start
        last = self.joints[end] if isinstance(end, str) else end
        a, b = (radius * self.unit + ease for radius in radii)
        self.parts.append(_Part(first, last, a, b, thickness, axis, int(material), open_end))

    def near(self, joint: str, left: float, up: float, forward: float) -> Point:
        return self.joints[joint] + np.array([left, up, forward])

    def between(self, start: str, end: str, share: float) -> Point:
        return self.joints[start] + share * (self.joints[end] - self.joints[start])


def dress(identity: Identity, joints: Skeleton) -> Solids:
    """Build the solids of a person in the body frame."""
    tailor = _Tailor(joints, identity.shape.height)
    girth = identity.shape.girth
    _trunk(tailor, identity)
    for side, sign in (("r", -1.0), ("l", 1.0)):
        _arm(tailor, identity.outfit, girth, side)
        _leg(tailor, identity.outfit, girth, side, sign)
    _head(tailor, identity.outfit)
    _carry(tailor, identity.outfit, girth)
    return _stack(tailor.parts)


def _stack(parts: list[_Part]) -> Solids:
    columns = list(zip(*parts, strict=True))
    vectors = {"start": 0, "end": 1, "axis": 5}
    scalars = {"start_radius": 2, "end_radius": 3, "thickness": 4}
    arrays = {name: np.array(columns[i], dtype=np.float32) for name, i in {**vectors, **scalars}.items()}
    return Solids(
        **arrays,
        side=np.tile(LEFT.astype(np.float32), (len(parts), 1)),
        front=np.tile(FORWARD.astype(np.float32), (len(parts), 1)),
        material=np.array(columns[6]),
        open_end=np.array(columns[7]),
    )


def _trunk(tailor: _Tailor, identity: Identity) -> None:
    outfit, shape = identity.outfit, identity.shape
    joints, girth = tailor.joints, shape.girth
    ease = outfit.upper_ease_m
    waist, chest, hips = 0.076 * girth, 0.088 * (0.5 + 0.5 * girth) * shape.shoulders, 0.094 * girth * shape.hips
    tailor.add("chest", "waist", (chest, waist), Slot.UPPER, thickness=0.68, ease=ease)
    under = 0.02 if outfit.lower == "skirt" else outfit.lower_ease_m
    cover = max(ease, under + 0.012)
    covered = (waist + ease / tailor.unit, hips + cover / tailor.unit)
    tailor.add("waist", "pelvis", covered, Slot.UPPER, thickness=0.7, open_end=True)
    for side in ("r", "l"):
        tailor.add("neck", f"{side}_shoulder", (0.036, 0.031 * girth), Slot.UPPER, ease=0.6 * ease + 0.006)
    tailor.add("pelvis", "pelvis", (hips, hips), Slot.LOWER, thickness=0.7, ease=outfit.lower_ease_m)
    tailor.add("neck", "chin", (0.034, 0.031), Slot.SKIN)
    _hanging(tailor, 0.05 + outfit.hem_m, hips, Slot.UPPER, cover, cover + 0.01 + 0.12 * outfit.hem_m)
    if outfit.lower == "skirt":
        length = outfit.lower_length * (joints["pelvis"][1] - 0.05)
        _hanging(tailor, length, hips, Slot.LOWER, under, under + outfit.flare_m)
    if outfit.scarf:
        tailor.add("neck", tailor.between("neck", "chin", 0.4), (0.052, 0.046), Slot.HAT, thickness=0.9)
        tail = tailor.near("chest", 0.05, -0.12, 0.12)
        tailor.add(tailor.near("neck", 0.04, 0.0, 0.07), tail, (0.012, 0.013), Slot.HAT)


def _hanging(tailor: _Tailor, drop_m: float, hips: float, slot: Slot, ease_m: float, flare_m: float) -> None:
    """Cloth that hangs from the hips to `drop_m` below the pelvis, as deep as the stride under it."""
    joints = tailor.joints
    thigh = np.clip(drop_m / (joints["pelvis"][1] - joints["r_knee"][1]), 0, 1.3)
    stride = 0.5 * abs(joints["r_knee"][2] - joints["l_knee"][2]) * thigh
    wide = hips * tailor.unit + flare_m
    deep = max(0.7 * wide, stride + 0.055 * tailor.unit + 0.5 * flare_m)
    hem = joints["pelvis"] + (0.0, -drop_m, 0.5 * (joints["r_knee"][2] + joints["l_knee"][2]) * thigh)
    size, axis = max(wide, deep), FORWARD if wide > deep else LEFT
    radii = (0.93 * hips + ease_m / tailor.unit, size / tailor.unit)
    tailor.add(
        tailor.between("pelvis", "waist", 0.6),
        hem,
        radii,
        slot,
        thickness=min(wide, deep) / size,
        axis=axis,
        open_end=True,
    )


def _sleeve(
    tailor: _Tailor,
    bones: tuple[str, str, str],
    radii: tuple[float, ...],
    reach: float,
    slot: Slot,
    ease: float,
) -> None:
    """Cloth over the first `reach` (1 = all) of a limb of two bones."""
    upper = min(1.0, 2 * reach)
    cut = tailor.between(bones[0], bones[1], upper)
    mid = radii[0] + upper * (radii[1] - radii[0])
    tailor.add(bones[0], cut, (radii[0], mid), slot, ease=ease, open_end=upper < 1)
    if reach > 0.5:
        lower = min(1.0, 2 * reach - 1)
        cut = tailor.between(bones[1], bones[2], lower)
        end = radii[1] + lower * (radii[2] - radii[1])
        tailor.add(bones[1], cut, (radii[1], end), slot, ease=ease, open_end=True)


def _arm(tailor: _Tailor, outfit: Outfit, girth: float, side: str) -> None:
    bones = (f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
    radii = (0.03 * girth, 0.023 * girth, 0.015)
    tailor.add(bones[0], bones[1], radii[:2], Slot.SKIN)
    tailor.add(bones[1], bones[2], radii[1:], Slot.SKIN)
    tailor.add(bones[2], f"{side}_hand", (0.016, 0.021), Slot.SKIN, thickness=0.7, axis=LEFT)
    if outfit.sleeve > 0:
        _sleeve(tailor, bones, radii, outfit.sleeve, Slot.UPPER, 0.6 * outfit.upper_ease_m + 0.006)


def _leg(tailor: _Tailor, outfit: Outfit, girth: float, side: str, sign: float) -> None:
    joints = tailor.joints
    bones = (f"{side}_hip", f"{side}_knee", f"{side}_ankle")
    radii = (0.046 * girth, 0.034 * (0.5 + 0.5 * girth), 0.022)
    tailor.add(bones[0], bones[1], radii[:2], Slot.SKIN)
    tailor.add(bones[1], bones[2], radii[1:], Slot.SKIN)
    if outfit.lower != "skirt":
        ease = outfit.lower_ease_m + 0.005
        _sleeve(tailor, bones, radii, min(outfit.lower_length, 1.0), Slot.LOWER, ease)
    heel = joints[bones[2]] - (0.0, 0.02 * tailor.unit, 0.02 * tailor.unit)
    tailor.add(heel, f"{side}_toe", (0.026, 0.021), Slot.SHOES)
    if outfit.boots:
        tailor.add(bones[2], tailor.between(bones[2], bones[1], 0.6), (0.028, 0.036), Slot.SHOES, ease=0.006)


def _head(tailor: _Tailor, outfit: Outfit) -> None:
    joints = tailor.joints
    back = joints["skull"] - joints["nose"]
    back = back / np.linalg.norm(back)
    sideways = np.cross(np.array([0.0, 1.0, 0.0]), back)
    tailor.add("chin", "crown", (0.027, 0.05), Slot.SKIN, thickness=0.84, axis=sideways)
    tailor.add("nose", "nose", (0.009, 0.009), Slot.SKIN)
    for eye in ("r_eye", "l_eye"):
        tailor.add(eye, eye, (0.008, 0.008), Slot.EYES)
    size = tailor.unit
    crown, nape = joints["crown"] + 0.013 * size * back, joints["nape"]
    if outfit.hair != "bald":
        up = np.array([0.0, 0.006 * size, 0.0])
        tailor.add(crown + up, nape, (0.054, 0.036), Slot.HAIR, thickness=0.9, axis=sideways)
    if outfit.hair == "long":
        tail = joints["neck"] + 0.045 * size * back - (0.0, 0.06 * size, 0.0)
        tailor.add(crown + 0.01 * size * back, tail, (0.05, 0.038), Slot.HAIR, thickness=0.7, axis=back)
    if outfit.hair == "bun":
        bun = crown + 0.05 * size * back
        tailor.add(bun, bun, (0.024, 0.024), Slot.HAIR)
    if outfit.hat != "none":
        _hat(tailor, outfit, back, sideways)
    elif outfit.hood:
        tailor.add(crown + 0.008 * size * back, nape + 0.02 * size * back, (0.062, 0.058), Slot.UPPER)
    if outfit.hood:
        tailor.add(nape, joints["neck"] + 0.05 * size * back, (0.045, 0.05), Slot.UPPER)


def _hat(tailor: _Tailor, outfit: Outfit, back: Point, sideways: Point) -> None:
    size = tailor.unit
    crown = tailor.joints["crown"] + np.array([0.0, 0.018 * size, 0.0])
    tailor.add(crown, crown + 0.01 * size * back, (0.052, 0.05), Slot.HAT, thickness=0.9, axis=sideways)
    upright = np.array([0.0, 1.0, 0.0])
    if outfit.hat == "cap":
        brim = crown - 0.06 * size * back - (0.0, 0.012 * size, 0.0)
        tailor.add(brim, brim, (0.036, 0.036), Slot.HAT, thickness=0.25, axis=upright)
    elif outfit.hat == "brim":
        brim = crown - (0.0, 0.01 * size, 0.0)
        tailor.add(brim, brim, (0.095, 0.095), Slot.HAT, thickness=0.12, axis=upright)


def _carry(tailor: _Tailor, outfit: Outfit, girth: float) -> None:
    if outfit.bag == "backpack":
        _backpack(tailor, girth)
    elif outfit.bag == "shoulder":
        _bag(tailor, tailor.near("l_hip", 0.1, 0.02, -0.02))
        for depth in (-0.09, 0.09):
            top, bottom = tailor.near("r_shoulder", 0.04, 0.03, depth), tailor.near("l_hip", 0.1, 0.02, 1.1 * depth)
            tailor.add(top, bottom, (0.006, 0.006), Slot.BAG)
    elif outfit.bag == "hand":
        hanging = tailor.near("r_hand", 0.0, -0.16, 0.0)
        _bag(tailor, hanging)
        tailor.add("r_hand", hanging, (0.005, 0.005), Slot.BAG)


def _bag(tailor: _Tailor, middle: Point) -> None:
    half = 0.08 * FORWARD
    tailor.add(middle - half, middle + half, (0.044, 0.044), Slot.BAG, thickness=0.5, axis=LEFT)


def _backpack(tailor: _Tailor, girth: float) -> None:
    behind = -(0.068 * girth * tailor.unit + 0.07)
    top, bottom = tailor.near("chest", 0.0, 0.0, behind), tailor.near("waist", 0.0, 0.0, behind)
    tailor.add(top, bottom, (0.062, 0.078), Slot.BAG, thickness=0.75)
    waist = tailor.joints["waist"]
    for side in ("r", "l"):
        over = tailor.between("neck", f"{side}_shoulder", 0.62)
        front = over + 0.062 * tailor.unit * FORWARD
        tailor.add(over, front, (0.016, 0.014), Slot.BAG)
        tailor.add(front, waist + (front - waist) * (1.15, 0.35, 1.25), (0.014, 0.012), Slot.BAG)
