"""What a candidate is, and what it is called, as every record says it: hashes that tell builds apart, and names.

An entry of a record (a candidate, a baseline, a bench's build) is a build, a recipe that was not built, or a server's
model. What it *is* stands in hashes; two entries that share one are one, whatever each is called:

    manifest_sha256    a build: the SHA-256 of its mlxquant.json, which has every file's hash; None for other tools'
    config_sha256      a build: the SHA-256 of its config.json; many builds may share it
    recipe             {name, sha256, overrides}: what it was, or would be, converted by. The hash is of the recipe with
                       its overrides, so gates-8bit at 4 bits is another one than gates-8bit
    source             {name, revision}: the checkpoint that a build was made from, as its manifest has it

What it is *called* is `name` (each once in a record), and besides that the build's folder (`build`), the server's name
for it (`model`), and its recipe as one types it: gates-8bit:bits=4. `identity_entry` makes what a record says of a
build from its manifest; whoever writes records of builds uses it. Nothing is opened or hashed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# what an entry is told by: the strongest first
HASHES = ("manifest_sha256", "recipe_sha256", "config_sha256")
# overrides that a recipe's variation has in one word, in the order in which it has them
_VARIED = {"--bits": "bits", "--group-size": "group_size", "--mode": "mode", "--method": "method",
           "--unaligned": "unaligned"}  # fmt: skip


def identity_entry(
    manifest: Mapping[str, Any] | None, manifest_sha256: str | None, config_sha256: str | None
) -> dict[str, Any]:
    """What a record says of a build, by its hashes and what its manifest names; None in each place for other tools'.

    Give `manifest_sha256` of the manifest's file as it stands in the build.
    """
    recipe, source = (_table((manifest or {}).get(key)) for key in ("recipe", "source"))
    return {
        "manifest_sha256": manifest_sha256,
        "config_sha256": config_sha256,
        "recipe": recipe_entry(recipe),
        **({"source": {k: source.get(k) for k in ("name", "revision")}} if source else {}),
    }


def recipe_entry(recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """A recipe's name, hash and overrides, without its rules; None where nothing is known of it."""
    return {key: recipe.get(key) for key in ("name", "sha256", "overrides") if key in recipe} if recipe else None


def hashes_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of an entry, by the names of `HASHES`, as far as the record has them."""
    fields = {**entry, "recipe_sha256": _table(entry.get("recipe")).get("sha256")}
    return {key: fields[key] for key in HASHES if isinstance(fields.get(key), str)}


def names_of(entry: Mapping[str, Any]) -> list[str]:
    """What an entry may be called, its own name first; its recipe's bare name, which others share, is not among them.

    >>> names_of({"name": "q4", "recipe": {"name": "gates-8bit", "overrides": ["--bits 4", "--group-size 32"]}})
    ['q4', 'gates-8bit:bits=4,group_size=32']
    """
    others = [entry.get("build"), recipe_name(_table(entry.get("recipe"))), entry.get("model")]
    model = entry.get("model")
    others += [model.rstrip("/").rpartition("/")[2]] if isinstance(model, str) else []
    return list(dict.fromkeys(name for name in (entry.get("name"), *others) if isinstance(name, str) and name))


def recipe_name(recipe: Mapping[str, Any]) -> str | None:
    """A recorded recipe in one word, as `compare -r` takes it; what it has no word for follows. None without a name.

    An entry that does not say whether its recipe was changed (earlier versions wrote no overrides of builds) has none.

    >>> recipe_name({"name": "gates-8bit", "overrides": ["--bits 4", "--set role=router:keep"]})
    'gates-8bit:bits=4 --set role=router:keep'
    """
    name, overrides = recipe.get("name"), recipe.get("overrides")
    if not isinstance(name, str) or not isinstance(overrides, list):
        return None
    changes, rest = list[str](), list[str]()
    for override in map(str, overrides):
        option, _, value = override.partition(" ")
        if option in _VARIED:
            changes.append(f"{_VARIED[option]}={value}")
        else:
            rest.append(override)
    return " ".join([f"{name}:{','.join(changes)}" if changes else name, *rest])


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
