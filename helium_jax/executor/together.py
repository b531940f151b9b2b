"""Plans that are submitted together: which become one run, and what that gave each of them."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from helium_jax.errors import PlanError, Problem, RequestError
from helium_jax.executor.codec import TextCodec
from helium_jax.executor.preparing import (
    Prepared,
    called,
    check_formats,
    check_models,
    count_rewrites,
    prepare,
    takes_long,
)
from helium_jax.executor.result import RowError, RowResult, RunResult, summarize
from helium_jax.executor.rows import find_bad_values
from helium_jax.optimizer.profile import Profile
from helium_jax.physical.params import bind_params
from helium_jax.plan import Plan, RunLimits, Value, check_plan
from helium_jax.plan.combining import Combined, Part, combine
from helium_jax.plan.control import bound_names, walk
from helium_jax.plan.size import row_size, size_fault
from helium_jax.types import ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A plan and the rows that it shall run over.

    Attributes:
        plan: what to compute.
        rows: one mapping of input values per row.
        params: values of the plan's parameters.
    """

    plan: Plan
    rows: Sequence[Mapping[str, object]]
    params: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Submissions that run as one plan.

    Attributes:
        members: their places among all that were submitted.
        combined: their plan, and what their names are in it.
        rows: of that plan.
    """

    members: tuple[int, ...]
    combined: Combined
    rows: tuple[Mapping[str, object], ...]


async def check_submissions(
    submissions: Sequence[Submission], model: ModelInfo, codec: TextCodec
) -> None:
    """Refuses all of them for the faults of any, in the names of their authors.

    Raises:
        PlanError: as `prepare_run`, of every plan; paths begin with "plans[i].".
        RequestError: as `prepare_run`, of the first that has one.
    """
    problems: list[Problem] = []
    for number, one in enumerate(submissions):
        try:
            is_large = takes_long(one.plan, len(one.rows))
            await called(functools.partial(prepare, one.plan, one.rows, one.params), is_large)
            check_models(one.plan, model)
            await check_formats(one.plan, codec)
        except PlanError as error:
            problems += [replace(p, path=f"plans[{number}].{p.path}") for p in error.problems]
        except RequestError as error:
            where = f"plans[{number}]"
            param = where if error.param is None else f"{where}.{error.param}"
            raise RequestError(f"{where}: {error.message}", code=error.code, param=param) from None
    if problems:
        raise PlanError(problems)


def join(submissions: Sequence[Submission]) -> list[Joint]:
    """Those that can be one run, by numbers of rows; what is in none runs beside, by itself.

    Rows are joined by their places. A plan with limits of its own runs by itself, because what it
    may spend cannot be told apart in a joint run; so does one with values of wrong types, which
    fail whole rows, and one that makes the joint plan too large.

    Args:
        submissions: without faults.
    """
    by_rows: dict[int, list[int]] = {}
    for number, one in enumerate(submissions):
        if one.rows and one.plan.limits == RunLimits() and not find_bad_values(one.plan, one.rows):
            by_rows.setdefault(len(one.rows), []).append(number)
    joints = (_join(submissions, members) for members in by_rows.values() if len(members) > 1)
    return [joint for joint in joints if joint is not None]


def _join(submissions: Sequence[Submission], members: Sequence[int]) -> Joint | None:
    columns: dict[tuple[object, ...], int] = {}
    parts = []
    num_rows = len(submissions[members[0]].rows)
    rows: list[dict[str, object]] = [{} for _ in range(num_rows)]
    for number in members:
        one = submissions[number]
        numbers = {}
        for node in one.plan.inputs:
            values = [row[node.name] for row in one.rows]
            # With their types: as texts, which a row's values become, 1, 1.0 and true differ.
            identity = (node.type, *((type(value), value) for value in values))
            numbers[node.name] = columns.setdefault(identity, len(columns))
            for row, value in zip(rows, values, strict=True):
                row[f"{node.type}-{numbers[node.name]}"] = value
        bound = bind_params(one.plan, one.params)
        parts.append(Part(plan=one.plan, columns=numbers, params=bound))
    combined = combine(parts)
    is_too_large = check_plan(combined.plan).problems
    if is_too_large or size_fault(row_size(combined.plan), num_rows) is not None:
        return None
    return Joint(members=tuple(members), combined=combined, rows=tuple(rows))


def join_profiles(joint: Joint, profiles: Sequence[Profile]) -> Profile:
    """What is known of the operators of a joint plan, from the profiles of its members."""
    return Profile(
        operators={
            names[name]: seen
            for names, profile in zip(joint.combined.names, profiles, strict=True)
            for name, seen in profile.operators.items()
            if name in names
        }
    )


def part_results(
    joint: Joint, submissions: Sequence[Submission], prepared: Prepared, result: RunResult
) -> list[RunResult]:
    """What a joint run gave each member, in the member's names.

    What an operator cost that stands for those of several plans is counted for the first one; for
    the others its prompts are `merged_saved`. So sums over the members are those of the run.
    """
    results = []
    for number, member in enumerate(joint.members):
        plan = submissions[member].plan
        names = joint.combined.names[number]
        own = {new: name for name, new in names.items()}
        statistics = result.statistics
        operators = tuple(
            replace(op, operator=own[op.operator])
            for op in statistics.operators
            if op.operator in own
        )
        spans = tuple(
            replace(span, operator=own[span.operator])
            for span in statistics.spans
            if span.operator in own
        )
        is_first = number == 0
        cost = summarize(
            operators,
            statistics.seconds,
            spans=spans,
            precomputed=statistics.precomputed if is_first else 0,
            precompute_seconds=statistics.precompute_seconds if is_first else 0.0,
        )
        results.append(
            RunResult(
                run_id=f"{result.run_id}-{member}",
                plan_id=plan.plan_id,
                status=result.status,
                rows=_part_rows(joint, number, plan, prepared, result),
                statistics=count_rewrites(
                    cost, prepared, prompted=statistics.operators, names=own.keys()
                ),
            )
        )
    return results


def _part_rows(
    joint: Joint, number: int, plan: Plan, prepared: Prepared, result: RunResult
) -> tuple[RowResult, ...]:
    names = joint.combined.names[number]
    outputs = joint.combined.outputs[number]
    own = {new: name for name, new in names.items()}
    # What failed for another plan too is called what it stands for in this one.
    for gone, kept in prepared.optimized.merged.items():
        if gone in own:
            own.setdefault(kept, own[gone])
    holders = _holders(joint.combined.plan)
    rows = []
    for row in result.rows:
        errors: dict[RowError, None] = {}
        for error in row.errors:
            name = own.get(error.operator) or own.get(holders.get(error.operator, ""))
            if name is not None:
                errors[replace(error, operator=name)] = None
        rows.append(
            RowResult(
                row=row.row,
                outputs={name: row.outputs[joined] for name, joined in outputs.items()},
                errors=tuple(errors),
            )
        )
    return tuple(rows)


def _holders(plan: Plan) -> dict[str, str]:
    """By the names of what stands in bodies, the operator of the outermost scope around it."""
    return {
        name: op.name
        for op in plan.ops
        for inner in walk((op,))
        for name in (inner.name, *bound_names(inner))
    }
