"""The output cache against a naive model, its keys, and its file through restarts and damage."""

import dataclasses
import functools
import logging
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from helium_jax.errors import RequestError
from helium_jax.executor import output_cache_file
from helium_jax.executor.output_cache import ENTRY_BYTES, CachedOutput, OutputCache
from helium_jax.executor.output_cache_key import call_key
from helium_jax.plan import CachePolicy, CallSettings
from helium_jax.testing import FAKE_MODEL
from helium_jax.types import SamplingParams

KEYS = st.sampled_from([bytes([i]) * 4 for i in range(6)])
OUTPUTS = st.builds(
    CachedOutput,
    text=st.text(max_size=40),
    token_ids=st.lists(st.integers(0, 2**31), max_size=8).map(tuple),
    prompt_tokens=st.integers(0, 9),
    completion_tokens=st.integers(0, 9),
)
TTL_S = 10.0
MAX_BYTES = 3 * (ENTRY_BYTES + 60)


class Now:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def output(text="an answer", **changes):
    given = {"text": text, "token_ids": (1, 2), "prompt_tokens": 5, "completion_tokens": 2}
    return CachedOutput(**(given | changes))


@functools.cache
def measure(key, value):
    """What an entry alone costs, asked of a cache that holds nothing else."""
    cache = OutputCache()
    cache.put(key, value)
    return cache.statistics().bytes


class AgainstAModel(RuleBasedStateMachine):
    """The model is a list of (key, output, stored at), the least recently used first."""

    def __init__(self):
        super().__init__()
        self.now = Now()
        self.cache = OutputCache(max_bytes=MAX_BYTES, ttl_s=TTL_S, clock=self.now)
        self.model = []
        self.hits = self.misses = 0

    def find(self, key):
        for entry in self.model:
            if entry[0] == key and self.now() - entry[2] < TTL_S:
                return entry
        return None

    @rule(key=KEYS)
    def get(self, key):
        entry = self.find(key)
        self.model = [other for other in self.model if other[0] != key]
        if entry is not None:
            self.model.append(entry)
        self.hits += entry is not None
        self.misses += entry is None
        assert self.cache.get(key) == (entry and entry[1])

    @rule(key=KEYS)
    def peek(self, key):
        entry = self.find(key)
        assert self.cache.peek(key) == (entry and entry[1])

    @rule(key=KEYS, value=OUTPUTS)
    def put(self, key, value):
        self.cache.put(key, value)
        self.model = [other for other in self.model if other[0] != key]
        if measure(key, value) <= MAX_BYTES:
            self.model.append((key, value, self.now()))
        while sum(measure(k, v) for k, v, _ in self.model) > MAX_BYTES:
            del self.model[0]

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds):
        self.now.seconds += seconds

    @rule()
    def clear(self):
        assert self.cache.clear() == len(self.model)
        self.model = []

    @invariant()
    def is_bounded_and_counted(self):
        statistics = self.cache.statistics()
        assert statistics.num_entries == len(self.model)
        assert statistics.bytes == sum(measure(k, v) for k, v, _ in self.model) <= MAX_BYTES
        assert (statistics.hits, statistics.misses) == (self.hits, self.misses)


AgainstAModel.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestAgainstAModel = AgainstAModel.TestCase


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["get", "put"]), KEYS), max_size=20))
def test_a_restart_changes_neither_contents_nor_order(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("cache") / "outputs.sqlite"
    value = output("a" * 20)
    room = 3 * measure(b"1234", value)
    stays = OutputCache(max_bytes=room)
    restarts = OutputCache(max_bytes=room, path=path)
    for verb, key in steps:
        for cache in (stays, restarts):
            if verb == "get":
                cache.get(key)
            else:
                cache.put(key, value)
    restarts.close()
    restarted = OutputCache(max_bytes=room, path=path)
    assert restarted.statistics().num_loaded == stays.statistics().num_entries
    for cache in (stays, restarted):  # pushes the least recently used out, one after the other
        cache.put(b"new1", value)
    for key in [bytes([i]) * 4 for i in range(6)]:
        assert restarted.peek(key) == stays.peek(key)
    restarted.close()


def test_lone_surrogates_and_large_ids_come_back_as_they_were(tmp_path):
    value = output("a\ud800b", token_ids=(0, 2**40))
    cache = OutputCache(path=tmp_path / "c.sqlite")
    cache.put(b"k", value)
    cache.close()
    restarted = OutputCache(path=tmp_path / "c.sqlite")
    assert restarted.get(b"k") == value
    restarted.close()


def test_5_3_a_new_process_finds_what_another_one_left(tmp_path):
    path = tmp_path / "outputs.sqlite"
    program = (
        "import sys; from pathlib import Path\n"
        "from helium_jax.executor.output_cache import CachedOutput, OutputCache\n"
        "cache = OutputCache(path=Path(sys.argv[1]))\n"
        "cache.put(b'k', CachedOutput(text='hi', token_ids=(7,), prompt_tokens=3, "
        "completion_tokens=1))\n"
        "cache.close()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    cache = OutputCache(path=path)
    assert cache.get(b"k") == CachedOutput(
        text="hi", token_ids=(7,), prompt_tokens=3, completion_tokens=1
    )
    assert cache.statistics().num_loaded == 1
    cache.close()


def test_age_counts_on_while_the_process_is_down(tmp_path):
    now = Now()
    cache = OutputCache(path=tmp_path / "c", ttl_s=TTL_S, clock=now)
    cache.put(b"old", output())
    now.seconds += 6
    cache.put(b"new", output())
    cache.close()
    now.seconds += 5
    restarted = OutputCache(path=tmp_path / "c", ttl_s=TTL_S, clock=now)
    assert restarted.get(b"old") is None
    assert restarted.get(b"new") == output()
    restarted.close()


def test_a_smaller_bound_keeps_the_most_recently_used_of_the_file(tmp_path):
    cache = OutputCache(path=tmp_path / "c")
    for index in range(5):
        cache.put(bytes([index]), output())
    cache.get(bytes([1]))
    cache.close()
    room = 2 * measure(b"k", output())
    for _ in range(2):  # what did not fit is gone from the file too
        cache = OutputCache(path=tmp_path / "c", max_bytes=room)
        assert [i for i in range(5) if cache.peek(bytes([i]))] == [1, 4]
        cache.close()


def test_clearing_empties_the_file(tmp_path):
    cache = OutputCache(path=tmp_path / "c")
    cache.put(b"k", output())
    assert cache.clear() == 1
    cache.close()
    assert OutputCache(path=tmp_path / "c").statistics().num_loaded == 0


def test_two_caches_may_share_a_file(tmp_path):
    one, two = OutputCache(path=tmp_path / "c"), OutputCache(path=tmp_path / "c")
    one.put(b"1", output("one"))
    one.flush()
    two.put(b"2", output("two"))
    one.close()
    two.close()
    third = OutputCache(path=tmp_path / "c")
    assert (third.get(b"1"), third.get(b"2")) == (output("one"), output("two"))
    third.close()


# --- a file that cannot be used -----------------------------------------------------------------


def goes_on_in_memory(cache, caplog):
    cache.put(b"k", output())
    cache.flush()
    assert cache.get(b"k") == output()
    statistics = cache.statistics()
    assert statistics.file == "failed"
    assert statistics.file_error
    assert len([r for r in caplog.records if "going on in memory alone" in r.message]) == 1
    cache.close()
    cache.put(b"l", output())
    assert cache.get(b"l") == output()


def test_a_file_that_is_no_database_leaves_memory(tmp_path, caplog):
    (tmp_path / "c").write_bytes(b"not a database at all, but long enough to be read" * 100)
    goes_on_in_memory(OutputCache(path=tmp_path / "c"), caplog)


def test_another_programs_database_is_left_alone(tmp_path, caplog):
    with sqlite3.connect(tmp_path / "c") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    goes_on_in_memory(OutputCache(path=tmp_path / "c"), caplog)
    with sqlite3.connect(tmp_path / "c") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()


def test_a_folder_in_the_files_place_leaves_memory(tmp_path, caplog):
    goes_on_in_memory(OutputCache(path=tmp_path), caplog)


def test_a_file_cut_in_the_middle_leaves_memory(tmp_path, caplog):
    cache = OutputCache(path=tmp_path / "c")
    for index in range(200):
        cache.put(bytes([index]), output("x" * 500))
    cache.close()
    content = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(content[: len(content) // 2])
    goes_on_in_memory(OutputCache(path=tmp_path / "c"), caplog)


def test_a_full_file_leaves_memory(tmp_path, caplog):
    cache = OutputCache(path=tmp_path / "c", max_bytes=2**20)
    cache.flush()
    with sqlite3.connect(tmp_path / "c") as connection:  # as another process may do
        connection.execute(
            "INSERT INTO outputs VALUES (X'00', zeroblob(?), X'00', 0, 0)", (20 * 2**20,)
        )
    connection.close()
    cache.put(b"large", output("x" * 2**18))
    goes_on_in_memory(cache, caplog)
    assert "full" in cache.statistics().file_error


def test_a_changed_byte_costs_one_entry_and_not_a_wrong_answer(tmp_path, caplog):
    cache = OutputCache(path=tmp_path / "c")
    cache.put(b"good", output("an answer"))
    cache.put(b"bad", output("the question"))
    cache.close()
    with sqlite3.connect(tmp_path / "c") as connection:
        connection.execute(
            "UPDATE outputs SET payload = CAST(REPLACE(CAST(payload AS BLOB), X'7175', X'7176') "
            "AS BLOB) WHERE key = ?",
            (b"bad",),
        )
    connection.close()
    with caplog.at_level(logging.WARNING):
        cache = OutputCache(path=tmp_path / "c")
    assert (cache.get(b"good"), cache.get(b"bad")) == (output("an answer"), None)
    assert (cache.statistics().num_damaged, cache.statistics().file) == (1, "open")
    assert "dropped 1 damaged" in caplog.text
    cache.close()
    assert OutputCache(path=tmp_path / "c").statistics().num_damaged == 0


def test_a_slow_disk_costs_the_file_entries_and_not_memory(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(output_cache_file, "MAX_PENDING_BYTES", -1)
    cache = OutputCache(path=tmp_path / "c")
    cache.put(b"k", output())
    assert cache.get(b"k") == output()
    assert cache.statistics().num_unwritten == 1
    assert "too slow" in caplog.text
    cache.close()


@pytest.mark.parametrize("bounds", [{"max_bytes": 0}, {"ttl_s": 0.0}, {"ttl_s": float("nan")}])
def test_bounds_that_keep_nothing_are_refused(bounds):
    with pytest.raises(RequestError, match="must be positive"):
        OutputCache(**bounds)


# --- keys ---------------------------------------------------------------------------------------

BASE = CallSettings(sampling=SamplingParams(max_tokens=5), stop=("q",))


def key(settings=BASE, model=FAKE_MODEL, token_ids=(1, 2, 3), salt=""):
    return call_key(model, token_ids, settings, salt=salt)


def with_sampling(**changes):
    return dataclasses.replace(BASE, sampling=dataclasses.replace(BASE.sampling, **changes))


OTHER_SAMPLING = {
    "max_tokens": 6, "min_tokens": 1, "top_k": 3, "top_p": 0.5, "min_p": 0.1,
    "presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.5,
    "logit_bias": ((7, 1.0),), "stop_token_ids": (4,), "ignore_eos": True, "seed": 3,
}  # fmt: skip


@pytest.mark.parametrize("field", OTHER_SAMPLING)
def test_5_3_the_key_misses_on_every_sampling_parameter(field):
    assert key(with_sampling(**{field: OTHER_SAMPLING[field]})) not in (None, key())


def test_5_3_every_field_of_the_sampling_parameters_is_accounted_for():
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert names == OTHER_SAMPLING.keys() | {"temperature", "logprobs"}


def test_5_3_the_key_misses_on_stop_model_prompt_and_salt():
    others = [
        key(dataclasses.replace(BASE, stop=())),
        key(dataclasses.replace(BASE, stop=("q", "r"))),
        key(token_ids=(1, 2)),
        key(token_ids=(1, 2, 4)),
        key(salt="tenant"),
        *(
            key(model=dataclasses.replace(FAKE_MODEL, **change))
            for change in (
                {"version": "fake-2"},
                {"deterministic": False},
                {"max_model_len": 4095},
                {"eos_token_ids": frozenset()},
            )
        ),
    ]
    assert None not in others
    assert len({key(), *others}) == len(others) + 1


def test_the_key_does_not_depend_on_what_leaves_the_answer_alone():
    assert key() == key(dataclasses.replace(BASE, priority=3, cache=CachePolicy(kv=False)))
    assert key() == key(model=dataclasses.replace(FAKE_MODEL, name="other", max_num_seqs=3))


def test_5_3_calls_whose_answers_may_not_serve_others_have_no_key():
    assert key(with_sampling(temperature=0.7)) is None
    assert key(with_sampling(logprobs=0)) is None
    assert key(dataclasses.replace(BASE, cache=CachePolicy(results=False))) is None
    assert key(model=dataclasses.replace(FAKE_MODEL, version="")) is None


def test_seeded_calls_have_a_key_only_where_the_engine_is_deterministic():
    seeded = with_sampling(temperature=0.7, seed=1)
    assert key(seeded) is not None
    assert key(seeded, model=dataclasses.replace(FAKE_MODEL, deterministic=False)) is None
    assert key(seeded) != key(with_sampling(temperature=0.7, seed=2))
    assert key(seeded) != key(with_sampling(temperature=0.8, seed=1))
