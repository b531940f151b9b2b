"""What makes branches, loops, maps, races, lambdas and conversations valid."""

from collections.abc import Mapping

from helium_jax.plan.control import Body, Loop, Map, Node, Race, Reduce
from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import (
    MAX_ARMS,
    MAX_CARRIED,
    MAX_ITEMS,
    MAX_ITERATIONS,
    MAX_RETRIES,
    MAX_TIMEOUT_S,
)
from helium_jax.plan.nodes import (
    CallSettings,
    Chat,
    Completion,
    Const,
    Function,
    Lambda,
    Param,
    View,
)
from helium_jax.plan.plan import Plan
from helium_jax.plan.scopes import Scopes
from helium_jax.plan.template import is_name


def check_controls(plan: Plan, scopes: Scopes, found: Findings) -> None:
    """Every fault of single operators that a field alone does not show; paths are canonical."""
    params = {param.name: param for param in plan.params}
    nodes: dict[str, Node] = {node.name: node for node in plan.inputs}
    nodes |= {op.name: op for op, _ in scopes.ops}
    nexts = {
        one.name: (one.initial, one.next)
        for op, _ in scopes.ops
        if isinstance(op, Loop)
        for one in op.carried
    }
    functions: dict[str, Function] = {}
    for op, path in scopes.ops:
        match op:
            case Loop():
                _check_loop(op, path, params, nodes, found)
            case Map(max_items=most, reduce=reduce):
                _check_range(most, 1, MAX_ITEMS, f"{path}.max_items", found)
                _check_reduce(reduce, path, found)
            case Race(arms=arms, k=k, reduce=reduce):
                _check_arms(arms, k, path, found)
                _check_reduce(reduce, path, found)
            case Lambda(function=function):
                _check_function(function, path, functions, found)
            case Chat(history=str() as history):
                if not _leads_to(history, (Chat,), nodes, nexts):
                    message = f"{history!r} is no chat, so it has no conversation to go on with"
                    found.add(f"{path}.history", message, "wrong_kind")
            case View(source=source):
                if not _leads_to(source, (Chat, Completion), nodes, nexts):
                    message = f"{source!r} is no call; a view shows a chat or completion"
                    found.add(f"{path}.source", message, "wrong_kind")
            case _:
                pass
        if isinstance(op, Chat | Completion):
            _check_settings(op.settings, path, found)
        if isinstance(op, Const) and op.is_column and path != f"plan.ops.{op.name}":
            message = "is a column inside a body; write it at the top of the plan"
            found.add(f"{path}.values", message)


def _check_settings(settings: CallSettings, path: str, found: Findings) -> None:
    _check_range(settings.retries, 0, MAX_RETRIES, f"{path}.retries", found)
    # Written so that NaN is refused too.
    if settings.timeout_s is not None and not 0 < settings.timeout_s <= MAX_TIMEOUT_S:
        message = f"{settings.timeout_s} seconds must be over 0 and at most {MAX_TIMEOUT_S:g}"
        found.add(f"{path}.timeout", message)
    if settings.default and settings.on_error != "default":
        message = f"is {settings.on_error}, so that the default text would have no effect"
        found.add(f"{path}.on_error", message)


def _check_loop(
    loop: Loop,
    path: str,
    params: Mapping[str, Param],
    nodes: Mapping[str, Node],
    found: Findings,
) -> None:
    if (loop.count is None) == (loop.condition is None):
        found.add(path, "needs a count or a condition, and not both", "unbounded_loop")
    if len(loop.carried) > MAX_CARRIED:
        message = f"has {len(loop.carried)} names; at most {MAX_CARRIED} are allowed"
        found.add(f"{path}.carry", message)
    least = 0 if isinstance(loop.count, int) else 1
    _check_range(loop.max_iterations, least, MAX_ITERATIONS, f"{path}.max_iterations", found)
    if isinstance(loop.count, int):
        _check_range(loop.count, 0, MAX_ITERATIONS, f"{path}.count", found)
        if loop.count > loop.max_iterations:
            message = f"{loop.count} is more than max_iterations={loop.max_iterations}"
            found.add(f"{path}.count", message)
    elif loop.count is not None:
        param = params.get(loop.count)
        if param is None and loop.count in nodes:
            message = f"{loop.count!r} is no parameter; a count is a number or an int parameter"
            hint = "; for a number that the plan computes write while"
            found.add(f"{path}.count", message + hint, "wrong_kind")
        elif param is not None and param.type != "int":
            found.add(f"{path}.count", f"{param.name!r} is {param.type}, not int", "wrong_kind")


def _check_arms(arms: tuple[Body, ...], k: int, path: str, found: Findings) -> None:
    if not 1 <= len(arms) <= MAX_ARMS:
        message = f"has {len(arms)} bodies; 1 to {MAX_ARMS} are allowed"
        found.add(f"{path}.arms", message)
    elif not 1 <= k <= len(arms):
        message = f"{k} must be in [1, {len(arms)}]; the race has so many arms"
        found.add(f"{path}.k", message)


def _check_reduce(reduce: Reduce, path: str, found: Findings) -> None:
    if reduce.kind == "best_of" and reduce.score is None:
        message = "is missing; best_of needs a number per text, such as number(value)"
        found.add(f"{path}.reduce.score", message)
    if reduce.kind != "best_of" and reduce.score is not None:
        found.add(f"{path}.reduce.score", f"is only for best_of, not for {reduce.kind}")
    if reduce.kind != "concat" and reduce.separator != Reduce().separator:
        found.add(f"{path}.reduce.separator", f"is only for concat, not for {reduce.kind}")


def _check_function(
    function: Function, path: str, functions: dict[str, Function], found: Findings
) -> None:
    if not is_name(function.name):
        message = f"{function.name[:80]!r} is no name; give it one with function_name="
        found.add(f"{path}.function", message, "bad_name")
    other = functions.setdefault(function.name, function)
    if other != function:
        message = f"{function.name!r} stands for two functions in this plan; rename one"
        found.add(f"{path}.function", message, "duplicate_name")


def _check_range(value: int, low: int, high: int, path: str, found: Findings) -> None:
    if not low <= value <= high:
        found.add(path, f"{value} must be in [{low}, {high}]")


def _leads_to(
    name: str,
    kinds: tuple[type[Node], ...],
    nodes: Mapping[str, Node],
    nexts: Mapping[str, tuple[str, str]],
) -> bool:
    """Whether a name means a node of one of `kinds` in every iteration; unknown names pass."""
    seen: set[str] = set()
    pending = [name]
    while pending:
        one = pending.pop()
        if one in seen:
            continue
        seen.add(one)
        if one in nexts:
            pending += nexts[one]
        elif one in nodes and not isinstance(nodes[one], kinds):
            return False
    return True
