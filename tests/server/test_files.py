"""/v1/files: uploads, what is kept of them and for whom."""

import aiohttp
import pytest

from helium_jax.server import Limits

LINES = b'{"custom_id": "a"}\n'


def form(content=LINES, purpose="batch", filename="in.jsonl", **more):
    data = aiohttp.FormData(default_to_multipart=True)
    if purpose is not None:
        data.add_field("purpose", purpose)
    for name, value in more.items():
        data.add_field(name, value)
    if content is not None:
        data.add_field("file", content, filename=filename)
    return data


async def upload(served, *args, headers=None, **kwargs):
    return await served.ask("POST", "/v1/files", data=form(*args, **kwargs), headers=headers)


async def test_a_file_is_kept_listed_read_and_deleted(serve):
    async with serve() as served:
        file = (await upload(served)).json()
        assert (file["object"], file["bytes"], file["filename"]) == ("file", 19, "in.jsonl")
        assert (await served.get(f"/v1/files/{file['id']}")).json() == file
        content = await served.get(f"/v1/files/{file['id']}/content")
        assert content.body == LINES
        assert content.headers["X-Content-Type-Options"] == "nosniff"
        listed = (await served.get("/v1/files")).json()
        assert ([one["id"] for one in listed["data"]], listed["has_more"]) == ([file["id"]], False)
        deleted = await served.ask("DELETE", f"/v1/files/{file['id']}")
        assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
        for path in ("", "/content"):
            gone = await served.get(f"/v1/files/{file['id']}{path}")
            assert (gone.status, gone.error["code"]) == (404, "file_not_found")


async def test_a_list_has_pages_in_both_orders(serve):
    async with serve() as served:
        ids = [(await upload(served)).json()["id"] for _ in range(3)]
        first = (await served.get("/v1/files?limit=2&order=asc")).json()
        assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:2], True)
        rest = (await served.get(f"/v1/files?order=asc&after={first['last_id']}")).json()
        assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2:], False)
        assert [one["id"] for one in (await served.get("/v1/files")).json()["data"]] == ids[::-1]
        assert (await served.get("/v1/files?purpose=assistants")).json()["data"] == []
        for query in ("limit=0", "limit=x", "limit=99999", "order=up", "after=nothing"):
            assert (await served.get(f"/v1/files?{query}")).status == 400


async def test_other_keys_see_nothing(serve):
    async with serve(api_keys=("one", "two")) as served:
        one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
        file = (await upload(served, headers=one)).json()
        assert (await served.get("/v1/files", headers=two)).json()["data"] == []
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            answer = await served.ask(method, f"/v1/files/{file['id']}{path}", headers=two)
            assert answer.status == 404
        assert (await served.get(f"/v1/files/{file['id']}", headers=one)).status == 200


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "x" * 5000, "füße.jsonl"]
)
async def test_a_files_name_never_reaches_the_disk(serve, tmp_path, name):
    async with serve(state_dir=tmp_path / "state") as served:
        file = (await upload(served, filename=name)).json()
        kept = sorted(path.name for path in (tmp_path / "state" / "files").iterdir())
        assert kept == [f"{file['id']}.data", f"{file['id']}.json"]
        for wanted in ("../journal.sqlite", "..%2Fjournal.sqlite", "file-..", f"{file['id']}.json"):
            assert (await served.get(f"/v1/files/{wanted}/content")).status == 404
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


async def test_files_outlive_the_process_and_a_damaged_one_is_left_alone(serve, tmp_path):
    async with serve(state_dir=tmp_path) as served:
        file = (await upload(served)).json()
    (tmp_path / "files" / "file-0.json").write_text("{")
    async with serve(state_dir=tmp_path) as served:
        assert (await served.get(f"/v1/files/{file['id']}/content")).body == LINES
        assert len((await served.get("/v1/files")).json()["data"]) == 1
        await served.ask("DELETE", f"/v1/files/{file['id']}")
        left = [path.name for path in (tmp_path / "files").iterdir()]
        assert left == ["file-0.json"]


async def test_bounds_on_files(serve):
    async with serve(limits=Limits(file_bytes=1000, files=2, files_bytes=1500)) as served:
        assert (await upload(served, b"x" * 1001)).status == 413
        assert (await upload(served, b"x" * 100_000)).status == 413
        assert (await upload(served, b"x" * 1000)).status == 200
        full = await upload(served, b"x" * 501)
        assert (full.status, full.error["code"]) == (429, "files_too_large")
        assert (await upload(served, b"x")).status == 200
        many = await upload(served, b"x")
        assert (many.status, many.error["code"]) == (429, "too_many_files")


async def test_a_file_ends_by_itself_when_asked_to(serve):
    async with serve() as served:
        until = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        file = (await upload(served, **until)).json()
        assert file["expires_at"] == file["created_at"] + 3600
        for seconds in ("1", "x", "-3600", "9" * 30):
            bad = await upload(served, **{**until, "expires_after[seconds]": seconds})
            assert (bad.status, bad.error["param"]) == (400, "expires_after[seconds]")


BAD = {
    "no purpose": (form(purpose=None), 400, "purpose"),
    "another purpose": (form(purpose="fine-tune"), 400, "purpose"),
    "no file": (form(content=None), 400, "file"),
    "empty file": (form(content=b""), 400, "file"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_forms_are_named(serve, case):
    fields, status, param = BAD[case]
    async with serve() as served:
        answer = await served.ask("POST", "/v1/files", data=fields)
        assert (answer.status, answer.error["param"]) == (status, param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        b"--x\r\n\r\n",
        b"--x\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch",
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n\xff\r\n--x--\r\n',
        b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n--y--\r\n--x--\r\n",
        b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\n--x--\r\n",
    ],
)
async def test_what_is_no_form_is_refused(serve, body):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with serve() as served:
        answer = await served.ask("POST", "/v1/files", data=body, headers=headers)
        assert answer.status == 400
        assert "Traceback" not in answer.error["message"]
        for kind in ("multipart/form-data", "application/json", "text/plain"):
            answer = await served.ask(
                "POST", "/v1/files", data=body or b"x", headers={"Content-Type": kind}
            )
            assert answer.status in (400, 415)
        assert (await upload(served)).status == 200
