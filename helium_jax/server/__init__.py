"""The HTTP face: OpenAI-compatible endpoints over aiohttp, for a runtime that is handed in.

What does not live here: loading a model (`helium_jax.runtime`), signals and exit codes
(`helium_jax.cli.serve`), tokenizers and templates (`helium_jax.text`).
"""

from helium_jax.server.app import make_app
from helium_jax.server.config import Limits, ServerConfig
from helium_jax.server.listener import RunningServer, check_address, start_server

__all__ = ["Limits", "RunningServer", "ServerConfig", "check_address", "make_app", "start_server"]
