"""Runs the functions of a plan's author off the event loop."""

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from helium_jax.executor.events import CallFunction, FunctionFailed, FunctionReturned

log = logging.getLogger(__name__)

MAX_FUNCTIONS = 4  # running at a time


class FunctionThreads:
    """Owns the threads of one run; the first function starts them."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    async def call(self, instruction: CallFunction) -> FunctionReturned | FunctionFailed:
        """What a function gave; its exceptions are its row's, not ours."""
        function, invocation_id = instruction.function, instruction.invocation_id
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_FUNCTIONS, "plan-function")
        work = functools.partial(_outcome, function.call, instruction.args)
        text = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        if isinstance(text, BaseException):
            log.info("function %s raised", function.name, exc_info=text)
            message = f"function {function.name} raised {type(text).__name__}: {text}"
            return FunctionFailed(
                invocation_id=invocation_id, code="function_failed", message=message
            )
        if isinstance(text, str):
            return FunctionReturned(invocation_id=invocation_id, text=text)
        message = f"function {function.name} returned a {type(text).__name__}; return a str"
        return FunctionFailed(invocation_id=invocation_id, code="wrong_type", message=message)

    def close(self) -> None:
        """Starts nothing more; a function that hangs keeps its thread until it returns."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _outcome(function: Callable[..., object], args: Sequence[str]) -> object:
    """What a function gives or raises; `sys.exit()` in one would otherwise end the event loop."""
    try:
        return function(*args)
    except BaseException as error:
        return error
