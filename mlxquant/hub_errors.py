"""What can go wrong with the Hub, each told in one line that says what to do.

huggingface_hub raises some twenty kinds of errors, and below them those of its HTTP client, which changed its name
between versions. Here they become `HubError`s. No message holds a token, a header or the text of a response.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from .errors import SourceError


class HubError(SourceError):
    """The Hub could not be asked, or would not answer: no fault of the checkpoint's.

    `passing` says that it may work when it is tried again, after `wait` seconds if the Hub gave a time.
    """

    def __init__(self, message: str, *, passing: bool = False, wait: float | None = None) -> None:
        super().__init__(message)
        self.passing, self.wait = passing, wait


def endpoint() -> str:
    """The Hub's host as a person knows it, without a user or password that a URL may carry."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    host = parts.hostname or constants.ENDPOINT
    return f"{host}:{parts.port}" if parts.port else host


@contextmanager
def explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into a HubError about a repository."""
    from huggingface_hub.errors import HfHubHTTPError

    # the HTTP client's own base class, httpx.HTTPError or httpx2.HTTPError
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except SourceError:
        raise
    except (http_error, OSError, ValueError, TypeError, KeyError) as error:
        said = f"{repository}: {_said(error, repository, revision)}"
        raise HubError(said, passing=_passing(error, http_error), wait=_wait(error)) from error


def _passing(error: BaseException, http_error: type[Exception]) -> bool:
    """Whether a network or a server that gets over it is all that it takes."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _passing(error.__cause__, http_error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return False
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, (http_error, ConnectionError, TimeoutError)) or "Consistency check" in str(error)


def _wait(error: BaseException) -> float | None:
    """Seconds that the Hub asked for."""
    after = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    return float(after) if after.isdigit() else None


def _said(error: BaseException, repository: str, revision: str | None) -> str:
    """What happened and what to do. Kinds are tried from the special to the general."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _said(error.__cause__, repository, revision)  # a download that failed for another reason
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE); unset it, or give the folder of a downloaded copy"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"gated; accept its terms at {endpoint()}/{repository} with an account, then log in with that:"
            " hf auth login, or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {revision!r}; give a branch, tag or commit after the @"
    if isinstance(error, errors.EntryNotFoundError):
        return "a file that the Hub lists is not there; try again"
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error.response.status_code, dict(error.response.headers), refused=_refused(error))
    return _connection(error)


def _refused(error: Exception) -> bool:
    """Whether a 401 is about the token that was sent, not about the repository."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return "credentials" in str(headers.get("X-Error-Message", "")).lower()


def _status(code: int, headers: dict[str, str], *, refused: bool) -> str:
    """What an HTTP status means here."""
    if code == 401 and refused:
        return f"{endpoint()} refuses the token that is set; hf auth login gets a new one, or unset HF_TOKEN"
    if code in (401, 404):
        return (
            f"no such folder here and no such repository at {endpoint()}, or a private one; check the spelling, or log"
            " in with an account that may see it (hf auth login)"
        )
    if code == 403:
        return f"{endpoint()} forbids it (403); the token that is set lacks the permission for this repository"
    if code == 429:
        wait = headers.get("retry-after", "")
        when = f"in {wait} s" if wait.isdigit() else "later"
        return f"{endpoint()} has had too many requests (429); try again {when}, or log in for a higher limit"
    if code >= 500:
        return f"{endpoint()} has trouble of its own ({code}); try again later"
    return f"{endpoint()} answers {code}; is it a Hub? (HF_ENDPOINT)"


def _connection(error: BaseException) -> str:
    """What it means that no proper answer came."""
    kind = type(error).__name__
    if "Timeout" in kind:
        return f"no answer from {endpoint()} in time ({kind}); try again, or set HF_HUB_DOWNLOAD_TIMEOUT=60"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk ({error.filename or 'the cache'}); make room and run the same command again"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.filename):
        return f"cannot write to the cache: {error.strerror} ({error.filename}); set HF_HOME to another folder"
    if kind in ("RemoteProtocolError", "ReadError") or "Consistency check" in str(error):
        return f"{endpoint()} broke the connection off ({kind}); try again"
    if isinstance(error, (ValueError, TypeError, KeyError)):
        return f"{endpoint()} answers what no Hub does ({kind}); is a login page or proxy in between?"
    return f"no such folder here, and {endpoint()} cannot be reached ({kind}); check the network, or the folder's name"
