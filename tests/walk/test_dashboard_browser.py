"""The dashboard in a real browser, over a real server: live, steerable, and quiet in the console."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from server.app import create_app
from server.settings import ServerSettings
from server.store.claim import Claim
from server.store.records import NewEvent, new_id, now
from server.store.states import Request
from server.store.store import Store
from server.store.tables import LLMCall
from tests.server.searches import architectures, begin_search, complete, fail, keep_samples, propose

pytestmark = pytest.mark.browser

expect.set_options(timeout=60_000)

KEY = "a key of the operator"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Served:
    """A server on a free port of this machine, in a thread."""

    def __init__(self, settings: ServerSettings) -> None:
        self.app = create_app(settings)
        self.store: Store = self.app.state.store
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, port=0, log_level="warning", timeout_graceful_shutdown=2)
        )
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> "Served":
        started = self._server.startup

        async def startup(*given: Any, **more: Any) -> None:
            await started(*given, **more)
            self._ready.set()

        self._server.startup = startup  # type: ignore[method-assign]
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.store.engine.dispose()

    @property
    def url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"


@pytest.fixture
def served(sqlite_url: str, tmp_path: Path) -> Iterator[Served]:
    with Served(ServerSettings(database_url=sqlite_url, data_dir=tmp_path)) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("ARCHSMITH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        if not found and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium: install one, or name it by ARCHSMITH_CHROMIUM")
        opened = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; whatever it complains of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    complaints: list[str] = []
    opened.on(
        "console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    refused = "status of 422"  # the browser's own word for a request that the server has rightly refused
    assert [said for said in complaints if refused not in said] == []


@pytest.fixture
def searched(served: Served, tmp_path: Path) -> Claim:
    claim = begin_search(served.store, name="small UNets")
    base, better, broken = architectures(3)
    first = propose(claim, base, origin="baseline")
    complete(claim, first, 0.8)
    second = propose(claim, better, parents=[first.id])
    for step in (0, 10, 20):
        claim.report(second.id, step, {"loss": 1.0 / (1 + step)})
    keep_samples(served.app.state.artifacts, claim, second, 0.6, tmp_path)
    fail(claim, propose(claim, broken), "the loss became NaN")
    return claim


def drawn(page: Page, chart: str) -> None:
    expect(page.locator(f"#chart-{chart} .main-svg").first).to_be_visible()


def test_a_job_that_is_submitted_while_the_page_is_open_appears_by_itself(served: Served, page: Page) -> None:
    page.goto(served.url)
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    begin_search(served.store, name="newly submitted")
    expect(page.get_by_role("link", name="newly submitted")).to_be_visible()


def test_a_search_is_shown_and_goes_on_live_without_losing_the_readers_place(
    served: Served, page: Page, searched: Claim
) -> None:
    page.goto(f"{served.url}/jobs/{searched.job.id}")
    expect(page.locator("tbody tr[id^=candidate-]")).to_have_count(3)
    drawn(page, "progress")
    drawn(page, "tradeoff")
    expect(page.locator("#live")).to_have_text("live")

    page.locator("#spec summary").click()
    row = page.get_by_role("row", name="#2")
    row.get_by_role("link", name="#2").focus()
    complete(searched, propose(searched, architectures(4)[3], origin="crossover"), 0.42)

    expect(page.locator("tbody tr[id^=candidate-]")).to_have_count(4)
    expect(page.locator("#budget")).to_contain_text("0.42")
    expect(page.locator("#incumbent")).to_contain_text("#4")
    expect(page.locator("#chart-progress .legendtext", has_text="crossover")).to_be_visible()
    expect(row.get_by_role("link", name="#2")).to_be_focused()
    assert page.locator("#spec").get_attribute("open") is not None
    assert page.url.endswith(searched.job.id)


def test_a_pause_and_a_cancel_are_asked_for_by_buttons(served: Served, page: Page, searched: Claim) -> None:
    page.goto(f"{served.url}/jobs/{searched.job.id}")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert searched.beat() is Request.PAUSE
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()

    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Cancel").click()
    assert searched.beat() is None
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("cancelling")).to_be_visible()
    assert searched.beat() is Request.CANCEL
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_sorting_filtering_and_the_cost_switch_change_the_page_in_place(
    served: Served, page: Page, searched: Claim
) -> None:
    page.goto(f"{served.url}/jobs/{searched.job.id}")
    drawn(page, "tradeoff")
    page.get_by_role("link", name="rfid").click()
    expect(page.locator("tbody tr[id^=candidate-] th").first).to_have_text("#2")
    assert "sort=score" in page.url
    page.locator("#candidates .tabs").get_by_role("link", name="failed").click()
    expect(page.locator("tbody tr[id^=candidate-]")).to_have_count(1)
    page.go_back()
    expect(page.locator("tbody tr[id^=candidate-]")).to_have_count(3)
    page.locator("#against").get_by_text("MACs").click()
    expect(page.locator("#chart-tradeoff .xtitle")).to_have_text("MACs (lower is better)")


def test_a_point_of_a_chart_leads_to_its_candidate(served: Served, page: Page, searched: Claim) -> None:
    page.goto(f"{served.url}/jobs/{searched.job.id}")
    drawn(page, "progress")
    page.locator("#chart-progress .scatterlayer .points path").first.hover(force=True)
    expect(page.locator("#chart-progress .hoverlayer .hovertext")).to_be_visible()
    with page.expect_navigation():
        page.locator("#chart-progress .scatterlayer .points path").first.click(force=True)
    expect(page.get_by_role("heading", name="Candidate 1", exact=True)).to_be_visible()


def test_a_candidate_shows_its_drawing_curves_and_samples(
    served: Served, page: Page, searched: Claim
) -> None:
    second = served.store.candidates(searched.job.id)[1]
    page.goto(f"{served.url}/candidates/{second.id}")
    expect(page.get_by_role("img", name="UNet.")).to_be_visible()
    drawn(page, "curves")
    samples = page.get_by_role("img", name="samples")
    assert samples.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
    assert samples.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"


def test_no_page_is_wider_than_its_window(served: Served, searched: Claim, page: Page) -> None:
    second = served.store.candidates(searched.job.id)[1]
    job = f"/jobs/{searched.job.id}"
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 800})
        for path in ("/", job, f"{job}/candidates/{second.id}", "/cluster", "/jobs/new", "/compare"):
            page.goto(served.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_a_page_follows_the_key_to_sign_in_and_asks_again_when_the_session_ends(
    page: Page, sqlite_url: str, tmp_path: Path
) -> None:
    settings = ServerSettings(database_url=sqlite_url, data_dir=tmp_path, api_key=KEY)
    with Served(settings) as served:
        claim = begin_search(served.store, name="behind the door")
        page.goto(f"{served.url}/jobs/{claim.job.id}")
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="behind the door")).to_be_visible()
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("API key")).to_be_visible()
        page.goto(served.url)
        expect(page.get_by_label("API key")).to_be_visible()


def test_a_request_is_written_refused_at_its_field_mended_and_submitted(served: Served, page: Page) -> None:
    page.goto(served.url)
    page.get_by_role("link", name="New job").click()
    editor = page.get_by_label("Request")
    editor.fill('{"method": "random", "budget": {"evaluations": 0}}')
    page.get_by_role("button", name="Submit").click()
    alert = page.get_by_role("alert").filter(has_text="refuses")
    expect(alert).to_contain_text("budget.evaluations")
    alert.get_by_role("button", name="budget.evaluations").click()
    assert page.evaluate("document.getSelection().toString()") == '"evaluations"'
    editor.fill('{"method": "random",')
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("This is not JSON")).to_be_visible()
    editor.fill('{"method": "random", "name": "from the browser"}')
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="from the browser")).to_be_visible()
    assert [job.name for job in served.store.jobs()] == ["from the browser"]
    page.get_by_role("link", name="Clone").click()
    expect(page.get_by_label("Request")).to_have_value(re.compile('"name": "from the browser"'))


def test_an_open_list_of_calls_grows_as_the_model_is_called(
    served: Served, page: Page, searched: Claim
) -> None:
    def call(key: str, words: str) -> LLMCall:
        return LLMCall(
            id=new_id(), job_id=searched.job.id, key=key, purpose="proposals", model="a-model", messages=[],
            reply=words, outcome={"accepted": [], "rejected": []}, estimate={}, created_at=now(),
        )  # fmt: skip

    searched.keep_llm_call(call("one", "the first reply"))
    page.goto(f"{served.url}/jobs/{searched.job.id}")
    page.locator("#calls > summary").click()
    page.locator(".call > summary").click()
    expect(page.get_by_text("the first reply")).to_be_visible()
    searched.keep_llm_call(call("two", "the second reply"), NewEvent("llm.answered", {"tokens": 1}))
    expect(page.locator(".call")).to_have_count(2)
    expect(page.get_by_text("the first reply")).to_be_visible()  # it stays open


def test_searches_chosen_in_the_list_are_compared(served: Served, page: Page, searched: Claim) -> None:
    page.goto(served.url)
    expect(page.get_by_role("button", name="Compare the chosen")).to_be_hidden()
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare the chosen").click()
    expect(page).to_have_url(f"{served.url}/compare/{searched.job.id}")
