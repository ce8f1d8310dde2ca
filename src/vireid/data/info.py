"""What the toolbox knows about a data set besides its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vireid.data.findings import Count, Finding
from vireid.records import Records


def no_further_checks(records: Records) -> Iterator[Finding]:
    """Find nothing: the audit of a data set that the common checks cover."""
    yield from ()


@dataclass(frozen=True)
class DataSetInfo:
    """A data set: how to read it, whom to ask for it, and what should be in it.

    Attributes:
        name: as in `--data NAME`.
        title: as papers write it.
        load: `load(root, **options) -> Records`.
        access: half a sentence that completes "to get the data, …".
        terms: what the owners allow.
        protocols: names of the evaluation presets, the default first.
        counts: published counts of the table that `load(root, **check_options)` gives.
        cameras: every camera number; empty where any number may occur.
        infrared: `nir` or `lwir`, unless an option `spectrum` says which.
        check_options: options under which `counts` holds.
        audit: checks of this data set alone.
    """

    name: str
    title: str
    load: Callable[..., Records]
    access: str
    terms: str
    protocols: tuple[str, ...]
    counts: tuple[Count, ...] = ()
    cameras: tuple[int, ...] = ()
    infrared: str = "nir"
    check_options: tuple[tuple[str, Any], ...] = ()
    audit: Callable[[Records], Iterator[Finding]] = no_further_checks
