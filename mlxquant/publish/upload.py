"""Uploading a build to the Hub: checked first, private by default, with a card made from its records.

The build is verified (see `check.verify`). The files of the manifest, the manifest and README.md are uploaded. The card
is written beside, never into the build: a temporary folder holds it and links to the build's files, and
huggingface_hub's upload of large folders takes that. It hashes, splits, tries again and continues where an earlier run
stopped. Afterwards the Hub's listing is compared with the build. Nothing is deleted there; other files that the
repository holds are listed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..builds.manifest import MANIFEST, read_manifest
from ..builds.write.hashing import sha256
from ..check.verify import verify
from ..disk.files import read_regular
from ..errors import BuildError, RecordError, UsageError
from ..records.files import read_checked, read_record
from ..records.schemas import check
from ..report.card import Said, card
from ..source.headers import shown
from ..source.hub.client import own_headers
from ..source.hub.errors import HubError, endpoint, explained
from ..source.hub.repository import look_up
from ..source.hub.session import apart
from ..source.index import build_name
from ..source.links import strays
from ..words.strict_json import read_json
from ..words.text import listed, some

README = "README.md"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.ASCII)
_GENERATION = "generation_config.json"
_LARGEST = 1 << 20
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Upload:
    """A checked build, ready to be uploaded: its files by name with their sizes, their SHA-256, and the card."""

    folder: Path
    repository: str
    files: dict[str, int]
    hashes: dict[str, str]
    card: str

    @property
    def nbytes(self) -> int:
        """Bytes of all files, the card's too."""
        return sum(self.files.values()) + len(self.card.encode())


@dataclass(frozen=True)
class Uploaded:
    """Where the build is now, at which commit, and what other files lie there."""

    url: str
    commit: str
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class License:
    """A license by the Hub's id of it; ``other`` has a name and a link of its own."""

    identifier: str
    name: str | None = None
    link: str | None = None

    def check(self) -> None:
        """Raise UsageError for what the Hub would not take."""
        if not _LICENSE.fullmatch(self.identifier):
            raise UsageError(
                f"--license {self.identifier}: an id of the Hub expected, such as apache-2.0, mit or other"
            )
        if self.identifier == "other" and not (self.name and self.link):
            raise UsageError("--license other: its name and where it stands expected: --license-name, --license-link")
        if self.identifier != "other" and (self.name or self.link):
            raise UsageError(f"--license {self.identifier}: --license-name and --license-link are for --license other")


def prepare(
    build: Path,
    repository: str,
    benches: Sequence[Path] = (),
    *,
    base_model: str | None = None,
    license: License | None = None,
    verdicts: Sequence[Path] = (),
) -> Upload:
    """Check a build and write its card. Raises BuildError with all that is wrong; reads every byte."""
    for name in (repository, base_model):
        if name is not None and not _ID.fullmatch(name):
            raise UsageError(f"{name!r}: a Hub id (org/name) expected")
    if license is not None:
        license.check()
    manifest = read_manifest(build)
    if manifest is None:
        raise BuildError(f"{build}: has no {MANIFEST}; only builds that mlxquant made and can check are uploaded")
    text = read_regular(build / MANIFEST)
    if problems := _problems(build, manifest["files"]):
        raise BuildError(f"{build}: not uploaded, it is not what was converted:\n{listed(problems)}")
    files = {name: int(entry["bytes"]) for name, entry in manifest["files"].items()} | {MANIFEST: len(text)}
    hashes = {name: str(entry["sha256"]) for name, entry in manifest["files"].items()} | {MANIFEST: sha256(text)}
    audit = read_record(build / "audit.json")
    check(audit, "audit.json", kinds=("audit",))
    said = Said(
        base_model=base_model,
        license=license.identifier if license else None,
        license_name=license.name if license else None,
        license_link=license.link if license else None,
        generation=_generation(build) if _GENERATION in files else {},
        benches=[_measurement(path, hashes[MANIFEST]) for path in benches],
        verdicts=[_verdict(path, hashes[MANIFEST], manifest["recipe"].get("sha256")) for path in verdicts],
    )
    return Upload(build, repository, files, hashes, card(repository, manifest, audit, said))


def _generation(build: Path) -> dict[str, Any]:
    """What generation_config.json says; nothing where it is no table, which stops no upload."""
    try:
        content = read_json(read_regular(build / _GENERATION, _LARGEST))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _verdict(path: Path, manifest_sha256: str, recipe_sha256: Any) -> tuple[dict[str, Any], str]:
    """Read a verdict, and find this build among its candidates: by its manifest, else by its recipe."""
    record = read_checked(path, "validate")
    identities = [(str(c["name"]), c.get("identity") or {}) for c in record["candidates"]]
    for key, wanted in (("manifest_sha256", manifest_sha256), ("recipe_sha256", recipe_sha256)):
        names = [
            name for name, known in identities
            if wanted and known.get(key) == wanted and (key == "manifest_sha256" or "manifest_sha256" not in known)
        ]  # fmt: skip
        if len(names) == 1:
            return record, names[0]
    raise RecordError(
        f"{path}: judged {some([name for name, _ in identities])}, none of which is known to be this build; judge it by"
        " records that name it (compare --build, eval of the build), or leave the record out"
    )


def upload(build: Upload, *, public: bool = False) -> Uploaded:
    """Create the repository if need be, upload the files, and check that they arrived. Raises HubError."""
    if "authorization" not in own_headers():
        raise HubError(f"{build.repository}: not logged in; hf auth login with a token that may write, or set HF_TOKEN")
    _claim(build.repository, public=public)
    with tempfile.TemporaryDirectory(prefix="mlxquant-upload-") as name:
        folder = Path(name)
        for file in build.files:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).symlink_to((build.folder / file).absolute())
        (folder / README).write_text(build.card)
        _send(build.repository, folder)
    return _arrived(build)


def _problems(build: Path, files: Mapping[str, Any]) -> list[str]:
    """Where a build differs from its manifest, or cannot be checked."""
    outside = [f"{shown(name)}: no name of a file of the build's own" for name in files if not build_name(name)]
    if outside:
        return outside
    bare = sorted(name for name, entry in files.items() if entry["sha256"] is None)
    unhashed = [f"{', '.join(bare)}: made with --no-hash, so it cannot be checked; convert again"] if bare else []
    links = [f"{shown(name)}: {why}" for name, why in strays(build)]
    return links or [*verify(build).differences, *unhashed]


def _measurement(path: Path, manifest_sha256: str) -> dict[str, Any]:
    """Read a bench record, and make sure that it measured this build."""
    from ..bench.record import read_bench

    record = read_bench(path)
    if all(b.get("manifest_sha256") != manifest_sha256 for b in record["builds"]):
        raise RecordError(f"{path}: measured other builds; bench this one, or leave the record out")
    return record


def _claim(repository: str, *, public: bool) -> None:
    """Create the repository. One that exists must be private, unless `public` allows either."""
    from huggingface_hub import HfApi

    try:
        there = look_up(repository, None)
    except HubError as error:
        if not error.missing:
            raise
        with explained(repository, None):
            make = partial(HfApi().create_repo, repository, repo_type="model", private=not public, exist_ok=True)
            apart(make, repository)
        return
    if not public and not there.listing.private:
        raise HubError(f"{repository}: is there already and is public; pass --public to upload to it all the same")


def _send(repository: str, folder: Path) -> None:
    """Upload a folder: huggingface_hub has called it differently over time."""
    from huggingface_hub import HfApi

    api: Any = HfApi()
    if hasattr(api, "upload_large_folder"):  # before 2.0
        send = partial(api.upload_large_folder, repository, folder, repo_type="model", print_report=False)
    else:
        message = "Upload a build of mlxquant"
        send = partial(api.upload_folder, repo_id=repository, folder_path=folder, commit_message=message)
    with explained(repository, None):
        try:
            apart(send, repository)
        except RuntimeError as error:  # what it wraps failures of single files in
            if isinstance(error.__cause__, Exception):
                raise error.__cause__ from None
            raise HubError(f"{repository}: the upload failed ({error}); run the same command again") from error


def _arrived(build: Upload) -> Uploaded:
    """Compare the Hub's listing with the build."""
    there = look_up(build.repository, None).listing
    problems = []
    for name, size in build.files.items():
        listed_size = there.sizes.get(name, "nothing")
        if listed_size not in (None, size):
            problems.append(f"{name}: {size:,} bytes expected, {listed_size} there")
        elif there.hashes.get(name, build.hashes[name]) != build.hashes[name]:
            problems.append(f"{name}: SHA-256 {build.hashes[name]} expected, {there.hashes[name]} there")
    if problems:
        raise HubError(f"{build.repository}: not all arrived; run the same command again:\n{listed(problems)}")
    others = sorted(there.sizes.keys() - build.files.keys() - {README, ".gitattributes"})
    return Uploaded(f"{endpoint()}/{build.repository}", there.commit, tuple(others))
