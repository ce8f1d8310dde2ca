"""One thing that SQLAlchemy leaves open: a list of any length as one parameter, in either database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Boolean, ColumnElement, Dialect, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class _Numbers(TypeDecorator[Any]):
    """A list of integers: JSON text in SQLite, an array in PostgreSQL."""

    impl = Text
    cache_ok = True
    element: type[TypeEngine[Any]] = BigInteger

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        inner = Text() if dialect.name == "sqlite" else ARRAY(self.element())
        return dialect.type_descriptor(inner)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return json.dumps(list(value)) if dialect.name == "sqlite" else list(value)


class _Texts(_Numbers):
    """A list of texts."""

    cache_ok = True
    element = Text


class _Among(FunctionElement[bool]):
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        return self  # SQLAlchemy would write "… = 1", which keeps SQLite from its index


def among(column: Any, values: Iterable[Any] | str) -> ColumnElement[bool]:
    """Return `column IN values`; values are a list, or the name of a parameter to give with the statement."""
    kind = _Numbers() if issubclass(column.type.python_type, int) else _Texts()
    if isinstance(values, str):
        return _Among(column, bindparam(values, type_=kind))
    return _Among(column, bindparam(None, list(values), type_=kind))


@compiles(_Among, "sqlite")
def _sqlite(element: _Among, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({values})))"


@compiles(_Among, "postgresql")
def _postgresql(element: _Among, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} = ANY({values}))"
