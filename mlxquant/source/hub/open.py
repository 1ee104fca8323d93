"""What a person types as SOURCE: a folder, a config.json, or a repository on the Hub.

Where the Hub is out of reach or HF_HUB_OFFLINE is set, a whole snapshot in that cache is read instead (`cached`).

A path that exists wins; else `org/name[@revision]` is a Hub id. Its revision is pinned to a commit first, so that
everything read afterwards belongs together and the record says what was read. Of the shards only the headers come,
by ranged reads (a few hundred KB each); config.json and the index go through huggingface_hub's usual cache. Its
endpoint, token, proxies and offline switch hold here too (see `hub_client`).

Headers from the Hub meet the same checks as those of local files, with the sizes of the Hub's own listing. With
`weights` the shards can be read too, as they come in (see `source.hub.reader`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import sha256
from pathlib import Path

from ...disk.files import read_regular
from ...errors import SourceError, UsageError
from ..checkpoint import LARGEST_SMALL, Checkpoint, open_checkpoint, read_config, read_optional, too_large
from ..foreign import described
from ..headers import Tensor, header_length, parse_header, shown
from ..index import INDEX, SHARDS, Index, gather_tensors, is_shard, read_index
from ..packed import MODELOPT, check_config, check_names, decoded_tensors, notes_of, with_modelopt
from .cached import open_cached
from .errors import HubError, endpoint
from .reader import HubReader
from .repository import Repository, look_up

# As huggingface_hub has it: "--" stands for the slash in names of its cache, and ".." is refused.
_ID = re.compile(r"(?P<id>(?!\S*(?:--|\.\.)\S*)\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\S+))?", re.ASCII)
_ADDRESS = re.compile(
    r"(?:https?://[^/]+/?|hf://(?:models/)?)(?P<other>datasets/|spaces/)?(?P<id>[\w.-]+/[\w.-]+)?", re.ASCII
)
# Most headers are shorter (huggingface_hub counts 97 % of files under 100 kB), so that one request is enough.
FIRST_READ = 100_000
CONNECTIONS = 8


def open_source(text: str, *, weights: bool = False, keep: bool = False) -> Checkpoint:
    """Open what a person typed as SOURCE. With `weights`, only what has them; with `keep`, downloads are kept.

    Raises SourceError with what is wrong and what to do.
    """
    if not text:
        raise UsageError("SOURCE is empty; a folder, a config.json or a Hub id (org/name) is expected")
    if address := _ADDRESS.match(text):
        if address["other"]:
            raise UsageError(f"{shown(text)}: the address of a data set or Space; a model expected, as org/name")
        raise UsageError(f"{shown(text)}: an address; give the Hub id alone: {address['id'] or 'org/name'}")
    path, hub = Path(text).expanduser(), _ID.fullmatch(text)
    if path.exists() or hub is None or text.endswith(".json"):
        local = open_checkpoint(path)
        return with_weights(local) if weights else local
    return open_repository(hub["id"], hub["revision"], weights=weights, keep=keep)


def with_weights(source: Checkpoint) -> Checkpoint:
    """Give an opened checkpoint so that its weights can be read once; one on the Hub is opened anew, at its commit.

    Raises SourceError for a config alone.
    """
    if source.folder is None and source.revision is not None:
        return open_repository(source.name, source.revision, weights=True)
    if not source.tensors:
        raise SourceError(f"{source.name}: a config alone has no weights; give the checkpoint's folder")
    return source


def unpinned(text: str) -> str | None:
    """The Hub id in what a person typed as SOURCE, if it is one and leaves the revision open."""
    hub = _ID.fullmatch(text)
    if hub is None or hub["revision"] or text.endswith(".json") or Path(text).expanduser().exists():
        return None
    return hub["id"]


def open_repository(
    repository: str, revision: str | None = None, *, weights: bool = False, keep: bool = False
) -> Checkpoint:
    """Open a model repository on the Hub, at a branch, tag or commit. Reads headers only; raises SourceError.

    Where the Hub cannot be asked, it is the snapshot in the cache, if there is a whole one.
    """
    try:
        repo = look_up(repository, revision)
    except HubError as error:
        if not error.unreachable:
            raise
        return open_cached(repository, revision, error)
    sizes = repo.top
    _refuse_foreign(repo)
    left_out = too_large(sizes)
    generation = repo.download("generation_config.json") if "generation_config.json" in sizes else None
    config = read_config(repo.download("config.json"), generation)
    config = with_modelopt(config, read_optional(repo.download(MODELOPT)) if MODELOPT in sizes else None)
    check_config(config, repository)
    index = read_index(read_regular(repo.download(INDEX), LARGEST_SMALL)) if INDEX in sizes else None
    shards = gather_tensors(repository, index, sizes, _read_headers(repo, index, sizes))
    tensors, files = shards.tensors, shards.files
    check_names(config, tensors, repository)
    known = {n: digest for n in files if (digest := repo.listing.hashes.get(n))}
    decoded = decoded_tensors(config, tensors)
    return Checkpoint(
        repository,
        None,
        config,
        tensors,
        files,
        repo.commit,
        notes=(
            *shards.notes,
            *notes_of(config, decoded, tensors),
            *_unchecked(files, known),
            *(f"{name}: left out, {why}" for name, why in left_out.items()),
        ),
        decoded=decoded,
        reader=HubReader(repo, keep=keep, left_out=left_out) if weights else None,
        hashes=known,
    )


def _refuse_foreign(repo: Repository) -> None:
    """Refuse a repository without config.json, or without shards and index, and say what it holds instead."""
    sizes = repo.top
    if "config.json" not in sizes:
        lacking = "has no config.json"
    elif INDEX not in sizes and not any(map(is_shard, sizes)):
        lacking = f"no {SHARDS} in it"
    else:
        return
    content = described(sorted(repo.listing.sizes), lambda name: read_regular(repo.download(name), LARGEST_SMALL))
    raise SourceError(f"{repo.id}: {lacking}{f', but {content}' if content else '; is it a checkpoint?'}")


def _unchecked(files: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """Say which shards cannot be checked."""
    bare = sorted(set(files) - set(known))
    if not bare:
        return ()
    which = f"{bare[0]}{f' and {len(bare) - 1:,} more' if len(bare) > 1 else ''} of {len(files):,} shards"
    return (f"not checked against a SHA-256, since {endpoint()} lists none: {which}",)


def _read_headers(
    repo: Repository, index: Index | None, sizes: Collection[str]
) -> Callable[[str], tuple[list[Tensor], int]]:
    """Read the headers of all shards, several at a time; answers with those of one.

    A shard at fault is told when it is asked for, one after another; a Hub that does not answer, at once.
    """
    names = set(index.files.values() if index is not None else ()).union(filter(is_shard, sizes))
    pool, stopped = ThreadPoolExecutor(CONNECTIONS), threading.Event()
    try:
        headers = {file: pool.submit(_header, repo, file, stopped) for file in sorted(names.intersection(sizes))}
        for reading in as_completed(headers.values()):
            if isinstance(error := reading.exception(), HubError):
                raise error
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)

    def header_of(file: str) -> tuple[list[Tensor], int]:
        if file not in headers:
            raise SourceError(f"{file}: in {INDEX}, but not in {repo.id} at {repo.commit[:12]}")
        return headers[file].result()

    return header_of


def _header(repo: Repository, file: str, stopped: threading.Event) -> tuple[list[Tensor], int]:
    """Read one shard's header: its tensors, and the file's size."""
    size = repo.size(file)
    text = repo.read_range(file, 0, min(FIRST_READ, size), stopped) if size else b""
    length = header_length(text[:8], file, size)
    if len(text) < 8 + length:
        text += repo.read_range(file, len(text), 8 + length - len(text), stopped)
    repo.headers[file] = 8 + length, sha256(text[: 8 + length]).digest()
    return parse_header(text[8 : 8 + length], file, size)[0], size
