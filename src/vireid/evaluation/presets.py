"""The field's protocols by name."""

from __future__ import annotations

from dataclasses import replace

from vireid.evaluation.protocols import Builder, Protocol, Selector
from vireid.records import Modality

GENERIC = "manifest"
"""The data set of presets that any data set may be scored by."""


def cross(query: Modality = Modality.INFRARED, gallery: Modality = Modality.VISIBLE) -> Protocol:
    """Return the protocol for one's own data: every test image of one modality against the other's.

    Within one modality the query's own camera is hidden for its identity, as in Market-1501.
    """
    short = {Modality.VISIBLE: "vis", Modality.INFRARED: "ir"}
    within = query == gallery
    return Protocol(
        name=f"intra-{short[query]}" if within else f"cross-{short[query]}2{short[gallery]}",
        data_set=GENERIC,
        query=Selector(("test", "query"), query),
        gallery=Selector(("test", "gallery"), gallery),
        hide="same_id_and_camera" if within else "none",
        cmc_unit="image",
    )


def _sysu_mm01(name: str, cameras: tuple[int, ...], builder: Builder, shots: int, note: str = "") -> Protocol:
    return Protocol(
        name=name,
        data_set="sysu_mm01",
        query=Selector(modality=Modality.INFRARED, cameras=(3, 6)),
        gallery=Selector(modality=Modality.VISIBLE, cameras=cameras),
        hide="same_location",
        cmc_unit="identity",
        trials=10,
        builder=builder,
        shots=shots,
        note=note,
    )


def _regdb(name: str, query: Modality, gallery: Modality) -> Protocol:
    return Protocol(
        name=name,
        data_set="regdb",
        query=Selector(modality=query),
        gallery=Selector(modality=gallery),
        hide="none",
        cmc_unit="image",
        trials=10,
        model_per_trial=True,
        note="one model per split",
    )


def _llcm(name: str, query: Modality, gallery: Modality, note: str = "") -> Protocol:
    return Protocol(
        name=name,
        data_set="llcm",
        query=Selector(modality=query),
        gallery=Selector(modality=gallery),
        hide="same_id_and_camera",
        cmc_unit="identity",
        trials=10,
        builder="python",
        note=note,
    )


def _single_modality(name: str) -> Protocol:
    return Protocol(
        name=name,
        data_set=name,
        query=Selector(("query",)),
        gallery=Selector(("gallery",)),
        hide="same_id_and_camera",
        cmc_unit="image",
    )


def _presets() -> list[Protocol]:
    visible, infrared = Modality.VISIBLE, Modality.INFRARED
    sysu = [
        _sysu_mm01(f"sysu-{mode}{suffix}", cameras, builder, shots, note)
        for mode, cameras in (("all", (1, 2, 4, 5)), ("indoor", (1, 2)))
        for suffix, builder, shots, note in _SYSU_GALLERIES
    ]
    swapped = "the drawn infrared images query all visible ones, as in tables made since June 2023"
    vis2ir = _llcm("llcm-vis2ir", visible, infrared, "as the paper words it")
    return [
        *sysu,
        _regdb("regdb-v2t", visible, infrared),
        _regdb("regdb-t2v", infrared, visible),
        _llcm("llcm-ir2vis", infrared, visible),
        vis2ir,
        replace(_llcm("llcm-vis2ir-swapped", infrared, visible, swapped), drawn="query"),
        _single_modality("market1501"),
        _single_modality("msmt17"),
        cross(infrared, visible),
        cross(visible, infrared),
        cross(visible, visible),
        cross(infrared, infrared),
    ]


_SYSU_GALLERIES: tuple[tuple[str, Builder, int, str], ...] = (
    ("", "python", 1, "single-shot, seeds 0-9, as in most published tables"),
    ("-python-ms", "python", 10, "not a standard protocol: no published table draws ten images this way"),
    ("-official", "official", 1, "single-shot, the data set's own permutation file"),
    ("-official-ms", "official", 10, "multi-shot, the data set's own permutation file"),
)

PRESETS: dict[str, Protocol] = {protocol.name: protocol for protocol in _presets()}
PRESETS["cross"] = PRESETS["cross-ir2vis"]
