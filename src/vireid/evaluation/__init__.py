"""Evaluation: exact rankings, the field's protocols, re-ranking, verification and distractors."""

from vireid.evaluation.distances import feature_distances
from vireid.evaluation.distractors import distractor_curve
from vireid.evaluation.features_file import read_features
from vireid.evaluation.presets import PRESETS, cross
from vireid.evaluation.protocols import Protocol, Selector
from vireid.evaluation.ranking import RankMetrics, rank_blocks, rank_features, rank_metrics
from vireid.evaluation.rerank import k_reciprocal_rerank
from vireid.evaluation.roc import VerificationRoc, verification_roc, verification_scores
from vireid.evaluation.trials import TrialSummary, evaluate_distances, evaluate_features

__all__ = [
    "PRESETS",
    "Protocol",
    "RankMetrics",
    "Selector",
    "TrialSummary",
    "VerificationRoc",
    "cross",
    "distractor_curve",
    "evaluate_distances",
    "evaluate_features",
    "feature_distances",
    "k_reciprocal_rerank",
    "rank_blocks",
    "rank_features",
    "rank_metrics",
    "read_features",
    "verification_roc",
    "verification_scores",
]
