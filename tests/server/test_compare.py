"""Searches side by side, as JSON and as a page."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from server.store.claim import Outcome
from server.store.states import CandidateState, JobState
from server.store.store import Store
from server.store.tables import Candidate
from tests.server.searches import architectures, begin_search, fail, propose

BOTH = [{"metric": "rfid", "goal": "minimize"}, {"metric": "kid", "goal": "maximize"}]


def store_of(client: TestClient) -> Store:
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    return store


def a_search(client: TestClient, *results: tuple[float, float] | None, **request: Any) -> str:
    """A search with these values of rfid and kid, in order; None is a failure."""
    claim = begin_search(store_of(client), **{"objectives": BOTH, **request})
    objectives = len(claim.spec.objectives)
    for arch, result in zip(architectures(len(results))[: len(results)], results, strict=True):
        candidate = propose(claim, arch)
        if result is None:
            fail(claim, candidate, "it diverged")
            continue
        rfid, kid = result
        metrics, scores = {"rfid": rfid, "kid": kid}, (-rfid, kid)[:objectives]
        claim.end([Outcome(candidate.id, CandidateState.COMPLETED, metrics, scores)])
    claim.finish(JobState.SUCCEEDED)
    return claim.job.id


def compare(client: TestClient, *jobs: str) -> Any:
    return client.get("/v1/compare", params={"job": jobs})


def test_curves_have_their_corners_and_fronts_what_no_other_beats(client: TestClient) -> None:
    first = a_search(client, (5.0, 1.0), None, (4.0, 1.0), (6.0, 3.0), (7.0, 0.5))
    second = a_search(client, (3.0, 2.0))
    answer = compare(client, first, second)
    assert answer.status_code == 200, answer.text
    assert answer.json()["objectives"] == BOTH
    one, other = answer.json()["jobs"]
    assert (one["id"], one["evaluations"]) == (first, 5)
    assert one["numbers"] == [1, 3, 4, 5]
    assert one["best"] == [5.0, 4.0, 4.0, 4.0]
    assert [(row["metrics"]["rfid"], row["metrics"]["kid"]) for row in one["front"]] == [
        (4.0, 1.0),
        (6.0, 3.0),
    ]
    assert other["best"] == [3.0]


def test_hypervolumes_share_the_box_of_all_searches(client: TestClient) -> None:
    # over both searches rfid runs from 8 (worst) to 4, kid from 0 to 4
    first = a_search(client, (8.0, 0.0), (6.0, 2.0), (4.0, 1.0))
    second = a_search(client, (8.0, 4.0), (5.0, 4.0))
    one, other = compare(client, first, second).json()["jobs"]
    assert one["hypervolume"] == pytest.approx([0.0, 0.25, 0.375])
    assert other["hypervolume"] == pytest.approx([0.0, 0.75])


def test_the_metrics_of_a_search_tell_its_own_hypervolume(client: TestClient) -> None:
    job = a_search(client, (8.0, 0.0), (6.0, 2.0), None, (4.0, 4.0))
    columns = client.get(f"/v1/jobs/{job}/metrics").json()
    assert columns["hypervolume"] == pytest.approx([0.0, 0.25, 0.25, 1.0])
    plain = a_search(client, (8.0, 0.0), objectives=BOTH[:1])
    assert "hypervolume" not in client.get(f"/v1/jobs/{plain}/metrics").json()


def test_of_many_candidates_only_those_of_a_front_are_loaded(client: TestClient) -> None:
    job = a_search(client, (5.0, 1.0), (4.0, 1.0), (4.0, 1.0), (6.0, 3.0), (7.0, 0.5))
    loaded: list[int] = []
    event.listen(Candidate, "load", note := lambda row, _: loaded.append(row.number))
    (course,) = compare(client, job).json()["jobs"]
    front = client.get(f"/v1/jobs/{job}/pareto").json()["items"]
    event.remove(Candidate, "load", note)
    assert [row["number"] for row in course["front"]] == [2, 3, 4]
    assert [row["number"] for row in front] == [2, 3, 4]
    assert sorted(loaded) == [2, 2, 3, 3, 4, 4]


def test_one_objective_has_no_hypervolume(client: TestClient) -> None:
    (only,) = compare(client, a_search(client, (5.0, 1.0), objectives=BOTH[:1])).json()["jobs"]
    assert only["hypervolume"] is None
    assert len(only["front"]) == 1


def test_a_search_without_results_can_be_compared(client: TestClient) -> None:
    empty, failed = a_search(client), a_search(client, None)
    one, other = compare(client, empty, failed).json()["jobs"]
    assert (one["numbers"], one["best"]) == ([], [])
    assert (other["numbers"], other["best"], other["front"]) == ([1], [None], [])
    assert client.get(f"/compare/{empty},{failed}").status_code == 200


@pytest.mark.parametrize("path", ["/v1/compare?job={0}&job={1}", "/compare/{0},{1}"])
def test_different_objectives_cannot_be_compared(client: TestClient, path: str) -> None:
    one, other = a_search(client, (1.0, 1.0)), a_search(client, (1.0, 1.0), objectives=BOTH[:1])
    answer = client.get(path.format(one, other))
    assert answer.status_code == 422
    assert "minimize rfid, maximize kid: their values cannot be compared" in answer.text


def test_what_is_not_there_cannot_be_compared(client: TestClient) -> None:
    assert compare(client, "nowhere").status_code == 404
    assert compare(client).status_code == 422
    assert client.get("/compare/nowhere").status_code == 404
    many = ",".join(str(number) for number in range(21))
    assert client.get(f"/compare/{many}").status_code == 422


def test_the_page_offers_searches_and_shows_the_chosen(client: TestClient) -> None:
    assert "nothing to compare yet" in client.get("/compare").text
    jobs = [a_search(client, (5.0, 1.0), name=f"<b>{name}</b>") for name in ("ours", "theirs")]
    offered = client.get("/compare").text
    assert all(f'value="{job}"' in offered for job in jobs)
    chosen = client.get("/compare", params={"job": jobs})
    assert chosen.url.path == f"/compare/{','.join(jobs)}"
    assert "&lt;b&gt;ours&lt;/b&gt;" in chosen.text
    assert "<b>ours" not in chosen.text
    assert 'data-chart="hypervolume"' in chosen.text


def test_figures_hold_a_trace_for_every_search_that_has_found_something(client: TestClient) -> None:
    jobs = [a_search(client, (5.0, 1.0), (4.0, 2.0), name="ours"), a_search(client, None)]
    figures = client.get(f"/compare/{','.join(jobs)}/charts").json()
    assert set(figures) == {"best", "fronts", "hypervolume"}
    (best,) = figures["best"]["data"]
    assert (best["name"], best["x"], best["y"]) == ("ours", [1, 2], [5.0, 4.0])
    (front,) = figures["fronts"]["data"]
    assert (front["x"], front["y"]) == ([2.0], [4.0])


def test_searches_of_one_name_are_told_apart(client: TestClient) -> None:
    jobs = [a_search(client, (5.0, 1.0), name="twin") for _ in range(2)]
    figures = client.get(f"/compare/{','.join(jobs)}/charts").json()
    assert [trace["name"] for trace in figures["best"]["data"]] == [f"twin ({job})" for job in jobs]


def test_a_choice_that_cannot_be_compared_is_kept_to_be_changed(client: TestClient) -> None:
    one, other = a_search(client, (1.0, 1.0)), a_search(client, (1.0, 1.0), objectives=BOTH[:1])
    page = client.get(f"/compare/{one},{other}", headers={"Accept": "text/html"})
    assert page.status_code == 422
    assert page.text.count("checked") == 2
    assert "cannot be compared" in page.text


def test_fronts_are_steps_around_what_they_dominate(client: TestClient) -> None:
    job = a_search(client, (5.0, 1.0), (6.0, 2.0), (8.0, 4.0))
    (front,) = client.get(f"/compare/{job}/charts").json()["fronts"]["data"]
    assert front["line"]["shape"] == "vh"
    assert (front["x"], front["y"]) == ([1.0, 2.0, 4.0], [5.0, 6.0, 8.0])


def test_one_objective_has_no_column_of_fronts(client: TestClient) -> None:
    one = a_search(client, (5.0, 1.0), objectives=BOTH[:1])
    assert ">Front<" not in client.get(f"/compare/{one}").text
    assert ">Front<" in client.get(f"/compare/{a_search(client, (5.0, 1.0))}").text
