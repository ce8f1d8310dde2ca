"""Protocols on tables of SYSU-MM01's true test shape, and on small ones of the other data sets."""

import hashlib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from scipy.special import comb

from trees import SYSU_TEST_IDS, id_range, sysu_test_shape
from vireid.errors import InputError
from vireid.evaluation import (
    PRESETS,
    Protocol,
    Selector,
    TrialSummary,
    cross,
    evaluate_features,
    feature_distances,
    k_reciprocal_rerank,
    rank_metrics,
)
from vireid.evaluation.labels import Labels
from vireid.evaluation.trials import evaluate_distances
from vireid.records import Modality, Records

VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED


def sysu_records(root="sysu", shape=None):
    """A table of SYSU-MM01's 96 test identities; its rows are shuffled, as a table promises no order."""
    shape = sysu_test_shape() if shape is None else shape
    rows = [
        (f"cam{camid}/{pid:04d}/{number:04d}.jpg", pid, camid, INFRARED if camid in (3, 6) else VISIBLE)
        for (camid, pid), size in shape.items()
        for number in range(1, size + 1)
    ]
    path, pid, camid, modality = zip(*rows, strict=True)
    order = np.random.default_rng(0).permutation(len(rows))
    return Records.build(root, path, pid, camid, modality).take(order)


def write_permutations(root, shape):
    """Write an official-looking permutation file; returns the permutations by (camera, id)."""
    generator = np.random.default_rng(7)
    given = {key: np.stack([generator.permutation(size) + 1 for _ in range(10)]) for key, size in shape.items()}
    cell = np.empty((6, 1), dtype=object)
    for camid in range(1, 7):
        ids = np.empty((333 if camid in (1, 2, 6) else 533, 1), dtype=object)
        for pid in range(1, len(ids) + 1):
            ids[pid - 1, 0] = given.get((camid, pid), np.empty((10, 0))).astype(np.uint8)
        cell[camid - 1, 0] = ids
    (root / "exp").mkdir(parents=True)
    savemat(root / "exp/rand_perm_cam.mat", {"rand_perm_cam": cell})
    return given


def image_numbers(records, rows):
    return [int(Path(path).stem) for path in records.path[rows]]


def digest(protocol, records, first_trial):
    """Return the SHA-256 of the lines `trial cam id image` in gallery order, and the sum of the images."""
    lines, total = [], 0
    for trial in range(10):
        _, rows = protocol.draw(records, trial)
        images = image_numbers(records, rows)
        total += sum(images)
        for camid, pid, image in zip(records.camid[rows], records.pid[rows], images, strict=True):
            lines.append(f"{trial + first_trial} {camid} {pid} {image}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest(), total


@pytest.fixture(scope="module")
def sysu(tmp_path_factory):
    root = tmp_path_factory.mktemp("sysu")
    write_permutations(root, sysu_test_shape())
    return sysu_records(root)


def pairs(protocol, records, trial=0):
    """Return per query its camera and its numbers of visible images and of visible true matches."""
    query, gallery = protocol.draw(records, trial)
    labels = Labels.build(
        records.pid[query], records.pid[gallery], records.camid[query], records.camid[gallery], protocol.hide
    )
    rows = slice(0, len(query))
    matches = np.bincount(labels.true_matches(rows)[0], minlength=len(query))
    return records.camid[query], (~labels.hidden(rows)).sum(1), matches


@pytest.mark.parametrize(
    ("name", "gallery", "valid", "positives"),
    [
        ("sysu-all", 301, 3803, 10_814),
        ("sysu-all-official", 301, 3803, 10_814),
        ("sysu-all-official-ms", 3010, 3803, 108_140),
        ("sysu-all-python-ms", 3010, 3803, 108_140),
        ("sysu-indoor", 112, 2208, 3328),
        ("sysu-indoor-official", 112, 2208, 3328),
        ("sysu-indoor-official-ms", 1120, 2208, 33_280),
        ("sysu-indoor-python-ms", 1120, 2208, 33_280),
    ],
)
def test_sysu_counts(sysu, name, gallery, valid, positives):
    query, drawn = PRESETS[name].draw(sysu, 3)
    camids, visible, matches = pairs(PRESETS[name], sysu, 3)
    assert (len(query), len(drawn), len(set(drawn))) == (3803, gallery, gallery)
    assert Counter(camids.tolist()) == {3: 1883, 6: 1920}
    assert ((matches > 0).sum(), matches.sum()) == (valid, positives)
    assert set(visible[camids == 6]) == {gallery}
    assert set(visible[camids == 3]) == {245 * gallery // 301 if "all" in name else gallery // 2}


def test_sysu_positives_of_each_query(sysu):
    camids, _, matches = pairs(PRESETS["sysu-all"], sysu)
    assert Counter(matches[camids == 3].tolist()) == {1: 40, 2: 775, 3: 1068}
    assert Counter(matches[camids == 6].tolist()) == {1: 40, 2: 760, 3: 20, 4: 1100}
    camids, _, matches = pairs(PRESETS["sysu-indoor"], sysu)
    assert Counter(matches[camids == 3].tolist()) == {0: 795, 1: 1088}
    assert Counter(matches[camids == 6].tolist()) == {0: 800, 2: 1120}


def test_python_draw_is_pythons(sysu):
    def drawn(name, trial, pid):
        _, rows = PRESETS[name].draw(sysu, trial)
        return image_numbers(sysu, rows[sysu.pid[rows] == pid])

    assert drawn("sysu-all", 0, 6) == [25, 25, 14, 2]
    assert drawn("sysu-all", 1, 6) == [9, 19, 3, 9]
    assert [drawn("sysu-indoor", 0, pid) for pid in (6, 10, 27)] == [[25, 25], [27, 2], [5, 33]]


@pytest.mark.parametrize(
    ("name", "sha256", "total"),
    [
        ("sysu-all", "999d2b39d2dd9fe6710af4878e64896f4bd88663094d556af12b60cea4ffcbc4", 35_513),
        ("sysu-indoor", "9518d964f405ef6a54053c1154d9d2060ec84e349149388c2a20de213ba0ebe2", 15_550),
    ],
)
def test_python_draws_of_ten_trials(sysu, name, sha256, total):
    assert digest(PRESETS[name], sysu, first_trial=0) == (sha256, total)


def test_empty_gallery_folders_are_skipped_without_a_draw(sysu):
    _, rows = PRESETS["sysu-all"].draw(sysu, 0)
    cameras = {pid: sysu.camid[rows[sysu.pid[rows] == pid]].tolist() for pid in (6, 31, 263)}
    assert cameras == {6: [1, 2, 4, 5], 31: [4], 263: [1, 2, 5]}


@pytest.mark.parametrize(("name", "shots"), [("sysu-all-official", 1), ("sysu-indoor-official-ms", 10)])
def test_official_draw_reads_the_permutation_file(tmp_path, name, shots):
    given = write_permutations(tmp_path, sysu_test_shape())
    records = sysu_records(tmp_path)
    _, rows = PRESETS[name].draw(records, 4)
    keys = list(zip(records.camid[rows].tolist(), records.pid[rows].tolist(), strict=True))
    assert keys == sorted(keys)
    assert image_numbers(records, rows) == [
        image for key in dict.fromkeys(keys) for image in given[key][4, :shots].tolist()
    ]


def test_official_draw_says_what_is_wrong(tmp_path):
    shape = {(1, 6): 5, (3, 6): 5, (4, 10): 5, (6, 10): 5}
    protocol = PRESETS["sysu-all-official"]
    with pytest.raises(InputError, match=r"rand_perm_cam.mat is missing"):
        protocol.draw(sysu_records(tmp_path, shape))
    write_permutations(tmp_path, shape)
    assert len(protocol.draw(sysu_records(tmp_path, shape), 9)[1]) == 2
    with pytest.raises(InputError, match="orders 5 images of identity 6 in camera 1 for trial 0 but the data has 4"):
        protocol.draw(sysu_records(tmp_path, shape | {(1, 6): 4}))
    with pytest.raises(InputError, match="orders 0 images of identity 400 in camera 1"):
        protocol.draw(sysu_records(tmp_path, shape | {(1, 400): 4}))
    renumbered = sysu_records(tmp_path, shape)
    renumbered.path[:] = [path.replace("0005.jpg", "0007.jpg") for path in renumbered.path]
    with pytest.warns(UserWarning, match="not numbered 0001 to 0005"):
        protocol.draw(renumbered)
    (tmp_path / "exp/rand_perm_cam.mat").write_bytes(b"not a mat file" * 20)
    with pytest.raises(InputError, match="no readable variable"):
        protocol.draw(renumbered)


@pytest.mark.skipif("VIREID_SYSU_ROOT" not in os.environ, reason="VIREID_SYSU_ROOT names no copy of SYSU-MM01")
@pytest.mark.parametrize(
    ("name", "sha256", "total"),
    [
        ("sysu-all-official", "4e6ea952d4d8a3d23b4e9ce642082c5373af5b80661fa699f6170a2356e56889", 35_541),
        ("sysu-indoor-official", "73d4e97fc06ca39950a4c0af055c14bae3bb03994618367e6f97fa95b944264c", 15_173),
        ("sysu-all-official-ms", "35873ff74bef6c8683905db0d9fae2b0f4d33d4e44ae4cc44cf635d909a69c5d", 353_218),
        ("sysu-indoor-official-ms", "c17dc5abca5003b6afa63990cf5db7efb0af386ce82337022e92ad93e7a1db0c", 152_096),
    ],
)
def test_official_draws_of_the_real_file(name, sha256, total):
    root = Path(os.environ["VIREID_SYSU_ROOT"])
    folders = {(camid, pid): root / f"cam{camid}/{pid:04d}" for camid in range(1, 7) for pid in id_range(SYSU_TEST_IDS)}
    shape = {key: len(list(folder.glob("*.jpg"))) for key, folder in folders.items()}
    assert digest(PRESETS[name], sysu_records(root, shape), first_trial=1) == (sha256, total)


def expected_at_random(visible, matches):
    """Mean rank-1, AP and INP over all orders of a list, exactly, for each (visible, matches)."""
    place = np.arange(1, visible + 1)
    ap = np.mean((1 + (place - 1) * (matches - 1) / (visible - 1)) / place)
    last = comb(place - 1, matches - 1) / comb(visible, matches)
    return matches / visible, ap, (matches / place * last).sum()


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("sysu-all", (1.0404, 2.9410, 1.6643)),
        ("sysu-all-official-ms", (1.0404, 1.3141, 1.0785)),
        ("sysu-indoor", (1.7857, 6.8935, 5.7991)),
        ("sysu-indoor-official-ms", (1.7857, 2.5908, 1.9283)),
    ],
)
def test_random_distances_score_as_chance(sysu, name, percent):
    protocol = PRESETS[name]
    _, visible, matches = pairs(protocol, sysu)
    sizes = Counter((v, m) for v, m in zip(visible.tolist(), matches.tolist(), strict=True) if m)
    chance = sum(np.array(expected_at_random(*size)) * times for size, times in sizes.items()) / sizes.total()
    np.testing.assert_allclose(100 * chance, percent, atol=5e-5)

    generator = np.random.default_rng(0)
    result = evaluate_distances(
        protocol, sysu, lambda q, g: generator.random((len(q), len(g)), np.float32).__getitem__, trials=[0, 1]
    )
    spread = np.array([[t.rank == 1, t.ap, t.inp] for t in result.trials])[..., result.trials[0].rank > 0]
    measured = [result.mean()[key] for key in ("rank1", "mAP", "mINP")]
    error = spread.transpose(1, 0, 2).reshape(3, -1).std(1) / np.sqrt(2 * sizes.total())
    assert (np.abs(np.array(measured) - chance) < 4.5 * error).all()


def test_indoor_single_shot_camera_3_queries_have_one_match(sysu):
    protocol = replace(PRESETS["sysu-indoor"], query=Selector(modality=INFRARED, cameras=(3,)))
    features = np.random.default_rng(1).standard_normal((len(sysu), 4))
    by_identity, by_image = (
        evaluate_features(replace(protocol, cmc_unit=unit), sysu, features, trials=[0]).trials[0]
        for unit in ("identity", "image")
    )
    valid = by_identity.rank > 0
    np.testing.assert_array_equal(by_identity.rank, by_image.rank)
    np.testing.assert_allclose(by_identity.ap[valid], 1 / by_identity.rank[valid])
    np.testing.assert_allclose(by_identity.inp[valid], by_identity.ap[valid])


def test_gallery_order_decides_ties(sysu):
    """All distances equal: the official order shows the first camera first, Python's the first identity."""
    for name, rank in (("sysu-all", 1), ("sysu-all-official", 57)):
        protocol = replace(PRESETS[name], query=Selector(modality=INFRARED, cameras=(6,)))
        result = evaluate_features(protocol, sysu, np.ones((len(sysu), 2)), trials=[0]).trials[0]
        query, gallery = protocol.draw(sysu)
        first = {pid: len(np.unique(sysu.pid[gallery][: np.argmax(sysu.pid[gallery] == pid)])) + 1 for pid in (6, 17)}
        assert {pid: result.rank[sysu.pid[query] == pid][0] for pid in first} == first
        assert first[17] == (3 if name == "sysu-all" else rank)


def two_camera_records(split="test"):
    """Three people, two cameras, two images of each modality in each."""
    rows = [
        (f"{modality}/cam{camid}/{pid:04d}/{k}.jpg", pid, camid, modality)
        for pid in (1, 2, 3)
        for camid in (1, 2)
        for modality in (VISIBLE, INFRARED)
        for k in (1, 2)
    ]
    path, pid, camid, modality = zip(*rows, strict=True)
    return Records.build("root", path, pid, camid, modality, split)


@pytest.mark.parametrize(
    ("name", "query", "gallery", "trials"),
    [
        ("regdb-v2t", (VISIBLE, 12), (INFRARED, 12), 10),
        ("regdb-t2v", (INFRARED, 12), (VISIBLE, 12), 10),
        ("llcm-ir2vis", (INFRARED, 12), (VISIBLE, 6), 10),
        ("llcm-vis2ir", (VISIBLE, 12), (INFRARED, 6), 10),
        ("llcm-vis2ir-swapped", (INFRARED, 6), (VISIBLE, 12), 10),
        ("cross", (INFRARED, 12), (VISIBLE, 12), 1),
        ("cross-vis2ir", (VISIBLE, 12), (INFRARED, 12), 1),
        ("intra-ir", (INFRARED, 12), (INFRARED, 12), 1),
    ],
)
def test_sides_of_the_cross_modality_presets(name, query, gallery, trials):
    records, protocol = two_camera_records(), PRESETS[name]
    assert protocol.trials == trials
    for rows, (modality, size) in zip(protocol.draw(records, trials - 1), (query, gallery), strict=True):
        assert set(records.modality[rows]) == {modality}
        assert len(rows) == size


@pytest.mark.parametrize("name", ["market1501", "msmt17"])
def test_fixed_lists_score_with_their_rule(name):
    records = Records.build(
        "root", list("abcdef"), [1, 1, 1, 2, 0, -1], [1, 1, 2, 1, 1, 1], [0] * 6, ["query"] + ["gallery"] * 5
    )
    features = np.array([[1, 0], [1, 0], [1, 0.3], [1, 0.2], [1, 0.1], [1, 0]])
    result = evaluate_features(PRESETS[name], records, features).trials[0]
    assert (result.num_gallery, result.rank[0], result.mean_ap) == (4, 3, pytest.approx(1 / 3))


SYSU = ("same_location", "identity", INFRARED, VISIBLE, 10)
LLCM = ("same_id_and_camera", "identity")
ONE_LIST = ("same_id_and_camera", "image", None, None, 1, "all", 1, "gallery", False)
RULES = {
    "sysu-all": (*SYSU, "python", 1, "gallery", False),
    "sysu-all-python-ms": (*SYSU, "python", 10, "gallery", False),
    "sysu-all-official": (*SYSU, "official", 1, "gallery", False),
    "sysu-all-official-ms": (*SYSU, "official", 10, "gallery", False),
    "regdb-v2t": ("none", "image", VISIBLE, INFRARED, 10, "all", 1, "gallery", True),
    "regdb-t2v": ("none", "image", INFRARED, VISIBLE, 10, "all", 1, "gallery", True),
    "llcm-ir2vis": (*LLCM, INFRARED, VISIBLE, 10, "python", 1, "gallery", False),
    "llcm-vis2ir": (*LLCM, VISIBLE, INFRARED, 10, "python", 1, "gallery", False),
    "llcm-vis2ir-swapped": (*LLCM, INFRARED, VISIBLE, 10, "python", 1, "query", False),
    "market1501": ONE_LIST,
    "msmt17": ONE_LIST,
    "cross-ir2vis": ("none", "image", INFRARED, VISIBLE, 1, "all", 1, "gallery", False),
    "cross-vis2ir": ("none", "image", VISIBLE, INFRARED, 1, "all", 1, "gallery", False),
    "intra-vis": ("same_id_and_camera", "image", VISIBLE, VISIBLE, 1, "all", 1, "gallery", False),
    "intra-ir": ("same_id_and_camera", "image", INFRARED, INFRARED, 1, "all", 1, "gallery", False),
}
RULES |= {name.replace("all", "indoor"): rule for name, rule in RULES.items() if name.startswith("sysu")}
RULES["cross"] = RULES["cross-ir2vis"]


def test_rules_are_those_of_the_preset_table():
    assert {
        name: (
            *(p.hide, p.cmc_unit, p.query.modality, p.gallery.modality),
            *(p.trials, p.builder, p.shots, p.drawn, p.model_per_trial),
        )
        for name, p in PRESETS.items()
    } == RULES
    for name, protocol in PRESETS.items():
        if name.startswith("sysu"):
            cameras = (1, 2) if "indoor" in name else (1, 2, 4, 5)
            assert (protocol.query.cameras, protocol.gallery.cameras) == ((3, 6), cameras)
    assert cross(VISIBLE, VISIBLE) == PRESETS["intra-vis"]


def test_train_labels_are_never_ranked_against_test_labels():
    """RegDB numbers its people anew in each list of a trial: equal labels there are different people."""
    train, test = two_camera_records("train"), two_camera_records("test")
    columns = {name: np.concatenate([getattr(train, name), getattr(test, name)]) for name in ("path", "pid", "camid")}
    records = Records.build("root", *columns.values(), [*train.modality, *test.modality], [*train.split, *test.split])
    assert len(PRESETS["regdb-v2t"].draw(records)[0]) == 12
    mixed = replace(PRESETS["regdb-v2t"], gallery=Selector(("train",), INFRARED))
    with pytest.raises(InputError, match="different people"):
        mixed.draw(records)
    with pytest.raises(InputError, match=r"finds no query \(split test, visible, any camera\)"):
        PRESETS["regdb-v2t"].draw(train)
    with pytest.raises(InputError, match="has trials 0 to 9, not 10"):
        PRESETS["regdb-v2t"].draw(records, 10)


def test_trials_are_averaged_with_their_sample_deviation():
    one, two = (rank_metrics(d, [1], [1, 2], [1], [2, 2]) for d in ([[0.1, 0.2]], [[0.3, 0.2]]))
    summary = TrialSummary((one, two))
    assert summary.mean()["mAP"] == 0.75
    assert summary.sd()["mAP"] == pytest.approx(0.5 / np.sqrt(2))
    assert summary.cmc()[:2].tolist() == [0.5, 1]
    assert summary.as_dict()["num_gallery"] == [2, 2]
    assert [trial["rank1"] for trial in summary.as_dict()["trials"]] == [1, 0]
    assert "sd" not in TrialSummary((one,)).as_dict()
    assert np.isnan(TrialSummary((one,)).sd()["rank1"])


def test_evaluation_draws_ranks_and_averages(sysu):
    """The features are the identities: every trial is perfect, until re-ranking is handed nonsense."""
    features = np.eye(334)[sysu.pid]
    summary = evaluate_features(PRESETS["sysu-indoor"], sysu, features, trials=[0, 5])
    assert [(t.mean_ap, t.num_valid_queries, t.num_gallery) for t in summary.trials] == [(1, 2208, 112)] * 2
    with pytest.raises(InputError, match="2 features for"):
        evaluate_features(PRESETS["sysu-indoor"], sysu, features[:2])


def test_any_distance_can_be_evaluated():
    records = two_camera_records()
    features = np.random.default_rng(0).standard_normal((len(records), 3))

    def reranked(query, gallery):
        return k_reciprocal_rerank(features[query], features[gallery], k1=4, k2=2, lambda_value=1).__getitem__

    def plain(query, gallery):
        return feature_distances(features[query], features[gallery], "euclidean")

    protocol = PRESETS["llcm-vis2ir"]
    with_rerank, without = (evaluate_distances(protocol, records, d).as_dict() for d in (reranked, plain))
    assert with_rerank == without
    assert len(with_rerank["trials"]) == 10
    assert len(evaluate_distances(PRESETS["regdb-v2t"], records, plain).trials) == 1


def test_a_stamp_says_what_the_draw_depends_on(sysu):
    assert PRESETS["sysu-all"].stamp(sysu)["seeds"] == list(range(10))
    stamp = PRESETS["sysu-all-official-ms"].stamp(sysu)
    content = (sysu.root / "exp/rand_perm_cam.mat").read_bytes()
    assert stamp["permutation_sha256"] == hashlib.sha256(content).hexdigest()
    assert (stamp["name"], stamp["shots"], stamp["hide"]) == ("sysu-all-official-ms", 10, "same_location")
    assert isinstance(PRESETS["cross"], Protocol)
    assert "seeds" not in PRESETS["cross"].stamp(sysu)
