"""Files and values that the plan commands read: rows as JSON lines, parameters as name=value."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from helium_jax.errors import Problem, RequestError
from helium_jax.plan import Plan, Value
from helium_jax.plan.nodes import ValueType
from helium_jax.plan.spec import parse_value


def read_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file, one object a line; "-" is stdin, empty lines are skipped.

    Raises:
        RequestError: the file cannot be read, or a line is no JSON object; names the line.
    """
    name = "stdin" if path == "-" else path
    try:
        with click.open_file(path, "rb") as file:
            lines: list[bytes] = file.read().split(b"\n")
    except OSError as error:
        raise RequestError(f"cannot read the rows {path!r}: {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RequestError(f"{name} line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise RequestError(
                f'{name} line {number} must be an object such as {{"question": "..."}}, '
                f"not {line[:40].decode('utf-8', 'replace')!r}"
            )
        rows.append(row)
    return rows


def read_params(plan: Plan, assignments: Iterable[str]) -> dict[str, Value]:
    """Values of a plan's parameters from texts like "rounds=3"; the plan says the type.

    Raises:
        RequestError: a text is no assignment, or its value is not of the parameter's type.
    """
    types: dict[str, ValueType] = {param.name: param.type for param in plan.params}
    params: dict[str, Value] = {}
    for assignment in assignments:
        name, equals, source = assignment.partition("=")
        if not equals:
            raise RequestError(f"--param {assignment!r} must be name=value")
        if name in params:
            raise RequestError(f"--param {name} is given twice")
        try:
            # An unknown name is reported with all other faults when the plan is lowered.
            params[name] = parse_value(source, types.get(name, "text"))
        except ValueError as error:
            raise RequestError(f"--param {name}: {error}") from None
    return params


def check_output(path: str) -> None:
    """Finds out before the work whether its results or a drawing could be written.

    Raises:
        RequestError: the folder does not exist, or the path is a folder.
    """
    if path == "-":
        return
    if not Path(path).absolute().parent.is_dir():
        raise RequestError(f"cannot write {path!r}: its folder does not exist; make it first")
    if Path(path).is_dir():
        raise RequestError(f"cannot write {path!r}: it is a folder; name a file in it")


def show_warnings(warnings: Iterable[Problem]) -> None:
    """A plan's warnings, on stderr."""
    for warning in warnings:
        click.echo(f"helium-jax: warning: {warning}", err=True)
