"""Results as a console table, a LaTeX or Markdown row, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from vireid.errors import InputError
from vireid.evaluation.evaluate import Evaluation
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
    table = Table("protocol", *COLUMNS.values(), "queries", "gallery", caption=_caption(results[0]))
    for result in results:
        first = result.summary.trials[0]
        counts = f"{first.num_valid_queries}/{first.num_queries}"
        table.add_row(result.protocol.name, *_cells(result, " ± "), counts, str(first.num_gallery))
    return table


def _caption(result: Evaluation) -> str:
    stamp: dict[str, Any] = result.stamp
    trials = len(result.summary.trials)
    return (
        f"percent, {trials} trial{'s' if trials > 1 else ''}; feature {stamp['feature']}, flip {stamp['flip']}, "
        f"re-ranking {stamp['rerank'] or 'none'}, checkpoint {stamp['checkpoint']}; valid/all queries"
    )
