"""The rows of a batch, checked against a plan's inputs and turned into columns of text."""

from collections.abc import Mapping, Sequence
from typing import cast

from helium_jax.errors import RequestError
from helium_jax.executor.result import RowError
from helium_jax.physical import Hold, PhysicalPlan, Read, count_rows, render_value
from helium_jax.plan import Plan, Value
from helium_jax.plan.nodes import ValueType
from helium_jax.plan.spec import value_fault

MAX_FAULTS_SHOWN = 20


def bind_rows(
    plan: Plan, physical: PhysicalPlan, rows: Sequence[Mapping[str, object]]
) -> tuple[int, dict[str, tuple[str, ...]]]:
    """The number of rows, and the values of every operator that needs no work, by its name.

    A value of the wrong type, or no valid Unicode, is the empty text here: its row fails alone,
    see `find_bad_values`.

    Raises:
        RequestError: a row lacks a column or has an unknown one; names the row, counted from 1.
        PlanError: a constant column has another length than the batch.
    """
    types: dict[str, ValueType] = {node.name: node.type for node in plan.inputs}
    faults: list[tuple[str, str]] = []
    for index, row in enumerate(rows):
        if len(faults) >= MAX_FAULTS_SHOWN:
            break
        faults += _row_faults(index, row, types)
    if faults:
        more = "\n  ..." if len(faults) >= MAX_FAULTS_SHOWN else ""
        lines = "\n  ".join(message for _, message in faults)
        head = "the input has bad rows:" if len(faults) > 1 else "the input has a bad row:"
        raise RequestError(f"{head}\n  {lines}{more}", code="bad_row", param=faults[0][0])
    num_rows = count_rows(plan, len(rows))
    columns: dict[str, tuple[str, ...]] = {}
    for operator in physical.operators:
        match operator:
            case Read(name=name, column=column):
                columns[name] = tuple(_render(row[column], types[column]) for row in rows)
            case Hold(name=name, values=values, is_column=is_column):
                columns[name] = values if is_column else values * num_rows
            case _:
                pass
    return num_rows, columns


def find_bad_values(plan: Plan, rows: Sequence[Mapping[str, object]]) -> dict[int, RowError]:
    """The rows with a value of the wrong type or no Unicode text; rows that `bind_rows` takes."""
    types: dict[str, ValueType] = {node.name: node.type for node in plan.inputs}
    bad: dict[int, RowError] = {}
    for index, row in enumerate(rows):
        for name, type_ in types.items():
            fault = _value_fault(row[name], type_)
            if fault is not None:
                message = f"column {name!r} {fault}"
                bad[index] = RowError(row=index, operator=name, code="bad_value", message=message)
                break
    return bad


def _render(value: object, type_: ValueType) -> str:
    # Checked: a value of a declared type is a text, number or boolean.
    return render_value(cast(Value, value)) if _value_fault(value, type_) is None else ""


def _value_fault(value: object, type_: ValueType) -> str | None:
    fault = value_fault(value, type_)
    if fault is None and isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = ord(value[error.start])
            return f"has the lone surrogate U+{code:04X} at character {error.start}; send Unicode"
    return fault


def _row_faults(index: int, row: object, types: Mapping[str, ValueType]) -> list[tuple[str, str]]:
    where = f"inputs[{index}]"
    if not isinstance(row, Mapping):
        return [(where, f"rows[{index}] must be a mapping of columns")]
    faults = []
    for name in types:
        if name not in row:
            faults.append((f"{where}.{name}", f"rows[{index}] lacks the column {name!r}"))
    for name in row:
        if name not in types:
            columns = ", ".join(types) or "none"
            message = f"rows[{index}] has the column {str(name)[:64]!r}; inputs are {columns}"
            faults.append((f"{where}.{str(name)[:64]}", message))
    return faults
