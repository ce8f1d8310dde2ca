"""Loaders on tiny and true-shape trees: exact tables, published counts, and one sentence for each bad tree."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import trees
from vireid.data import DATA_SETS, open_dataset
from vireid.data.check import broken_images, inspect, summary
from vireid.data.findings import Count, count_findings
from vireid.data.keypoints import read_keypoints
from vireid.errors import InputError
from vireid.records import Modality, Records

VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED
TINY_SYSU = {(1, 1): 1, (3, 1): 2, (4, 2): 1, (6, 2): 1, (2, 3): 1, (3, 3): 1, (5, 4): 1}
TINY_SPLITS = {"train": [1], "val": [2], "test": [3]}


def rows(records):
    """Return (path, pid, camid, modality, split) of every row."""
    columns = (records.path, records.pid, records.camid, records.modality, records.split)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def sentences(findings):
    return [str(finding) for finding in findings]


def faults(name, root, strict=True):
    return sentences(inspect(name, root, strict=strict).findings)


@pytest.fixture(scope="module")
def sysu(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "SYSU-MM01"
    trees.write_sysu(root, *trees.sysu_shape())
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def regdb(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "RegDB"
    trees.write_regdb(root, halves=206, images=10)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def tiny_sysu(tmp_path):
    trees.write_sysu(tmp_path / "sysu", TINY_SYSU, TINY_SPLITS)
    return tmp_path / "sysu"


@pytest.fixture
def tiny_regdb(tmp_path):
    trees.write_regdb(tmp_path / "regdb", halves=2, images=1)
    return tmp_path / "regdb"


# SYSU-MM01


def test_sysu_reads_camera_identity_and_split_from_path_components(tiny_sysu):
    for clutter in ("cam1/0001/._0001.jpg", "cam1/0001/Thumbs.db", "cam1/notes/0001.jpg", "cam6/readme.jpg"):
        trees.touch(tiny_sysu / clutter)
    trees.touch(tiny_sysu / "cam6/0002/a_much_longer_name.PNG")
    assert rows(open_dataset("sysu_mm01", tiny_sysu)) == [
        ("cam1/0001/0001.jpg", 1, 1, VISIBLE, "train"),
        ("cam2/0003/0001.jpg", 3, 2, VISIBLE, "test"),
        ("cam3/0001/0001.jpg", 1, 3, INFRARED, "train"),
        ("cam3/0001/0002.jpg", 1, 3, INFRARED, "train"),
        ("cam3/0003/0001.jpg", 3, 3, INFRARED, "test"),
        ("cam4/0002/0001.jpg", 2, 4, VISIBLE, "train"),
        ("cam6/0002/0001.jpg", 2, 6, INFRARED, "train"),
        ("cam6/0002/a_much_longer_name.PNG", 2, 6, INFRARED, "train"),
    ]


def test_sysu_train_ids_leaves_val_apart(tiny_sysu):
    records = open_dataset("sysu_mm01", tiny_sysu, train_ids="train")
    assert set(records.split[records.pid == 2]) == {"val"}


def test_sysu_true_shape_meets_every_published_count(sysu):
    report = inspect("sysu_mm01", sysu.parent)  # the folder above will do
    assert sentences(report.findings) == []
    train = open_dataset("sysu_mm01", sysu).where(split="train")
    assert [train.mask(modality=modality).sum() for modality in Modality] == [22258, 11909]
    assert len(set(train.pid)) == 395
    query_part = report.summary.query("split == 'test' and modality == 'infrared'")
    assert query_part.values.tolist() == [["test", "infrared", 3, 1883, 93], ["test", "infrared", 6, 1920, 96]]


def test_sysu_check_names_each_lost_image_count(sysu):
    lost = next((sysu / "cam4/0006").iterdir())
    lost.unlink()
    try:
        found = faults("sysu_mm01", sysu)
    finally:
        lost.touch()
    assert found == [
        f"test camera 4 images: expected 1,918, found 1,917 in {sysu}",
        f"images in all folders of cam4: expected 8,030, found 8,029 in {sysu}",
    ]


def test_sysu_check_of_a_small_tree_without_published_counts(tiny_sysu):
    assert faults("sysu_mm01", tiny_sysu, strict=False) == []
    shutil.rmtree(tiny_sysu / "cam2/0003")
    assert faults("sysu_mm01", tiny_sysu, strict=False) == [
        f"test identities in one modality only: expected none, found 1 (3) in {tiny_sysu}"
    ]


# RegDB


def test_regdb_reads_one_trial_with_identities_from_folders(tiny_regdb):
    assert rows(open_dataset("regdb", tiny_regdb, trial=1)) == [
        ("Visible/2/male_back_v_00000_2.bmp", 2, 1, VISIBLE, "train"),
        ("Visible/1/male_back_v_00000_1.bmp", 1, 1, VISIBLE, "train"),
        ("Thermal/2/male_back_t_00000_2.bmp", 2, 2, INFRARED, "train"),
        ("Thermal/1/male_back_t_00000_1.bmp", 1, 2, INFRARED, "train"),
        ("Visible/4/male_back_v_00000_4.bmp", 4, 1, VISIBLE, "test"),
        ("Visible/3/male_back_v_00000_3.bmp", 3, 1, VISIBLE, "test"),
        ("Thermal/4/male_back_t_00000_4.bmp", 4, 2, INFRARED, "test"),
        ("Thermal/3/male_back_t_00000_3.bmp", 3, 2, INFRARED, "test"),
    ]
    assert rows(open_dataset("regdb", tiny_regdb, trial=3))[0][1] == 4


def test_regdb_true_shape_meets_every_published_count(regdb):
    assert faults("regdb", regdb) == []


def test_regdb_check_finds_a_lost_image_trial_and_an_uneven_list(tiny_regdb):
    (tiny_regdb / "Thermal/3/male_back_t_00000_3.bmp").unlink()
    (tiny_regdb / "idx/test_visible_7.txt").unlink()
    found = faults("regdb", tiny_regdb)
    assert found[0] == f"train visible images: expected 2,060, found 2 in {tiny_regdb}"
    assert (
        "listed images of trial 2: expected all 8 on disk, found 1 missing"
        f" (first Thermal/3/male_back_t_00000_3.bmp) in {tiny_regdb}" in found
    )
    assert f"images of folder 1 under one sensor in trial 1: expected 10, found 1 in {tiny_regdb}" in found
    assert (
        f"training labels: expected 0 to 205, found 2 labels from 0 to 1 in {tiny_regdb}/idx/train_thermal_9.txt"
        in found
    )
    assert any(text.startswith("trial 7: expected readable lists, found RegDB:") for text in found)
    assert f"identities of all trials: expected 412, found 4 in {tiny_regdb}" in found


# LLCM, Market-1501, MSMT17


def test_llcm_reads_cameras_from_the_right(tmp_path):
    root = tmp_path / "campus" / "cam7"  # neither folder is a camera
    trees.write_llcm(root, train=1, test=1)
    assert rows(open_dataset("llcm", root)) == [
        ("vis/0001/0001_c01_s185734_f1_vis.jpg", 1, 1, VISIBLE, "train"),
        ("vis/0001/0001_c03_s185734_f2_vis.jpg", 1, 3, VISIBLE, "train"),
        ("nir/0001/0001_c01_s185734_f3_nir.jpg", 1, 1, INFRARED, "train"),
        ("nir/0001/0001_c09_s185734_f4_nir.jpg", 1, 9, INFRARED, "train"),
        ("test_vis/cam1/0002/0002_c01_s185734_f5_vis.jpg", 2, 1, VISIBLE, "test"),
        ("test_vis/cam3/0002/0002_c03_s185734_f6_vis.jpg", 2, 3, VISIBLE, "test"),
        ("test_nir/cam1/0002/0002_c01_s185734_f7_nir.jpg", 2, 1, INFRARED, "test"),
        ("test_nir/cam9/0002/0002_c09_s185734_f8_nir.jpg", 2, 9, INFRARED, "test"),
    ]


def test_llcm_check_compares_the_test_lists_with_test_id(tmp_path):
    trees.write_llcm(tmp_path)
    assert faults("llcm", tmp_path, strict=False) == []
    (tmp_path / "idx/test_id.txt").write_text("3,4,9\n")
    assert faults("llcm", tmp_path, strict=False) == [
        "test identities: expected those of the test lists, found 1 in one of the two only (first 9)"
        f" in {tmp_path}/idx/test_id.txt"
    ]


def test_market1501_keeps_junk_and_distractors(tmp_path):
    trees.write_market1501(tmp_path)
    trees.touch(tmp_path / "gt_bbox/0001_c1s1_001051_00.jpg")
    assert rows(open_dataset("market1501", tmp_path)) == [
        ("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 1, VISIBLE, "train"),
        ("bounding_box_train/0007_c3s3_077419_01.jpg", 7, 3, VISIBLE, "train"),
        ("query/0001_c1s1_001051_00.jpg", 1, 1, VISIBLE, "query"),
        ("bounding_box_test/-1_c1s1_000401_03.jpg", -1, 1, VISIBLE, "gallery"),
        ("bounding_box_test/0000_c2s1_000051_02.jpg", 0, 2, VISIBLE, "gallery"),
        ("bounding_box_test/0001_c6s1_001051_01.jpg", 1, 6, VISIBLE, "gallery"),
    ]


def test_market1501_check_finds_leaks_unanswered_queries_and_unknown_cameras(tmp_path):
    trees.write_market1501(tmp_path)
    for name in ("query/0002_c2s1_000000_00.jpg", "query/0003_c8s1_000000_00.jpg"):
        trees.touch(tmp_path / name)
    assert faults("market1501", tmp_path, strict=False) == [
        f"camera numbers: expected 1 to 6, found 1 (8), first at query/0003_c8s1_000000_00.jpg in {tmp_path}",
        f"identities in both train and test: expected none, found 1 (2) in {tmp_path}",
        f"query identities without a gallery image: expected none, found 2 (2, 3) in {tmp_path}",
    ]


@pytest.mark.parametrize(("version", "train", "test"), [(1, "train", "test"), (2, "mask_train_v2", "mask_test_v2")])
def test_msmt17_reads_both_layouts(tmp_path, version, train, test):
    trees.write_msmt17(tmp_path / f"MSMT17_V{version}", version)
    records = open_dataset("msmt17", tmp_path)
    assert rows(records) == [
        (f"{train}/0000/0000_000_01_0303morning_0015_0.jpg", 0, 1, VISIBLE, "train"),
        (f"{train}/0001/0001_000_15_0303noon_0_1.jpg", 1, 15, VISIBLE, "train"),
        (f"{train}/0000/0000_045_12_0303morning_0006_2.jpg", 0, 12, VISIBLE, "val"),
        (f"{test}/0000/0000_000_04_0302noon_0090_0.jpg", 1041, 4, VISIBLE, "query"),
        (f"{test}/0000/0000_001_05_0302noon_0091_0.jpg", 1041, 5, VISIBLE, "gallery"),
    ]
    assert open_dataset("msmt17", tmp_path, with_val=True).split.tolist()[:3] == ["train"] * 3
    assert faults("msmt17", tmp_path, strict=False) == []


# Manifest


def test_manifest_reads_columns_in_any_order_and_keypoints(tmp_path):
    header = "modality, path ,camid,note,pid,timestamp,split"
    lines = ["infrared,a/1.jpg,3,x,7,12.5,query", "", 'Visible,"a, b.jpg",1,y,-1,,gallery', "1,c.jpg,4,,8,,train"]
    file = trees.write_manifest(tmp_path, lines, "\ufeff" + header)
    points = np.random.default_rng(0).random((2, 18, 3), dtype=np.float32)
    np.savez(tmp_path / "keypoints.npz", path=np.array(["c.jpg", "a/1.jpg"]), kpts=points)
    records = open_dataset("manifest", file)
    assert (
        rows(records)
        == rows(open_dataset("manifest", tmp_path))
        == [
            ("a/1.jpg", 7, 3, INFRARED, "query"),
            ("a, b.jpg", -1, 1, VISIBLE, "gallery"),
            ("c.jpg", 8, 4, INFRARED, "train"),
        ]
    )
    np.testing.assert_array_equal(records.timestamp, [12.5, np.nan, np.nan])
    np.testing.assert_array_equal(records.keypoints, [points[1], np.full((18, 3), np.nan), points[0]])
    assert records.root == tmp_path


def test_manifest_may_begin_with_an_empty_line(tmp_path):
    trees.write_manifest(tmp_path, [GOOD, "a.jpg,1,2,visible"], "")
    assert rows(open_dataset("manifest", tmp_path)) == [("a.jpg", 1, 2, VISIBLE, "test")]


def test_manifest_without_optional_columns(tmp_path):
    records = open_dataset("manifest", trees.write_manifest(tmp_path, ["a.jpg,1,2,visible"]))
    assert rows(records) == [("a.jpg", 1, 2, VISIBLE, "test")]
    assert np.isnan(records.timestamp).all()
    assert records.keypoints is None


@settings(max_examples=25)
@given(data=st.data(), n=st.integers(1, 30))
def test_manifest_names_the_line_of_any_bad_row(tmp_path_factory, data, n):
    lines = [f"{k}.jpg,{k},1,visible" for k in range(n)]
    bad = data.draw(st.integers(0, n - 1))
    fields = lines[bad].split(",")
    fields[data.draw(st.sampled_from([1, 2, 3]))] = "1.5x"
    lines[bad] = ",".join(fields)
    gap = data.draw(st.integers(0, n))
    lines.insert(gap, "")
    file = trees.write_manifest(tmp_path_factory.mktemp("m"), lines)
    with pytest.raises(InputError, match=rf"manifest.csv line {lines.index(','.join(fields)) + 2}: .*'1.5x'"):
        open_dataset("manifest", file)


GOOD = "path,pid,camid,modality"
BAD_MANIFESTS = {
    "column twice": (GOOD + ",pid", ["a,1,1,visible,2"], "line 1: column pid stands in the header twice"),
    "duplicate path": (GOOD, ["a,1,1,visible", "b,1,1,0", "a,2,1,1"], "line 4: path 'a' stands in an earlier line"),
    "bad pid": (GOOD, ["a,1,1,visible", "b,one,1,0"], "line 3: expected an integer pid, found 'one'"),
    "bad camid": (GOOD, ["a,1,,visible"], "line 2: expected an integer camid, found ''"),
    "absolute path": (GOOD, ["/etc/a.jpg,1,1,0"], "line 2: path '/etc/a.jpg' leaves the manifest's folder"),
    "drive": (GOOD, ["C:\\a.jpg,1,1,0"], "line 2: path 'C:"),
    "parent path": (GOOD, ["a,1,1,0", "b/../../c,1,1,0"], "line 3: path 'b/../../c' leaves the manifest's folder"),
    "empty path": (GOOD, [" ,1,1,0"], "line 2: the path is empty"),
    "short row": (GOOD, ["a,1,1,0", "b,1"], "line 3: expected 4 fields, found 2"),
    "unknown split": (GOOD + ",split", ["a,1,1,0,dev"], "line 2: unknown split 'dev': use train, val"),
    "bad timestamp": (GOOD + ",timestamp", ["a,1,1,0,noon"], "line 2: expected a timestamp in seconds"),
    "long field": (GOOD + ",note", ["a,1,1,0," + "x" * 2**18, "b,one,1,0,"], "line 2: field larger than field limit"),
    "no rows": (GOOD, [], "has a header but no rows"),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_bad_manifest(tmp_path, name):
    header, lines, message = BAD_MANIFESTS[name]
    file = trees.write_manifest(tmp_path, lines, header)
    with pytest.raises(InputError) as caught:
        open_dataset("manifest", tmp_path)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_empty_or_absent_or_binary_manifest(tmp_path):
    with pytest.raises(InputError, match=r"there is no manifest .*manifest.csv"):
        open_dataset("manifest", tmp_path)
    file = tmp_path / "manifest.csv"
    file.touch()
    with pytest.raises(InputError, match=r"manifest.csv is empty"):
        open_dataset("manifest", tmp_path)
    file.write_bytes(GOOD.encode() + b"\n\xff\xfe,1,1,visible\n")
    with pytest.raises(InputError, match=r"cannot be read as a UTF-8 CSV"):
        open_dataset("manifest", tmp_path)
    file.write_bytes(GOOD.encode() + b",note\na,one,1,visible,caf\xe9\n")
    with pytest.raises(InputError, match=r"line 2: expected an integer pid, found 'one'"):
        open_dataset("manifest", tmp_path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"path": np.array(["a"])},
        {"path": np.array(["a"], dtype=object), "kpts": np.zeros((1, 18, 3))},
        {"path": np.array(["a"]), "kpts": np.zeros((1, 17, 3))},
        {"path": np.array(["a", "a"]), "kpts": np.zeros((2, 18, 3))},
    ],
    ids=["no kpts", "pickled path", "17 joints", "path twice"],
)
def test_bad_keypoints(tmp_path, arrays):
    np.savez(tmp_path / "keypoints.npz", **arrays)
    with pytest.raises(InputError, match=r"keypoints\.npz"):
        read_keypoints(tmp_path / "keypoints.npz", ["a"])


# What every data set shares


def remove(path):
    def act(root):
        target = root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return act


def write(path, text):
    return lambda root: (root / path).write_text(text)


def write_tiny_sysu(root):
    trees.write_sysu(root, TINY_SYSU, TINY_SPLITS)


def write_tiny_regdb(root):
    trees.write_regdb(root, halves=2, images=1)


def write_two_msmt17(root):
    trees.write_msmt17(root / "MSMT17_V1", 1)
    trees.write_msmt17(root / "MSMT17_V2", 2)


TRAIN_VISIBLE = "idx/train_visible_1.txt"
BAD_TREES = {
    "no camera, no list": (
        "sysu_mm01",
        write_tiny_sysu,
        lambda root: (remove("cam3")(root), remove("exp/val_id.txt")(root)),
        r"SYSU-MM01: \S+ has no cam3, exp/val_id.txt; .* to get the data, send .* wuanc@mail.sysu.edu.cn",
    ),
    "ids not numbers": (
        "sysu_mm01",
        write_tiny_sysu,
        write("exp/test_id.txt", "1,x"),
        r"exp/test_id.txt line 1: expected comma-separated identities, found '1,x'",
    ),
    "id in two splits": (
        "sysu_mm01",
        write_tiny_sysu,
        write("exp/test_id.txt", "1,3"),
        r"identity 1 stands in both train_id.txt and test_id.txt",
    ),
    "binary list": (
        "sysu_mm01",
        write_tiny_sysu,
        lambda root: (root / "exp/test_id.txt").write_bytes(b"\xff\xfe\x00"),
        r"exp/test_id.txt is not a text file",
    ),
    "no trial list": (
        "regdb",
        write_tiny_regdb,
        remove(TRAIN_VISIBLE),
        r"RegDB: \S+ has no idx/train_visible_1.txt; .* dm.dongguk.edu/link.html",
    ),
    "line without label": (
        "regdb",
        write_tiny_regdb,
        write(TRAIN_VISIBLE, "Visible/1/a.bmp 0\n\nVisible/2/b.bmp\n"),
        r"train_visible_1.txt line 3: expected `path label`, found 'Visible/2/b.bmp'",
    ),
    "label of two folders": (
        "regdb",
        write_tiny_regdb,
        write(TRAIN_VISIBLE, "Visible/1/a.bmp 0\nVisible/2/b.bmp 0\n"),
        r"label 0 means folders 1 and 2 in \S+train_visible_1.txt",
    ),
    "folder of two labels": (
        "regdb",
        write_tiny_regdb,
        write(TRAIN_VISIBLE, "Visible/1/a.bmp 1\nVisible/1/b.bmp 5\n"),
        r"RegDB trial 1: one folder has two labels in the train lists",
    ),
    "person in both halves": (
        "regdb",
        write_tiny_regdb,
        write(TRAIN_VISIBLE, "Visible/3/a.bmp 9\n"),
        r"folder 3 stands in both the training and the test lists",
    ),
    "folder not an identity": (
        "regdb",
        write_tiny_regdb,
        write(TRAIN_VISIBLE, "Visible/a.bmp 0\n"),
        r"Visible/a.bmp does not lie in a folder named by its identity",
    ),
    "no nir": ("llcm", trees.write_llcm, remove("nir"), r"LLCM: \S+ has no nir; .* zhangyk@stu.xmu.edu.cn"),
    "no camera in a name": (
        "llcm",
        trees.write_llcm,
        write("idx/train_nir.txt", "nir/0001/0001.jpg 0\n"),
        r"nir/0001/0001.jpg in \S+idx/train_nir.txt names no camera",
    ),
    "no query": ("market1501", trees.write_market1501, remove("query"), r"Market-1501: \S+ has no query; .* L. Zheng"),
    "foreign name": (
        "market1501",
        trees.write_market1501,
        write("query/me.jpg", ""),
        r"query/me.jpg is not named like 0002_c1s1_000451_03.jpg",
    ),
    "no test folder": ("msmt17", trees.write_msmt17, remove("test"), r"has no test or mask_test_v2; .* pkuvmc"),
    "two versions": ("msmt17", write_two_msmt17, lambda root: None, r"more than one copy, \S+V1 and \S+V2; name one"),
    "no camera field": (
        "msmt17",
        trees.write_msmt17,
        write("list_query.txt", "0000/0000.jpg 0\n"),
        r"test/0000/0000.jpg, listed in \S+, is not named like",
    ),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_bad_tree_gives_one_sentence(tmp_path, name):
    data_set, build, spoil, message = BAD_TREES[name]
    build(tmp_path / "tree")
    spoil(tmp_path / "tree")
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(data_set, tmp_path / "tree")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_utf_8_gets_one_sentence(tmp_path):
    tree = tmp_path / os.fsdecode(b"caf\xe9")
    trees.write_market1501(tree)
    with pytest.raises(InputError, match=r"/caf\\xe9 has a name that is not UTF-8: rename it"):
        open_dataset("market1501", tree)
    tree = tree.rename(tmp_path / "café")
    assert len(open_dataset("market1501", tree)) == 6
    trees.touch(tree / "query" / os.fsdecode(b"0001_c1s1_\xe9.jpg"))
    with pytest.raises(InputError, match=r"/café/query/0001_c1s1_\\xe9.jpg has a name that is not UTF-8: rename it"):
        open_dataset("market1501", tree)


@pytest.mark.parametrize("name", ["sysu_mm01", "regdb", "llcm", "market1501", "msmt17"])
def test_absent_data_says_how_to_get_it(tmp_path, name):
    with pytest.raises(InputError) as caught:
        open_dataset(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert DATA_SETS[name].access in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cuhk", {}, "unknown data set 'cuhk': use sysu_mm01, regdb"),
        ("regdb", {"split": 1}, "data set regdb has no option 'split': it takes trial"),
        ("regdb", {"name": "x"}, "data set regdb has no option 'name': it takes trial"),
        ("regdb", {"trial": "one"}, "data set regdb: option trial='one': input should be a valid integer"),
        ("synthetic", {"spectrum": [1]}, "data set synthetic: option spectrum=[1]: input should be a valid string"),
        ("llcm", {"keypoints": 3}, "data set llcm: option keypoints=3: input should be a valid string"),
        ("llcm", {"trial": 1}, "data set llcm has no option 'trial': it takes keypoints"),
        ("regdb", {"trial": 11}, "trial must be 1 to 10, got 11"),
        ("sysu_mm01", {"train_ids": "all"}, "train_ids must be `train+val` or `train`, got 'all'"),
    ],
)
def test_unknown_names_and_options(tmp_path, name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        open_dataset(name, tmp_path, **options)


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_is_described(name):
    info = DATA_SETS[name]
    assert info.name == name
    assert info.title
    assert info.terms
    assert info.protocols


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_counts_agree_exactly_when_nothing_is_found(sizes):
    parts = [(split, modality) for split in ("train", "test") for modality in Modality]
    columns = [(f"{k}/{i}", modality, split) for k, (split, modality) in enumerate(parts) for i in range(sizes[k])]
    records = Records.build(
        "data",
        path=[path for path, _, _ in columns],
        pid=[int(path[-1]) for path, _, _ in columns],
        camid=np.ones(len(columns)),
        modality=[modality for _, modality, _ in columns],
        split=[split for _, _, split in columns],
    )
    right = [Count(n, n, split, modality) for n, (split, modality) in zip(sizes, parts, strict=True)]
    assert list(count_findings(records, right)) == []
    wrong = [Count(count.images + 1, count.ids, count.split, count.modality) for count in right]
    assert [finding.what for finding in count_findings(records, wrong)] == [f"{count} images" for count in wrong]


def test_check_finds_missing_and_repeated_images_and_summarises(tmp_path):
    trees.write_llcm(tmp_path, train=1, test=1)
    list_file = tmp_path / "idx/train_vis.txt"
    first = list_file.read_text().splitlines()[0]
    list_file.write_text(f"{first}\n{first}\nvis/0009/0009_c01_s1_f1_vis.jpg 1\n")
    assert faults("llcm", tmp_path, strict=False) == [
        "listed images of LLCM: expected all 9 on disk, found 1 missing"
        f" (first vis/0009/0009_c01_s1_f1_vis.jpg) in {tmp_path}",
        "images listed once: expected every image in one row of one split, found 1 in several"
        f" (first {first.split()[0]}) in {tmp_path}",
    ]
    table = summary(open_dataset("llcm", tmp_path))
    assert list(table.columns) == ["split", "modality", "camid", "images", "identities"]
    assert ["train", "visible", 1, 3, 2] in table.values.tolist()


def test_check_says_what_it_has_compared_and_whom_one_modality_saw_alone(tmp_path):
    trees.write_llcm(tmp_path / "llcm", train=1, test=1)
    assert "not compared with the published counts" in inspect("llcm", tmp_path / "llcm", strict=False).verdict
    people = [(1, 0, "train"), (1, 1, "train"), (2, 0, "train"), (-1, 1, "train"), (3, 0, "test"), (4, 1, "test")]
    lines = [f"{k}.jpg,{pid},1,{modality},{split}" for k, (pid, modality, split) in enumerate(people)]
    trees.write_manifest(tmp_path / "own", lines, GOOD + ",split")
    report = inspect("manifest", tmp_path / "own")
    assert report.notes == [
        "1 of 2 training identities were seen by one modality only: batches of both modalities never draw them",
        "2 of 2 test identities were seen by one modality only: they match nobody of the other",
    ]
    assert report.verdict == "complete"
    assert ["train", "infrared", 1, 2, 1] in report.summary.values.tolist()


def test_decoding_names_the_truncated_image(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("good.jpg", "cut.jpg"):
        Image.fromarray(rng.integers(0, 255, (64, 32, 3), dtype=np.uint8)).save(tmp_path / name)
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    trees.write_manifest(tmp_path, ["good.jpg,1,1,visible", "cut.jpg,1,2,infrared", "gone.jpg,1,2,infrared"])
    told = []
    report = inspect("manifest", tmp_path, decode=True, progress=lambda done, total: told.append((done, total)))
    assert [finding.what for finding in report.findings] == ["listed images of manifest", "cut.jpg", "gone.jpg"]
    assert "truncated" in report.findings[1].found
    assert told == [(3, 3)]
    assert list(broken_images(report.records.take([0]))) == []


def test_paths_are_posix_and_relative(tiny_sysu):
    records = open_dataset("sysu_mm01", str(tiny_sysu))
    assert all(records.absolute(row).is_file() for row in range(len(records)))
    assert not any(Path(path).is_absolute() for path in records.path)
