"""Results as a console table, a LaTeX or Markdown row, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vireid.errors import InputError
from vireid.evaluation.evaluate import Evaluation
from vireid.evaluation.ranking import RankMetrics
from vireid.evaluation.roc import VerificationRoc
from vireid.files import write_text

COLUMNS = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "rank20": "rank-20", "mAP": "mAP", "mINP": "mINP"}


def render(results: Sequence[Evaluation], style: str) -> Table | str:
    """Return the results for `console`, or as `latex` or `markdown` rows, in percent.

    Raises:
        InputError: for another style.
    """
    if style == "console":
        return _console(results)
    if style == "markdown":
        header = f"| protocol | {' | '.join(COLUMNS.values())} |\n|{' --- |' * (len(COLUMNS) + 1)}"
        return "\n".join([header, *(f"| {r.protocol.name} | {' | '.join(_cells(r, ' ± '))} |" for r in results)])
    if style == "latex":
        rows = (" & ".join([r.protocol.name, *_cells(r, r" $\pm$ ")]) + r" \\" for r in results)
        return "\n".join([f"% protocol & {' & '.join(COLUMNS.values())}", *rows])
    raise InputError(f"unknown format {style!r}: use console, latex or markdown")


def write_json(path: Path, results: Sequence[Evaluation]) -> None:
    """Write the first protocol's result at the top level and every result under `results`."""
    entries = [result.as_dict() for result in results]
    write_text(path, json.dumps({**entries[0], "results": entries}, indent=2) + "\n")


def _cells(result: Evaluation, plus_minus: str) -> list[str]:
    mean, sd = result.summary.mean(), result.summary.sd()
    several = len(result.summary.trials) > 1
    return [f"{100 * mean[k]:.2f}" + (f"{plus_minus}{100 * sd[k]:.2f}" if several else "") for k in COLUMNS]


def _console(results: Sequence[Evaluation]) -> Table:
    headings = (heading.replace("rank-", "r") for heading in COLUMNS.values())
    table = Table(
        "protocol",
        *headings,
        "query",
        "gallery",
        caption="\n".join(dict.fromkeys(map(_caption, results))) + "; valid/all queries",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.columns[0].no_wrap = True
    for result in results:
        first = result.summary.trials[0]
        counts = f"{first.num_valid_queries}/{first.num_queries}"
        table.add_row(result.protocol.name, *_cells(result, " ± "), counts, str(first.num_gallery))
    return table


def _caption(result: Evaluation) -> str:
    trials = len(result.summary.trials)
    if result.protocol.model_per_trial:
        return describe_stamp(result.stamp, f"{trials} of {result.protocol.trials} splits")
    return describe_stamp(result.stamp, f"{trials} trial{'s' if trials > 1 else ''}")


def describe_stamp(stamp: Mapping[str, Any], trials: str) -> str:
    """Return in a line what a result depends on; `trials` says how many it has."""
    refined = f", refined {stamp['refine']['mode']}" if stamp["refine"] else ""
    refiner = f", the refiner's {_joined(stamp['refiner_checkpoint'])}" if stamp["refine"] else ""
    changed = "".join(f", {name}={value}" for name, value in stamp.get("options", {}).items())
    return (
        f"{'synthetic data, ' if stamp.get('synthetic') is True else ''}percent, {trials}; "
        f"feature {stamp['feature']}{changed}, "
        f"flip {stamp['flip']}, precision {stamp['precision']}, re-ranking {stamp['rerank'] or 'none'}{refined}"
        f"{', transductive' if stamp['transductive'] else ''}, "
        f"checkpoint {_joined(stamp['checkpoint'])}{refiner}"
    )


def _joined(values: str | list[str]) -> str:
    return values if isinstance(values, str) else ", ".join(values)


def roc_table(name: str, roc: VerificationRoc) -> Table:
    """Return the operating points of verification, one row a false positive rate."""
    table = Table(
        "false positive rate", "true positive rate", "threshold (1 − distance)", title=f"{name}: verification"
    )
    for row in roc.table():
        table.add_row(f"{row['fpr']:.2e}", f"{row['tpr']:.4f}", f"{row['threshold']:.4f}")
    table.caption = (
        f"equal error rate {roc.eer:.4f} at {roc.eer_threshold:.4f}; "
        f"{roc.num_genuine} genuine, {roc.num_impostor} impostor pairs"
    )
    return table


def curve_table(name: str, curve: Sequence[RankMetrics], stamp: Mapping[str, Any]) -> Table:
    """Return one row per gallery size."""
    table = Table("gallery images", *COLUMNS.values(), title=f"{name}: first trial, strangers added to the gallery")
    table.caption = describe_stamp(stamp, "1 trial")
    for metrics in curve:
        values = metrics.as_dict()
        table.add_row(f"{metrics.num_gallery:,}", *(f"{100 * values[key]:.2f}" for key in COLUMNS))
    return table


def write_curves(path: Path, content: Mapping[str, Any]) -> None:
    """Write the distractor curves by protocol, as `GalleryCurve.as_dict` gives them, as JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")
