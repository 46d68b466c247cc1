"""What is shown of a search whose best were measured again: by the API, on its pages, and in a terminal."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.store.claim import Claim
from server.store.states import JobState
from server.store.store import Store
from server.terminal import confirmed as said
from server.terminal import follow
from tests.server.searches import architectures, begin_search, complete, measure_again, propose
from tests.server.test_pages import opened
from tests.server.test_terminal import Told


class Confirmed:
    """A search of three, whose second and third were measured again: the third was lucky in the search."""

    def __init__(self, store: Store) -> None:
        self.claim: Claim = begin_search(store, name="confirmed UNets", evaluations=3)
        self.base, self.middle, self.lucky = (propose(self.claim, arch) for arch in architectures(3))
        for candidate, rfid in ((self.base, 1.0), (self.middle, 0.7), (self.lucky, 0.5)):
            complete(self.claim, candidate, rfid, device_seconds=5.0)
        for seed, middle, lucky in ((1, 0.6, 0.9), (2, 0.8, 1.1)):
            self.last = measure_again(self.claim, self.middle, seed, middle)
            measure_again(self.claim, self.lucky, seed, lucky)

    def end(self) -> dict[str, Any]:
        figures = {"metric": "rfid", "seeds": [1, 2], "first": 0.7, "mean": 0.7, "sd": 0.1414}
        result = {"best": self.middle.id, "metrics": self.middle.metrics, "key": self.middle.key}
        self.claim.finish(JobState.SUCCEEDED, result={**result, "confirmed": {**figures, "candidates": []}})
        return figures


@pytest.fixture
def confirmed(client: TestClient) -> Confirmed:
    return Confirmed(client.app.state.store)  # type: ignore[attr-defined]


def test_the_api_gives_values_by_seed_mean_and_deviation(client: TestClient, confirmed: Confirmed) -> None:
    items = client.get(f"/v1/jobs/{confirmed.claim.job.id}/confirmations").json()["items"]
    assert [item["candidate"] for item in items] == [confirmed.middle.id, confirmed.lucky.id]
    first = items[0]
    assert (first["number"], first["first"]["rfid"], first["seeds"]) == (2, 0.7, [1, 2])
    assert [(trial["seed"], trial["metrics"]["rfid"]) for trial in first["trials"]] == [(1, 0.6), (2, 0.8)]
    assert first["mean"] == pytest.approx({"rfid": 0.7, "fid": 28.0})
    assert first["sd"]["rfid"] == pytest.approx(0.1414, abs=1e-4)
    detail = client.get(f"/v1/candidates/{confirmed.middle.id}").json()
    assert detail["confirmation"] == first
    assert detail["confirms"] is None
    assert client.get(f"/v1/candidates/{confirmed.base.id}").json()["confirmation"] is None
    trial = client.get(f"/v1/candidates/{first['trials'][0]['id']}").json()
    assert (trial["confirms"], trial["confirmation"]) == (confirmed.middle.id, None)


def test_the_list_of_candidates_holds_those_of_the_search_alone(
    client: TestClient, confirmed: Confirmed
) -> None:
    job = confirmed.claim.job.id
    assert [c["number"] for c in client.get(f"/v1/jobs/{job}/candidates").json()["items"]] == [1, 2, 3]
    assert client.get(f"/v1/jobs/{job}").json()["candidates"] == {"completed": 3}
    assert client.get(f"/v1/jobs/{job}/metrics").json()["number"] == [1, 2, 3]
    (course,) = client.get(f"/v1/compare?job={job}").json()["jobs"]
    assert course["evaluations"] == 3


def test_the_best_is_the_winner_once_the_job_has_ended(client: TestClient, confirmed: Confirmed) -> None:
    path = f"/v1/jobs/{confirmed.claim.job.id}/best"
    assert client.get(path).json()["id"] == confirmed.lucky.id
    confirmed.end()
    assert client.get(path).json()["id"] == confirmed.middle.id


def test_of_what_is_still_measured_the_values_so_far_are_shown(
    client: TestClient, confirmed: Confirmed
) -> None:
    measure_again(confirmed.claim, confirmed.middle, 3, None)
    items = client.get(f"/v1/jobs/{confirmed.claim.job.id}/confirmations").json()["items"]
    (middle,) = (item for item in items if item["candidate"] == confirmed.middle.id)
    assert [trial["state"] for trial in middle["trials"]] == ["completed", "completed", "running"]
    assert middle["mean"]["rfid"] == pytest.approx(0.7)
    assert "running" in opened(client, f"/jobs/{confirmed.claim.job.id}").text


def test_the_page_of_the_search_has_a_table_and_names_the_winner(
    client: TestClient, confirmed: Confirmed
) -> None:
    path = f"/jobs/{confirmed.claim.job.id}"
    page = opened(client, path)
    assert "Measured again" in page.text
    assert "winner" not in page.text
    assert "3 of 3" in page.text
    confirmed.end()
    page = opened(client, path)
    rows = [row for row in page.all("tr", "id") if row.startswith("confirmed-")]
    assert rows == [f"confirmed-{confirmed.middle.id}", f"confirmed-{confirmed.lucky.id}"]
    assert "Measured again with 2 new seeds: rfid 0.7000 ± 0.1414" in page.text
    assert "0.6000 , 0.8000" in page.text
    assert "winner" in page.text
    assert "35 s" in page.text  # of device time, with what was measured again
    assert len([row for row in page.all("tr", "id") if row.startswith("candidate-")]) == 3
    assert "0.7000" in opened(client, "/").text
    (listed,) = client.get("/v1/jobs").json()["items"]
    assert listed["best"] == pytest.approx(0.7)  # and not what the winner was chosen by


def test_the_page_of_the_search_tells_what_came_of_it(client: TestClient, confirmed: Confirmed) -> None:
    figures = {"metric": "rfid", "seeds": [1], "first": 0.7131514751, "mean": 0.9253869, "sd": None}
    confirmed.claim.event("search.confirmed", figures, confirmed.middle.id)
    page = opened(client, f"/jobs/{confirmed.claim.job.id}")
    assert "metric rfid · seeds [1] · first 0.7132 · mean 0.9254" in page.text


def test_the_page_of_a_candidate_shows_its_values_and_where_they_come_from(
    client: TestClient, confirmed: Confirmed
) -> None:
    job = confirmed.claim.job.id
    page = opened(client, f"/jobs/{job}/candidates/{confirmed.middle.id}")
    assert "Measured again" in page.text
    assert "mean 0.7" in page.text
    assert "deviation 0.1414" in page.text
    trial = f"/jobs/{job}/candidates/{confirmed.last.id}"
    assert trial in page.all("a", "href")
    assert "measures #2 again, with seed 2" in opened(client, trial).text
    assert "Measured again" not in opened(client, f"/jobs/{job}/candidates/{confirmed.base.id}").text


def test_a_terminal_follows_what_is_measured_again_and_tells_the_winner(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = ("candidate.completed", {"metrics": {"rfid": 0.5}})
    again = ("candidate.completed", {"metrics": {"rfid": 0.1}})
    figures = {"metric": "rfid", "seeds": [1], "first": 0.5, "mean": 0.1, "sd": None}
    confirming = ("search.confirming", {"candidates": [1, 2], "seeds": [1]})
    follow(Told(measured, measured, confirming, again, again, ("search.confirmed", figures)), "a-job")
    shown = " ".join(capsys.readouterr().out.split())
    assert "rfid 0.1 with 1 new seed; 0.5 in the search" in shown
    assert "measuring the best again" in shown
    assert "best rfid 0.1" not in shown
    assert (
        said({**figures, "seeds": [1, 2], "sd": 0.02})
        == "rfid 0.1 ± 0.02 with 2 new seeds; 0.5 in the search"
    )
