"""What a scale job leaves on its row: the family, member by member."""

import re
from typing import Any

from server.store.records import NotFound
from server.store.tables import Job

MEMBER = re.compile(r"S(\d)")


def family_of(job: Job) -> dict[str, Any]:
    """The report that the job ended with. Raises NotFound where there is none (yet)."""
    found: dict[str, Any] | None = (job.result or {}).get("family")
    if found is None:
        word = (
            f"is {job.state}; it has none yet" if job.kind == "scale" else f"is a {job.kind} job; it has none"
        )
        raise NotFound(f"no family: job {job.id} {word}")
    return found


def will_have(job: Job, pick: str) -> bool:
    """Whether a job names one of its results so: `S3` of a scale job that goes up to stage 3 at least."""
    named = MEMBER.fullmatch(pick)
    if named is None or job.kind != "scale":
        return False
    return int(named[1]) <= int(job.spec["config"]["family"]["stages"])


def member_id(job: Job, name: str) -> str | None:
    """The candidate that a member of the job's family is."""
    members = family_of(job)["members"]
    return next((str(member["candidate"]) for member in members if member["name"] == name), None)
