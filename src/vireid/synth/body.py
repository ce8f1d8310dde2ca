"""A walking body: shape, pose and the skeleton that limbs, clothes and keypoints hang on.

Body frame in metres: x to the person's left, y up from the ground, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Point = NDArray[np.float64]
Skeleton = dict[str, Point]

KEYPOINTS = (
    *("nose", "neck"),
    *("r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist"),
    *("r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle"),
    *("r_eye", "l_eye", "r_ear", "l_ear"),
)
"""Joint of each OpenPose COCO-18 keypoint, in order."""

ARM_MODES = ("swing", "swing", "swing", "phone", "pocket")


@dataclass(frozen=True)
class Shape:
    """Proportions of one person; all but `height` (metres) are factors around 1."""

    height: float
    girth: float
    shoulders: float
    hips: float
    legs: float
    head: float


@dataclass(frozen=True)
class Pose:
    """One instant of a walk: `phase` in radians, the rest in radians of joint motion."""

    phase: float
    stride: float
    swing: float
    lean: float
    head_turn: float
    head_nod: float
    right_arm: str = "swing"
    left_arm: str = "swing"


def sample_shape(rng: Generator) -> Shape:
    """Draw a person's proportions."""
    factors = 1 + rng.normal(0, 1, 5).clip(-2, 2) * (0.12, 0.07, 0.09, 0.025, 0.04)
    return Shape(float(np.clip(rng.normal(1.70, 0.09), 1.48, 1.95)), *(float(f) for f in factors))


def sample_pose(rng: Generator) -> Pose:
    """Draw an instant of a walk (one person in six stands)."""
    stands = rng.random() < 1 / 6
    return Pose(
        phase=float(rng.uniform(0, 2 * np.pi)),
        stride=0.08 if stands else float(rng.uniform(0.25, 0.5)),
        swing=0.06 if stands else float(rng.uniform(0.15, 0.5)),
        lean=float(rng.uniform(-0.02, 0.1)),
        head_turn=float(np.clip(rng.normal(0, 0.3), -0.8, 0.8)),
        head_nod=float(rng.uniform(-0.1, 0.3)),
        right_arm=str(rng.choice(ARM_MODES)),
        left_arm=str(rng.choice(ARM_MODES)),
    )


def skeleton(shape: Shape, pose: Pose) -> Skeleton:
    """Place all joints of a person, feet on the ground.

    Returns:
        Joint name -> (3,) metres in the body frame: the keypoints and pelvis, waist, chest, skull, toes and hands.
    """
    h, leg = shape.height, shape.legs
    joints: Skeleton = {"pelvis": np.array([0.0, 0.0, 0.0])}
    _add_legs(joints, shape, pose)
    trunk = h * (0.82 - 0.52 * leg)
    up = np.array([0.0, np.cos(pose.lean), np.sin(pose.lean)])
    joints["waist"] = 0.32 * trunk * up
    joints["chest"] = 0.80 * trunk * up
    joints["neck"] = 1.07 * trunk * up
    _add_head(joints, shape, pose)
    for side, sign in (("r", -1.0), ("l", 1.0)):
        _add_arm(joints, shape, pose, side, sign)
    ground = min(joints["r_ankle"][1], joints["l_ankle"][1]) - 0.045 * h
    return {name: point - (0.0, ground, 0.0) for name, point in joints.items()}


def _swing(angle: float, length: float) -> Point:
    """A limb hanging down, swung forward by `angle`."""
    return np.array([0.0, -length * np.cos(angle), length * np.sin(angle)])


def _add_legs(joints: Skeleton, shape: Shape, pose: Pose) -> None:
    h, leg = shape.height, shape.legs
    for side, sign in (("r", -1.0), ("l", 1.0)):
        phase = pose.phase if side == "r" else pose.phase + np.pi
        thigh = pose.stride * np.sin(phase) + 0.05
        flexion = 0.08 + 1.7 * pose.stride * max(0.0, np.cos(phase)) ** 2
        joints[f"{side}_hip"] = np.array([sign * 0.046 * h * shape.hips, -0.01 * h, 0.0])
        joints[f"{side}_knee"] = joints[f"{side}_hip"] + _swing(thigh, 0.245 * h * leg)
        joints[f"{side}_ankle"] = joints[f"{side}_knee"] + _swing(thigh - flexion, 0.235 * h * leg)
        pitch = np.clip(thigh - flexion + 0.1, -0.7, 0.2)
        joints[f"{side}_toe"] = joints[f"{side}_ankle"] + (
            sign * 0.012 * h,
            (0.105 * np.sin(pitch) - 0.02) * h,
            0.1 * h,
        )


def _add_head(joints: Skeleton, shape: Shape, pose: Pose) -> None:
    size = 0.0625 * shape.height * shape.head
    sin_turn, cos_turn = np.sin(pose.head_turn), np.cos(pose.head_turn)
    sin_nod, cos_nod = np.sin(pose.head_nod), np.cos(pose.head_nod)
    right = np.array([[cos_turn, 0.0, sin_turn], [0.0, 1.0, 0.0], [-sin_turn, 0.0, cos_turn]])
    rotation = right @ np.array([[1.0, 0.0, 0.0], [0.0, cos_nod, -sin_nod], [0.0, sin_nod, cos_nod]])
    skull = joints["neck"] + (0.0, 1.3 * size, 0.3 * size)
    places = {
        "skull": (0.0, 0.0, 0.0),
        "chin": (0.0, -0.85, 0.3),
        "crown": (0.0, 0.35, -0.1),
        "nape": (0.0, -0.5, -0.6),
        "nose": (0.0, -0.15, 0.98),
        "r_eye": (-0.32, 0.1, 0.74),
        "l_eye": (0.32, 0.1, 0.74),
        "r_ear": (-0.72, -0.05, 0.0),
        "l_ear": (0.72, -0.05, 0.0),
    }
    joints.update({name: skull + rotation @ (size * np.array(place)) for name, place in places.items()})


def _add_arm(joints: Skeleton, shape: Shape, pose: Pose, side: str, sign: float) -> None:
    h = shape.height
    mode = pose.right_arm if side == "r" else pose.left_arm
    phase = pose.phase if side == "r" else pose.phase + np.pi
    upper = {"swing": -pose.swing * np.sin(phase), "phone": 0.35, "pocket": -0.25}[mode]
    flexion = {"swing": 0.2 + 0.5 * pose.swing * (1 - np.sin(phase)), "phone": 1.9, "pocket": 0.7}[mode]
    outward = {"swing": 0.10, "phone": 0.05, "pocket": 0.22}[mode] + 0.1 * (shape.girth - 1)
    inward = {"swing": 0.02, "phone": -0.25, "pocket": -0.22}[mode]
    shoulder = joints["chest"] + (sign * 0.106 * h * shape.shoulders, 0.018 * h, 0.0)
    elbow = shoulder + _swing(upper, 0.165 * h) + (sign * outward * 0.165 * h, 0.0, 0.0)
    wrist = elbow + _swing(upper + flexion, 0.145 * h) + (sign * inward * 0.145 * h, 0.0, 0.0)
    joints[f"{side}_shoulder"], joints[f"{side}_elbow"], joints[f"{side}_wrist"] = shoulder, elbow, wrist
    joints[f"{side}_hand"] = wrist + 0.34 * (wrist - elbow)
