"""An architecture as text for a language model, and back.

What a model says is data: it is read against the space's choices, never evaluated. A reply may be the JSON
that `schema` describes, alone or inside prose or a fence, or any plain form that papers use for a code: a
list of options or of their indices, stage lists, a string of digits, NAS-Bench-201's `|op~0|+|op~0|op~1|`,
an architecture's key. Whatever else it is, `parse` says InvalidArchitecture, in time linear in its length.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.cell import OPERATIONS, PUBLISHED
from search_spaces.space import Architecture, Choice, Genes, InvalidArchitecture, Option, SearchSpace

MAX_REPLY = 200_000  # characters; a longer reply is refused unread
MAX_OBJECTS = 500  # braces tried as the start of a JSON object
MAX_LISTS = 1000  # tried as the first stage of a code
MAX_CANDIDATES = 64  # read of one reply
MAX_RATIONALE = 2000  # characters kept
MAX_REASON = 400  # characters of a refusal

ALIASES = dict(zip(PUBLISHED, OPERATIONS, strict=True))
BATCHES = ("candidates", "proposals", "architectures", "designs")
CODES = ("architecture", "arch", "code", "genes", "op_list", "operations", "ops", "design", "choices")
REASONS = ("rationale", "reason", "reasoning", "explanation", "analysis")

_BRACKETS = re.compile(r"\[([^\[\]]{1,4000})\]")
_BRACES = re.compile(r"\{([^{}]{1,8000})\}")
_CELL = re.compile(r"\|[^|\s~]{1,40}~\d{1,2}\|[^\s\"'`,;]{0,400}")
_CELL_EDGE = re.compile(r"([^|\s~]{1,40})~(\d{1,2})")
_DIGITS = re.compile(r"[0-9]{2,64}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,18}\.[0-9]{0,18}")
_STAGE = re.compile(r"(?:stage|block|level)[ _-]?[0-9]{1,2}", re.IGNORECASE)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One architecture of a reply, and why the model chose it.

    `written` are the options that stand in the reply, where the canonical ones are others.
    """

    arch: Architecture
    rationale: str = ""
    written: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reply holds: the distinct architectures in its order, and why others of it are none."""

    suggestions: tuple[Suggestion, ...]
    faults: tuple[str, ...] = ()


# -------------------------------------------------------------------- to the model


def schema(space: SearchSpace, batch: int) -> dict[str, Any]:
    """JSON Schema of a reply with `batch` candidates; a rationale comes before each architecture.

    It keeps to what strict structured output of OpenAI-compatible servers accepts: every property is
    required, none may be added, and the number of candidates is asked for in words.
    """
    architecture = _object({choice.name: _property(choice) for choice in space.choices})
    rationale = {"type": "string", "description": "why this design should do better, in one or two sentences"}
    candidate = _object({"rationale": rationale, "architecture": architecture})
    number = "exactly one design" if batch == 1 else f"exactly {batch} different designs"
    return _object({"candidates": {"type": "array", "description": number, "items": candidate}})


def describe(space: SearchSpace) -> str:
    """The choices, one a line: number, name, options, and what the choice means."""
    return "\n".join(
        f"{number}. {choice.name}: {_json(list(choice.options))}"
        + (f" - {choice.about}" if choice.about else "")
        for number, choice in enumerate(space.choices, 1)
    )


def show(space: SearchSpace, arch: Architecture) -> str:
    """The chosen options in the order of the choices, as a JSON list: short, and `parse` reads it."""
    return _json(list(space.decode(arch).values()))


def answer(space: SearchSpace, arch: Architecture, rationale: str = "") -> dict[str, Any]:
    """The candidate that `schema` asks for."""
    return {"rationale": rationale, "architecture": dict(space.decode(arch))}


def clean(text: str, limit: int) -> str:
    """At most `limit` characters, without what stores refuse or what turns the text around it.

    Control characters, lone surrogates and the marks that change the direction of writing become spaces.
    """
    text = _CONTROLS.sub(" ", text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _property(choice: Choice) -> dict[str, Any]:
    types = sorted({_type(option) for option in choice.options})
    described = {"description": choice.about} if choice.about else {}
    return {"type": types[0] if len(types) == 1 else types, "enum": list(choice.options), **described}


def _type(option: Option) -> str:
    match option:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# -------------------------------------------------------------------- from the model


def parse(space: SearchSpace, reply: str) -> Parsed:
    """The architectures of a reply. Raises InvalidArchitecture, with the reason, where it holds none.

    JSON objects that name choices or hold a code count first; plain forms are looked for only where there
    are none, so that an earlier design quoted in the prose is not taken for the answer.
    """
    if len(reply) > MAX_REPLY:
        raise InvalidArchitecture(f"a reply of {len(reply)} characters; at most {MAX_REPLY} are read")
    reply = _CONTROLS.sub(" ", reply)
    for form in (_objects, _loose_objects, _cells, _lists, _stages, _digits, _keys):
        codes = list(form(space, reply))[:MAX_CANDIDATES]
        if codes:
            return _parsed(space, codes)
    raise InvalidArchitecture(f"no architecture of {len(space.choices)} choices found in the reply")


Code = tuple[object, str]
"""What stands for an architecture (object, list or string), and its rationale."""


def _parsed(space: SearchSpace, codes: Iterable[Code]) -> Parsed:
    found: dict[Architecture, Suggestion] = {}
    faults: list[str] = []
    for code, rationale in codes:
        try:
            genes = _genes(space, code)
            arch = space.architecture(genes)
        except InvalidArchitecture as fault:
            faults.append(clean(str(fault), MAX_REASON))
        else:
            written = "" if genes == arch.genes else show(space, Architecture(space.name, genes))
            found.setdefault(arch, Suggestion(arch, clean(rationale, MAX_RATIONALE), written))
    if not found:
        raise InvalidArchitecture(clean("; ".join(dict.fromkeys(faults)), MAX_REASON))
    return Parsed(tuple(found.values()), tuple(faults))


# -------------------------------------------------------------------- where it may stand in a reply


def _objects(space: SearchSpace, reply: str) -> Iterator[Code]:
    """JSON objects: the last batch of candidates, or else every single candidate."""
    objects = list(json_objects(reply))
    for value in reversed(objects):
        if batch := _first(value, BATCHES, list):
            yield from (code for item in batch for code in _candidate(space, item))
            return
    for value in objects:
        if isinstance(_first(value, BATCHES, dict), dict):
            value = _first(value, BATCHES, dict)
        yield from _candidate(space, value)


def _loose_objects(space: SearchSpace, reply: str) -> Iterator[Code]:
    """Flat `{name: option}` that is nearly JSON: single quotes, Python's True, a comma too many."""
    names = {choice.name for choice in space.choices}
    for group in _BRACES.finditer(reply):
        pairs = (line.partition(":") for line in re.split(r"[,\n]", group[1]))
        loose = {_bare(name): _scalar(option) for name, colon, option in pairs if colon}
        if names & loose.keys():
            yield loose, ""


def _cells(space: SearchSpace, reply: str) -> Iterator[Code]:
    yield from ((cell[0], "") for cell in _CELL.finditer(reply))


def _lists(space: SearchSpace, reply: str) -> Iterator[Code]:
    """Lists of the right length: those that stand alone on a line, or else the last one."""
    whole = [listed for listed in _flat_lists(reply) if len(listed.values) == len(space.choices)]
    alone = [listed for listed in whole if listed.alone]
    yield from ((listed.values, "") for listed in alone or whole[-1:])


def _stages(space: SearchSpace, reply: str) -> Iterator[Code]:
    """A code cut into stages, each stage's list at the end of a line: the first complete run of lists."""
    listed = [part for part in _flat_lists(reply) if part.alone][:MAX_LISTS]
    for start in range(len(listed)):
        values: list[Option] = []
        for part in listed[start : start + len(space.choices)]:
            values += part.values
            if len(values) >= len(space.choices):
                break
        if len(values) == len(space.choices):
            yield values, ""
            return


def _digits(space: SearchSpace, reply: str) -> Iterator[Code]:
    """A string of digits, one a choice, that ends a short line, or is quoted at the end of any."""
    for line in reply.splitlines():
        words = line.split()
        last = words[-1] if words else ""
        word = last.strip("\"'`*.()[]")
        short = len(words) <= 5 or last[:1] in "\"'`"
        if short and len(word) == len(space.choices) and _DIGITS.fullmatch(word):
            yield word, ""


def _keys(space: SearchSpace, reply: str) -> Iterator[Code]:
    for word in reply.split():
        word = word.strip("\"'`*.,()[]")
        if word.startswith(f"{space.name}:"):
            yield word, ""


def json_objects(reply: str) -> Iterator[Mapping[str, object]]:
    """The outermost JSON objects of a text, in order."""
    decoder = json.JSONDecoder()
    start = -1
    for _ in range(MAX_OBJECTS):
        start = reply.find("{", start + 1)
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(reply, start)
        except (ValueError, RecursionError):
            continue
        yield value
        start = end - 1


def _candidate(space: SearchSpace, value: object) -> Iterator[Code]:
    """What stands for an architecture in one JSON value, if anything does."""
    if isinstance(value, list | str):
        yield value, ""
    elif isinstance(value, dict):
        rationale = _first(value, REASONS, str) or ""
        code = _first(value, CODES, dict | list | str)
        if code is not None:
            yield code, rationale
        elif any(choice.name in value for choice in space.choices) or _staged(value):
            names = {choice.name for choice in space.choices}
            yield (
                {name: option for name, option in value.items() if name in names or name not in REASONS},
                rationale,
            )


def _first(value: Mapping[str, object], names: Sequence[str], kind: Any) -> Any:
    return next((value[name] for name in names if isinstance(value.get(name), kind)), None)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A list without lists in it; `alone` where nothing but a label shares its line."""

    values: list[Option]
    alone: bool


def _flat_lists(reply: str) -> Iterator[_Listed]:
    for group in _BRACKETS.finditer(reply):
        words = group[1].split("," if "," in group[1] else None)
        line_end = reply.find("\n", group.end(), group.end() + 20)
        after = reply[group.end() : group.end() + 20 if line_end < 0 else line_end]
        alone = not after.strip(" \t\r.,;*`)|]")
        yield _Listed([_scalar(word) for word in words if word.strip()], alone)


def _scalar(word: str) -> Option:
    word = _bare(word)
    if _INTEGER.fullmatch(word):
        return int(word)
    if _DECIMAL.fullmatch(word):
        return float(word)
    return {"true": True, "false": False}.get(word.lower(), word)


def _bare(word: str) -> str:
    return word.strip().strip("\"'`").strip()


# -------------------------------------------------------------------- what it may look like


def _genes(space: SearchSpace, code: object) -> Genes:
    """As they are written: not yet in canonical form, and perhaps ruled out."""
    match code:
        case dict() if _staged(code):
            return _by_position(space, _flat(code.values()))
        case dict():
            return _by_name(space, code)
        case list():
            return _by_position(space, _flat(code))
        case str():
            return _of_string(space, code.strip())
        case _:
            raise InvalidArchitecture(f"{type(code).__name__} is no architecture")


def _by_name(space: SearchSpace, options: Mapping[str, object]) -> Genes:
    known = {choice.name: choice for choice in space.choices}
    if unknown := [name for name in options if name not in known]:
        raise InvalidArchitecture(f"no choice is called {', '.join(map(_short, unknown[:5]))}")
    if missing := [name for name in known if name not in options]:
        raise InvalidArchitecture(f"missing: {', '.join(missing)}")
    return tuple(_gene(choice, options[choice.name]) for choice in space.choices)


def _by_position(space: SearchSpace, values: Sequence[object]) -> Genes:
    """The options in the order of the choices."""
    if len(values) != len(space.choices):
        raise InvalidArchitecture(f"{len(values)} values for {len(space.choices)} choices")
    return tuple(map(_gene, space.choices, values))


def _of_string(space: SearchSpace, code: str) -> Genes:
    if code.startswith(f"{space.name}:"):
        return space.parse_key(code).genes
    if _CELL.fullmatch(code):
        return _by_position(space, _edges(code))
    if len(code) == len(space.choices) and _DIGITS.fullmatch(code):
        return _by_position(space, [int(digit) for digit in code])
    if group := _BRACKETS.fullmatch(code):
        return _by_position(space, next(iter(_flat_lists(group[0]))).values)
    raise InvalidArchitecture(f"{_short(code)} is no architecture")


def _edges(code: str) -> list[str]:
    """The operations of `|op~0|+|op~0|op~1|`, nodes in order and each node's edges by their source."""
    operations: list[str] = []
    for number, node in enumerate(code.rstrip("+.").split("+"), 1):
        edges = sorted((int(source), name) for name, source in _CELL_EDGE.findall(node))
        if [source for source, _ in edges] != list(range(number)):
            raise InvalidArchitecture(
                f"node {number} of {_short(code)} must read nodes 0 to {number - 1} once each"
            )
        operations += [name for _, name in edges]
    return operations


def _staged(value: Mapping[str, object]) -> bool:
    """Whether it is `{"stage1": [...], "stage2": [...]}`."""
    stages = [name for name, options in value.items() if _STAGE.fullmatch(name) and isinstance(options, list)]
    return bool(stages) and len(stages) == len(value)


def _flat(values: Iterable[object]) -> list[object]:
    """Lists in a list, one deep, laid end to end."""
    flat: list[object] = []
    for value in values:
        flat += value if isinstance(value, list) else [value]
    return flat


def _gene(choice: Choice, value: object) -> int:
    """The index of an option as a model may write it: 64, 64.0 or "64"; true, "True" or 1.

    An index itself is understood only where no option is a number: elsewhere it could mean another option.
    """
    plain = _plain(value)
    for index, option in enumerate(choice.options):
        if _plain(option) == plain:
            return index
    if isinstance(value, int) and not isinstance(value, bool):
        if set(choice.options) == {False, True} and _all_of(choice, bool) and value in (0, 1):
            return choice.options.index(bool(value))
        if _all_of(choice, str) and 0 <= value < len(choice.options):
            return value
    raise InvalidArchitecture(f"{choice.name}: {_short(value)} is none of {_json(list(choice.options))}")


def _all_of(choice: Choice, kind: type) -> bool:
    return all(type(option) is kind for option in choice.options)


def _plain(value: object) -> str | None:
    """Equal for the ways to write one option; None for what can be no option."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float() if value.is_integer():
            return str(int(value))
        case float():
            return repr(value)
        case str():
            scalar = _scalar(value)
            if not isinstance(scalar, str):
                return _plain(scalar)
            return ALIASES.get(scalar.lower(), scalar.lower())
        case _:
            return None


def _short(value: object) -> str:
    """What was said, cut to a length that fits a sentence."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    return repr(clean(value, 60) if isinstance(value, str) else value)
