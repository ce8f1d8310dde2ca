import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.evaluation import PRESETS, cross, rank_metrics
from vireid.evaluation.evaluate import FeatureTable
from vireid.evaluation.refine import Refinement
from vireid.files import write_text
from vireid.methods import build, cosine_distance
from vireid.plots import INK, distance_figure, to_svg
from vireid.recipe import load_recipe
from vireid.records import Modality, Records
from vireid.report import write_report
from vireid.report.results import both_directions, distances, read_log
from vireid.report.sections import choose_images
from vireid.report.strips import choose_queries, rank_strips
from vireid.training import open_records, train


def write_people(root, ids=8, shots=2):
    rng = np.random.default_rng(0)
    rows = ["path,pid,camid,modality,split"]
    for pid in range(ids):
        pattern = rng.integers(0, 256, (8, 4, 3))
        for modality, camid in (("visible", 1), ("infrared", 3)):
            for shot in range(shots):
                pixels = np.clip(pattern + rng.integers(-40, 40, pattern.shape), 0, 255).astype(np.uint8)
                path = f"{modality}-{pid}-{shot}.jpg"
                Image.fromarray(pixels).resize((32, 64), Image.Resampling.BICUBIC).save(root / path)
                rows.append(f"{path},{pid},{camid + shot},{modality},{'train' if pid < ids // 2 else 'test'}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "data").mkdir()
    write_people(folder / "data")
    (folder / "data" / "synthetic.json").write_text("{}")
    recipe = {
        "data": {"name": "manifest", "root": str(folder / "data"), "image_size": [64, 32], "cache": False},
        "epochs": 1,
        "backbone": {"weights": "none"},
        "options": {"non_local": False},
        "augment": {"pad": 2},
        "sampling": {"identities": 2, "visible": 2, "infrared": 2},
    }
    train(load_recipe(recipe), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def page(run):
    seen = []
    write_report(run, run / "report.html", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (32, 32)  # 16 test images, two bundles
    return (run / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_page_is_one_file_that_asks_nothing_of_the_outside(page):
    assert not re.search(r"https?://|url\(|@import", page)
    elements = Elements(page).found
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in elements}
    images = [attrs for tag, attrs in elements if tag == "img"]
    assert images
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    svgs = [image["src"] for image in images if "svg" in image["src"][:20]]
    assert len(svgs) == 4
    for svg in svgs:
        drawn = base64.b64decode(svg.partition(",")[2]).decode()
        assert not re.search(r'href="[^#]', drawn)


def test_page_holds_the_numbers_of_both_directions(page, run):
    records = open_records(load_recipe(run / "recipe.yaml")).where(split="test")
    table = FeatureTable.extract(Embedder.load(run / "last.safetensors"), records, cache=False)
    text = re.sub(r"(<[^>]+>|\s)+", " ", page)
    for protocol in (cross(), cross(Modality.VISIBLE, Modality.INFRARED)):
        mean = table.evaluate(protocol).summary.mean()
        cells = [f"{100 * mean[name]:.1f}" for name in ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")]
        row = [str(protocol.query.modality), "→", str(protocol.gallery.modality), protocol.name, "last epoch 1", *cells]
        assert " ".join([*row, "8 of 8 8"]) in text
    assert "selected on test" in text


def test_synthetic_data_is_called_so_in_any_layout(page):
    assert "<h1>AGW on synthetic people in the layout of manifest</h1>" in page
    assert "Every picture here is rendered." in page


def test_missing_run_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"no run folder \(it has no recipe.yaml\)"):
        write_report(tmp_path / "nothing", tmp_path / "report.html")
    (tmp_path / "recipe.yaml").write_text("method: agw\n")
    with pytest.raises(InputError, match=r"no last.safetensors: finish it"):
        write_report(tmp_path, tmp_path / "report.html")
    (tmp_path / "last.safetensors").touch()
    for name, texts in {
        "environment.json": ("", "[1]"),
        "logs/metrics.csv": ("", "a,b\n1,2\n", "epoch,step\nx,1\n"),
    }.items():
        for text in texts:
            write_text(tmp_path / name, text)
            with pytest.raises(InputError, match=rf"{name} is damaged \(.*\): restore it, or delete it"):
                write_report(tmp_path, tmp_path / "report.html")
        (tmp_path / name).unlink()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("hide", "gallery", "right"),
    [
        # distances of query 0 (pid 7, camera 1) are 3 1 2 1 0 to pids 7 5 7 7 -1: junk never, ties by position
        ("none", [1, 3, 2, 0], [False, True, True, True]),
        ("same_id_and_camera", [1, 2, 0], [False, True, True]),
        ("same_location", [2, 0], [True, True]),
    ],
)
def test_strips_mark_right_and_wrong_and_leave_out_what_is_hidden(hide, gallery, right):
    distances = np.array([[3.0, 1.0, 2.0, 1.0, 0.0]])
    (strip,) = rank_strips(distances, [7], [7, 5, 7, 7, -1], [1], [4, 1, 5, 1, 4], hide)
    assert strip.gallery.tolist() == gallery
    assert strip.right.tolist() == right
    assert strip.distance.tolist() == distances[0, gallery].tolist()


def test_a_strip_begins_right_exactly_when_the_rank_is_one():
    rng = np.random.default_rng(1)
    distances = rng.integers(0, 6, (40, 30)).astype(float)
    labels = [rng.integers(0, high, size) for high, size in ((6, 40), (6, 30), (3, 40), (3, 30))]
    metrics = rank_metrics(distances, *labels, hide="same_id_and_camera")
    strips = rank_strips(distances, *labels, hide="same_id_and_camera", length=30)
    assert [int(np.argmax(strip.right)) + 1 if strip.right.any() else 0 for strip in strips] == metrics.rank.tolist()


@pytest.mark.parametrize(
    ("rank", "pids", "chosen"),
    [
        ([1, 1, 2, 1, 0, 3], [0, 0, 1, 2, 3, 4], [0, 3, 2, 5]),  # an identity once, hits first, never an invalid query
        ([1] * 9, range(9), [0, 1, 2, 3, 5, 6, 7, 8]),
        ([2] * 9, range(9), [0, 1, 2, 3, 5, 6, 7, 8]),
        ([1] * 6 + [2] * 6, range(12), [0, 1, 2, 4, 5, 6, 8, 11]),
    ],
)
def test_queries_are_chosen_to_show_hits_and_misses(rank, pids, chosen):
    assert choose_queries(np.array(rank), np.array(pids)).tolist() == chosen


@pytest.mark.parametrize(
    ("names", "added"),
    [
        (["cross"], ["cross-vis2ir"]),
        (["sysu-all", "sysu-indoor"], ["sysu-all-exchanged", "sysu-indoor-exchanged"]),
        (["regdb-v2t", "regdb-t2v"], []),
        (["llcm-ir2vis", "llcm-vis2ir", "llcm-vis2ir-swapped"], []),
        (["market1501"], []),
    ],
)
def test_every_protocol_gets_its_opposite(names, added):
    protocols = [PRESETS[name] for name in names]
    assert [protocol.name for protocol in both_directions(protocols)[len(protocols) :]] == added


def test_what_is_drawn_is_refined_among_all_queries():
    rng = torch.Generator().manual_seed(0)
    features = {"global": torch.nn.functional.normalize(torch.randn(20, 8, generator=rng))}
    records = Records.build(".", list(map(str, range(20))), range(20), [1] * 20, [1] * 8 + [0] * 12)
    refiner = build("nformer", num_classes=3, input_dim=8, layers=1, landmarks=3, neighbors=4, init="mean").eval()
    table = FeatureTable(records, features, cosine_distance, {}, refinement=Refinement(refiner))
    queries, gallery, some = np.arange(8), np.arange(8, 20), np.array([5, 2])
    whole = distances(table, "global", queries, gallery, queries)
    assert torch.allclose(distances(table, "global", queries, gallery, some, some), whole[some][:, some], atol=1e-6)
    assert not torch.allclose(distances(table, "global", queries[some], gallery, np.arange(2)), whole[some])


def test_log_is_averaged_by_epoch(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,id,test/mAP,test/rank5\n0,9,3.0,,\n0,19,1.0,,\n0,20,,0.5,0.7\n1,29,1.5,,\n")
    losses, scores = read_log(path)
    assert losses == {"id": ([1, 2], [2.0, 1.5])}
    assert scores == {"test/mAP": ([1], [0.5])}


def test_embedding_images_are_few_and_of_both_modalities():
    pid = np.repeat(np.arange(50), 40)
    records = Records.build(".", [f"{row}" for row in range(2000)], pid, pid * 0, np.arange(2000) % 2)
    chosen = records.take(choose_images(records))
    assert len(chosen) == 600
    assert len(np.unique(chosen.pid)) == 30
    assert set(np.bincount(chosen.modality)) == {300}


def test_figures_follow_the_readers_colour_scheme():
    svg = to_svg(distance_figure(np.array([0.1, 0.2]), np.array([0.5, 0.9]))).decode()
    assert INK not in svg.replace("svg{color:" + INK, "")
    assert "prefers-color-scheme:dark" in svg
