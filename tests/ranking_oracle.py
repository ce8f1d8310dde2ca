"""The definition of CMC, AP and INP, one query and one image at a time: slow, literal, the judge of the rest."""

import numpy as np


def is_hidden(hide, pid, camid, gallery_pid, gallery_camid):
    if hide == "same_location":
        rooms = {1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6}
        return rooms.get(camid, camid) == rooms.get(gallery_camid, gallery_camid)
    return hide == "same_id_and_camera" and pid == gallery_pid and camid == gallery_camid


def score_list(ranked_pids, pid):
    """Return AP, INP, image rank and identity rank of one ranked list; None without a true match."""
    precisions, seen, image_rank, identity_rank, last = [], [], None, None, None
    for position, other in enumerate(ranked_pids, start=1):
        if other == pid:
            precisions.append((len(precisions) + 1) / position)
            last = position
            if image_rank is None:
                image_rank, identity_rank = position, len(seen) + 1
        elif other not in seen:
            seen.append(other)
    if not precisions:
        return None
    return sum(precisions) / len(precisions), len(precisions) / last, image_rank, identity_rank


def plain_rank_metrics(distances, qp, gp, qc, gc, hide="none", cmc_unit="image", max_rank=20):
    """Return cmc, mAP, mINP and the number of valid queries; zeros in place of averages over nothing."""
    scores = []
    for i, (pid, camid) in enumerate(zip(qp, qc, strict=True)):
        order = sorted(range(len(gp)), key=lambda j, i=i: (distances[i][j], j))
        order = [j for j in order if gp[j] != -1 and not is_hidden(hide, pid, camid, gp[j], gc[j])]
        score = score_list([gp[j] for j in order], pid)
        if score is not None:
            scores.append(score)
    if not scores:
        return np.zeros(max_rank), 0.0, 0.0, 0
    ranks = [score[2 if cmc_unit == "image" else 3] for score in scores]
    cmc = np.array([sum(rank <= k for rank in ranks) / len(scores) for k in range(1, max_rank + 1)])
    return cmc, sum(s[0] for s in scores) / len(scores), sum(s[1] for s in scores) / len(scores), len(scores)
