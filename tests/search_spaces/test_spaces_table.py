"""Finding a space by name: built in, from an installed package, from the operator's file."""

import subprocess
import sys
from pathlib import Path

import pytest

import search_spaces
from search_spaces import SPACES, InvalidSpace, UnknownSpace, find, load_file

SPACE_FILE = """
from search_spaces.space import Choice, Cost, ModelSpec, SearchSpace

SPACE = SearchSpace(
    name={name!r},
    choices=(Choice("width", (8, 16)),),
    model=lambda decoded: ModelSpec("unet", dict(decoded)),
    cost=lambda decoded: Cost(1, 1),
    inputs=(1, 8, 8),
)
"""


def written(folder: Path, name: str, *, text: str = SPACE_FILE) -> Path:
    path = folder / "our_space.py"
    path.write_text(text.format(name=name))
    return path


def asked_with_package(folder: Path, name: str, *, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code where a package is installed whose entry point gives a space called `name`."""
    written(folder, name)
    package = folder / "our_package-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: our-package\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[archsmith.spaces]\nours = our_space:SPACE\n")
    root = Path(search_spaces.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(root), str(folder)]}; {code}"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_built_in_space_is_found() -> None:
    assert find("unet-8") is SPACES["unet-8"]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UnknownSpace, match="no search space 'unet-9'; known: .*unet-32, unet-32-ddpm, unet-64, unet-8"
    ):
        find("unet-9")


def test_a_file_gives_its_space_and_leaves_the_table_alone(tmp_path: Path) -> None:
    before = dict(SPACES)
    assert load_file(written(tmp_path, "ours")).name == "ours"
    assert before == SPACES


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_file(tmp_path / "nowhere.py")


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "SPACE is no SearchSpace but NoneType"), ("SPACE = 3", "no SearchSpace but int")],
)
def test_a_file_without_a_space_is_refused(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(InvalidSpace, match=word):
        load_file(written(tmp_path, "ours", text=text))


def test_a_file_that_takes_a_built_in_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpace, match="'unet-8', a name already taken"):
        load_file(written(tmp_path, "unet-8"))


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("name: ours")
    with pytest.raises(InvalidSpace, match=r"ends in \.py"):
        load_file(path)


def test_an_installed_package_adds_its_space(tmp_path: Path) -> None:
    code = (
        "import search_spaces as s; assert s.find('ours') is s.every()['ours']; assert 'ours' not in s.SPACES"
    )
    answer = asked_with_package(tmp_path, "ours", code=code)
    assert answer.returncode == 0, answer.stderr


def test_an_installed_package_cannot_replace_a_built_in_space(tmp_path: Path) -> None:
    answer = asked_with_package(tmp_path, "unet-8", code="import search_spaces as s; s.every()")
    assert "InvalidSpace: entry point ours = our_space:SPACE calls itself 'unet-8'" in answer.stderr
