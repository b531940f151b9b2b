"""The viewer in a browser: watched runs, a cancel, the keyboard, keys, and hostile texts."""

import asyncio

import pytest
from playwright.async_api import expect

from helium_jax.testing import FakeGenerator
from tests.server.plans import DEBATE, QUESTIONS, bearer, until_state
from tests.viewer.conftest import PICTURES

pytestmark = pytest.mark.asyncio(loop_scope="module")

PANES = ("rows", "plan", "timeline", "pages")
# Longer than a page of the KV store, so that rows share some.
PLAN = {
    **DEBATE,
    "ops": {
        name: {**op, "system": op["system"] + " Be brief and kind to everybody, and fair."}
        for name, op in DEBATE["ops"].items()
    },
}
PLAN["ops"]["twin"] = PLAN["ops"]["pro"]  # merged into pro
PLAN["ops"]["idle"] = {"type": "llm.chat", "user": "Nobody reads this: {{question}}"}  # pruned
PLAN["outputs"] = {**DEBATE["outputs"], "same": "twin"}


class Gate:
    """Lets so many calls of a generator go on."""

    def __init__(self, num_free=0):
        self.room = asyncio.Semaphore(num_free)

    def generator(self, **kwargs):
        async def wait(request, num_sent):
            if num_sent == 1:
                await self.room.acquire()

        return FakeGenerator(before_event=wait, max_answer_tokens=200, **kwargs)

    def open(self, num_calls):
        for _ in range(num_calls):
            self.room.release()


async def begin(served, plan=PLAN, rows=QUESTIONS, **kwargs):
    answer = await served.post(
        "/v1/runs", {"plan": plan, "inputs": rows, "background": True}, **kwargs
    )
    assert answer.status == 202, answer.body
    return answer.json()["id"]


async def finish(served, run_id, **kwargs):
    return await until_state(served, run_id, "completed", "failed", "cancelled", **kwargs)


async def focused(page):
    """What a keyboard user is at."""
    return await page.evaluate(
        "() => (document.activeElement.getAttribute('aria-label') || "
        "document.activeElement.textContent).trim()"
    )


async def press_until(page, key, wanted, most=40):
    """Presses a key until something with these words has the focus."""
    for _ in range(most):
        await page.keyboard.press(key)
        if wanted in await focused(page):
            return
    raise AssertionError(f"{wanted!r} was not reached by {most} times {key}")


async def test_a_run_is_watched_from_start_to_end(open_page):
    gate = Gate()
    async with open_page(gate.generator()) as (served, page):
        await page.goto("/")
        await expect(page.locator("#runs-empty")).to_be_visible()
        run_id = await begin(served)
        await expect(page.locator("#runs .name")).to_have_text("debate")
        await expect(page.locator("#head .state")).to_contain_text("in progress")
        await expect(page.locator("#head dl")).to_contain_text("0 of 4")
        pro = page.locator("g.node", has_text="pro").first
        await expect(pro).to_contain_text("0 of 4 rows")
        gate.open(8)  # both sides of every question
        await expect(pro).to_contain_text("4 of 4 rows")
        await expect(page.locator("#head dl")).to_contain_text("0 of 4")
        gate.open(1)
        await expect(page.locator("#head dl")).to_contain_text("1 of 4")
        await page.click("#tab-timeline")
        await expect(page.locator(".gantt .call.running").first).to_be_visible()
        gate.open(3)
        await expect(page.locator("#head .state")).to_contain_text("completed")
        await expect(page.locator("#live")).to_have_text("debate: completed, 4 of 4 rows")
        await expect(page.locator(".gantt .call")).to_have_count(12)
        await expect(page.locator(".gantt .call.running")).to_have_count(0)
        usage = (await served.get(f"/v1/runs/{run_id}")).json()["usage"]
        saved = usage["needed"] - usage["computed"] - usage["precomputed"]
        await expect(page.locator("#head dl")).to_contain_text(f"{saved:,} of {usage['needed']:,}")
        assert page.url.endswith(f"#{run_id}/timeline")


async def test_a_lost_connection_is_taken_up_where_it_broke(open_page):
    gate = Gate()
    broken = "ERR_INCOMPLETE_CHUNKED_ENCODING"
    async with open_page(gate.generator(), may_fail=broken) as (served, page):
        ids = []
        page.on(
            "request",
            lambda request: (
                request.url.endswith("/events") and ids.append(request.headers.get("last-event-id"))
            ),
        )
        run_id = await begin(served)
        await page.goto("/viewer/")
        gate.open(9)
        # What operators did is told by events alone.
        await expect(page.locator("g.node", has_text="pro").first).to_contain_text("4 of 4 rows")
        async with page.expect_request(lambda request: request.url.endswith("/events")):
            for connection in served.server._runner.server.connections:
                request, transport = connection._current_request, connection.transport
                if request is not None and transport and request.path.endswith("/events"):
                    transport.close()
        gate.open(3)
        await expect(page.locator("#head .state")).to_contain_text("completed")
        assert ids[0] is None
        assert ids[1] is not None
        assert (await finish(served, run_id))["rows"]["finished"] == 4


async def test_cancel_ends_the_run(open_page):
    async with open_page(Gate().generator()) as (served, page):
        run_id = await begin(served)
        await page.goto("/")
        await page.click("#cancel")
        await expect(page.locator("#head .state")).to_contain_text("cancelled")
        await expect(page.locator("#cancel")).to_be_hidden()
        await expect(page.locator("#live")).to_contain_text("cancelled")
        assert (await finish(served, run_id))["state"] == "cancelled"
        assert served.generator.running == set()


async def test_the_keyboard_alone_reaches_everything(open_page):
    async with open_page(FakeGenerator()) as (served, page):
        first = await begin(served)
        await finish(served, first)
        second = await begin(served, {**PLAN, "name": "other"})
        await finish(served, second)
        await page.goto("/")
        await expect(page.locator("#runs li")).to_have_count(2)
        await press_until(page, "Tab", "debate")
        await page.keyboard.press("Enter")
        await expect(page.locator("#head h2")).to_have_text("debate")
        await press_until(page, "Tab", "Plan")
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator("#pane-rows")).to_be_visible()
        assert await focused(page) == "Rows"
        await page.keyboard.press("ArrowRight")
        await expect(page.locator(".dag")).to_be_visible()
        await press_until(page, "Tab", "question, input")
        await press_until(page, "ArrowRight", "judge")
        await page.keyboard.press("Enter")
        await expect(page.locator(".detail h3")).to_contain_text("judge")
        await expect(page.locator(".detail .explain")).to_contain_text("Chat judge")
        await press_until(page, "Tab", "Row 1")
        await page.keyboard.press("ArrowDown")
        await expect(page.locator(".detail .prompt")).to_contain_text("Is 1 a good number?")
        await press_until(page, "Shift+Tab", "Show as a table")
        await page.keyboard.press("Enter")
        await expect(page.locator("#plan-table table tbody tr")).to_have_count(9)
        await press_until(page, "Shift+Tab", "Switch to dark colours")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.documentElement.dataset.theme") == "dark"


async def test_who_is_at_an_operator_stays_there_when_the_picture_is_drawn_anew(open_page):
    gate = Gate()
    async with open_page(gate.generator()) as (served, page):
        run_id = await begin(served)
        await page.goto(f"/viewer/#{run_id}/plan")
        await page.locator("g.node", has_text="judge").focus()
        before = await page.locator("svg.dag").element_handle()
        gate.open(12)
        await expect(page.locator("#head .state")).to_contain_text("completed")
        await page.wait_for_function("picture => !picture.isConnected", arg=before)
        assert "judge" in await focused(page)
        await page.keyboard.press("Enter")
        await expect(page.locator(".detail h3")).to_contain_text("judge")


async def test_a_prompt_is_shaded_as_far_as_others_begin_so(open_page):
    async with open_page(FakeGenerator()) as (served, page):
        run_id = await begin(served)
        await finish(served, run_id)
        await page.goto(f"/viewer/#{run_id}/plan")
        await page.locator("g.node", has_text="judge").click()
        prompt = page.locator(".detail .prompt")
        shared = await prompt.locator(".shared-operator").text_content()
        assert shared == (
            "system: You are a fair judge. Be brief and kind to everybody, and fair.\nuser: Is "
        )
        await expect(prompt).to_contain_text("Is 0 a good number?\nFOR: ")
        await expect(page.locator("g.node.gone")).to_have_count(2)
        await expect(page.locator("g.node.gone", has_text="twin")).to_contain_text("merged into")
        await expect(page.locator("g.node.gone", has_text="idle")).to_contain_text("pruned")


async def test_answers_from_the_output_cache_wear_a_ring(open_page):
    async with open_page(FakeGenerator()) as (served, page):
        await finish(served, await begin(served))
        plan = {**PLAN, "ops": {**PLAN["ops"], "judge": {**PLAN["ops"]["judge"], "max_tokens": 7}}}
        run_id = await begin(served, plan)
        await finish(served, run_id)
        await page.goto(f"/viewer/#{run_id}/plan")
        await expect(page.locator("g.node.served")).to_have_count(2)
        await expect(page.locator("g.node.served", has_text="con")).to_contain_text("cache")


HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


async def test_texts_of_strangers_stay_texts(open_page):
    generator = FakeGenerator(reply=lambda request: [*HOSTILE.encode()])
    plan = {**PLAN, "name": HOSTILE, "ops": {**PLAN["ops"]}}
    plan["ops"]["pro"] = {**PLAN["ops"]["pro"], "user": HOSTILE + "{{question}}", "max_tokens": 99}
    async with open_page(generator, may_fail="TrustedHTML") as (served, page):
        run_id = await begin(served, plan, [{"question": HOSTILE}])
        await finish(served, run_id)
        for pane in PANES:
            await page.goto(f"/viewer/#{run_id}/{pane}")
            await expect(page.locator("#head h2")).to_have_text(HOSTILE)
            await page.wait_for_function(
                "pane => document.getElementById('pane-' + pane).childElementCount > 0", arg=pane
            )
            if pane == "plan":
                await page.locator("g.node", has_text="pro").first.click()
                await expect(page.locator(".detail .prompt")).to_contain_text(HOSTILE)
            if pane == "rows":
                await expect(page.locator("#pane-rows td", has_text=HOSTILE).first).to_be_visible()
            for summary in await page.locator(f"#pane-{pane} summary").all():
                await summary.click()
        assert await page.evaluate("window.hacked") is None
        assert await page.locator("main img, main script, nav img").count() == 0
        with pytest.raises(Exception, match="TrustedHTML"):
            await page.evaluate("text => { document.body.innerHTML = text }", HOSTILE)


async def test_a_key_is_asked_for_and_opens_its_own_runs_alone(open_page):
    keys = {"api_keys": ("mine", "theirs")}
    async with open_page(FakeGenerator(), may_fail="status of 401", **keys) as (served, page):
        own = await begin(served, headers=bearer("mine"))
        await finish(served, own, headers=bearer("mine"))
        secret = {**PLAN, "name": "secret"}
        secret["ops"] = {
            name: {**op, "system": f"the other key's words {op.get('system', '')}"}
            for name, op in PLAN["ops"].items()
        }
        await finish(
            served, await begin(served, secret, headers=bearer("theirs")), headers=bearer("theirs")
        )
        await page.goto("/")
        await expect(page.locator("#key-dialog")).to_be_visible()
        await page.fill("#key-value", "wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#key-error")).to_have_text("This key is not valid here.")
        await page.fill("#key-value", "mine")
        await page.keyboard.press("Enter")
        await expect(page.locator("#runs .name")).to_have_text(["debate"])
        await page.click("#tab-pages")
        await expect(page.locator(".icicle")).to_be_visible()
        await page.click("#pages-table-0 summary")
        await expect(page.locator("#pages-table-0")).to_contain_text("another key's")
        assert "the other key's words" not in await page.content()
        assert "Be brief" in await page.content()
        assert await page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]
        await page.reload()
        await expect(page.locator("#runs .name")).to_have_text(["debate"])


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_every_pane_has_a_picture_and_its_text(open_page, theme):
    generator = FakeGenerator()
    PICTURES.mkdir(parents=True, exist_ok=True)
    async with open_page(generator, theme=theme) as (served, page):
        run_id = await begin(served)
        await finish(served, run_id)
        for pane, picture in zip(PANES, ("table", ".dag", ".gantt", ".grid"), strict=True):
            await page.goto(f"/viewer/#{run_id}/{pane}")
            await expect(page.locator(f"#pane-{pane} {picture}").first).to_be_visible()
            await page.screenshot(path=PICTURES / f"{pane}-{theme}.png")
        await page.goto(f"/viewer/#{run_id}/timeline")
        await page.click("#timeline-table summary")
        await expect(page.locator("#timeline-table tbody tr")).to_have_count(12)
        await page.locator(".gantt .call").first.click()
        await expect(page.locator(".chosen-call")).to_contain_text("row 0")
        await page.goto(f"/viewer/#{run_id}/pages")
        await page.click("#pages-table-0 summary")
        await expect(page.locator("#pages-table-0 tbody").first).to_contain_text("free")
        label = await page.locator("canvas").get_attribute("aria-label")
        assert " 0 pinned" in label
        # Nothing on the page lacks a name that assistive technology can say.
        unnamed = await page.evaluate(
            "() => [...document.querySelectorAll('button, a, select, input, [role]')]"
            ".filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') "
            "|| e.textContent.trim() || (e.labels && e.labels.length) || e.id === 'link' "
            "|| e.id === 'live' || e.getAttribute('role') === 'alert' "
            "|| e.getAttribute('role') === 'status')).map((e) => e.outerHTML)"
        )
        assert unnamed == []
