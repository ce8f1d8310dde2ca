"""Every error of the API is {"detail": one sentence}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vireid.errors import BusyError, InputError, MissingError, StorageError
from vireid.options import Options
from vireid.serve.uploads import TooLarge, UnreadablePicture

Responses = dict[int | str, dict[str, Any]]
"""What OpenAPI says of a route's answers by status."""


class Error(Options):
    """What is wrong and how to mend it, in one sentence."""

    detail: str


_MEANINGS = {
    400: "The body cannot be parsed",
    401: "No valid API key",
    403: "The key's role does not allow this",
    404: "No such item, track, camera, key, confirmation or search",
    408: "The body took too long to arrive",
    409: "The request does not fit this gallery, such as a vector of another length",
    413: "The upload is too large",
    415: "The upload is no picture that can be decoded",
    422: "The request does not fit this description",
    429: "This key, or this address, asks for too much: see Retry-After",
    503: "The service is at its bound: see Retry-After",
}


_PLAIN = {
    "Not Found": "there is no such address: see /openapi.json",
    "There was an error parsing the body": "the body cannot be parsed: send well-formed JSON, or a multipart form",
    "Method Not Allowed": "this address takes other methods: see /openapi.json",
}


_MENDED = {
    "extra_forbidden": "unknown field, leave it out",
    "json_invalid": "from here on the body is no JSON, send it well-formed",
    "missing": "is missing, send it too",
    "string_pattern_mismatch": "is blank or holds control characters",
}
"""What is said in place of pydantic's words."""


def error_responses(*statuses: int) -> Responses:
    """Return what OpenAPI says about a route's errors: these and those that every route with a key can have."""
    chosen = sorted({*statuses, 400, 401, 403, 408, 409, 422, 429, 503})
    return {status: {"model": Error, "description": _MEANINGS[status]} for status in chosen}


def status_and_sentence(error: Exception) -> tuple[int, str]:
    """Return an error's HTTP status and what the client reads."""
    if isinstance(error, RequestValidationError):
        return 422, validation_sentence(error.errors())
    if isinstance(error, HTTPException):
        return error.status_code, _PLAIN.get(error.detail, str(error.detail))
    if isinstance(error, TooLarge):
        return 413, str(error)
    if isinstance(error, UnreadablePicture):
        return 415, str(error)
    if isinstance(error, MissingError):
        return 404, str(error)
    if isinstance(error, BusyError):
        return 503, str(error)
    if isinstance(error, InputError) and not isinstance(error, StorageError):
        return 409, str(error)
    return 500, "the service has failed at this request: its log says why"


def validation_sentence(errors: Sequence[Any]) -> str:
    """Return what is wrong with a request, naming the fields, never repeating a value that was sent."""
    parts = []
    for error in errors[:3]:
        place = ".".join(map(str, error["loc"][1:]))  # the first step says where: body, query or path
        message = _MENDED.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
        parts.append(f"{place}: {message}" if place else message)
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return "; ".join(parts) + more
