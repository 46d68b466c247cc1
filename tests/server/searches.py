"""Searches as workers leave them, written through the claim: for what shows them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from search_spaces import find
from search_spaces.space import Architecture
from server.store.artifacts import ArtifactStore
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.specs import SearchSpec
from server.store.states import CandidateState
from server.store.store import Store
from server.store.tables import Candidate

SPACE = find("unet-8")
PIXEL = bytes.fromhex(  # a PNG of one black pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)


def begin_search(store: Store, *, name: str = "a search", evaluations: int = 20, **request: Any) -> Claim:
    """A running search, held by a worker."""
    spec = {"method": "evolution", "name": name, "budget": {"evaluations": evaluations}, **request}
    job, _ = store.create_job(SearchSpec.model_validate(spec))
    claim = store.claim("worker@here", timedelta(minutes=10))
    assert claim is not None
    assert claim.job.id == job.id
    return claim


def architectures(count: int) -> list[Architecture]:
    """So many different ones, the baseline first."""
    assert SPACE.baseline is not None
    rng, found = Random(0), {SPACE.baseline: None}
    while len(found) < count:
        found[SPACE.sample(rng)] = None
    return list(found)


def propose(
    claim: Claim,
    arch: Architecture,
    *,
    origin: str = "mutation",
    parents: Sequence[str] = (),
    note: str = "",
    signature: str = "sig",
    confirms: str | None = None,
) -> Candidate:
    """One more running candidate."""
    space = find(arch.space)
    cost, options = space.cost_of(arch), dict(space.decode(arch))
    new = NewCandidate(
        arch.key, space.name, options, cost.params, cost.macs, origin, signature, parents, note, confirms
    )
    claim.begin([new], len(claim.candidates()) + 1)
    return claim.store.candidate(new.id)


def complete(claim: Claim, candidate: Candidate, rfid: float, **more: Any) -> None:
    """Ends a candidate of a search that minimizes rfid."""
    metrics: Mapping[str, float] = {"rfid": rfid, "fid": 40 * rfid}
    claim.end([Outcome(candidate.id, CandidateState.COMPLETED, metrics, (-rfid,), **more)])


def measure_again(claim: Claim, candidate: Candidate, seed: int, rfid: float | None) -> Candidate:
    """What a candidate comes to under another seed; still running where that is not known."""
    arch = SPACE.parse_key(candidate.key)
    again = propose(claim, arch, origin="confirmation", signature=f"sig/seed{seed}", confirms=candidate.id)
    if rfid is not None:
        complete(claim, again, rfid, device_seconds=5.0)
    return again


def fail(claim: Claim, candidate: Candidate, reason: str) -> None:
    claim.end([Outcome(candidate.id, CandidateState.FAILED, reason=reason)])


def keep_samples(
    artifacts: ArtifactStore, claim: Claim, candidate: Candidate, rfid: float, folder: Path
) -> None:
    """Ends a candidate that leaves samples.png."""
    (folder / "samples.png").write_bytes(PIXEL)
    file = artifacts.put(folder / "samples.png", f"{claim.job.id}/{candidate.id}")
    complete(claim, candidate, rfid, files=(file,))
