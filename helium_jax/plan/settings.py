"""The fields of a calling operator besides its prompt, read into what the engine takes."""

from collections.abc import Mapping
from typing import Any, TypedDict

from helium_jax.plan.fields import (
    check_fields,
    describe,
    read_bool,
    read_choice,
    read_int,
    read_mapping,
    read_number,
    read_text,
)
from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import (
    MAX_RETRIES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_TIMEOUT_S,
    parse_duration,
)
from helium_jax.plan.nodes import CachePolicy, CallSettings, OnError
from helium_jax.plan.response_format import read_response_format
from helium_jax.plan.writing import SAMPLING_FIELDS
from helium_jax.types import SamplingParams

SETTINGS_FIELDS = (
    *SAMPLING_FIELDS, "model", "stop", "response_format", "priority", "cache", "retries", "timeout",
    "on_error",
)  # fmt: skip

# Fields that other systems have and that would change the answer: refused, not ignored.
UNSUPPORTED_FIELDS = frozenset(
    {
        "best_of", "functions", "function_call", "grammar", "guided_json", "guided_regex",
        "json_schema", "logprobs", "lora", "max_completion_tokens", "n",
        "reasoning_effort", "regex", "schema", "stream", "suffix",
        "tool_choice", "tools", "top_logprobs",
    }
)  # fmt: skip

INTS = {
    "max_tokens": (1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "seed": (0, 2**63 - 1),
    "top_k": (-1, 2**31 - 1),
}
NUMBERS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 100.0),
}
MAX_STOP_TOKEN_IDS = 16
MAX_LOGIT_BIAS = 300
MAX_PRIORITY = 1_000
MAX_MODEL_CHARS = 256


class Settings(TypedDict, total=False):
    """How a model is called: the fields of the plan file, under the same names."""

    model: str
    temperature: float
    max_tokens: int
    min_tokens: int
    seed: int
    stop: str | list[str]
    response_format: Mapping[str, Any]
    stop_token_ids: list[int]
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: dict[str, float]
    ignore_eos: bool
    priority: int
    cache: dict[str, str]
    retries: int
    timeout: float | str
    on_error: str | dict[str, str]


def read_settings(document: dict[str, Any], path: str, found: Findings) -> CallSettings:
    """How an operator calls its model; fields that are absent or null have their defaults."""
    given: dict[str, Any] = {}
    for name, (low, high) in INTS.items():
        given[name] = read_int(document.get(name), f"{path}.{name}", found, low, high)
    for name, (low, high) in NUMBERS.items():
        given[name] = read_number(document.get(name), f"{path}.{name}", found, low, high)
    given["ignore_eos"] = read_bool(document.get("ignore_eos"), f"{path}.ignore_eos", found)
    given["stop_token_ids"] = _read_stop_ids(document.get("stop_token_ids"), path, found)
    given["logit_bias"] = _read_logit_bias(document.get("logit_bias"), path, found)
    given = {name: value for name, value in given.items() if value is not None}
    given["top_k"] = max(given.get("top_k", 0), 0)  # -1 is another way to say "all"
    sampling = SamplingParams(**given)
    if sampling.top_p == 0.0:
        found.add(f"{path}.top_p", "0 keeps no token; use a value in (0, 1]")
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        message = f"{sampling.min_tokens} is more than max_tokens={sampling.max_tokens}"
        found.add(f"{path}.min_tokens", message)
    priority = read_int(
        document.get("priority"), f"{path}.priority", found, -MAX_PRIORITY, MAX_PRIORITY
    )
    retries = read_int(document.get("retries"), f"{path}.retries", found, 0, MAX_RETRIES)
    on_error, default = _read_on_error(document.get("on_error"), f"{path}.on_error", found)
    return CallSettings(
        sampling=sampling,
        model=_read_model(document.get("model"), f"{path}.model", found),
        stop=_read_stop(document.get("stop"), f"{path}.stop", found),
        response_format=read_response_format(
            document.get("response_format"), f"{path}.response_format", found
        ),
        priority=priority or 0,
        cache=_read_cache(document.get("cache"), f"{path}.cache", found),
        retries=retries or 0,
        timeout_s=read_timeout(document.get("timeout"), f"{path}.timeout", found),
        on_error=on_error,
        default=default,
    )


def _read_model(value: object, path: str, found: Findings) -> str | None:
    name = read_text(value, path, found)
    if name == "":
        found.add(path, "is empty; leave it out to have the model that is served")
    elif name is not None and len(name) > MAX_MODEL_CHARS:
        found.add(path, f"has {len(name)} characters; at most {MAX_MODEL_CHARS} are allowed")
    return name


def _read_stop(value: object, path: str, found: Findings) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        found.add(path, f"must be a text or a list of texts, not {describe(value)}")
        return ()
    if len(stops) > MAX_STOP_STRINGS:
        found.add(path, f"has {len(stops)} strings; at most {MAX_STOP_STRINGS} are allowed")
        return ()
    for index, stop in enumerate(stops):
        where = path if isinstance(value, str) else f"{path}[{index}]"
        if not stop:
            found.add(where, "is empty, which would stop at once; leave it out")
        elif len(stop) > MAX_STOP_CHARS:
            found.add(where, f"has {len(stop)} characters; at most {MAX_STOP_CHARS} are allowed")
    return tuple(stops)


def _read_stop_ids(value: object, path: str, found: Findings) -> tuple[int, ...] | None:
    path = f"{path}.stop_token_ids"
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_STOP_TOKEN_IDS:
        found.add(
            path, f"must be a list of at most {MAX_STOP_TOKEN_IDS} ids, not {describe(value)}"
        )
        return None
    ids = [read_int(v, f"{path}[{i}]", found, 0, 2**31 - 1) for i, v in enumerate(value)]
    return tuple(token_id for token_id in ids if token_id is not None)


def _read_logit_bias(
    value: object, path: str, found: Findings
) -> tuple[tuple[int, float], ...] | None:
    path = f"{path}.logit_bias"
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MAX_LOGIT_BIAS:
        message = f"must map at most {MAX_LOGIT_BIAS} token ids to numbers, not {describe(value)}"
        found.add(path, message)
        return None
    entries: dict[int, float] = {}
    for key, bias in value.items():
        # isdecimal alone would also take other scripts' digits.
        if not isinstance(key, str) or not (key.isascii() and key.isdecimal() and len(key) < 10):
            found.add(path, f"{str(key)[:32]!r} is not a token id; write it as quoted digits")
            continue
        number = read_number(bias, f"{path}.{key}", found, -100.0, 100.0)
        if number is not None:
            entries[int(key)] = number
    return tuple(sorted(entries.items()))


def _read_cache(value: object, path: str, found: Findings) -> CachePolicy:
    document = read_mapping(value, path, found)
    check_fields(document, path, ("results", "kv"), frozenset(), found)
    words = {
        name: read_choice(document.get(name), f"{path}.{name}", found, ("auto", "off"), "choices")
        for name in ("results", "kv")
    }
    return CachePolicy(results=words["results"] != "off", kv=words["kv"] != "off")


def _read_on_error(value: object, path: str, found: Findings) -> tuple[OnError, str]:
    """What a failed call does, and its value if that is a text of its own."""
    if isinstance(value, dict):
        document = read_mapping(value, path, found)
        check_fields(document, path, ("default",), frozenset(), found)
        default = read_text(document.get("default"), f"{path}.default", found)
        if default is None:
            found.add(f"{path}.default", "is missing; write the text that a failed call gives")
        return "default", default or ""
    kinds = "choices besides {default: text}"
    word = read_choice(value, path, found, ("fail", "empty"), kinds)
    return ("empty" if word == "empty" else "fail"), ""


def read_timeout(value: object, path: str, found: Findings) -> float | None:
    """Seconds, as a number or a duration like "15m"."""
    if isinstance(value, str):
        seconds = parse_duration(value)
        if seconds is None:
            found.add(path, f"{value[:40]!r} is no duration; write 90s, 15m, 1h30m or seconds")
            return None
    else:
        seconds = read_number(value, path, found, -1e308, 1e308)
    if seconds is not None and not 0 < seconds <= MAX_TIMEOUT_S:
        found.add(path, f"{seconds:g} seconds must be over 0 and at most {MAX_TIMEOUT_S:g}")
        return None
    return seconds
