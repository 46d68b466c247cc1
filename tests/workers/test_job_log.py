"""The last lines of a job's process: kept while it runs, bounded, and served by the API's process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.store.artifacts import LOG_FILE, ArtifactStore
from workers.job_log import TAIL_BYTES, kept_log


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


def kept(artifacts: ArtifactStore) -> str:
    return b"".join(artifacts.read(f"a-job/{LOG_FILE}")).decode()


def test_what_the_process_and_those_it_starts_write_is_kept_and_still_shown(
    artifacts: ArtifactStore, capfd: pytest.CaptureFixture[str]
) -> None:
    with kept_log(artifacts, "a-job"):
        os.write(1, b"from here\n")
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('from there\\n')"], check=True)
    os.write(1, b"afterwards\n")
    assert kept(artifacts) == "from here\nfrom there\n"
    shown = capfd.readouterr()
    assert "from there" in shown.err
    assert shown.out == "afterwards\n"


def test_another_attempt_goes_on_where_the_first_stopped(artifacts: ArtifactStore) -> None:
    for attempt in (b"first\n", b"second\n"):
        with kept_log(artifacts, "a-job"):
            os.write(2, attempt)
    assert kept(artifacts) == "first\nsecond\n"


def test_only_the_last_lines_are_kept(artifacts: ArtifactStore) -> None:
    with kept_log(artifacts, "a-job"):
        for number in range(TAIL_BYTES // 100):
            os.write(1, b"%0199d\n" % number)
    assert len(kept(artifacts)) == TAIL_BYTES
    assert int(kept(artifacts).splitlines()[-1]) == TAIL_BYTES // 100 - 1


def test_a_terminal_that_takes_nothing_holds_nobody_up(artifacts: ArtifactStore) -> None:
    code = (
        "import os, sys\n"
        "from server.store.artifacts import ArtifactStore\n"
        "from workers.job_log import kept_log\n"
        "with kept_log(ArtifactStore(sys.argv[1]), 'a-job'):\n"
        "    for _ in range(30):\n"
        "        os.write(1, bytes(10_000))\n"
        "    os.write(1, b'the end')\n"
    )
    with Path("/dev/full").open("wb") as full:
        subprocess.run(
            [sys.executable, "-c", code, artifacts.root], stdout=full, stderr=full, check=True, timeout=60
        )
    assert kept(artifacts).endswith("the end")
