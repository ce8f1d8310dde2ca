"""Re-ranking the head of a search: by the method's own distance, and by a refiner."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from gallery_people import DIM, USE, make_people
from vireid.errors import InputError
from vireid.gallery import Filter, Gallery, NewItem, NFormerReranker, Query
from vireid.records import Modality


@pytest.fixture(scope="module")
def gallery(run, manifest, tmp_path_factory):
    """Twelve visible crops; the vectors are shuffled, so that only a second look at the crops can rank them."""
    with Gallery.create(tmp_path_factory.mktemp("galleries") / "g", bundle=run / "last.safetensors") as gallery:
        crops = [(manifest / f"visible_{pid}_0.jpg").read_bytes() for pid in range(12)]
        vectors = gallery.embedder().embed([Image.open(io.BytesIO(crop)) for crop in crops], "visible")
        items = [NewItem(id=str(pid), camera="gate", modality="visible") for pid in range(12)]
        gallery.add(items, vectors[::-1], crops)
        yield gallery


@pytest.mark.parametrize("batch", [64, 5])
def test_parts_ranks_by_the_method_s_own_distance(gallery, manifest, monkeypatch, batch):
    monkeypatch.setattr("vireid.gallery.reranking._BATCH", batch)
    image = manifest / "infrared_3_0.jpg"
    query = Query.from_image(image, "infrared", gallery.embedder())
    by_crops = gallery.vectors([str(pid) for pid in range(11, -1, -1)]) @ query.vector
    result = gallery.search(query, use=USE, rerank="parts")
    assert result.rerank == "parts"
    assert [c.item.id for c in result.candidates] == [str(pid) for pid in np.argsort(-by_crops)]
    stored = gallery.search(Query.from_item(gallery, "3"), use=USE, rerank="parts")
    assert {c.item.id for c in stored.candidates} == {str(pid) for pid in range(12)} - {"3"}


def test_parts_needs_pictures(gallery):
    query = Query.from_vector(gallery.vectors(["3"])[0], "visible")
    with pytest.raises(InputError, match="needs the query's picture and all crops"):
        gallery.search(query, use=USE, rerank="parts")


def test_nformer_ranks_by_refined_features(tmp_path):
    from vireid.evaluation.refine import Refinement, RefineOptions, rerank_top
    from vireid.methods import build

    torch.manual_seed(0)
    refiner = build("nformer", num_classes=4, input_dim=DIM, layers=1, landmarks=3, neighbors=4).eval()
    options = RefineOptions(mode="local")
    items, vectors, _ = make_people()
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        gallery.add(items, vectors)
        query = Query.from_vector(vectors[0], "visible")
        where = Filter(modality="infrared")
        plain = gallery.search(query, use=USE, where=where).candidates
        result = gallery.search(query, use=USE, where=where, rerank=NFormerReranker(Refinement(refiner, options)))
        as_before = NFormerReranker(Refinement(refiner, RefineOptions(mode="local", blend=0)))
        assert gallery.search(query, use=USE, where=where, rerank=as_before).candidates == plain
        head = torch.from_numpy(gallery.vectors([c.item.id for c in plain]))
        with pytest.raises(InputError, match="re-ranking by nformer needs the query's modality"):
            gallery.search(Query.from_vector(vectors[0]), use=USE, rerank=NFormerReranker(Refinement(refiner, options)))
    kinds = torch.tensor([Modality.VISIBLE]), torch.full((1, len(plain)), Modality.INFRARED)
    scores = rerank_top(refiner, torch.from_numpy(query.vector)[None], head[None], *kinds, options)[0]
    assert result.rerank == "nformer"
    assert [c.item.id for c in result.candidates] == [plain[i].item.id for i in scores.argsort(descending=True)]
