"""A repository as huggingface_hub's cache has it, for when the Hub cannot be asked.

    HF_HUB_CACHE/models--org--name/refs/REVISION        the commit that a branch or tag named when it was downloaded
                                   snapshots/COMMIT/…   links to
                                   blobs/HASH           the files

A snapshot is read as the folder that it is, through links into its own blobs alone (see `source.links`). Whether the
Hub has something newer cannot be said, so a note names the commit and that it was not checked. One that lacks files is
refused with their names; what huggingface_hub noted of the repository's files is believed where it did.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ...disk.files import read_regular
from ...errors import SourceError
from ...words.text import some
from ..checkpoint import LARGEST_SMALL, SIDE_SUFFIXES, Checkpoint, is_needed, open_checkpoint
from ..index import INDEX, is_shard, plain_name, read_index
from .errors import HubError, hub_constants

_COMMIT = re.compile("[0-9a-f]{40}")
_REF_BYTES = 1000


def open_cached(repository: str, revision: str | None, error: HubError) -> Checkpoint:
    """Open the cached snapshot of a repository, since the Hub answered with `error`.

    Raises HubError where the cache has none, or one that lacks files; SourceError for what is wrong with it.
    """
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(hub_constants().HF_HUB_CACHE)
    folder = cache / repo_folder_name(repo_id=repository, repo_type="model")
    commit = cached_commit(folder, revision)
    if commit is None:
        at = f" at {revision}" if revision is not None and folder.is_dir() else ""
        raise HubError(f"{error}; the cache ({cache}) has no copy of it{at}") from error
    snapshot = folder / "snapshots" / commit
    if missing := _missing(repository, commit, snapshot):
        raise HubError(
            f"{repository}: {error.unreachable}, and its copy in the cache (commit {commit[:12]}) lacks"
            f" {some(missing, 5)}; connect and run: hf download {repository} --revision {commit}"
        ) from error
    source = open_checkpoint(snapshot, name=repository, revision=commit)
    note = (
        f"{repository}: commit {commit[:12]} from the cache, as it was downloaded; not checked against the Hub"
        f" ({error.unreachable})"
    )
    return replace(source, notes=(note, *source.notes))


def cached_commit(folder: Path, revision: str | None) -> str | None:
    """The commit that a revision names in a repository's cache, of which there is a snapshot; None where there is none.

    Without a revision it is that of `main`, or of the only snapshot.
    """
    snapshots = folder / "snapshots"
    commit = revision if revision is not None and _COMMIT.fullmatch(revision) else _ref(folder / "refs", revision)
    if commit is None and revision is None and snapshots.is_dir():
        names = [path.name for path in snapshots.iterdir() if _COMMIT.fullmatch(path.name)]
        commit = names[0] if len(names) == 1 else None
    if commit is None or not (snapshots / commit).is_dir():
        return None
    inside = (snapshots / commit).resolve() == folder.resolve() / "snapshots" / commit
    return commit if inside else None  # a link to a folder elsewhere is no snapshot


def _ref(refs: Path, revision: str | None) -> str | None:
    """The commit that a branch or tag named."""
    parts = (revision or "main").split("/")
    path = refs.joinpath(*parts)
    try:
        if not all(map(plain_name, parts)) or not path.resolve().is_relative_to(refs.resolve()):
            return None
        text = read_regular(path, _REF_BYTES).decode("ascii").strip()
    except (OSError, ValueError, RuntimeError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def _missing(repository: str, commit: str, snapshot: Path) -> list[str]:
    """Names of files that a checkpoint needs and the snapshot lacks, as far as its own files or the cache tell."""
    needed = {"config.json"}
    present = {path.name for path in snapshot.iterdir() if path.exists()}
    if INDEX in present:
        with suppress(OSError, SourceError):  # opening it says what is wrong
            needed |= set(read_index(read_regular(snapshot / INDEX, LARGEST_SMALL)).files.values())
        if any(is_shard(name) for name in present) and not any(name in present for name in needed - {"config.json"}):
            needed = {"config.json"}  # an index of other shards, which opening it judges
    elif not any(is_shard(name) for name in present):
        needed.add("model.safetensors")
    return sorted((needed | set(filter(_is_loaded, _listed(repository, commit)))) - present)


def _is_loaded(name: str) -> bool:
    """Whether a build cannot be made without a file: shards, and what a tokenizer is read from."""
    return is_shard(name) or (is_needed(name) and Path(name).suffix in SIDE_SUFFIXES)


def _listed(repository: str, commit: str) -> set[str]:
    """Names of the repository's files at its top, where huggingface_hub has noted them (from its version 2 on)."""
    import huggingface_hub
    from huggingface_hub import errors

    listing = getattr(huggingface_hub, "get_cached_repo_tree", None)
    absent = getattr(errors, "CachedRepoTreeNotFoundError", OSError)
    if listing is None:
        return set()
    try:
        tree = listing(repository, revision=commit, cache_dir=hub_constants().HF_HUB_CACHE)
    except (absent, OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or a damaged one
        return set()
    names = (getattr(entry, "path", None) for entry in tree or ())
    return {name for name in names if isinstance(name, str) and "/" not in name}
