"""The service: an HTTP API and a web page over galleries, in one process."""

from vireid.serve.app import create_app
from vireid.serve.limits import Limits
from vireid.serve.run import serve

__all__ = ["Limits", "create_app", "serve"]
