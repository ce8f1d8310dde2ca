"""Bring your own data: a CSV `path,pid,camid,modality[,split][,timestamp]` beside the images.

Read column by column with Arrow: a million rows take seconds, and no image is touched.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from vireid.data.findings import Finding, shared_identities, unanswered_queries
from vireid.data.info import DataSetInfo
from vireid.errors import InputError
from vireid.records import Modality, Records

REQUIRED = ("path", "pid", "camid", "modality")
OPTIONAL = ("split", "timestamp")
SPLITS = ("train", "val", "test", "query", "gallery")
OUTSIDE = r"^([/\\~]|[A-Za-z]:)|(^|[/\\])\.\.([/\\]|$)"


def load(root: str | Path) -> Records:
    """Read a manifest.

    Args:
        root: the CSV file, or the folder that holds it as `manifest.csv`. Paths in it are relative to
            that folder; without a column `split` every row is `test`.

    Raises:
        InputError: naming the line of the first row that cannot be read.
    """
    file = Path(root).expanduser()
    file = file / "manifest.csv" if file.is_dir() else file
    columns = _read_columns(file)
    path = _paths(columns["path"], file)
    return Records.build(
        file.parent,
        path=path.tolist(),
        pid=_numbers(columns["pid"], pa.int64(), "an integer pid", file),
        camid=_numbers(columns["camid"], pa.int64(), "an integer camid", file),
        modality=_decode(columns["modality"], Modality.parse, file).astype(np.int64),
        split=_decode(columns["split"], _split, file).tolist() if "split" in columns else "test",
        timestamp=_timestamps(columns["timestamp"], file) if "timestamp" in columns else None,
    )


def _read_columns(file: Path) -> dict[str, pa.Array]:
    """Read the known columns as trimmed text."""
    line, header = _header(file)
    names = [name for name in (*REQUIRED, *OPTIONAL) if name in header]
    types = {name: pa.string() for name in names}
    try:
        table = pa.csv.read_csv(
            file,
            read_options=pa.csv.ReadOptions(column_names=header, skip_rows=line),
            convert_options=pa.csv.ConvertOptions(include_columns=names, column_types=types),
        )
    except pa.ArrowInvalid as error:
        _explain(file, len(header), error)
    if table.num_rows == 0:
        raise InputError(f"{file} has a header but no rows; add one row per image")
    return {name: pc.utf8_trim_whitespace(table[name].combine_chunks()) for name in names}


def _header(file: Path) -> tuple[int, list[str]]:
    """Return the header and the number of its last line."""
    if not file.is_file():
        raise InputError(f"there is no manifest {file}; write a CSV with the columns {','.join(REQUIRED)}")
    line, fields = next(_rows(file), (1, [""]))
    header = [name.strip() for name in fields]
    if not any(header):
        raise InputError(f"{file} is empty; its first line must be {','.join(REQUIRED)}")
    if missing := [name for name in REQUIRED if name not in header]:
        raise InputError(f"{file} line 1: no column {', '.join(missing)} in the header {','.join(header)}")
    if repeated := [name for name in (*REQUIRED, *OPTIONAL) if header.count(name) > 1]:
        raise InputError(f"{file} line 1: column {repeated[0]} stands in the header twice; keep one")
    return line, header


def _explain(file: Path, width: int, error: pa.ArrowInvalid) -> NoReturn:
    """Find the line that Arrow could not split into `width` fields."""
    for line, fields in _rows(file):
        if len(fields) != width:
            raise InputError(f"{file} line {line}: expected {width} fields, found {len(fields)}") from None
    reason = str(error).partition("\n")[0]
    raise InputError(f"{file} cannot be read as a UTF-8 CSV ({reason}); save it as one") from None


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each row, empty lines skipped as Arrow skips them."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        reader = csv.reader(lines)
        try:
            yield from ((reader.line_num, fields) for fields in reader if fields)
        except csv.Error as error:
            wrong = f"{file} line {reader.line_num}: {error}"
            raise InputError(f"{wrong}; close the quote that was left open, or shorten the field") from None


def _reject(bad: pa.Array, text: pa.Array, file: Path, fault: str) -> None:
    """Raise for the first true row of `bad`, naming its line; `fault` may quote the `{value}`."""
    row = pc.index(bad, True).as_py()
    if row < 0:
        return
    line = next(line for number, (line, _) in enumerate(_rows(file), start=-1) if number == row)
    raise InputError(f"{file} line {line}: " + fault.format(value=repr(text[row].as_py())))


def _paths(text: pa.Array, file: Path) -> NDArray[np.object_]:
    _reject(pc.equal(text, ""), text, file, "the path is empty")
    outside = "path {value} leaves the manifest's folder; write it relative to that folder, without .."
    _reject(pc.match_substring_regex(text, OUTSIDE), text, file, outside)
    paths = text.to_numpy(zero_copy_only=False)
    if pc.count_distinct(text).as_py() < len(text):
        repeated = pa.array(pd.Series(paths).duplicated().to_numpy())
        _reject(repeated, text, file, "path {value} stands in an earlier line too; keep one row per image")
    return paths


def _numbers(text: pa.Array, kind: pa.DataType, noun: str, file: Path) -> NDArray[Any]:
    try:
        return pc.cast(text, kind).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        bad = pa.array([not _castable(value, kind) for value in text])
        _reject(bad, text, file, f"expected {noun}, found {{value}}")
        raise


def _castable(value: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        value.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _timestamps(text: pa.Array, file: Path) -> NDArray[np.float64]:
    known = pc.if_else(pc.equal(text, ""), "nan", text)
    return _numbers(known, pa.float64(), "a timestamp in seconds or nothing", file)


def _split(name: str) -> str:
    if name not in SPLITS:
        raise InputError(f"unknown split {name!r}: use {', '.join(SPLITS)}")
    return name


def _decode(text: pa.Array, parse: Any, file: Path) -> NDArray[np.object_]:
    """Parse each distinct value once; an InputError of `parse` is given the line of the first such row."""
    coded = text.dictionary_encode()
    values = []
    for value in coded.dictionary.to_pylist():
        try:
            values.append(parse(value))
        except InputError as error:
            _reject(pc.equal(text, value), text, file, str(error).replace("{", "{{").replace("}", "}}"))
    return np.array(values, dtype=object)[coded.indices.to_numpy()]


def audit(records: Records) -> Iterator[Finding]:
    """Check that no identity is trained on and tested with, and that fixed queries have answers."""
    return chain(shared_identities(records), unanswered_queries(records))


INFO = DataSetInfo(
    name="manifest",
    title="manifest",
    load=load,
    access="write a CSV path,pid,camid,modality beside your images",
    terms="Your own; show people only with their consent.",
    protocols=("cross-ir2vis", "cross-vis2ir"),
    audit=audit,
)
