"""The base of every typed option set."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Options(BaseModel):
    """A frozen set of named options: an unknown name or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def describe(error: ValidationError) -> str:
    """Turn a pydantic error into one line: every offending key and what is wrong with it."""
    parts = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        problem = "unknown option" if item["type"] == "extra_forbidden" else item["msg"]
        parts.append(f"{key}: {problem}")
    return "; ".join(parts)
