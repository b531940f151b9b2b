"""A disk that is really full: what can be kept is, what cannot is told, and nothing stops."""

import asyncio
import json
import shutil
import subprocess
import sys

import pytest

from helium_jax.executor.journal import Journal
from tests.server.plans import DEBATE, until_state
from tests.server.test_batches import finish, jsonl, line, start
from tests.server.test_files import upload

LONG = {
    "plan": DEBATE,
    "inputs": [{"question": f"{row} " + "x" * 1000} for row in range(60)],
    "background": True,
}


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own with room for little."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs"]
    try:
        done = subprocess.run([*mount, str(folder)], capture_output=True, check=False)
    except OSError as error:
        pytest.skip(f"there is no mount: {error}")
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_costs_durability_alone(serve, small_disk):
    async with serve(state_dir=small_disk) as served:
        small = (await served.post("/v1/runs", {**LONG, "inputs": [{"question": "?"}]})).json()
        assert small["durable"] is True
        await until_state(served, small["id"], "completed")
        run = (await served.post("/v1/runs", LONG)).json()
        run = await until_state(served, run["id"], "completed")
        assert run["rows"] == {"total": 60, "finished": 60, "failed": 0}
        ready = await served.get("/health/ready")
        assert ready.status == 200
        assert ready.json()["degraded"]["journal"].startswith("runs.sqlite: ")
        assert b"helium:journal_up 0.0" in (await served.get("/metrics")).body
        refused = await upload(served, b"x" * 300_000)
        assert (refused.status, refused.error["code"]) == (429, "disk_error")
        assert (await served.chat()).status == 200
    # Whatever was left full, the next server starts, and can do all but keep.
    async with serve(state_dir=small_disk) as served:
        run = (await served.post("/v1/runs", LONG)).json()
        assert (await until_state(served, run["id"], "completed"))["rows"]["finished"] == 60


LIMITED = """
import json, resource, sys, threading
from pathlib import Path
from helium_jax.executor.journal import Journal

journal = Journal(Path(sys.argv[1]))
begun = threading.Event()
journal.begin("run_1", b"request", on_done=begun.set)
begun.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (96 * 1024, 96 * 1024))
told = []
for row in range(100):
    done = threading.Event()
    journal.add_row("run_1", row, b"x" * 4000, on_done=done.set)
    done.wait()
    told.append(journal.failure)
journal.close()
print(json.dumps(told))
"""


def test_writes_that_fail_midway_lose_no_row_that_was_told_to_be_kept(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    num_kept = told.index(next(failure for failure in told if failure))
    assert 0 < num_kept < 100
    assert all(failure == told[-1] for failure in told[num_kept:])
    journal = Journal(tmp_path)
    journal.close()
    assert journal.failure is None
    (run,) = journal.take_found("run_")
    assert set(range(num_kept)) <= set(run.rows)
    assert all(data == b"x" * 4000 for data in run.rows.values())


async def test_a_batch_whose_output_cannot_be_written_waits_for_room(serve, small_disk):
    async with serve(state_dir=small_disk) as served:
        lines = jsonl([line(f"{i}", max_tokens=12) for i in range(300)])
        batch = (await start(served, lines)).json()
        path = f"/v1/batches/{batch['id']}"
        async with asyncio.timeout(60):
            while not batch["errors"]:
                await asyncio.sleep(0.02)
                batch = (await served.get(path)).json()
        assert batch["status"] == "finalizing"
        (error,) = batch["errors"]["data"]
        assert (error["code"], "No space left" in error["message"]) == ("disk_error", True)
        await served.ask("POST", f"{path}/cancel")
        assert (await finish(served, batch))["status"] == "failed", "it is still full"
