"""The API's reference pages need nothing from outside."""

import re
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient


def test_the_reference_is_served_whole_from_this_installation(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert addresses
    for address in addresses:
        assert address.startswith("/docs/files/")
        assert client.get(address).status_code == 200


def test_a_server_without_a_key_answers_under_its_own_names_only(client: TestClient) -> None:
    assert client.get("/v1/jobs", headers={"Host": "localhost:8000"}).status_code == 200
    assert client.get("/v1/jobs", headers={"Host": "[::1]:8000"}).status_code == 200
    refused = client.get("/v1/jobs", headers={"Host": "rebound.example"})
    assert refused.status_code == 400
    assert refused.headers["content-type"] == "application/problem+json"
    assert "Host" in refused.json()["detail"]


@pytest.mark.parametrize(("host", "name"), [("127.0.0.2", "127.0.0.2:8000"), ("0::1", "[0::1]:8000")])
def test_the_address_that_a_server_is_bound_to_is_one_of_its_names(
    make_client: Callable[..., TestClient], host: str, name: str
) -> None:
    assert make_client(host=host).get("/v1/jobs", headers={"Host": name}).status_code == 200
    assert make_client().get("/v1/jobs", headers={"Host": name}).status_code == 400
