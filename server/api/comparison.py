"""Searches side by side."""

from typing import Annotated

from fastapi import APIRouter, Query

from server.api.dependencies import StoreDep
from server.api.schemas import CandidateView, ComparisonView, CourseView, views
from server.store.comparison import MOST, compare

router = APIRouter(tags=["jobs"])


@router.get("/compare")
def compare_jobs(
    store: StoreDep, job: Annotated[list[str], Query(min_length=1, max_length=MOST)]
) -> ComparisonView:
    """Best-so-far curves and fronts of several searches with the same objectives: `?job=ID&job=ID`."""
    comparison = compare(store, job)
    courses = [
        CourseView(
            id=course.job.id,
            name=course.job.name,
            method=course.job.method,
            space=course.job.space,
            dataset=course.job.dataset,
            state=course.job.state,
            evaluations=course.evaluations,
            numbers=list(course.numbers),
            best=list(course.best),
            hypervolume=None if course.hypervolume is None else list(course.hypervolume),
            front=views(CandidateView, course.front),
        )
        for course in comparison.courses
    ]
    return ComparisonView(objectives=list(comparison.objectives), jobs=courses)
