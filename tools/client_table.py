"""Writes the table of endpoints x clients from the marks of the server's tests.

A test says what it proves by `@pytest.mark.shows(client=..., endpoint=..., what=...)`. The table is
read from the sources, so it can be made without running them; that they pass is the tests' own
business.

    python tools/client_table.py            # writes helium_jax/server/CLIENTS.md
    python tools/client_table.py --check    # exit code 1 when the file is not what would be written
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests" / "server"
TABLE = ROOT / "helium_jax" / "server" / "CLIENTS.md"
HEAD = """# Clients and what is tested with them

Written by `python tools/client_table.py` from the marks of the tests under `tests/server/`; every
line is a test against a server on a real socket.

| endpoint | client | what | test |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Shown:
    """One mark: what a test proves of an endpoint, through a client."""

    endpoint: str
    client: str
    what: str
    test: str


def read_marks(path: Path) -> Iterator[Shown]:
    """The marks of one file's tests.

    Raises:
        SystemExit: a mark that is not three texts; the message says where.
    """
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(func=ast.Attribute(attr="shows"), keywords=keywords):
                    fields = {
                        one.arg: str(one.value.value)
                        for one in keywords
                        if one.arg is not None and isinstance(one.value, ast.Constant)
                    }
                    if fields.keys() != {"client", "endpoint", "what"}:
                        sys.exit(
                            f"{path}:{decorator.lineno}: the mark of {node.name} needs the texts "
                            "client, endpoint and what"
                        )
                    where = path.relative_to(TESTS)
                    yield Shown(**fields, test=f"{where}::{node.name}")


def table() -> str:
    """The whole file."""
    shown = sorted(one for path in sorted(TESTS.rglob("*.py")) for one in read_marks(path))
    lines = [f"| `{one.endpoint}` | {one.client} | {one.what} | `{one.test}` |\n" for one in shown]
    return HEAD + "".join(lines)


def main() -> int:
    if "--check" not in sys.argv[1:]:
        TABLE.write_text(table(), "utf-8")
        print(f"wrote {TABLE.relative_to(ROOT)}")
        return 0
    if TABLE.read_text("utf-8") == table():
        return 0
    print(f"{TABLE.relative_to(ROOT)} is out of date: run python tools/client_table.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
