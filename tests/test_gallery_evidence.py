"""What an answer rests on: no match that another pair of modalities hides, no evidence that changes without a trace."""

import numpy as np
import pytest

from gallery_people import DIM, USE
from vireid.gallery import Calibration, Filter, Gallery, NewItem, PairCalibration, Query
from vireid.gallery.types import utc_now


class Plain:
    name = "plain"

    def rerank_top(self, query, head):
        return head.vectors @ query.vector


def calibration(**thresholds):
    known = {"tpr": 1, "fpr": 0, "eer": 0, "num_genuine": 9, "num_impostor": 9, "slope": 10}
    curve = {"similarity": (0, 1), "roc_fpr": (1, 0), "roc_tpr": (1, 0)}
    pairs = {
        name.replace("_", "-"): PairCalibration(threshold=t, intercept=-10 * t, **known, **curve)
        for name, t in thresholds.items()
    }
    return Calibration(target_fpr=0.1, bundle_sha256="", made=utc_now(), pairs=pairs)


@pytest.mark.parametrize("options", [{"k": 20}, {"k": 1}, {"k": 1, "rerank": Plain()}])
@pytest.mark.parametrize("below", [False, True])
def test_strangers_below_their_threshold_hide_no_match_above_its_own(tmp_path, options, below):
    """30 infrared strangers at 0.80 (threshold 0.90) and the person in colour at 0.60 (threshold 0.50)."""
    away = np.random.default_rng(0).standard_normal((31, DIM - 1))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    cosine = np.array([0.8] * 30 + [0.6])[:, None]
    vectors = np.concatenate([cosine, np.sqrt(1 - cosine**2) * away], axis=1)
    items = [NewItem(id=f"stranger {i}", camera="yard", modality="infrared") for i in range(30)]
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        gallery.add([*items, NewItem(id="the person", camera="gate", modality="visible")], vectors)
        gallery.store_calibration(calibration(infrared_infrared=0.9, infrared_visible=0.5))
        query = Query.from_vector(np.eye(DIM)[0], "infrared")
        found = gallery.search(query, use=USE, include_below=below, **options)
        assert (found.verdict, found.candidates[0].item.id) == ("candidates", "the person")
        assert len(found.candidates) == (options["k"] if below else 1)
        strangers = gallery.search(query, use=USE, where=Filter(modality="infrared"), **options)
        assert strangers.verdict == "no match above the threshold"
