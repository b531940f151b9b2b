"""From decoded JSON to a typed body, naming every fault on the way instead of only the first."""

import functools
import re
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from helium_jax.errors import Problem

T = TypeVar("T", bound=msgspec.Struct)
_AT = re.compile(r" - at `(key in )?\$(?P<rest>.*)`$")


MAX_NAMED = 32  # faults, and unknown fields, that one answer names
MAX_OBJECTS = 20_000  # objects of one body that are looked at; each costs some microseconds


class Findings:
    """What reading one body has found.

    Attributes:
        problems: the first MAX_NAMED faults, in the order of the fields.
        num_problems: all faults.
        unknown: paths of fields that no type declares; a dict for its order.
        warnings: what is right but has less effect than it could have.
        num_objects: objects read so far.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.num_problems = 0
        self.unknown: dict[str, None] = {}
        self.warnings: list[str] = []
        self.num_objects = 0

    def add(self, path: str, message: str, code: str = "invalid_request") -> None:
        """Adds a fault."""
        self.num_problems += 1
        if len(self.problems) < MAX_NAMED:
            self.problems.append(Problem(path=path, message=message, code=code))

    def warn(self, path: str, message: str) -> None:
        """Adds something that the answer tells of and that is no fault."""
        if len(self.warnings) < MAX_NAMED:
            self.warnings.append(f"{path}: {message}")

    def add_unsupported(self, path: str, what: str) -> None:
        """Adds a field that would have an effect that this server does not have."""
        self.add(path, f"{what} is not supported by this server", "unsupported_parameter")


def read_struct(kind: type[T], raw: dict[str, Any], path: str, found: Findings) -> T | None:
    """Reads an object field by field.

    Returns None when `found` has gained a problem. `path` is "" for the body itself.
    """
    before = found.num_problems
    found.num_objects += 1
    values: dict[str, Any] = {}
    fields, names = _fields(kind)
    for declared in fields:
        name = declared.encode_name
        if name in raw:
            where = f"{path}.{name}" if path else name
            values[declared.name] = _read(declared.type, raw[name], where, found)
        elif declared.required:
            found.add(f"{path}.{name}" if path else name, "is required")
    for name in raw:
        if name not in names:
            shown = name if len(name) <= 64 else name[:64] + "…"
            found.unknown[f"{path}.{shown}" if path else shown] = None
    if found.num_problems > before:
        return None
    return kind(**values)


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[FieldInfo, ...], frozenset[str]]:
    """Of a type, its fields and their names; msgspec evaluates the annotations at every call."""
    fields = msgspec.structs.fields(kind)
    return fields, frozenset(declared.encode_name for declared in fields)


def _read(kind: Any, raw: Any, path: str, found: Findings) -> Any:
    """Reads one value; lists and objects of structs are entered, all else is msgspec's."""
    if isinstance(raw, dict):
        for option in _options(kind):
            if _is_struct(option):
                return read_struct(option, raw, path, found)
    elif isinstance(raw, list):
        for option in _options(kind):
            if get_origin(option) is list:
                (item_kind,) = get_args(option)
                if any(map(_is_struct, _options(item_kind))):
                    return _read_list(item_kind, raw, path, found)
    try:
        return msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        words = [word for option in _options(kind) for word in _words(option)]
        message = f"must be one of {', '.join(words)}" if words else str(error)
        place = _AT.search(message)
        if place is not None:
            message = message[: place.start()]
            path += place["rest"].replace("[...]", "")  # a dict's key, which msgspec does not name
        found.add(path, message.replace("`", "") + _shown(raw, place is None))
        return None


def _read_list(kind: Any, raw: list[Any], path: str, found: Findings) -> list[Any] | None:
    if found.num_objects + len(raw) > MAX_OBJECTS:
        found.add(path, f"has {len(raw)} entries; a body may hold {MAX_OBJECTS} objects in all")
        return None
    return [_read(kind, item, f"{path}[{i}]", found) for i, item in enumerate(raw)]


def _options(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (Union, types.UnionType):
        return get_args(kind)
    return (kind,)


def _words(kind: Any) -> tuple[str, ...]:
    """What a closed set of words consists of; msgspec's own message repeats the offending one."""
    return get_args(kind) if get_origin(kind) is Literal else ()


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _shown(raw: Any, is_whole: bool) -> str:
    """The offending value for the message, if it is short and harmless."""
    if is_whole and isinstance(raw, (int, float)) and not isinstance(raw, bool):
        text = str(raw)
        return f", got {text}" if len(text) <= 32 else ", got a number too long to show"
    return ""
