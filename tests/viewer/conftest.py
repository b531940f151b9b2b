"""Headless Chromium in front of a real server: one browser for a module, a fresh page per test."""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.server.conftest import StubRuntime, load_test_text, serve_runtime

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 30_000  # of a busy machine; nothing waits for it to pass
PICTURES = Path("build/viewer")  # where the tests leave what they saw


@pytest.fixture(scope="session")
def text():
    return load_test_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory) -> AsyncIterator[Browser]:
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("there is no chromium; tools/chromium.sh installs it")
    assert CHROMIUM is not None, "CI needs chromium; tools/chromium.sh installs it"
    expect.set_options(timeout=TIMEOUT_MS)
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=[*ARGUMENTS]
        )
        yield started
        await started.close()


@pytest.fixture
def open_page(browser, text):
    """`async with open_page(generator, **server_config) as (served, page)`; the page must stay
    without errors and ask nobody but the server."""

    @contextlib.asynccontextmanager
    async def start(
        generator: Any, *, theme: str = "light", may_fail: str = "nothing", **config: Any
    ) -> AsyncIterator[tuple[Any, Page]]:
        runtime = StubRuntime(generator=generator, text=text)
        problems: list[str] = []
        async with serve_runtime(runtime, **config) as served:
            context = await browser.new_context(
                viewport={"width": 1360, "height": 900}, color_scheme=theme, base_url=served.url
            )
            context.set_default_timeout(TIMEOUT_MS)
            page = await context.new_page()

            def on_console(message: Any) -> None:
                # A browser writes an answer with an error status to its console by itself.
                expected = may_fail in message.text
                if message.type in ("error", "warning") and not expected:
                    problems.append(message.text)

            page.on("console", on_console)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on(
                "request",
                lambda request: (
                    request.url.startswith(served.url + "/")
                    or problems.append(f"asked elsewhere: {request.url}")
                ),
            )
            try:
                yield served, page
            finally:
                await context.close()
        assert problems == []

    return start
