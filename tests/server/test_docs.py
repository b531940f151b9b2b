"""GET /docs: one self-contained page over /openapi.json."""

import re
from importlib.resources import files

from helium_jax.server.examples import EXAMPLES
from helium_jax.server.parameters import PARAMETERS
from helium_jax.server.routes import ROUTES


async def test_the_page_is_there_without_a_key_and_loads_nothing_from_elsewhere(serve):
    async with serve(api_keys=("k",)) as served:
        page = await served.get("/docs")
        assert page.status == 200
        assert page.headers["Content-Type"].startswith("text/html")
        text = page.body.decode()
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert re.findall(r"https?://", text) == []
        assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["/openapi.json"]
        assert re.findall(r"fetch\(\"([^\"]*)\"", text) == ["/openapi.json"]
        assert "innerHTML" not in text
        assert (await served.get("/openapi.json")).status == 401


async def test_the_description_has_every_route_and_form(serve):
    async with serve() as served:
        described = (await served.get("/openapi.json")).json()
        paths = {(path, method) for path, ways in described["paths"].items() for method in ways}
        assert paths == {
            (route.operation.path.replace(":.+}", "}"), route.operation.method) for route in ROUTES
        }
        upload = described["paths"]["/v1/files"]["post"]["requestBody"]["content"]
        assert list(upload) == ["multipart/form-data"]
        errors = described["paths"]["/v1/messages"]["post"]["responses"]["default"]["content"]
        assert errors["application/json"]["schema"]["$ref"].endswith("/MessagesError")


async def test_every_example_works_as_it_is(serve):
    async with serve() as served:
        described = (await served.get("/openapi.json")).json()
        bodies = {
            path: ways["post"]["requestBody"]["content"]["application/json"]["example"]
            for path, ways in described["paths"].items()
            if "example" in str(ways.get("post", {}).get("requestBody"))
        }
        assert bodies.keys() == EXAMPLES.keys()
        for path, body in bodies.items():
            answer = await served.post(path, body)
            assert answer.status == 200, (path, answer.body)


async def test_every_route_of_json_says_what_its_errors_are(serve):
    async with serve() as served:
        described = (await served.get("/openapi.json")).json()
        for path, ways in described["paths"].items():
            for method, operation in ways.items():
                error = operation["responses"]["default"]["content"]["application/json"]["schema"]
                wanted = "MessagesError" if path.startswith("/v1/messages") else "ErrorReply"
                assert error["$ref"].endswith(f"/{wanted}"), (method, path)


async def test_the_parameters_are_those_of_routes_that_there_are(serve):
    async with serve() as served:
        described = (await served.get("/openapi.json")).json()
    beside = {
        (method, path): {one["name"] for one in way["parameters"] if one["in"] != "path"}
        for path, ways in described["paths"].items()
        for method, way in ways.items()
        if any(one["in"] != "path" for one in way.get("parameters", ()))
    }
    assert beside == {route: {one.name for one in own} for route, own in PARAMETERS.items()}
    read = set()
    for source in files("helium_jax.server").iterdir():
        if source.name.endswith(".py"):
            text = source.read_text(encoding="utf-8")
            read |= set(re.findall(r'request\.query\.get\(\s*"([^"]+)"', text))
            read |= set(re.findall(r'_choice\(request, "([^"]+)"', text))
    told = {name for names in beside.values() for name in names}
    assert read - {"stream"} <= told  # of a kept response: refused
