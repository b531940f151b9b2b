"""Makes helium_jax/server/viewer.png: the viewer watching a run of helium-tiny, for the README.

    python -m tools.viewer_picture [--pane plan] [--out helium_jax/server/viewer.png]

Needs Chromium, which tools/chromium.sh installs.
"""

import argparse
import asyncio
import shutil
from pathlib import Path

import aiohttp
from playwright.async_api import Page, async_playwright

from helium_jax.builtin.workloads import WORKLOADS, make_workload
from helium_jax.plan import parse_plan
from helium_jax.runtime import open_runtime
from helium_jax.server import ServerConfig, make_app, start_server

ROWS = 24
SIZE = {"width": 1280, "height": 860}
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")


async def main(pane: str, out: Path) -> None:
    """Serves, submits every bundled workload, and takes the picture when the last is half done."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("there is no chromium; tools/chromium.sh installs it")
    config = ServerConfig(port=0)
    async with open_runtime() as runtime:
        server = await start_server(make_app(runtime, config), config)
        url = f"http://127.0.0.1:{server.port}"
        try:
            async with async_playwright() as playwright, aiohttp.ClientSession(url) as session:
                browser = await playwright.chromium.launch(
                    executable_path=chromium, headless=True, args=[*ARGUMENTS]
                )
                page = await browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
                run_ids = [await _submit(session, name) for name in sorted(WORKLOADS)]
                await _take(page, f"{url}/viewer/#{run_ids[-1]}/{pane}", out)
                await browser.close()
        finally:
            await server.close()


async def _submit(session: aiohttp.ClientSession, name: str) -> str:
    workload = make_workload(name, num_rows=ROWS, seed=0)
    plan, _ = parse_plan(workload.plan_source, is_json=False)
    rows = [dict(row) for row in workload.rows]
    body = {"plan": plan.document, "inputs": rows, "background": True}
    async with session.post("/v1/runs", json=body) as answer:
        return (await answer.json())["id"]


async def _take(page: Page, address: str, out: Path) -> None:
    await page.goto(address)
    half = f"() => document.querySelector('#head progress')?.value >= {ROWS // 2}"
    await page.wait_for_function(half, timeout=120_000)
    await page.wait_for_timeout(300)
    out.parent.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=out)
    print(f"wrote {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Takes a picture of the viewer")
    parser.add_argument("--pane", default="plan", choices=("rows", "plan", "timeline", "pages"))
    parser.add_argument("--out", default=Path("helium_jax/server/viewer.png"), type=Path)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.pane, arguments.out))
