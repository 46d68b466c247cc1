"""The search spaces by name: the built-in ones, and those that packages or the operator's files add.

A package adds spaces by entry points of the group `archsmith.spaces`, each naming a `SearchSpace`. A file
adds one by `add_files`; both run the code they name, so they are the operator's to give, never a request's.
"""

import importlib.util
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from search_spaces.cell import NASBENCH201
from search_spaces.channels import CHANNEL_MOBILENET, CHANNEL_RESNET
from search_spaces.diffusion_unet import NAMED as NAMED_UNETS
from search_spaces.diffusion_unet import UNET_8, UNET_32, UNET_32_DDPM, UNET_64
from search_spaces.macro import MACRO_8, NASBENCH_MACRO
from search_spaces.mobile import MOBILE_64, MOBILE_IMAGENET
from search_spaces.scaling import (
    FAMILY_SPACES,
    SCALENET_8_SPACE,
    SCALENET_32_SPACE,
    SCALENET_64_SPACE,
    SCALENET_BASE_SPACE,
    SCALENET_SPACE,
)
from search_spaces.scaling import NAMED as NAMED_FAMILY
from search_spaces.space import Architecture, SearchSpace

SPACES: dict[str, SearchSpace] = {
    "unet-8": UNET_8,
    "unet-32": UNET_32,
    "unet-32-ddpm": UNET_32_DDPM,
    "unet-64": UNET_64,
    "scalenet": SCALENET_SPACE,
    "scalenet-base": SCALENET_BASE_SPACE,
    "scalenet-8": SCALENET_8_SPACE,
    "scalenet-32": SCALENET_32_SPACE,
    "scalenet-64": SCALENET_64_SPACE,
    **{space.name: space for space in FAMILY_SPACES.values()},
    "nasbench201": NASBENCH201,
    "nasbench-macro": NASBENCH_MACRO,
    "macro-8": MACRO_8,
    "channel-resnet": CHANNEL_RESNET,
    "channel-mobilenet": CHANNEL_MOBILENET,
    "mobile-imagenet": MOBILE_IMAGENET,
    "mobile-64": MOBILE_64,
}

NAMED: dict[str, Architecture] = {**NAMED_UNETS, **NAMED_FAMILY}
"""Published architectures by name."""

ENTRY_POINTS = "archsmith.spaces"


class UnknownSpace(LookupError):
    """No search space of that name."""


class InvalidSpace(TypeError):
    """An entry point or a file that gives no usable search space."""


def find(name: str) -> SearchSpace:
    """The space called `name`. Raises UnknownSpace, naming those there are."""
    if name in SPACES:
        return SPACES[name]
    spaces = every()
    if name not in spaces:
        raise UnknownSpace(f"no search space {name!r}; known: {', '.join(sorted(spaces))}")
    return spaces[name]


def every() -> dict[str, SearchSpace]:
    """All spaces by name, the installed ones included. Raises InvalidSpace where one of those is unusable."""
    return {**_installed(), **SPACES}


def load_file(path: str | Path) -> SearchSpace:
    """The space that a Python file defines under the name `SPACE`; the file is run.

    It is not added to the table: `add_files` does that, in every process that needs it.
    Raises FileNotFoundError, InvalidSpace, and whatever the file itself raises.
    """
    path = Path(path).resolve(strict=True)
    spec = importlib.util.spec_from_file_location(f"archsmith_space_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InvalidSpace(f"{path}: a space's file ends in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _checked(getattr(module, "SPACE", None), f"{path}: SPACE")


def add_files(paths: Iterable[str | Path]) -> None:
    """Adds the space of every file to the table of this process; none is run twice.

    Raises what `load_file` does.
    """
    for path in paths:
        resolved = Path(path).resolve(strict=True)
        if resolved not in _added:
            space = load_file(resolved)
            SPACES[space.name] = space
            _added.add(resolved)


_added: set[Path] = set()


@cache
def _installed() -> dict[str, SearchSpace]:
    spaces: dict[str, SearchSpace] = {}
    for point in entry_points(group=ENTRY_POINTS):
        origin = f"entry point {point.name} = {point.value}"
        space = _checked(point.load(), origin)
        if space.name in spaces:
            raise InvalidSpace(f"{origin}: another installed package defines {space.name!r} too")
        spaces[space.name] = space
    return spaces


def _checked(space: object, origin: str) -> SearchSpace:
    if not isinstance(space, SearchSpace):
        raise InvalidSpace(f"{origin} is no SearchSpace but {type(space).__name__}")
    if space.name in SPACES:
        raise InvalidSpace(f"{origin} calls itself {space.name!r}, a name already taken; rename it")
    return space
