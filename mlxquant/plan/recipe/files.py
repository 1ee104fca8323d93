"""Where recipes are: the shipped ones by name, a user's by path, and the chain that `extends` makes.

Finds and parses files; what is in them is `recipe`'s to judge. Shipped recipes lie in the package (the wheel puts
them there), or in a checkout beside it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ...disk.files import read_regular, real_path
from ...words.text import cut, nearest, plain_texts

_LARGEST = 16 << 20  # bytes of a recipe; thousands of rules take one


@dataclass(frozen=True, slots=True)
class Shipped:
    """A recipe that comes with mlxquant."""

    name: str
    summary: str
    path: str


def available() -> list[Shipped]:
    """The shipped recipes, by name. Reads only their heads; `load_recipe` checks them."""
    recipes = []
    for file in sorted(_shipped_folder().iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            table = _toml(file.read_text(encoding="utf-8"))
            recipes.append(Shipped(table["name"], table["summary"], str(file)))
    return recipes


def _shipped_folder() -> Traversable:
    """`recipes/` inside the installed package, else beside it in a checkout."""
    inside = files("mlxquant") / "recipes"
    return inside if inside.is_dir() else Path(__file__).resolve().parents[3] / "recipes"


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """One recipe file as read: where it is, its stem, its table."""

    path: str
    stem: str
    folder: Path | None
    table: dict[str, Any]


def read_chain(reference: str, problems: list[str]) -> list[RecipeFile]:
    """Read a recipe and those it extends, the outermost first."""
    file = _read_file(reference, None, None, problems)
    return follow(file, problems) if file else []


def parse_file(text: str, where: str) -> RecipeFile:
    """Take a recipe's text as a file that lies nowhere. Raises tomllib.TOMLDecodeError."""
    return RecipeFile(where, where, None, _toml(text))


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML. A number too long or tables too deep for Python are as unreadable as wrong syntax."""
    try:
        table: dict[str, Any] = plain_texts(tomllib.loads(text))
        return table
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise tomllib.TOMLDecodeError(str(error)) from error


def follow(file: RecipeFile, problems: list[str]) -> list[RecipeFile]:
    """Read what a recipe extends, and what that extends. A circle is a problem."""
    chain = [file]
    while (extends := chain[-1].table.get("extends")) is not None:
        user = chain[-1]
        if not isinstance(extends, str):
            problems.append(f"{user.path}: extends is one recipe's name or path, not {extends!r}")
            break
        following = _read_file(extends, user.folder, user.path, problems)
        if following is None:
            break
        if following.path in [earlier.path for earlier in chain]:
            circle = " → ".join([*(earlier.stem for earlier in chain), following.stem])
            problems.append(f"{user.path}: extends goes round in a circle: {circle}")
            break
        chain.append(following)
    return chain


def _unfit(reference: str, folder: Path | None) -> str | None:
    """Why a recipe may not extend this: recipes come from others too, and may not open any file they like."""
    if not reference.isprintable():
        return "a recipe's name or path expected"
    if "/" not in reference and not reference.endswith(".toml"):
        return None
    if folder is None:
        return "the name of a shipped recipe expected, since this one lies in no folder"
    file = folder / reference
    if not real_path(file).is_relative_to(real_path(folder)):
        return f"a file in {folder} expected, or below it"
    return None if file.is_file() or not file.exists() else "a file expected"


def _path_hint(name: str) -> str:
    """``" (did you mean ./mine.toml?)"`` where a name lacks what makes it the path of a file here."""
    return f" (did you mean ./{name}.toml?)" if Path(f"{name}.toml").is_file() else ""


def _read_file(reference: str, folder: Path | None, user: str | None, problems: list[str]) -> RecipeFile | None:
    """Find and read one recipe; `folder` is that of the file which extends it."""
    where = f"{user}: extends" if user else "recipe"
    file: Traversable = Path(reference)
    home = True
    if not reference:
        problems.append(f"{where} '': a shipped recipe's name or the path of a .toml file expected")
        return None
    if user and (fault := _unfit(reference, folder)):
        problems.append(f"{where} {cut(reference, 80, 'end')!r}: {fault}")
        return None
    try:
        if "/" in reference or reference.endswith(".toml"):
            named = Path(reference)
            file, home = (folder or Path()) / (named if user else named.expanduser()), True
        else:
            file, home = _shipped_folder() / f"{reference}.toml", False
            if not file.is_file() and folder is not None and (folder / f"{reference}.toml").is_file():
                file, home = folder / f"{reference}.toml", True
        table = _toml((read_regular(file, _LARGEST) if isinstance(file, Path) else file.read_bytes()).decode())
    except FileNotFoundError:
        names = [shipped.name for shipped in available()]
        near = nearest(reference, names) if user else _path_hint(reference) or nearest(reference, names)
        hint = f"no such file: {file}" if home else f"unknown{near}; valid: {', '.join(names)}"
        problems.append(f"{where} {reference!r}: {hint}" + ("" if home else ", or the path of a .toml file"))
        return None
    except IsADirectoryError:
        problems.append(f"{where} {reference!r}: is a folder; a .toml file expected")
        return None
    except OSError as error:  # such as a name too long
        problems.append(f"{where} {cut(reference, 80, 'end')!r}: cannot be read ({error.strerror})")
        return None
    except (ValueError, RuntimeError) as error:  # such as TOMLDecodeError, a NUL in a name, "~nobody"
        problems.append(f"{cut(str(file), 80, 'end')}: not readable as TOML: {error}")
        return None
    path = str(file.resolve()) if isinstance(file, Path) else str(file)
    return RecipeFile(path, file.name.removesuffix(".toml"), Path(path).parent if home else None, table)
