"""The base of every typed option set, and the sentences that meet a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from vireid.errors import InputError

Model = TypeVar("Model", bound=BaseModel)

_REMEDIES = dict.fromkeys(
    ("timezone_aware", "datetime_parsing", "datetime_from_date_parsing"),
    "write a time with its zone, such as 2026-05-03T21:00:00+02:00",
)


class Options(BaseModel):
    """A frozen set of named options: an unknown name, a wrong type or a number that is not finite is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Body(Options):
    """Options that a stranger may send: with very many unknown names they are refused as a whole, not name by name."""

    @model_validator(mode="before")
    @classmethod
    def _few(cls, values: Any) -> Any:
        known = len(cls.model_fields)
        if isinstance(values, Mapping) and len(values) > 2 * known + 8:
            raise ValueError(f"{len(values):,} fields, of which {known} at most are known: leave the others out")
        return values


def checked(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Return a model of a user's values.

    Args:
        model: what they must fit.
        values: by name.
        where: beginning of the error's sentence, such as `recipe r.yaml:`.

    Raises:
        InputError: naming every value that does not fit, with the names there are for one that is unknown.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where} {describe(error, model)}") from error


def require_unset(options: Options, cause: str, *names: str) -> None:
    """Refuse options that would do nothing: those that differ from their default.

    Args:
        options: the set.
        cause: what makes them idle, such as `pool=average`.
        names: of the idle ones.

    Raises:
        ValueError: naming them.
    """
    if idle := changed(options, names):
        raise ValueError(f"{', '.join(idle)} would do nothing with {cause}: leave it out")


def changed(options: Options, names: Iterable[str]) -> list[str]:
    """Return those of the fields named that differ from their default."""
    fields = type(options).model_fields
    return [name for name in names if getattr(options, name) != fields[name].default]


def setting(flag: str, text: str, example: str) -> tuple[str, Any]:
    """Read one `key=value` of a flag; the value is YAML.

    Raises:
        InputError: without key or `=`, with the example, and for a value that is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"{flag} {text}: write key=value, such as {example}")
    try:
        return key, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2026-13-01
        raise InputError(f"{flag} {text}: the value is not YAML, put it between quotes") from error


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Turn a pydantic error about a model into one line: every offending key and what is wrong with it."""
    parts = []
    for item in error.errors():
        place = [str(step) for step in item["loc"]]
        problem = _REMEDIES.get(item["type"], item["msg"].removeprefix("Value error, "))
        if item["type"] == "extra_forbidden":
            problem = f"unknown option, {_alternatives(place[-1], _names(model, place[:-1]))}"
        parts.append(": ".join(filter(None, (".".join(place), problem))))
    return "; ".join(parts)


def _alternatives(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"


def _names(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    """Return the names of the options at a place of a model; a key of a mapping of models leads to their names."""
    for step in place:
        if step in model.model_fields:
            annotation = model.model_fields[step].annotation
            kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
            model = next((kind for kind in kinds if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
