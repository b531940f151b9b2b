"""A journal with wrong bytes anywhere: what can be read is, and the server starts in any case."""

import asyncio
import contextlib
import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.executor.journal import Journal
from helium_jax.server.batches.keeper import BatchKeeper
from helium_jax.server.config import ServerConfig
from helium_jax.server.lifecycle import ServerState
from helium_jax.server.runs.service import RunService
from helium_jax.telemetry.metrics import Metrics
from tests.server.plans import RUN, until_state
from tests.server.test_batches import finish, line, start

BACKGROUND = {**RUN, "background": True}


@pytest.fixture
async def whole(serve, tmp_path):
    """The bytes of a journal with a run and a batch, all written into the one file."""
    async with serve(state_dir=tmp_path) as served:
        run = (await served.post("/v1/runs", BACKGROUND)).json()
        await until_state(served, run["id"], "completed")
        await finish(served, (await start(served, [line("a"), line("b")])).json())
    path = tmp_path / "runs.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.read_bytes()


def put(folder, content):
    """Puts a journal into a folder, whatever was there."""
    for name in ("runs.sqlite", "runs.sqlite-wal", "runs.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "runs.sqlite").write_bytes(content)


async def open_all(folder):
    """What a server reads at its start: its runs and batches."""
    journal = await asyncio.to_thread(Journal, folder)
    try:
        runs = RunService(ServerConfig(), Metrics(model_name="fake"), state=ServerState())
        runs.open(None, journal)
        return len(runs.shelf.list_runs("")), len(BatchKeeper(journal).take_found())
    finally:
        await asyncio.to_thread(journal.close)


async def test_whatever_bytes_are_wrong_the_server_starts(whole, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()

    def damage_and_open(places, value):
        damaged = bytearray(whole)
        for place in places:
            damaged[place % len(damaged)] = value
        put(folder, damaged)
        return asyncio.run(open_all(folder))

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 2**20), max_size=40), st.integers(0, 255))
    def check(places, value):
        num_runs, num_batches = damage_and_open(places, value)
        assert (num_runs <= 1, num_batches <= 1) == (True, True)

    assert await asyncio.to_thread(damage_and_open, [], 0) == (1, 1)
    await asyncio.to_thread(check)


VALUES = (None, 7, 1.5, "text", b"", b"{}", b"[]", b"null", b"\xff")


@pytest.mark.parametrize("table", ["runs", "rows", "notes"])
async def test_values_of_other_kinds_cost_their_entry_alone(whole, tmp_path, table):
    folder = tmp_path / "changed"
    folder.mkdir()
    columns = {"runs": ("request", "state", "attempt"), "rows": ("row", "data"), "notes": ("data",)}
    draw = random.Random(3)
    for column in columns[table]:
        for value in VALUES:
            put(folder, whole)
            with contextlib.closing(sqlite3.connect(folder / "runs.sqlite")) as connection:
                victims = connection.execute(f"SELECT rowid FROM {table}").fetchall()
                try:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? WHERE rowid = ?",
                        (value, *draw.choice(victims)),
                    )
                    connection.commit()
                except sqlite3.IntegrityError:
                    continue  # the file itself refuses it
            num_runs, num_batches = await open_all(folder)
            assert num_runs + num_batches >= 1, (column, value)
