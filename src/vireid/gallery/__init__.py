"""Put to work: a searchable gallery of person crops from day and night, responsible by construction."""

from importlib.util import find_spec

from vireid.errors import InputError

if _missing := [name for name in ("alembic", "faiss", "sqlalchemy") if find_spec(name) is None]:
    raise InputError(f"the gallery needs {_missing[0]}: pip install '.[gallery]' in the checkout")

from vireid.gallery.audit import AuditLog
from vireid.gallery.calibration import Calibration, PairCalibration, calibrate
from vireid.gallery.chain import AuditEntry, Verification, verify_lines
from vireid.gallery.export import export_subject
from vireid.gallery.gallery import Gallery
from vireid.gallery.items import UnderVerification
from vireid.gallery.query import Query, image_fingerprint
from vireid.gallery.reranking import RERANKERS, NFormerReranker, Reranker
from vireid.gallery.search import SearchOptions
from vireid.gallery.sheet import contact_sheet, require_sheet_place
from vireid.gallery.types import (
    Camera,
    CameraStats,
    Candidate,
    Confirmation,
    Filter,
    GalleryStats,
    Item,
    Key,
    NewItem,
    Receipt,
    Role,
    SearchResult,
    Settings,
    State,
    Track,
    Use,
)

__all__ = [
    "RERANKERS",
    "AuditEntry",
    "AuditLog",
    "Calibration",
    "Camera",
    "CameraStats",
    "Candidate",
    "Confirmation",
    "Filter",
    "Gallery",
    "GalleryStats",
    "Item",
    "Key",
    "NFormerReranker",
    "NewItem",
    "PairCalibration",
    "Query",
    "Receipt",
    "Reranker",
    "Role",
    "SearchOptions",
    "SearchResult",
    "Settings",
    "State",
    "Track",
    "UnderVerification",
    "Use",
    "Verification",
    "calibrate",
    "contact_sheet",
    "export_subject",
    "image_fingerprint",
    "require_sheet_place",
    "verify_lines",
]
