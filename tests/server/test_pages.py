"""The dashboard's pages over a real store: what they show, what they escape, and who may see them."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from search_spaces import find
from server.auth import COOKIE
from server.dashboard.pages import CANDIDATES_PAGE, JOBS_PAGE, PREVIEWS
from server.dashboard.session import local
from server.dashboard.text import event_text
from server.store.artifacts import ArtifactStore
from server.store.claim import Claim, Outcome
from server.store.methods import SEARCH_METHODS
from server.store.records import new_id, now
from server.store.scale_methods import SCALE_METHODS
from server.store.specs import SearchSpec, TrainSpec
from server.store.states import CandidateState, JobState
from server.store.store import Store
from server.store.tables import LLMCall, Worker
from tests.server.searches import (
    PIXEL,
    architectures,
    begin_search,
    complete,
    fail,
    keep_samples,
    measure_again,
    propose,
)

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """The parts of a page that tests ask about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, attribute: str) -> list[str]:
        return [given[attribute] or "" for name, given in self.tags if name == tag and attribute in given]


def opened(client: TestClient, path: str, status: int = 200) -> Page:
    response = client.get(path, headers=BROWSER)
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("text/html")
    return Page(response.text)


def held_store(client: TestClient) -> Store:
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    return store


@pytest.fixture
def store(client: TestClient) -> Store:
    return held_store(client)


@pytest.fixture
def searched(client: TestClient, store: Store, tmp_path: Path) -> Claim:
    """A running search: the baseline, a better child of it with samples, a failure, one in flight."""
    claim = begin_search(store, name="small UNets", constraints={"params": {"max": 400_000}})
    base, better, broken, running = architectures(4)
    first = propose(claim, base, origin="baseline", note="the published reference point")
    complete(claim, first, 0.80, device_seconds=6.0)
    second = propose(claim, better, origin="mutation", parents=[first.id], note="wider, for the same depth")
    for step in (0, 50, 100):
        claim.report(second.id, step, {"loss": 1.0 / (1 + step), "rate": 0.1})
    keep_samples(client.app.state.artifacts, claim, second, 0.60, tmp_path)  # type: ignore[attr-defined]
    third = propose(claim, broken, origin="crossover", parents=[second.id, first.id])
    claim.retry(third.id, "the worker was lost")
    fail(claim, third, "the loss became NaN at step 7")
    propose(claim, running, origin="mutation", parents=[second.id])
    return claim


# -------------------------------------------------------------------- jobs


def test_an_empty_dashboard_shows_a_request_that_the_api_takes(client: TestClient) -> None:
    page = opened(client, "/")
    body = re.search(r"-d '(\{.*?\})'", page.text)
    assert body
    assert "archsmith submit" in page.text
    assert client.post("/v1/jobs", json=json.loads(body[1])).status_code == 201
    assert "No jobs yet" not in opened(client, "/").text


def test_the_jobs_page_shows_state_progress_and_the_best_value(client: TestClient, searched: Claim) -> None:
    page = opened(client, "/")
    assert {"small UNets", "running", "3 of 20 candidates", "0.6000", "2 completed", "1 failed"} <= set(
        re.split(r"\s{2,}", "  ".join(word.strip() for word in page.words))
    )
    assert f"/jobs/{searched.job.id}" in page.all("a", "href")


def test_no_time_left_is_told_while_the_best_of_a_search_are_measured_again(
    client: TestClient, store: Store
) -> None:
    claim = begin_search(store, evaluations=4)
    first, *others = (propose(claim, arch) for arch in architectures(4))
    for found in (first, *others[:2]):
        complete(claim, found, 0.5)
    assert "s left" in opened(client, "/").text
    complete(claim, others[2], 0.5)
    measure_again(claim, first, 1, None)
    assert "4 of 4 candidates" in opened(client, "/").text
    assert "left" not in opened(client, "/").text
    assert "Time left –" in opened(client, f"/jobs/{claim.job.id}").text


def test_jobs_are_filtered_by_the_address(client: TestClient, store: Store, searched: Claim) -> None:
    store.create_job(SearchSpec.model_validate({"method": "random", "name": "waiting one"}))
    assert "small UNets" not in opened(client, "/?state=queued").text
    assert "waiting one" in opened(client, "/?state=queued").text
    assert "waiting one" not in opened(client, "/?method=evolution").text
    assert "waiting one" in opened(client, "/?text=WAITING").text
    assert "No job matches" in opened(client, "/?text=nothing-like-it").text


def test_jobs_come_in_pages_that_together_hold_each_once(client: TestClient, store: Store) -> None:
    ids = {
        store.create_job(SearchSpec.model_validate({"method": "random"}))[0].id for _ in range(JOBS_PAGE + 3)
    }
    seen: list[str] = []
    path = "/?method=random"
    for _ in range(3):
        page = opened(client, path)
        seen += [i.removeprefix("job-") for i in page.all("tr", "id")]
        following = [a["href"] for tag, a in page.tags if tag == "a" and a.get("rel") == "next"]
        if not following:
            break
        path = str(following[0])
    assert len(seen) == len(ids)
    assert set(seen) == ids


def test_an_unknown_state_is_refused_with_a_page(client: TestClient) -> None:
    assert "state" in opened(client, "/?state=sleeping", 422).text


# -------------------------------------------------------------------- one job


def test_a_search_page_shows_incumbent_baseline_candidates_and_events(
    client: TestClient, searched: Claim
) -> None:
    page = opened(client, f"/jobs/{searched.job.id}")
    assert "small UNets" in page.text
    assert "minimize rfid" in page.text
    assert "params up to 400 k" in page.text
    assert "−25 %" in page.text  # 0.60 against the baseline's 0.80
    assert "the loss became NaN at step 7" in page.text
    assert "candidate.failed" in page.text
    assert "candidate.progress" not in page.text
    assert "2 tries" in page.text
    assert any(src.startswith("/v1/artifacts/") for src in page.all("img", "src"))
    assert len([i for i in page.all("tr", "id") if i.startswith("candidate-")]) == 4


def test_a_search_page_says_why_evolution_stood_in_for_the_language_model(
    client: TestClient, searched: Claim
) -> None:
    path = f"/jobs/{searched.job.id}"
    assert "in the language model" not in client.get(path).text
    for reason in ("it was slow", "no language model is <configured>"):
        searched.event("proposer.fell_back", {"turn": 1, "reason": reason})
    shown = client.get(path).text
    assert "in the language model's place: no language model is &lt;configured&gt;." in shown
    assert "place: it was slow" not in shown


def test_the_buttons_are_those_that_the_state_allows(
    client: TestClient, store: Store, searched: Claim
) -> None:
    path, job = f"/jobs/{searched.job.id}", searched.job.id

    def actions() -> list[str]:
        return [post.rsplit("/", 1)[1] for post in opened(client, path).all("button", "data-post")]

    assert actions() == ["pause", "cancel"]
    store.pause(job)
    assert actions() == ["resume", "cancel"]
    store.cancel(job)
    assert actions() == []
    assert "cancelling" in opened(client, path).text
    assert searched.release() is JobState.CANCELLED
    assert actions() == []
    assert "cancelling" not in opened(client, path).text


def test_candidates_are_sorted_filtered_and_paged_by_the_address(client: TestClient, store: Store) -> None:
    claim = begin_search(store)
    values = {}
    for n, arch in enumerate(architectures(CANDIDATES_PAGE + 5)):
        candidate = propose(claim, arch)
        values[candidate.id] = 1.0 - (n * 7 % 30) / 30
        complete(claim, candidate, values[candidate.id])
    path, seen = f"/jobs/{claim.job.id}?sort=score&descending=true&state=completed", []
    for _ in range(2):
        page = opened(client, path)
        seen += [i.removeprefix("candidate-") for i in page.all("tr", "id") if i.startswith("candidate-")]
        path = next((str(a["href"]) for t, a in page.tags if t == "a" and a.get("rel") == "next"), "")
    assert path == ""
    assert seen == sorted(values, key=lambda c: values[c])
    assert "No candidate is failed" in opened(client, f"/jobs/{claim.job.id}?state=failed").text


def test_the_figures_are_those_of_the_search(client: TestClient, searched: Claim) -> None:
    figures = client.get(f"/jobs/{searched.job.id}/charts?against=macs").json()
    best = next(t for t in figures["progress"]["data"] if t["name"] == "best so far")
    assert (best["x"], best["y"]) == ([1, 2, 4], [0.8, 0.6, 0.6])
    assert "MACs" in figures["tradeoff"]["layout"]["xaxis"]["title"]["text"]
    figures = client.get(f"/jobs/{searched.job.id}/charts").json()
    assert figures["tradeoff"]["layout"]["shapes"][0]["x0"] == 400_000


def asked(claim: Claim, key: str, **more: Any) -> LLMCall:
    """A call of a language model, one of whose two proposals was taken."""
    return LLMCall(
        id=new_id(),
        job_id=claim.job.id,
        key=key,
        purpose="proposals",
        model="some-model",
        messages=[{"role": "user", "content": f"What next? {EVIL}"}, EVIL],
        outcome={"accepted": ["unet-8:0-0-0-0-0"], "rejected": [{"reason": EVIL, "architecture": ""}]},
        estimate={"tokens": 5000, "cost_usd": 0.01},
        cost_usd=0.0021,
        created_at=now(),
        **more,
    )


def test_language_model_calls_are_loaded_on_demand(client: TestClient, searched: Claim) -> None:
    path = f"/jobs/{searched.job.id}"
    assert "Language-model calls" not in opened(client, path).text
    searched.keep_llm_call(asked(searched, "answered", reply=EVIL, prompt_tokens=1200, completion_tokens=34))
    searched.keep_llm_call(asked(searched, "lost", error="the provider is overloaded"))
    searched.keep_llm_call(asked(searched, "open"))
    page = opened(client, path)
    assert "3 calls, 1.20 k tokens in, 34 out, $0.0063" in page.text
    assert "What next?" not in page.text
    calls = opened(client, f"{path}/calls")
    assert f"What next? {EVIL}" in calls.text
    assert "the provider is overloaded" in calls.text
    assert "1 accepted 1 rejected" in calls.text
    assert "unet-8:0-0-0-0-0" in calls.text
    assert f"rejected {EVIL}" in calls.text
    assert "no answer yet" in calls.text
    assert calls.all("img", "src") == []
    searched.release()
    calls = opened(client, f"{path}/calls")
    assert "no answer yet" not in calls.text
    assert "at most 5,000 tokens · $0.0100" in calls.text
    assert "cut off" in calls.text
    assert "its estimate is counted as spent" in calls.text
    assert "3 calls, 6.20 k tokens in, 34 out, $0.0142" in opened(client, path).text


def test_a_refresh_gets_the_same_content_without_the_frame(client: TestClient, searched: Claim) -> None:
    path = f"/jobs/{searched.job.id}"
    whole = client.get(path, headers=BROWSER).text
    part = client.get(path, headers={**BROWSER, "X-Fragment": "1"}).text
    assert "<html" not in part
    assert part.strip() in whole


def test_a_training_of_epochs_is_as_far_as_they_are(client: TestClient, store: Store) -> None:
    arch = find("macro-8").largest
    spec = {
        "method": "supervised",
        "architecture": {"space": arch.space, "key": arch.key},
        "config": {"recipe": {"kind": "supervised", "epochs": 30}},
    }
    store.create_job(TrainSpec.model_validate(spec))
    claim = store.claim("worker", timedelta(minutes=1))
    assert claim is not None
    claim.report(propose(claim, arch, origin="given").id, 15, {"loss": 0.5})
    page = opened(client, "/")
    assert "15 of 30 epochs" in page.text
    assert page.all("div", "aria-valuenow") == ["50"]


def test_a_training_job_shows_its_curves(client: TestClient, store: Store) -> None:
    (arch,) = architectures(1)
    given = {"space": arch.space, "key": arch.key}
    spec = TrainSpec.model_validate({"method": "diffusion", "architecture": given, "dataset": "digits"})
    job, _ = store.create_job(spec)
    assert "diffusion" in opened(client, f"/jobs/{job.id}").text
    claim = store.claim("worker", timedelta(minutes=1))
    assert claim is not None
    candidate = propose(claim, arch, origin="given")
    claim.report(candidate.id, 40, {"loss": 0.5})
    page = opened(client, f"/jobs/{job.id}")
    assert page.all("figure", "data-chart") == ["curves"]
    assert re.search(r"\b40 of [\d,]+ steps", opened(client, "/").text)
    (curve,) = client.get(f"/jobs/{job.id}/charts").json()["curves"]["data"]
    assert (curve["x"], curve["y"]) == ([40], [0.5])


def test_a_training_shows_samples_along_the_way_in_the_order_of_their_steps(
    client: TestClient, store: Store, tmp_path: Path
) -> None:
    (arch,) = architectures(1)
    given = {"space": arch.space, "key": arch.key}
    job, _ = store.create_job(TrainSpec.model_validate({"method": "diffusion", "architecture": given}))
    claim = store.claim("worker", timedelta(minutes=1))
    assert claim is not None
    candidate = propose(claim, arch, origin="given")
    page = f"/jobs/{job.id}"
    assert "along the way" not in opened(client, page).text
    artifacts = ArtifactStore(str(tmp_path / "artifacts"))
    for step in (*range(11000, 1000, -1000), 1000):
        file = tmp_path / f"samples-{step:07}.png"
        file.write_bytes(PIXEL)
        claim.keep(candidate.id, [artifacts.put(file, f"{job.id}/{candidate.id}")])
    for path in (page, f"{page}/candidates/{candidate.id}"):
        shown = [alt for alt in opened(client, path).all("img", "alt") if alt.startswith("samples after")]
        assert len(shown) == PREVIEWS
        steps = [int(alt.split()[2]) for alt in shown]
        assert steps == sorted(steps)
        assert (steps[0], steps[-1]) == (1000, 11000)


# -------------------------------------------------------------------- one candidate


def test_a_candidate_page_shows_drawing_lineage_differences_and_files(
    client: TestClient, store: Store, searched: Claim
) -> None:
    first, second, third, fourth = store.candidates(searched.job.id)
    page = opened(client, f"/jobs/{searched.job.id}/candidates/{second.id}")
    assert "wider, for the same depth" in page.text
    assert any(tag == "svg" and a.get("class") == "diagram" for tag, a in page.tags)
    links = page.all("a", "href")
    for other in (first, third, fourth):
        assert f"/jobs/{searched.job.id}/candidates/{other.id}" in links
    differing = [n for n, v in second.architecture.items() if first.architecture[n] != v]
    assert sum("changed" == a.get("class") for tag, a in page.tags if tag == "tr") == len(differing) > 0
    assert "samples.png" in page.all("a", "download")
    assert "samples" in page.all("img", "class")
    assert "−25 %" in page.text
    charts = client.get(f"/jobs/{searched.job.id}/candidates/{second.id}/charts").json()
    assert [t["name"] for t in charts["curves"]["data"]] == ["loss", "rate"]


def test_a_failed_candidate_says_why(client: TestClient, store: Store, searched: Claim) -> None:
    third = store.candidates(searched.job.id)[2]
    page = opened(client, f"/jobs/{searched.job.id}/candidates/{third.id}")
    assert "Failed: the loss became NaN at step 7" in page.text
    assert "candidate.retried" in page.text


def test_a_candidate_is_found_by_its_id_alone(client: TestClient, store: Store, searched: Claim) -> None:
    found = store.candidates(searched.job.id)[0]
    response = client.get(f"/candidates/{found.id}", follow_redirects=False)
    assert response.headers["location"] == f"/jobs/{searched.job.id}/candidates/{found.id}"


def test_a_candidate_is_not_found_under_another_job(
    client: TestClient, store: Store, searched: Claim
) -> None:
    other, _ = store.create_job(SearchSpec.model_validate({"method": "random"}))
    found = store.candidates(searched.job.id)[0]
    assert "Not Found" in opened(client, f"/jobs/{other.id}/candidates/{found.id}", 404).text


def test_children_are_those_that_name_the_candidate_on_either_database(
    postgresql_client: TestClient,
) -> None:
    store = held_store(postgresql_client)
    claim = begin_search(store)
    parent, *children = [propose(claim, arch) for arch in architectures(1)]
    for arch in architectures(4)[1:]:
        children.append(propose(claim, arch, parents=[parent.id]))
    page = opened(postgresql_client, f"/jobs/{claim.job.id}/candidates/{parent.id}")
    links = page.all("a", "href")
    assert all(f"/jobs/{claim.job.id}/candidates/{child.id}" in links for child in children)
    assert opened(postgresql_client, f"/jobs/{claim.job.id}").text
    assert postgresql_client.get(f"/jobs/{claim.job.id}/charts").status_code == 200


# -------------------------------------------------------------------- cluster, errors


def test_the_cluster_page_tells_silent_workers_from_living_ones(
    client: TestClient, store: Store, searched: Claim
) -> None:
    assert "No worker has reported itself" in opened(client, "/cluster").text
    at = now()
    for name, seen in (("worker@here", at), ("worker@gone", at - timedelta(minutes=9))):
        store.report_worker(
            Worker(name=name, host=EVIL, pid=7, slots=2, jobs={}, started_at=at, seen_at=seen)
        )
    page = opened(client, "/cluster")
    assert "alive" in page.text
    assert "silent 9 min 00 s ago" in page.text
    assert f"/jobs/{searched.job.id}" in page.all("a", "href")


@pytest.mark.parametrize("path", ["/jobs/none", "/candidates/none", "/jobs/none/candidates/x", "/nowhere"])
def test_what_is_not_there_is_a_page_for_browsers_and_a_problem_for_programs(
    client: TestClient, path: str
) -> None:
    page = opened(client, path, 404)
    assert "404" in page.text
    assert "Back to all jobs" in page.text
    problem = client.get(path)
    assert problem.status_code == 404
    assert problem.headers["content-type"] == "application/problem+json"


def test_the_api_answers_a_browser_with_problem_details_all_the_same(client: TestClient) -> None:
    response = client.get("/v1/jobs/none", headers=BROWSER)
    assert response.headers["content-type"] == "application/problem+json"
    assert client.put("/v1/jobs", headers=BROWSER).status_code == 405


def test_a_bug_is_a_page_that_tells_nothing_of_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(store, "jobs", broken)
    page = opened(client, "/", 500)
    assert "it has been logged" in page.text
    assert "secret detail" not in page.text


# -------------------------------------------------------------------- safety


def test_text_of_users_and_models_is_shown_as_text(client: TestClient, store: Store) -> None:
    claim = begin_search(store, name=EVIL)
    candidate = propose(claim, architectures(1)[0], origin=EVIL[:60], note=EVIL)
    fail(claim, candidate, EVIL)
    claim.event("proposal.rejected", {"reason": EVIL, EVIL: EVIL})
    claim.finish(JobState.FAILED, reason=EVIL)
    for path in ("/", f"/jobs/{claim.job.id}", f"/jobs/{claim.job.id}/candidates/{candidate.id}"):
        page = opened(client, path)
        assert EVIL in page.text, path
        assert all(
            src.startswith(("/static/", "/v1/")) for src in page.all("img", "src") + page.all("script", "src")
        )
        assert all("src" in a for tag, a in page.tags if tag == "script"), "a script written in the page"
        assert not any(name.startswith("on") for _, a in page.tags for name in a)


@pytest.mark.parametrize("path", ["/", "/cluster", "/nowhere", "/static/live.js", "/static/plotly.min.js"])
def test_pages_and_files_carry_the_guarding_headers(client: TestClient, path: str) -> None:
    headers = client.get(path, headers=BROWSER).headers
    rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"


def test_no_page_or_style_names_another_host(client: TestClient, searched: Claim) -> None:
    page = opened(client, f"/jobs/{searched.job.id}")
    for attribute in ("src", "href"):
        for tag in ("script", "link", "img", "a"):
            assert all(not re.match(r"[a-z]+:|//", value) for value in page.all(tag, attribute))
    for file in ("style.css", "live.js"):
        assert "http" not in client.get(f"/static/{file}").text.replace("http://www.w3.org", "")


def test_plotly_is_sent_packed_and_only_once(client: TestClient) -> None:
    first = client.get("/static/plotly.min.js")
    assert first.headers["content-encoding"] == "gzip"
    assert "plotly.js" in first.text[:200]
    again = client.get("/static/plotly.min.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    plain = client.get("/static/plotly.min.js", headers={"Accept-Encoding": "identity"})
    assert plain.text == first.text


# -------------------------------------------------------------------- signing in

KEY = "a key of the operator"


@pytest.fixture
def guarded(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client(api_key=KEY)


def test_without_a_key_there_is_no_sign_in(client: TestClient) -> None:
    assert client.get("/login", follow_redirects=False).headers["location"] == "/"
    assert "Sign out" not in opened(client, "/").text


def test_a_browser_is_led_to_sign_in_and_back_to_where_it_wanted(guarded: TestClient) -> None:
    led = guarded.get("/cluster?x=1", headers=BROWSER, follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, "/login?next=%2Fcluster%3Fx%3D1")
    form = opened(guarded, led.headers["location"])
    assert "/cluster?x=1" in form.all("input", "value")

    wrong = guarded.post("/login", data={"key": "guess", "next": "/cluster?x=1"}, headers=BROWSER)
    assert wrong.status_code == 401
    assert COOKIE not in guarded.cookies

    right = guarded.post("/login", data={"key": KEY, "next": "/cluster?x=1"}, follow_redirects=False)
    assert (right.status_code, right.headers["location"]) == (303, "/cluster?x=1")
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert KEY not in cookie
    assert "Sign out" in opened(guarded, "/cluster").text
    assert guarded.get("/v1/jobs").status_code == 200

    guarded.post("/logout")
    assert guarded.get("/", headers=BROWSER, follow_redirects=False).status_code == 303


def test_what_a_script_fetches_is_refused_rather_than_led(guarded: TestClient) -> None:
    response = guarded.get("/", headers={**BROWSER, "X-Fragment": "1"}, follow_redirects=False)
    assert response.status_code == 401
    assert guarded.get("/jobs/x/charts", follow_redirects=False).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/cluster", "/jobs/x", "/jobs/x/charts", "/jobs/x/calls", "/candidates/x"]
)
def test_no_page_is_shown_without_the_key(guarded: TestClient, path: str) -> None:
    assert guarded.get(path, headers=BROWSER, follow_redirects=False).status_code == 303
    assert guarded.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code in (200, 404)


def test_a_cookie_of_any_letters_is_no_session(guarded: TestClient) -> None:
    response = guarded.get("/", headers={**BROWSER, "Cookie": f"{COOKIE}=é".encode()}, follow_redirects=False)
    assert response.status_code == 303


def test_another_site_can_neither_steer_nor_sign_out(guarded: TestClient) -> None:
    guarded.post("/login", data={"key": KEY})
    foreign = {"Origin": "https://elsewhere.example"}
    assert guarded.post("/logout", headers=foreign).status_code in (401, 403)
    assert guarded.post("/v1/jobs/x/cancel", headers=foreign).status_code in (401, 403)
    assert guarded.get("/", headers=BROWSER, follow_redirects=False).status_code == 200


def test_a_form_that_is_too_long_is_refused(guarded: TestClient) -> None:
    assert guarded.post("/login", content=b"key=" + b"a" * 100_000).status_code == 413


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "",
        "jobs",
        "/a\r\nb",
        "/\t/evil.example",
        "//[",
    ],
)
def test_nobody_is_sent_elsewhere_after_signing_in(target: str) -> None:
    assert local(target) == "/"


def test_a_path_of_this_site_is_kept() -> None:
    assert local("/jobs/1?state=failed&cursor=2") == "/jobs/1?state=failed&cursor=2"


# -------------------------------------------------------------------- submitting and choosing


@pytest.mark.parametrize("method", [*SEARCH_METHODS, *SCALE_METHODS])
def test_the_example_of_every_method_is_a_request_that_the_api_takes(client: TestClient, method: str) -> None:
    request = json.loads(client.get(f"/jobs/new?method={method}").text.split("</textarea>")[0].split(">")[-1]
                         .replace("&#34;", '"'))  # fmt: skip
    answer = client.post("/v1/jobs", json=request)
    assert answer.status_code == 201, answer.text
    assert answer.json()["method"] == method


def test_a_job_is_cloned_with_its_whole_request(client: TestClient, searched: Claim) -> None:
    page = client.get(f"/jobs/new?clone={searched.job.id}", headers=BROWSER)
    text = page.text.split("</textarea>")[0].split("spec", 2)[-1].partition(">")[2].replace("&#34;", '"')
    assert json.loads(text) == searched.job.spec
    assert f"/jobs/new?clone={searched.job.id}" in opened(client, f"/jobs/{searched.job.id}").all("a", "href")


def test_what_cannot_be_begun_with_is_not_found(client: TestClient) -> None:
    opened(client, "/jobs/new?method=magic", 404)
    opened(client, "/jobs/new?clone=nowhere", 404)


def test_searches_can_be_chosen_for_comparison_in_the_list(client: TestClient, searched: Claim) -> None:
    page = opened(client, "/")
    assert searched.job.id in page.all("input", "value")
    assert "/compare" in page.all("form", "action")


def test_a_queued_job_says_what_it_waits_for(client: TestClient, store: Store) -> None:
    first, second = (store.create_job(SearchSpec.model_validate({"method": "random"}))[0] for _ in range(2))
    assert "it is the next" in opened(client, f"/jobs/{first.id}").text
    assert "1 job is before it" in opened(client, f"/jobs/{second.id}").text
    assert "1 before it" in opened(client, "/").text


def test_a_job_that_waits_for_anothers_result_has_no_place_in_the_queue_before_it_is_there(
    client: TestClient, store: Store
) -> None:
    claim = begin_search(store)
    spec = {"method": "diffusion", "architecture": {"job": claim.job.id}}
    training, _ = store.create_job(TrainSpec.model_validate(spec))
    store.create_job(SearchSpec.model_validate({"method": "random"}))
    waits = f"it starts when job {claim.job.id} has succeeded"
    assert client.get(f"/v1/jobs/{training.id}").json()["ahead"] is None
    assert waits in opened(client, f"/jobs/{training.id}").text
    assert opened(client, "/").text.count("next") == 1
    assert f"waits for {claim.job.id}" in opened(client, "/").text
    complete(claim, propose(claim, architectures(1)[0]), 0.5)
    claim.finish(JobState.SUCCEEDED)
    assert client.get(f"/v1/jobs/{training.id}").json()["ahead"] == 0
    assert "it is the next" in opened(client, f"/jobs/{training.id}").text
    assert waits not in opened(client, f"/jobs/{training.id}").text


def test_what_was_stopped_early_is_not_shown_as_a_failure(client: TestClient, searched: Claim) -> None:
    (running,) = (row for row in searched.candidates() if row.state == "running")
    fail(searched, running, "stopped early at step 6")
    page = opened(client, f"/jobs/{searched.job.id}")
    assert "1 stopped early 1 failed" in page.text
    assert "badge stopped" in page.all("span", "class")
    done = next(row for row in searched.candidates() if row.state == "completed")
    fail(searched, measure_again(searched, done, 1, None), "stopped early at step 6")
    assert "1 stopped early 1 failed" in opened(client, f"/jobs/{searched.job.id}").text


def test_the_front_of_several_objectives_has_a_table_and_costs_stand_once(
    client: TestClient, store: Store
) -> None:
    objectives = [{"metric": "rfid", "goal": "minimize"}, {"metric": "params", "goal": "minimize"}]
    claim = begin_search(store, objectives=objectives)
    for arch, rfid in zip(architectures(2), (0.5, 0.6), strict=True):
        found = propose(claim, arch)
        metrics = {"rfid": rfid, "params": float(found.params)}
        scores = (-rfid, -float(found.params))
        claim.end([Outcome(found.id, CandidateState.COMPLETED, metrics, scores)])
    page = opened(client, f"/jobs/{claim.job.id}")
    assert "Pareto front" in page.text
    assert "hypervolume" in page.all("figure", "data-chart")
    assert page.words.count("parameters") == 2  # of the best, and of the chart's switch
    drawn = client.get(f"/jobs/{claim.job.id}/charts").json()
    assert drawn["hypervolume"]["layout"]["xaxis"]["title"]["text"] == "candidate"


def test_a_call_and_the_candidate_that_it_gave_lead_to_each_other(
    client: TestClient, store: Store, searched: Claim
) -> None:
    first, *_ = searched.candidates()
    call = asked(searched, "a key", reply="this one")
    call.outcome = {"accepted": [first.key], "rejected": []}
    searched.keep_llm_call(call)
    link = f"/jobs/{searched.job.id}/candidates/{first.id}"
    assert link in Page(client.get(f"/jobs/{searched.job.id}/calls").text).all("a", "href")
    assert "The language model's call that gave it" in opened(client, link).text


def test_events_say_numbers_in_few_digits_and_nothing_empty() -> None:
    assert event_text({"latency_s": 0.07158075200004532, "architecture": ""}) == "latency_s 0.07158"
