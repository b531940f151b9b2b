"""Bytes to plan and back: JSON on the wire, YAML in files, one schema for both.

Both decoders are strict where the usual ones are lenient: keys that stand twice, numbers that are
not finite, YAML tags, merges and floods of aliases are faults with a place.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import yaml

from helium_jax.errors import PlanError, Problem, RequestError
from helium_jax.plan.plan import Plan
from helium_jax.plan.reading import read_plan
from helium_jax.plan.yaml_reader import YamlReader

MAX_JSON_BYTES = 32 * 2**20
MAX_YAML_BYTES = 4 * 2**20


def load_plan(path: Path) -> tuple[Plan, tuple[Problem, ...]]:
    """A plan file's plan and warnings; JSON by its name, else YAML.

    Raises:
        PlanError: names every fault.
        RequestError: the file cannot be read.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read the plan {str(path)!r}: {error.strerror}") from None
    return parse_plan(source, is_json=path.suffix.lower() == ".json")


def parse_plan(source: bytes | str, *, is_json: bool) -> tuple[Plan, tuple[Problem, ...]]:
    """The plan in a JSON or YAML text, and warnings.

    Raises:
        PlanError: names every fault.
    """
    return plan_from_document(decode_json(source) if is_json else decode_yaml(source))


def plan_from_document(document: object) -> tuple[Plan, tuple[Problem, ...]]:
    """The plan in a document of builtin values, and warnings.

    Raises:
        PlanError: names every fault.
    """
    plan, found = read_plan(document)
    found.raise_if_any()
    return plan, tuple(found.warnings)


def encode_json(plan: Plan) -> bytes:
    """The plan as JSON text, in the author's order."""
    return msgspec.json.format(msgspec.json.encode(plan.document), indent=2)


def encode_yaml(plan: Plan) -> str:
    """The plan as YAML text, in the author's order; long texts as blocks."""
    return yaml.dump(
        plan.document, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=100
    )


def decode_json(source: bytes | str) -> object:
    """The builtin values of a JSON text.

    Raises:
        PlanError: it is no JSON, is too large or too deep, has a key twice or a number that is
            not finite or too long.
    """
    text = _decode_text(source, MAX_JSON_BYTES, "JSON")
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except PlanError:  # one of ours, and a ValueError as well
        raise
    except RecursionError:
        _refuse("is nested too deeply", "invalid_json")
    except json.JSONDecodeError as error:
        _refuse(
            f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})", "invalid_json"
        )
    except ValueError:  # the interpreter's own limit on the digits of an int
        _refuse("has a number with too many digits", "invalid_json")
    return document


def decode_yaml(source: bytes | str) -> object:
    """The builtin values of a YAML text with one document.

    Raises:
        PlanError: it is no YAML, is too large or too deep, uses a tag or a merge, has a key twice
            or more values than allowed once its aliases are written out.
    """
    text = _decode_text(source, MAX_YAML_BYTES, "YAML")
    try:
        return YamlReader(text).read_document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        reason = getattr(error, "problem", None) or "it has characters that YAML forbids"
        _refuse(f"is not YAML: {reason}{where}", "invalid_yaml")


class _BlockDumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None
    if "\n" in text:  # a separator reads best as "\n", a prompt as a block
        style = "|" if "\n" in text.strip("\n") else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_BlockDumper.add_representer(str, _represent_text)


def _decode_text(source: bytes | str, most: int, kind: str) -> str:
    if len(source) > most:
        message = f"has {len(source)} bytes; a plan in {kind} may have {most}"
        _refuse(message, "plan_too_large")
    if isinstance(source, str):
        return source
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(f"is not UTF-8: byte {error.start} cannot be read", f"invalid_{kind.lower()}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                _refuse_twice(key, "plan", None)
            seen.add(key)
    return mapping


def _refuse_twice(key: object, path: str, line: int | None) -> NoReturn:
    where = f" (line {line})" if line is not None else ""
    _refuse(f"has the key {str(key)[:64]!r} twice{where}; rename one", "duplicate_key", path)


def _refuse_constant(word: str) -> NoReturn:
    _refuse(f"has the number {word}, which is not finite", "invalid_json")


def _refuse(message: str, code: str, path: str = "plan") -> NoReturn:
    raise PlanError([Problem(path=path, message=message, code=code)])
