"""Rankings against hand-worked lists, the literal oracle and the invariances of the measures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_oracle import plain_rank_metrics
from vireid.errors import InputError
from vireid.evaluation import distractor_curve, feature_distances, rank_blocks, rank_features, rank_metrics

HIDES = ("none", "same_location", "same_id_and_camera")
UNITS = ("image", "identity")


def rank_list(ranked_pids, pid, ranked_camids=None, camid=9, **options):
    """Score one query whose gallery already stands in ranking order."""
    camids = ranked_camids or [1] * len(ranked_pids)
    return rank_metrics([np.arange(len(ranked_pids)) / 10], [pid], ranked_pids, [camid], camids, **options)


def random_case(seed, queries=40, gallery=60, people=8, cameras=6):
    generator = np.random.default_rng(seed)
    labels = (
        generator.integers(0, people, queries),
        generator.integers(0, people, gallery),
        generator.integers(1, cameras + 1, queries),
        generator.integers(1, cameras + 1, gallery),
    )
    return generator.random((queries, gallery)), labels


def assert_equal(result, other):
    np.testing.assert_array_equal(result.rank, other.rank)
    np.testing.assert_allclose(result.ap, other.ap, atol=1e-12)
    np.testing.assert_allclose(result.inp, other.inp, atol=1e-12)


@pytest.mark.parametrize(
    ("relevance", "ap", "inp", "rank"),
    [
        ([0, 1, 0, 1, 1], 0.533333, 0.6, 2),
        ([1, 1, 0, 0, 1, 0], 0.866667, 0.6, 1),
        ([1, 0, 1, 0, 0, 1, 0], 0.722222, 0.5, 1),
        ([0, 1, 1, 0], 0.583333, 0.666667, 2),
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 1], 0.6, 0.2, 1),
        ([0] * 9 + [1, 1, 1], 0.177273, 0.25, 10),
        ([1], 1.0, 1.0, 1),
    ],
)
def test_ap_inp_and_rank_of_a_list(relevance, ap, inp, rank):
    result = rank_list([1 if hit else 2 for hit in relevance], 1)
    assert (result.mean_ap, result.mean_inp) == pytest.approx((ap, inp), abs=1e-6)
    assert result.rank[0] == rank


@pytest.mark.parametrize(
    ("hide", "camid", "ap", "inp", "rank"),
    [
        ("same_location", 3, 5 / 12, 1 / 2, 3),
        ("none", 3, (1 / 2 + 2 / 5 + 3 / 7) / 3, 3 / 7, 2),
        ("same_id_and_camera", 1, 5 / 12, 1 / 3, 2),
    ],
)
def test_one_list_under_three_hide_rules(hide, camid, ap, inp, rank):
    pids, camids = [7, 5, 8, 7, 5, 8, 5], [2, 2, 1, 1, 1, 2, 4]
    for unit in UNITS:
        result = rank_list(pids, 5, camids, camid, hide=hide, cmc_unit=unit)
        assert (result.mean_ap, result.mean_inp, result.rank[0]) == pytest.approx((ap, inp, rank))


@pytest.mark.parametrize(
    ("pids", "camids", "camid", "cmc", "ap", "inp"),
    [
        ([2, 1, 3, 1, 1], [1, 2, 1, 1, 4], 3, [0, 0, 1], 0.416667, 0.5),
        ([2, 1, 3, 1, 1], [1, 2, 1, 1, 4], 6, [0, 1, 1], 0.533333, 0.6),
        ([2, 2, 2, 1, 3], [1, 4, 5, 1, 1], 6, [0, 1, 1], 0.25, 0.25),
    ],
)
def test_sysu_scoring(pids, camids, camid, cmc, ap, inp):
    options = {"hide": "same_location", "cmc_unit": "identity", "max_rank": 3}
    result = rank_list(pids, 1, camids, camid, **options)
    assert result.cmc.tolist() == cmc
    assert (result.mean_ap, result.mean_inp) == pytest.approx((ap, inp), abs=1e-6)


@pytest.mark.parametrize(("pid", "image_rank", "identity_rank", "ap"), [(5, 6, 3, 1 / 6), (3, 4, 2, 0.325)])
def test_rank_counts_images_or_identities(pid, image_rank, identity_rank, ap):
    for unit, rank in zip(UNITS, (image_rank, identity_rank), strict=True):
        result = rank_list([7, 7, 7, 3, 3, 5], pid, cmc_unit=unit)
        assert (result.rank[0], result.mean_ap) == (rank, pytest.approx(ap))


def test_a_query_without_true_match_leaves_every_average():
    distances = np.tile([0.1, 0.2, 0.3], (3, 1))
    result = rank_metrics(distances, [1, 3, 9], [1, 2, 3], [1] * 3, [2] * 3, max_rank=5)
    assert result.cmc.tolist() == [0.5, 0.5, 1, 1, 1]
    assert (result.num_valid_queries, result.num_queries, result.rank[2]) == (2, 3, 0)
    assert np.isnan(result.ap[2])
    assert result.as_dict() == pytest.approx(
        {"rank1": 0.5, "rank5": 1, "rank10": 1, "rank20": 1, "mAP": 2 / 3, "mINP": 2 / 3}
    )


@pytest.mark.parametrize(("gallery", "rank1"), [([(10, 1), (6, 4)], 0), ([(6, 4), (10, 1)], 1)])
def test_a_tie_goes_to_the_earlier_gallery_image(gallery, rank1):
    pids, camids = zip(*gallery, strict=True)
    for unit in UNITS:
        result = rank_metrics([[0.5, 0.5]], [6], pids, [3], camids, hide="same_location", cmc_unit=unit)
        assert result.cmc[0] == rank1


@st.composite
def rankings(draw):
    queries, gallery = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    pid, camid = st.integers(-1, 4), st.integers(1, 6)

    def column(values, size):
        return np.array(draw(st.lists(values, min_size=size, max_size=size)))

    features = column(st.integers(-2, 2), 2 * (queries + gallery)).reshape(-1, 2)
    labels = (
        column(st.integers(0, 5), queries),
        column(pid, gallery),
        column(camid, queries),
        column(camid, gallery),
    )
    return features[:queries], features[queries:], labels


def assert_matches_oracle(rank, distances, labels, hide, unit):
    cmc, mean_ap, mean_inp, valid = plain_rank_metrics(distances, *labels, hide=hide, cmc_unit=unit, max_rank=7)
    if not valid:
        with pytest.raises(InputError, match="no query sees a true match"):
            rank(*labels, hide=hide, cmc_unit=unit, max_rank=7)
        return
    result = rank(*labels, hide=hide, cmc_unit=unit, max_rank=7)
    np.testing.assert_allclose(result.cmc, cmc, atol=1e-9)
    assert (result.mean_ap, result.mean_inp) == pytest.approx((mean_ap, mean_inp), abs=1e-9)
    assert result.num_valid_queries == valid


@settings(max_examples=200)
@given(rankings(), st.sampled_from(HIDES), st.sampled_from(UNITS), st.booleans())
def test_matrices_and_features_score_as_the_oracle(case, hide, unit, as_tensor):
    """Ties, junk, missing identities, one-image identities and queries that see nothing, all by chance."""
    query, gallery, labels = case
    squared = ((query[:, None] - gallery[None]) ** 2).sum(-1)
    matrix = torch.from_numpy(squared) if as_tensor else np.asfortranarray(squared.astype(np.float32))
    assert_matches_oracle(lambda *a, **k: rank_metrics(matrix, *a, **k), squared, labels, hide, unit)
    assert_matches_oracle(
        lambda *a, **k: rank_features(query, gallery, *a, metric="euclidean", block_size=2, **k),
        squared,
        labels,
        hide,
        unit,
    )


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("hide", HIDES)
def test_cosine_features_score_as_their_matrix(hide, unit):
    generator = np.random.default_rng(3)
    _, labels = random_case(3)
    query, gallery = generator.standard_normal((40, 16)), generator.standard_normal((60, 16))
    cosine = query @ gallery.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(gallery, axis=1)
    assert_matches_oracle(
        lambda *a, **k: rank_features(torch.from_numpy(query), gallery, *a, block_size=7, **k),
        -cosine,
        labels,
        hide,
        unit,
    )


def test_infinite_distances_rank_last_but_before_nothing_hidden():
    distances = [[np.inf, np.inf, 0.0, np.inf]]
    result = rank_metrics(distances, [1], [1, 2, 3, 1], [3], [2, 1, 1, 1], hide="same_location", cmc_unit="identity")
    assert (result.rank[0], result.ap[0]) == (3, pytest.approx(1 / 3))


@pytest.mark.parametrize("unit", UNITS)
def test_monotone_maps_and_permutations_change_nothing(unit):
    distances, (qp, gp, qc, gc) = random_case(0)
    options = {"hide": "same_id_and_camera", "cmc_unit": unit}
    result = rank_metrics(distances, qp, gp, qc, gc, **options)
    assert_equal(rank_metrics(np.exp(3 * distances) - 7, qp, gp, qc, gc, **options), result)
    order = np.random.default_rng(1).permutation(len(gp))
    assert_equal(rank_metrics(distances[:, order], qp, gp[order], qc, gc[order], **options), result)
    order = np.random.default_rng(2).permutation(len(qp))
    shuffled = rank_metrics(distances[order], qp[order], gp, qc[order], gc, **options)
    np.testing.assert_array_equal(shuffled.rank, result.rank[order])


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(HIDES))
def test_bounds_and_the_two_cmc_units(seed, hide):
    distances, labels = random_case(seed)
    image = rank_metrics(distances, *labels, hide=hide, cmc_unit="image")
    identity = rank_metrics(distances, *labels, hide=hide, cmc_unit="identity")
    assert image.cmc[0] == identity.cmc[0]
    assert (identity.cmc >= image.cmc).all()
    for values in (image.ap, image.inp):
        visible = values[~np.isnan(values)]
        assert ((visible > 0) & (visible <= 1)).all()


def test_camera_2_images_change_no_camera_3_query():
    distances, (qp, gp, _, gc) = random_case(5)
    qc = np.full(len(qp), 3)
    gc = np.where(gc == 2, 1, gc)
    options = {"hide": "same_location", "cmc_unit": "identity"}
    result = rank_metrics(distances, qp, gp, qc, gc, **options)
    more = np.concatenate([distances[:, :20] - 1, distances], axis=1)
    labels = qp, np.concatenate([gp[:20], gp]), qc, np.concatenate([np.full(20, 2), gc])
    assert_equal(rank_metrics(more, *labels, **options), result)


def test_junk_changes_nothing_and_distractors_only_lower():
    distances, (qp, gp, qc, gc) = random_case(6)
    qp, gp = qp + 1, gp + 1
    options = {"hide": "same_id_and_camera"}
    result = rank_metrics(distances, qp, gp, qc, gc, **options)
    more = np.concatenate([distances[:, :30] - 0.3, distances], axis=1)
    camids = np.concatenate([gc[:30], gc])
    junk = rank_metrics(more, qp, np.concatenate([np.full(30, -1), gp]), qc, camids, **options)
    assert_equal(junk, result)
    assert junk.num_gallery == result.num_gallery
    distracted = rank_metrics(more, qp, np.concatenate([np.zeros(30, int), gp]), qc, camids, **options)
    assert (distracted.cmc <= result.cmc).all()
    assert distracted.mean_ap < result.mean_ap
    assert distracted.mean_inp < result.mean_inp


def test_llcm_transposition_raises_rank1_and_lowers_map():
    """Drawn infrared images that ask all visible ones are the easier rank-1 and the harder mAP.

    People and images are as many as in LLCM's test split, which is all that is known of the set of the numbers.
    """
    generator = np.random.default_rng(0)
    people, cameras = 351, 9
    centre, sensor = generator.standard_normal((people, 24)), 0.4 * generator.standard_normal((2, cameras, 24))
    seen = generator.random((people, cameras)).argsort(axis=1)[:, :3]

    def shoot(images, modality):
        pid = np.arange(images) % people
        camid = seen[pid, generator.integers(0, 3, images)]
        track = 0.8 * generator.standard_normal((people, cameras, 24))
        noise = 0.5 * generator.standard_normal((images, 24))
        return centre[pid] + sensor[modality, camid] + track[pid, camid] + noise, pid, camid

    visible, infrared = shoot(8680, 0), shoot(7166, 1)
    _, drawn = np.unique(infrared[1] * cameras + infrared[2], return_index=True)
    infrared = tuple(column[drawn] for column in infrared)
    options, found = {"hide": "same_id_and_camera", "cmc_unit": "identity"}, []
    for query, gallery in ((visible, infrared), (infrared, visible)):
        result = rank_features(query[0], gallery[0], query[1], gallery[1], query[2], gallery[2], **options)
        found += [100 * result.cmc[0], 100 * result.mean_ap]
    assert found == pytest.approx([37.5, 41.3, 43.9, 31.7], abs=3)


def test_no_valid_query_names_cameras_identities_rule_and_switch():
    with pytest.raises(InputError) as error:
        rank_metrics([[0.1, 0.2]], [5], [5, 5], [3], [2, 2], hide="same_location")
    for words in (
        "1 identities in cameras [3]",
        "cameras [2]",
        "'same_location' hid all 2",
        "add images of other cameras",
    ):
        assert words in str(error.value)
    with pytest.raises(InputError, match="share 0 identities; no rule hid anything"):
        rank_metrics([[0.1]], [5], [6], [3], [2])


@pytest.mark.parametrize("gallery", [[], [-1, -1]])
def test_a_gallery_without_images_has_no_valid_query(gallery):
    for unit in UNITS:
        with pytest.raises(InputError, match="against 0 gallery images"):
            rank_metrics(np.ones((1, len(gallery))), [1], gallery, [1], [2] * len(gallery), cmc_unit=unit)


@pytest.mark.parametrize(
    ("distances", "change", "message"),
    [
        ([[0.1, np.nan]], {}, "hold NaN"),
        ([[0.1]], {}, "shape"),
        ([[0.1, 0.2]], {"hide": "same_room"}, "unknown hide rule 'same_room'"),
        ([[0.1, 0.2]], {"cmc_unit": "person"}, "unknown cmc_unit"),
    ],
)
def test_bad_input_is_named(distances, change, message):
    with pytest.raises(InputError, match=message):
        rank_metrics(distances, [1], [1, 2], [1], [2, 2], **change)


@pytest.mark.parametrize(
    ("query", "gallery", "change", "message"),
    [
        (np.ones((1, 3)), np.ones((2, 4)), {}, "3 columns and gallery features 4"),
        (np.ones((2, 3)), np.ones((2, 3)), {}, "2 query features but 1 query pids"),
        (np.ones(1), np.ones((2, 3)), {}, "one row per image"),
        (np.ones((1, 3)), np.ones((2, 3)), {"metric": "hamming"}, "unknown metric"),
    ],
)
def test_bad_features_are_named(query, gallery, change, message):
    with pytest.raises(InputError, match=message):
        rank_features(query, gallery, [1], [1, 2], [1], [2, 2], **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_pids": [], "gallery_camids": [], "gallery": np.ones((0, 3))}, "0 gallery images .* give both sides"),
        ({"gallery_pids": [-1, -1]}, "0 gallery images .* give both sides at least one image whose pid is not -1"),
        ({"query_pids": [], "query_camids": [], "query": np.ones((0, 3))}, "0 queries .* give both sides"),
        ({"block_size": -1}, "block_size=-1: use 1 or more"),
        ({"max_rank": -1}, "max_rank=-1 and .*: use 1 or more"),
        ({"query_pids": ["anna"]}, r"such as \['anna'\] are not all whole numbers"),
        ({"gallery_pids": [1.2, 1.7]}, r"such as \[1.2, 1.7\] are not all whole"),
        ({"query_camids": [np.nan]}, "not all whole numbers"),
    ],
)
def test_labels_and_sizes_are_checked(change, message):
    given = {"query": np.ones((1, 3)), "gallery": np.ones((2, 3))}
    given |= {"query_pids": [1], "gallery_pids": [1.0, 2.0], "query_camids": [1], "gallery_camids": [2, 2]}
    with pytest.raises(InputError, match=message):
        rank_features(**{**given, **change})


def test_a_method_brings_its_own_distance():
    """Two parts, summed: what a part-based method hands over."""
    distances, labels = random_case(8)
    parts = np.stack([distances, distances[:, ::-1]])
    result = rank_blocks(lambda rows: parts[:, rows].sum(0), *labels, block_size=9)
    assert_equal(result, rank_metrics(parts.sum(0), *labels))
    with pytest.raises(InputError, match="expected"):
        rank_blocks(lambda rows: parts[:, rows], *labels)


@pytest.mark.parametrize("hide", HIDES)
def test_distractor_curve_scores_each_size_as_one_ranking(hide):
    generator = np.random.default_rng(11)
    _, (qp, gp, qc, gc) = random_case(11)
    query, gallery, strangers = (generator.standard_normal((n, 8)) for n in (40, 60, 50))
    options = {"hide": hide, "cmc_unit": "identity"}
    curve = distractor_curve(query, gallery, strangers, qp, gp, qc, gc, sizes=[0, 7, 50], **options)
    assert [point.num_gallery for point in curve] == [60, 67, 110]
    for point, size in zip(curve, [0, 7, 50], strict=True):
        distances = feature_distances(query, np.concatenate([gallery, strangers[:size]]))(slice(0, 40))
        pids, camids = np.concatenate([gp, 900 + np.arange(size)]), np.concatenate([gc, 900 + np.arange(size)])
        assert_equal(point, rank_metrics(distances, qp, pids, qc, camids, **options))
    with pytest.raises(InputError, match="beyond the 50 distractors"):
        distractor_curve(query, gallery, strangers, qp, gp, qc, gc, sizes=[51])
    with pytest.raises(InputError, match="give some, 0 for the gallery alone"):
        distractor_curve(query, gallery, strangers, qp, gp, qc, gc, sizes=[])
