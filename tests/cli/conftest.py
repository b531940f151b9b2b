"""The tiny random model folder, for the command line as well."""

from tests.server.conftest import model_folder

__all__ = ["model_folder"]
