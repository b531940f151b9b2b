"""YAML to builtin values, one event at a time: no tags, no merges, bounded depth and size.

Events are read rather than composed nodes because composing recurses in C: a file of opening
brackets would end the process (seen with PyYAML 6.0.3).
"""

from typing import Any, NoReturn

import yaml

from helium_jax.errors import PlanError, Problem

MAX_VALUES = 200_000  # with aliases counted as often as they are used
MAX_DEPTH = 32

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may come without libyaml
_PREFIX = "tag:yaml.org,2002:"
_SCALARS = ("str", "int", "float", "bool", "null")


class YamlReader:
    """Reads the one document of a text; good for one reading."""

    def __init__(self, text: str) -> None:
        self._loader = _LOADER(text)
        self._num_values = 0
        self._anchors: dict[str, tuple[object, int]] = {}  # value, and how many values it is

    def read_document(self) -> object:
        """The document's value, None when there is none.

        Raises:
            PlanError: what this module's first line says it refuses.
            yaml.YAMLError: the text is not YAML.
        """
        try:
            self._loader.get_event()  # the stream begins
            if isinstance(self._loader.get_event(), yaml.StreamEndEvent):
                return None
            value = self._read(self._loader.get_event(), "plan", 0)
            self._loader.get_event()  # the document ends
            if not isinstance(self._loader.get_event(), yaml.StreamEndEvent):
                _refuse("has several YAML documents; a plan is one", "plan")
            return value
        finally:
            self._loader.dispose()

    def _read(self, event: Any, path: str, depth: int) -> object:
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            _refuse(f"is nested more than {MAX_DEPTH} deep (line {line})", "plan")
        if isinstance(event, yaml.AliasEvent):
            return self._read_alias(event, path, line)
        before = self._num_values
        self._count(1)
        if isinstance(event, yaml.ScalarEvent):
            value = self._read_scalar(event, path, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, path, line)
            value = self._read_sequence(path, depth)
        else:
            self._check_tag(event, path, line)
            value = self._read_mapping(path, depth)
        if event.anchor is not None:  # only now: a value cannot hold itself
            self._anchors[event.anchor] = (value, self._num_values - before)
        return value

    def _read_alias(self, event: Any, path: str, line: int) -> object:
        if event.anchor not in self._anchors:
            _refuse(f"uses *{event.anchor[:64]} before &{event.anchor[:64]} (line {line})", path)
        value, num_values = self._anchors[event.anchor]
        self._count(num_values)
        return value

    def _read_scalar(self, event: Any, path: str, line: int) -> object:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _PREFIX + "merge":
            _refuse(f"uses a merge key (line {line}); write the fields out", path)
        if tag == _PREFIX + "timestamp":
            _refuse(f"has a date (line {line}); quote it to make it text", path)
        if tag not in [_PREFIX + name for name in _SCALARS]:
            _refuse_tag(tag, path, line)
        try:
            return self._loader.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, KeyError):  # KeyError: text under an explicit !!bool
            _refuse(f"has a value that is no {tag.rpartition(':')[2]} (line {line})", path)

    def _read_sequence(self, path: str, depth: int) -> list[object]:
        items = []
        while not isinstance(event := self._loader.get_event(), yaml.SequenceEndEvent):
            items.append(self._read(event, f"{path}[{len(items)}]", depth + 1))
        return items

    def _read_mapping(self, path: str, depth: int) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        while not isinstance(event := self._loader.get_event(), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                hint = "; quote a text that begins with {{" if _is_mapping(event) else ""
                _refuse(f"has a key that is no plain text (line {line}){hint}", path)
            key = self._read(event, path, depth + 1)
            if key in mapping:
                message = f"has the key {str(key)[:64]!r} twice (line {line}); rename one"
                _refuse(message, path, code="duplicate_key")
            where = f"{path}.{str(key)[:64]}"
            mapping[key] = self._read(self._loader.get_event(), where, depth + 1)
        return mapping

    def _count(self, num_values: int) -> None:
        self._num_values += num_values
        if self._num_values > MAX_VALUES:
            message = f"has over {MAX_VALUES} values once its aliases are written out"
            _refuse(message, "plan", code="plan_too_large")

    def _check_tag(self, event: Any, path: str, line: int) -> None:
        kind = "seq" if isinstance(event, yaml.SequenceStartEvent) else "map"
        if event.tag not in (None, "!", _PREFIX + kind):
            _refuse_tag(event.tag, path, line)


def _is_mapping(event: Any) -> bool:
    return isinstance(event, yaml.MappingStartEvent)


def _refuse_tag(tag: str, path: str, line: int) -> NoReturn:
    _refuse(f"uses the tag {tag[:64]!r} (line {line}); only plain values are allowed", path)


def _refuse(message: str, path: str, *, code: str = "invalid_yaml") -> NoReturn:
    raise PlanError([Problem(path=path, message=message, code=code)])
