"""Which data sets are here, and where the others come from."""

from collections.abc import Callable
from pathlib import Path

from fastapi.testclient import TestClient

from server.store.datasets import DATASETS
from server.store.sources import SOURCES


def test_what_is_missing_is_told_with_its_source(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    (tmp_path / "cifar-100-binary").mkdir()
    found = {row["name"]: row for row in make_client(data_root=tmp_path).get("/v1/datasets").json()}
    assert {name for name, row in found.items() if row["present"]} == {"digits", "cifar100"}
    assert found["cifar10"]["source"] == SOURCES["cifar10"].url
    assert found["cifar10"]["size_bytes"] == 170_052_171
    assert found["cifar10"]["places"] == ["cifar-10-batches-bin", "cifar10_12k.npz"]
    assert found["digits"]["source"] is None


def test_without_a_data_folder_only_the_bundled_is_here(client: TestClient) -> None:
    rows = client.get("/v1/datasets").json()
    assert [row["name"] for row in rows if row["present"]] == ["digits"]


def test_what_is_pulled_is_where_a_data_set_is_looked_for() -> None:
    for name in DATASETS.keys() & SOURCES.keys():
        assert SOURCES[name].place in DATASETS[name].places
