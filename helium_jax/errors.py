"""The exceptions of helium-jax: the class says who can fix it.

`RequestError` is fixed by the caller, `PlanError` by the author of the plan, `CapacityError` by
waiting, `InternalError` by us. Kernels and models raise builtin errors instead: they are
libraries of functions and know neither requests nor plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class HeliumError(Exception):
    """Any error that helium-jax raises on purpose.

    Attributes:
        code: a stable word for programs, such as "context_length_exceeded".
        param: the JSON path of the offending field ("messages[2].content"), if there is one.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class RequestError(HeliumError, ValueError):
    """A value the caller sent, or a file the caller named, is wrong; trying again won't help."""

    code = "invalid_request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fault of a plan or a request body.

    Attributes:
        path: where, as a JSON path: "plan.ops.judge.user".
        message: what is wrong, with its value, and the way out.
        code: a stable word for programs.
    """

    path: str
    message: str
    code: str = "plan_invalid"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class PlanError(HeliumError, ValueError):
    """A plan is not valid; `problems` names every fault, not only the first."""

    code = "plan_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        count = len(problems)
        head = "the plan has one problem" if count == 1 else f"the plan has {count} problems"
        super().__init__(
            "\n  ".join([f"{head}:", *map(str, problems)]),
            code=first.code if count == 1 else None,
            param=first.path,
        )
        self.problems = tuple(problems)


class CapacityError(HeliumError):
    """There is no room just now; the same request may succeed later.

    Attributes:
        retry_after_s: seconds after which trying again makes sense.
    """

    code = "server_overloaded"

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class InternalError(HeliumError):
    """A bug in helium-jax, or a device that failed: the caller did nothing wrong."""

    code = "internal_error"
