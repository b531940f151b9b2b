"""The journal of runs: what was committed is found again, and a bad file stops nobody."""

import sqlite3
import threading

import pytest

from helium_jax.errors import RequestError
from helium_jax.executor.journal import Journal, JournaledRun


def wait_for(write):
    """Calls a write and waits until it is told."""
    done = threading.Event()
    write(on_done=done.set)
    assert done.wait(5)


def fill(journal, run_id="run_1", rows=3):
    wait_for(lambda on_done: journal.begin(run_id, b"request", on_done=on_done))
    for row in range(rows):
        wait_for(
            lambda on_done, row=row: journal.add_row(run_id, row, b"%d" % row, on_done=on_done)
        )


def test_what_was_written_is_found_again_in_order(tmp_path):
    journal = Journal(tmp_path)
    assert journal.found == []
    fill(journal, "run_2", rows=2)
    fill(journal, "run_1", rows=0)
    wait_for(lambda on_done: journal.set_state("run_2", "completed", 2, on_done=on_done))
    journal.close()
    again = Journal(tmp_path)
    again.close()
    assert again.found == [
        JournaledRun(
            run_id="run_2",
            request=b"request",
            state="completed",
            attempt=2,
            rows={0: b"0", 1: b"1"},
        ),
        JournaledRun(run_id="run_1", request=b"request", state="queued", attempt=1),
    ]


def test_no_row_is_there_twice(tmp_path):
    journal = Journal(tmp_path)
    fill(journal, rows=1)
    wait_for(lambda on_done: journal.add_row("run_1", 0, b"other", on_done=on_done))
    journal.close()
    again = Journal(tmp_path)
    again.close()
    assert again.found[0].rows == {0: b"0"}


def test_what_is_forgotten_is_gone(tmp_path):
    journal = Journal(tmp_path)
    fill(journal)
    journal.forget("run_1")
    journal.close()
    again = Journal(tmp_path)
    again.close()
    assert again.found == []


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    journal = Journal(tmp_path)
    with pytest.raises(RequestError, match="another server uses the state directory"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot use"):
        Journal(tmp_path / "file" / "state")


@pytest.mark.parametrize("damage", [b"this is no database" * 100, None])
def test_a_damaged_or_foreign_file_is_left_alone_and_told(tmp_path, damage):
    path = tmp_path / "runs.sqlite"
    if damage is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (x)")
        connection.close()
    else:
        path.write_bytes(damage)
    before = path.read_bytes()
    journal = Journal(tmp_path)
    assert journal.failure is not None
    fill(journal)  # nobody waits for ever
    journal.close()
    assert path.read_bytes()[100:] == before[100:]


def test_a_full_journal_is_told_and_keeps_what_it_has(tmp_path):
    journal = Journal(tmp_path, max_bytes=64 * 1024)
    fill(journal, rows=2)
    assert journal.failure is None
    wait_for(lambda on_done: journal.add_row("run_1", 2, b"x" * 200_000, on_done=on_done))
    assert journal.failure is not None
    assert "full" in journal.failure
    journal.close()
    again = Journal(tmp_path)
    again.close()
    assert again.found[0].rows == {0: b"0", 1: b"1"}
