"""From footage to a gallery: find persons, follow them, keep the best pictures, embed and store."""

from vireid.ingest.command import check_source, ingest
from vireid.ingest.crops import guess_modality
from vireid.ingest.detect import Detections, Detector, open_detector
from vireid.ingest.plan import Outcome, Plan, Report, Tally
from vireid.ingest.video import Frame, Video

__all__ = [
    "Detections",
    "Detector",
    "Frame",
    "Outcome",
    "Plan",
    "Report",
    "Tally",
    "Video",
    "check_source",
    "guess_modality",
    "ingest",
    "open_detector",
]
