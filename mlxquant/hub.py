"""What a person types as SOURCE: a folder, a config.json, or a repository on the Hub.

A path that exists wins; else `org/name[@revision]` is a Hub id. Its revision is pinned to a commit first, so that
everything read afterwards belongs together and the record says what was read. Of the shards only the headers come,
by ranged reads (a few hundred KB each); config.json and the index go through huggingface_hub's usual cache. The
client is huggingface_hub's own throughout: its endpoint, token, proxies, retries and offline switch hold here too.

Headers from the Hub meet the same checks as those of local files, with the sizes of the Hub's own listing. With
`weights` the shards can be read too, as they come in (see `staging`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .checkpoint import (
    INDEX,
    Checkpoint,
    gather_tensors,
    open_checkpoint,
    read_beside,
    read_config,
    read_index,
)
from .downloads import Repository
from .errors import SourceError, UsageError
from .fp8 import scaled_tensors
from .headers import Tensor, header_length, parse_header
from .hub_errors import HubError, endpoint, explained
from .prequantized import MODELOPT, check_config, check_names
from .staging import HubReader

_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\S+))?", re.ASCII)
# Most headers are shorter (huggingface_hub counts 97 % of files under 100 kB), so that one request is enough.
FIRST_READ = 100_000
CONNECTIONS = 8


def open_source(text: str, *, weights: bool = False, keep: bool = False) -> Checkpoint:
    """Open what a person typed as SOURCE. With `weights`, only what has them; with `keep`, downloads are kept.

    Raises SourceError with what is wrong and what to do.
    """
    if not text:
        raise UsageError("SOURCE is empty; a folder, a config.json or a Hub id (org/name) is expected")
    path, hub = Path(text).expanduser(), _ID.fullmatch(text)
    if path.exists() or hub is None or text.endswith(".json"):
        found = open_checkpoint(path)
        if weights and not found.tensors:
            raise SourceError(f"{found.name}: a config alone has no weights; give the checkpoint's folder")
        return found
    return open_repository(hub["id"], hub["revision"], weights=weights, keep=keep)


def unpinned(text: str) -> str | None:
    """The Hub id in what a person typed as SOURCE, if it is one and leaves the revision open."""
    hub = _ID.fullmatch(text)
    if hub is None or hub["revision"] or text.endswith(".json") or Path(text).expanduser().exists():
        return None
    return hub["id"]


def open_repository(
    repository: str, revision: str | None = None, *, weights: bool = False, keep: bool = False
) -> Checkpoint:
    """Open a model repository on the Hub, at a branch, tag or commit. Reads headers only; raises SourceError."""
    from huggingface_hub import HfApi, constants

    with explained(repository, revision):
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=timeout)
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    if info.sha is None:
        raise SourceError(f"{repository}: {endpoint()} does not say which commit it is at; try again later")
    hashes = {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs is not None}
    repo = _Repository(repository, info.sha, sizes, hashes)
    if "config.json" not in sizes:
        raise SourceError(f"{repository}: has no config.json; is it a checkpoint in the Hub's layout?")
    generation = repo.download("generation_config.json") if "generation_config.json" in sizes else None
    config = read_config(repo.download("config.json"), generation)
    check_config(config, repository, read_beside(repo.download(MODELOPT)) if MODELOPT in sizes else None)
    wanted = read_index(repo.download(INDEX).read_bytes()) if INDEX in sizes else None
    tensors, files = gather_tensors(repository, wanted, sizes, repo.headers(wanted))
    check_names(config, tensors, repository)
    scaled, known = scaled_tensors(config, tensors), {n: hashes[n] for n in files if n in hashes}
    reader = HubReader(repo, keep=keep) if weights else None
    return Checkpoint(repository, None, config, tensors, files, info.sha, scaled=scaled, reader=reader, hashes=known)


class _Repository(Repository):
    """One commit of a repository, to read headers of."""

    def headers(self, wanted: dict[str, str] | None) -> Callable[[str], tuple[list[Tensor], int]]:
        """Read the headers of all shards, several at a time; answers with those of one.

        A shard at fault is told when it is asked for, one after another; a Hub that does not answer, at once.
        """
        names = set(wanted.values()) if wanted is not None else set(self.sizes)
        shards = sorted(file for file in names & self.sizes.keys() if file.endswith(".safetensors"))
        pool = ThreadPoolExecutor(CONNECTIONS)
        try:
            found = {file: pool.submit(self._header, file) for file in shards}
            for reading in as_completed(found.values()):
                if isinstance(error := reading.exception(), HubError):
                    raise error
        finally:
            pool.shutdown(cancel_futures=True)

        def header_of(file: str) -> tuple[list[Tensor], int]:
            if file not in found:
                raise SourceError(f"{file}: in {INDEX}, but not in {self.id} at {self.commit[:12]}")
            return found[file].result()

        return header_of

    def _header(self, file: str) -> tuple[list[Tensor], int]:
        """Read one shard's header: its tensors, and the file's size."""
        size = self.sizes[file]
        if size is None:
            raise SourceError(f"{file}: {endpoint()} does not say how long it is; try again later")
        text = self._read(file, 0, min(FIRST_READ, size))
        length = header_length(text[:8], file, size)
        if len(text) < 8 + length:
            text += self._read(file, len(text), 8 + length - len(text))
        return parse_header(text[8 : 8 + length], file, size)[0], size

    def _read(self, file: str, start: int, length: int) -> bytes:
        """Read a range of a file. A server that sends the whole file instead is refused, not downloaded."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        span = f"bytes={start}-{start + length - 1}"
        headers = {**build_hf_headers(), "Range": span, "Accept-Encoding": "identity"}
        url, timeout = hf_hub_url(self.id, file, revision=self.commit), constants.HF_HUB_DOWNLOAD_TIMEOUT
        with (
            explained(self.id, self.commit),
            http_stream_backoff("GET", url, headers=headers, timeout=timeout, max_retries=2) as response,
        ):
            hf_raise_for_status(response)
            if response.status_code != 206:
                raise HubError(f"{file}: {endpoint()} does not serve parts of files; hf download {self.id} instead")
            with explained(self.id, self.commit):  # a cut here is no reason for the backoff to ask again
                found = b"".join(response.iter_bytes())
        if len(found) != length:
            raise HubError(f"{file}: {length:,} bytes from {start:,} asked for, {len(found):,} came; try again")
        return found
