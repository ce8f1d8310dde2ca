"""The base of every typed option set."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A frozen set of named options: an unknown name or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
