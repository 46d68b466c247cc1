"""Prompts: pure functions from a problem and its memory to messages, with the prose in `prompts/*.md`.

The order of a prompt follows what was found to help: problem, budget with exact costs, principles, earlier
searches, then the best results in ascending order so that the best stands last (OPRO, arXiv 2309.03409; the
Pareto front where there are several objectives), good results of other sizes, the newest, failures with their
reasons, and what must not be repeated.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from search_spaces.space import Architecture, Bound, InvalidArchitecture, SearchSpace
from search_spaces.text import clean, describe, json_objects, show
from server.store.specs import Goal, LLMProposer, Objective
from workers.llm import Message, count_prompt_tokens
from workers.memory import Attempt, SearchMemory, ranked
from workers.proposers.dominance import crowding, fronts
from workers.proposers.proposer import Problem

TEMPLATES = Path(__file__).parent / "prompts"

MAX_PRINCIPLES = 5
MAX_PRINCIPLE = 300  # characters
MAX_NOTE = 160  # characters of a rationale or a reason that are shown again
MAX_FORGOTTEN = 100  # designs that a conversation has dropped and that are listed again
MAX_METRICS = 6  # shown with a result, beside its objectives
LEAST_DIGITS, MOST_DIGITS = 4, 7  # significant ones of a value: as many as tell results apart
TIMES = (
    "seconds",
    "_s",
    "_ms",
)  # metrics that no two runs share: without them a replay asks the same prompts


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of the memory a prompt shows: entries of each kind, and whether costs of changes are told."""

    top: int = 5
    diverse: int = 3
    recent: int = 5
    failed: int = 3
    earlier: int = 5
    taken: int = 300
    costs: bool = True


NOTHING = Sizes(0, 0, 0, 0, 0, 0)
SHORTER = (
    Sizes(),
    Sizes(taken=100),
    Sizes(taken=30, recent=3),
    Sizes(taken=10, recent=2, earlier=2, costs=False),
    Sizes(top=3, diverse=1, recent=1, failed=1, earlier=1, taken=3, costs=False),
    Sizes(top=1, diverse=0, recent=0, failed=1, earlier=0, taken=0, costs=False),
)


@dataclass(frozen=True, slots=True)
class Principle:
    """A rule of design that the model drew from results, and the numbers of those results."""

    text: str
    evidence: tuple[int, ...] = ()

    def __str__(self) -> str:
        numbers = ", ".join(f"#{number}" for number in self.evidence)
        return f"{self.text} (supported by {numbers})" if numbers else f"{self.text} (no result cited)"


# -------------------------------------------------------------------- asking for designs


def render(
    spec: LLMProposer,
    problem: Problem,
    memory: SearchMemory,
    *,
    asked: int,
    principles: Sequence[Principle] = (),
) -> list[Message]:
    """The opening of a dialogue that asks for `asked` designs: as much of the memory as the length allows."""

    def messages(sizes: Sizes) -> list[Message]:
        view = _problem_view(problem, memory, sizes) | _memory_view(problem, memory, sizes)
        view |= {"principles": list(map(str, principles)), **_request_view(problem, asked)}
        return [Message("system", _fill("system.md")), Message("user", _fill(f"{spec.prompt}.md", **view))]

    if spec.history == "none":
        memory = SearchMemory()
        return messages(replace(NOTHING, costs=True))
    return _fitting(messages, spec.prompt_tokens)


def render_repair(reasons: Iterable[str], *, accepted: int, missing: int) -> Message:
    """Tells what is wrong with an answer, and asks again."""
    return Message("user", _fill("repair.md", reasons=list(reasons), accepted=accepted, missing=missing))


def render_follow_up(
    problem: Problem, memory: SearchMemory, past: Sequence[Message], *, told: int, asked: int
) -> Message:
    """The next question of a conversation whose model was told the first `told` attempts.

    Designs that `past` no longer mentions are listed, so that they are not proposed again.
    """
    best = _front(memory.scored) if len(problem.objectives) > 1 else memory.best()
    best = _spread(best, Sizes().top)
    results = memory.attempts[told:]
    entry = _entries(problem, memory, (*results, *best), ranks={})
    said = "\n".join(message.content for message in past)
    before = [show(problem.space, attempt.arch) for attempt in memory.attempts[:told]]
    forgotten = [shown for shown in before if shown not in said]
    view = {
        "results": [entry(attempt) for attempt in results],
        "objectives": _objectives(problem),
        "best": [entry(attempt) for attempt in best],
        "several": len(problem.objectives) > 1,
        "taken": [*(show(problem.space, arch) for arch in memory.pending), *forgotten[-MAX_FORGOTTEN:]],
        "batch": asked,
    }
    return Message("user", _fill("follow_up.md", **view))


def _request_view(problem: Problem, asked: int) -> dict[str, Any]:
    choices = ", ".join(f'"{choice.name}": <option>' for choice in problem.space.choices)
    candidate = f'{{"rationale": "<why this design>", "architecture": {{{choices}}}}}'
    form = f'{{"candidates": [{candidate}]}}'
    return {"batch": asked, "form": form, "several": len(problem.objectives) > 1}


def _fitting(messages: Callable[[Sizes], list[Message]], tokens: int) -> list[Message]:
    """The most detailed of the prompts that is no longer than `tokens`, or else the shortest."""
    rendered: list[Message] = []
    for sizes in SHORTER:
        rendered = messages(sizes)
        if count_prompt_tokens(rendered) <= tokens:
            break
    return rendered


# -------------------------------------------------------------------- asking for principles


def render_principles(
    spec: LLMProposer, problem: Problem, memory: SearchMemory, previous: Sequence[Principle]
) -> list[Message]:
    """Asks for what the results show, and for a revision of what they were thought to show."""

    def messages(sizes: Sizes) -> list[Message]:
        view = _problem_view(problem, memory, sizes) | _memory_view(problem, memory, replace(sizes, taken=0))
        view |= {"principles": list(map(str, previous)), "most": MAX_PRINCIPLES}
        return [Message("system", _fill("system.md")), Message("user", _fill("principles.md", **view))]

    return _fitting(messages, spec.prompt_tokens)


def principles_schema() -> dict[str, Any]:
    """JSON Schema of a reply with principles."""
    properties = {
        "principle": {"type": "string"},
        "evidence": {"type": "array", "items": {"type": "integer"}, "description": "numbers of results"},
    }
    required = {"required": list(properties), "additionalProperties": False}
    items = {"type": "object", "properties": properties, **required}
    return {
        "type": "object",
        "properties": {"principles": {"type": "array", "items": items}},
        "required": ["principles"],
        "additionalProperties": False,
    }


def parse_principles(reply: str, results: int) -> list[Principle]:
    """The principles of a reply, with those of their citations that are among the `results` first results."""
    listed: list[object] = []
    for value in json_objects(reply):
        found = value.get("principles")
        listed = found if isinstance(found, list) else listed
    principles = (_principle(item, results) for item in listed)
    return [principle for principle in principles if principle is not None][:MAX_PRINCIPLES]


def _principle(item: object, results: int) -> Principle | None:
    if not isinstance(item, Mapping) or not isinstance(item.get("principle"), str):
        return None
    text = _line(item["principle"], MAX_PRINCIPLE)
    cited = item.get("evidence")
    numbers: list[object] = cited if isinstance(cited, list) else []
    known = {n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= results}
    return Principle(text, tuple(sorted(known))) if text else None


# -------------------------------------------------------------------- what a template is given


def _problem_view(problem: Problem, memory: SearchMemory, sizes: Sizes) -> dict[str, Any]:
    space = problem.space
    channels, height, width = space.inputs
    return {
        "about": space.about.strip(),
        "objectives": _objectives(problem),
        "choices": describe(space),
        "size": f"{space.size:,}" if space.size < 10**12 else f"{space.size:.1e}",
        "inputs": f"{channels} x {height} x {width}",
        "limits": [f"{_label(name)}: {_bounds(bound)}" for name, bound in problem.limits.items()],
        "measured": [f"{name}: {_bounds(bound)}" for name, bound in problem.measured.items()],
        "anchors": [f"{name} {show(space, arch)}: {_cost(space, arch)}" for name, arch in _anchors(space)],
        "costs": _cost_table(problem, memory) if problem.limits and sizes.costs else None,
    }


def _memory_view(problem: Problem, memory: SearchMemory, sizes: Sizes) -> dict[str, Any]:
    several = len(problem.objectives) > 1
    order = _front(memory.scored) if several else ranked(memory.scored)
    top = _spread(order, sizes.top) if several else order[: sizes.top]
    diverse = _of_other_sizes(memory, top)[: sizes.diverse]
    shown = {attempt.arch for attempt in (*top, *diverse)}
    recent = [attempt for attempt in memory.scored if attempt.arch not in shown]
    recent = recent[len(recent) - sizes.recent :] if len(recent) > sizes.recent else recent
    failed = memory.failed[max(0, len(memory.failed) - sizes.failed) :]
    shown |= {attempt.arch for attempt in (*recent, *failed)}
    rest = [attempt.arch for attempt in reversed(memory.attempts) if attempt.arch not in shown]
    taken = [*memory.pending, *rest][: sizes.taken]
    before = _front(memory.earlier) if several else ranked(memory.earlier)
    earlier = _spread(before, sizes.earlier) if several else before[: sizes.earlier]
    shown_values = (*top, *diverse, *recent, *earlier)
    entry = _entries(problem, memory, shown_values, ranks={} if several else _ranks(memory))
    past = _entries(problem, SearchMemory(), shown_values, ranks={})
    return {
        "count": len(memory.attempts),
        "several": several,
        "lead": problem.objectives[0].metric,
        "front": len(order),
        "top": [entry(attempt) for attempt in reversed(top)],
        "diverse": [entry(attempt) for attempt in reversed(diverse)],
        "recent": [entry(attempt) for attempt in recent],
        "failed": [entry(attempt) for attempt in failed],
        "earlier": [past(attempt) for attempt in reversed(earlier)],
        "taken": [show(problem.space, arch) for arch in taken],
    }


def _of_other_sizes(memory: SearchMemory, top: Sequence[Attempt]) -> list[Attempt]:
    """The best of each quarter of the attempts by parameters, where it is not at the top already."""
    by_size = sorted(memory.scored, key=lambda attempt: attempt.cost.params)
    cuts = [len(by_size) * quarter // 4 for quarter in range(5)]
    best = [ranked(by_size[low:high])[:1] for low, high in zip(cuts[:-1], cuts[1:], strict=True)]
    known = {attempt.arch for attempt in top}
    return ranked(attempt for niche in best for attempt in niche if attempt.arch not in known)


def _front(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those that none of the others beats, the violation first: the highest of the first objective first."""
    order = ranked(attempts)
    least = [attempt for attempt in order if attempt.violation == order[0].violation]
    if not least:
        return []
    scores = np.array([attempt.scores for attempt in least])
    return [least[index] for index in fronts(scores, until=1)[0]]


def _spread(front: Sequence[Attempt], count: int) -> list[Attempt]:
    """At most `count` of a front, in its order: the ends of every objective first, then the loneliest."""
    if len(front) <= count:
        return list(front)
    distance = crowding(np.array([attempt.scores for attempt in front]))
    kept = np.argsort(-distance, kind="stable")[:count]
    return [front[index] for index in sorted(kept)]


def _ranks(memory: SearchMemory) -> dict[Architecture, str]:
    """The place of every result, equal results sharing theirs; none where there is nothing to compare."""
    order = ranked(memory.scored)
    ranks: dict[Architecture, str] = {}
    for _, equal in groupby(enumerate(order, 1), key=lambda at: (at[1].violation, at[1].score)):
        tied = list(equal)
        first, last = tied[0][0], tied[-1][0]
        place = f"rank {first}" if first == last else f"ranks {first} to {last}, equal,"
        ranks |= {attempt.arch: f"{place} of {len(order)}" for _, attempt in tied}
    return ranks if len(order) > 1 else {}


def _numbers(memory: SearchMemory) -> dict[Architecture, int]:
    """The number of every attempt, from 1 in the order they ended."""
    return {attempt.arch: number for number, attempt in enumerate(memory.attempts, 1)}


def _objectives(problem: Problem) -> str:
    """What designs are judged by, and which way each of it is better."""
    return " and ".join(f"{each.metric} ({_better(each)} is better)" for each in problem.objectives)


def _better(objective: Objective) -> str:
    return "higher" if objective.goal is Goal.MAXIMIZE else "lower"


def _entries(
    problem: Problem, memory: SearchMemory, shown: Sequence[Attempt], *, ranks: Mapping[Architecture, str]
) -> Callable[[Attempt], str]:
    """Writes attempts of a memory as lines, with as many digits as tell apart what is `shown`."""
    numbered, digits = _numbers(memory), significant(problem, shown)

    def write(attempt: Attempt) -> str:
        number = f"#{numbered[attempt.arch]} " if attempt.arch in numbered else ""
        rank = f" ({ranks[attempt.arch]})" if attempt.arch in ranks else ""
        return f"{number}{_entry(problem, attempt, digits, rank)}"

    return write


def _entry(problem: Problem, attempt: Attempt, digits: Sequence[int], rank: str) -> str:
    """One result on one line: design, objectives or failure, rank, cost, other metrics, rationale."""
    cost = f"params {attempt.cost.params:,}, MACs {attempt.cost.macs:,}"
    baseline = " (the baseline)" if attempt.arch == problem.space.baseline else ""
    came = result(problem, attempt, digits)
    parts = [f"{show(problem.space, attempt.arch)}{baseline}: {came}{rank}", cost]
    said = {"params", "macs", *(objective.metric for objective in problem.objectives)}
    others = sorted(set(attempt.metrics) - said)
    others = [name for name in others if not name.endswith(TIMES) or name in problem.measured][:MAX_METRICS]
    if others:
        parts.append(", ".join(f"{name} {_number(attempt.metrics[name])}" for name in others))
    if attempt.scores is not None and attempt.note:
        parts.append(f"because: {_line(attempt.note, MAX_NOTE)}")
    return "; ".join(parts)


def significant(problem: Problem, attempts: Iterable[Attempt]) -> list[int]:
    """For every objective the fewest digits that tell the attempts' values apart, within bounds."""
    scores = [attempt.scores for attempt in attempts if attempt.scores is not None]
    if not scores:
        return [LEAST_DIGITS for _ in problem.objectives]

    def told(column: Sequence[float], digits: int) -> int:
        return len({_number(value, digits) for value in column})

    return [
        next(n for n in range(LEAST_DIGITS, MOST_DIGITS + 1) if told(column, n) == told(column, MOST_DIGITS))
        for column in zip(*scores, strict=True)
    ]


def result(problem: Problem, attempt: Attempt, digits: Sequence[int]) -> str:
    """What came of an attempt: the objectives by their names, or why it failed."""
    if attempt.scores is None:
        return f"failed ({_line(attempt.note, MAX_NOTE) or 'no reason given'})"
    told = ", ".join(
        f"{objective.metric} {_number(objective.score(score), n)}"  # the score of a score is the value
        for objective, score, n in zip(problem.objectives, attempt.scores, digits, strict=True)
    )
    broken = f" (breaks a bound by {attempt.violation:.1%})" if attempt.violation else ""
    return told + broken


# -------------------------------------------------------------------- costs


def violation(problem: Problem, arch: Architecture) -> str:
    """By how much which limit is broken, in words; empty for a feasible design."""
    cost = problem.space.cost_of(arch)
    reasons = []
    for name, relative in problem.excess(arch).items():
        value, bound = getattr(cost, name), problem.limits[name]
        limit = bound.max if relative > 0 else bound.min
        side = "above the maximum" if relative > 0 else "below the minimum"
        off = abs(value - (limit or 0.0))
        reasons.append(f"{_label(name)} {value:,} is {off:,.0f} ({relative:+.1%}) {side} of {limit:,.0f}")
    return " and ".join(reasons)


def _anchors(space: SearchSpace) -> list[tuple[str, Architecture]]:
    """The smallest code, the baseline and the largest code, as far as they are designs of the space."""
    smallest = _point(space, (0,) * len(space.choices))
    named = (("smallest", smallest), ("baseline", space.baseline), ("largest", _largest(space)))
    distinct = {arch: name for name, arch in reversed(named) if arch is not None}
    return sorted(
        ((name, arch) for arch, name in distinct.items()), key=lambda pair: space.cost_of(pair[1]).params
    )


def _largest(space: SearchSpace) -> Architecture | None:
    try:
        return space.largest
    except InvalidArchitecture:
        return None


def _cost_table(problem: Problem, memory: SearchMemory) -> dict[str, Any] | None:
    """The whole network's cost for every option of every choice, around the best design so far."""
    space = problem.space
    best = memory.best()
    reference = best[0].arch if best else space.baseline or _largest(space)
    if reference is None:
        return None
    rows = []
    for position, choice in enumerate(space.choices):
        costs = []
        for gene, option in enumerate(choice.options):
            genes = (*reference.genes[:position], gene, *reference.genes[position + 1 :])
            arch = _point(space, genes)
            told = "not allowed" if arch is None else _limited(problem, arch)
            costs.append(f"{str(option).lower() if isinstance(option, bool) else option} -> {told}")
        rows.append(f"{choice.name}: {'; '.join(costs)}")
    names = " / ".join(map(_label, problem.limits))
    return {"names": names, "reference": show(space, reference), "rows": rows}


def _limited(problem: Problem, arch: Architecture) -> str:
    """The bounded costs, to five digits: the check itself is exact and not the model's."""
    cost = problem.space.cost_of(arch)
    counts = (getattr(cost, name) for name in problem.limits)
    return " / ".join(f"{count / 1e6:.5g} M" if count >= 1_000_000 else f"{count:,}" for count in counts)


def _point(space: SearchSpace, genes: tuple[int, ...]) -> Architecture | None:
    try:
        return space.architecture(genes)
    except InvalidArchitecture:
        return None


def _cost(space: SearchSpace, arch: Architecture) -> str:
    cost = space.cost_of(arch)
    return f"params {cost.params:,}, MACs {cost.macs:,}"


def _bounds(bound: Bound) -> str:
    sides = (("at least", bound.min), ("at most", bound.max))
    given = ((side, value) for side, value in sides if value is not None)
    return " and ".join(
        f"{side} {value:,.0f}" if value >= 1000 else f"{side} {value:g}" for side, value in given
    )


def _label(name: str) -> str:
    return "MACs" if name == "macs" else name


# -------------------------------------------------------------------- words


def _number(value: float, digits: int = LEAST_DIGITS) -> str:
    return f"{value:.{digits}g}"


def _line(text: str, limit: int) -> str:
    return clean(" ".join(text.split()), limit)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # plain text, never a page
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _fill(template: str, **view: Any) -> str:
    text = _environment().get_template(template).render(view)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
