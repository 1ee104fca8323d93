"""What can go wrong with the Hub, each told in one line that says what to do.

An answer of the Hub's that is an error becomes a `HubError` by its status and the code in its headers; so do the
errors of huggingface_hub and of its HTTP client, which changed its name between versions. No message holds a token, a
password, a header's text or the text of a response.
"""

from __future__ import annotations

import errno
import importlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from urllib.parse import urlsplit

from ...errors import SourceError, UsageError
from ...words.secrets import redact, register_url

_SECONDS = re.compile(r"\d{1,9}", re.ASCII)
_LIMITED = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})(?!\d)", re.ASCII)


class HubError(SourceError):
    """The Hub could not be asked, or would not answer: no fault of the checkpoint's.

    `passing` says that it may work when it is tried again, after `wait` seconds if the Hub gave a time; `missing` that
    the Hub has no such repository, or shows none to this account; `unreachable`, where it is not empty, why the Hub
    could not be asked at all, so that a copy in the cache is the next best.
    """

    def __init__(
        self,
        message: str,
        *,
        passing: bool = False,
        wait: float | None = None,
        missing: bool = False,
        unreachable: str = "",
    ) -> None:
        super().__init__(message)
        self.passing, self.wait, self.missing, self.unreachable = passing, wait, missing, unreachable


def hub_constants() -> ModuleType:
    """huggingface_hub's settings. Raises UsageError where a variable of the environment keeps it from being loaded."""
    try:
        from huggingface_hub import constants
    except ValueError as error:  # a timeout that is no number
        raise UsageError(
            f"a variable HF_… of the environment has a value that huggingface_hub refuses ({error})"
        ) from None
    if constants.HF_HUB_DOWNLOAD_TIMEOUT <= 0:
        raise UsageError(
            f"HF_HUB_DOWNLOAD_TIMEOUT: seconds above 0 expected, {constants.HF_HUB_DOWNLOAD_TIMEOUT} found"
        )
    register_url(constants.ENDPOINT)
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_redact_line)
    return constants


def _redact_line(line: logging.LogRecord) -> bool:
    """Let huggingface_hub's log show no secret: it names addresses with the password of HF_ENDPOINT."""
    line.msg, line.args = redact(line.getMessage()), ()
    if line.exc_info:
        line.exc_text, line.exc_info = redact(logging.Formatter().formatException(line.exc_info)), None
    return True


def http_library() -> ModuleType:
    """The HTTP library that huggingface_hub uses: httpx, or httpx2 from its version 2 on."""
    from huggingface_hub.errors import HfHubHTTPError

    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


def endpoint() -> str:
    """The Hub's host as a person knows it, without a user or password that a URL may carry."""
    try:
        parts = urlsplit(hub_constants().ENDPOINT)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https"):
        raise UsageError("HF_ENDPOINT: an address such as https://huggingface.co expected; correct it, or unset it")
    return f"{host}:{port}" if port else host


@contextmanager
def explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into a HubError about a repository."""
    library = http_library()
    try:
        yield
    except SourceError:
        raise
    except (library.HTTPError, library.InvalidURL, OSError, ValueError, TypeError, KeyError) as error:
        raise _from_exception(error, repository, revision, library) from error


def from_status(repository: str, revision: str | None, status: int, headers: Mapping[str, str]) -> HubError:
    """What an answer means that is not the one asked for. `headers` have names in lower case."""
    wait = _wait(status, headers)
    text = f"{repository}: {_status(repository, revision, status, headers, wait)}"
    missing = headers.get("x-error-code") == "RepoNotFound" or (status == 404 and "x-error-code" not in headers)
    passing = status in (408, 429) or status >= 500
    return HubError(
        text,
        passing=passing,
        wait=wait,
        missing=missing,
        unreachable=f"{endpoint()} answers {status}" if passing else "",
    )


def _from_exception(error: Exception, repository: str, revision: str | None, library: ModuleType) -> HubError:
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        headers = {k.lower(): v for k, v in error.response.headers.items()}
        return from_status(repository, revision, error.response.status_code, headers)
    if isinstance(error, errors.OfflineModeIsEnabled):
        text = "offline mode is on (HF_HUB_OFFLINE); unset it, or give the folder of a downloaded copy"
        return HubError(f"{repository}: {text}", unreachable="offline mode is on (HF_HUB_OFFLINE)")
    passing = isinstance(error, (library.HTTPError, ConnectionError, TimeoutError))
    kind = type(error).__name__
    unreachable = f"{endpoint()} cannot be reached ({kind})" if passing and kind != "InvalidURL" else ""
    return HubError(f"{repository}: {_connection(error)}", passing=passing, unreachable=unreachable)


def _wait(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds that the Hub asked for."""
    after = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(after):
        return float(after)
    limited = _LIMITED.search(headers.get("ratelimit", "")) if status == 429 else None
    return float(limited[1]) if limited else None


def _status(repository: str, revision: str | None, status: int, headers: Mapping[str, str], wait: float | None) -> str:
    """What an HTTP status, and the code that the Hub adds to it, means here."""
    code = headers.get("x-error-code", "")
    if code == "GatedRepo":
        return (
            f"gated; accept its terms at {endpoint()}/{repository} with an account, then log in with that:"
            " hf auth login, or set HF_TOKEN"
        )
    if code == "RevisionNotFound":
        return f"has no revision {revision!r}; give a branch, tag or commit after the @"
    if code == "EntryNotFound":
        return "a file that the Hub lists is not there; try again"
    if status == 401 and "credentials" in headers.get("x-error-message", "").lower():
        return f"{endpoint()} refuses the token that is set; hf auth login gets a new one, or unset HF_TOKEN"
    if status in (401, 404):
        return (
            f"no such folder here and no such repository at {endpoint()}, or a private one; check the spelling, or log"
            " in with an account that may see it (hf auth login)"
        )
    if status == 403:
        return f"{endpoint()} forbids it (403); the token that is set lacks the permission for this repository"
    if status == 429:
        when = f"in {_duration(wait)}" if wait is not None else "later"
        return f"{endpoint()} has had too many requests (429); try again {when}, or log in for a higher limit"
    if status >= 500:
        return f"{endpoint()} has trouble of its own ({status}); try again later"
    return f"{endpoint()} answers {status}; is it a Hub? (HF_ENDPOINT)"


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:,.0f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:,.0f} days"


def _connection(error: BaseException) -> str:
    """What it means that no proper answer came."""
    kind = type(error).__name__
    if "Timeout" in kind:
        return f"no answer from {endpoint()} in time ({kind}); try again, or set HF_HUB_DOWNLOAD_TIMEOUT=60"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk ({error.filename or 'the cache'}); make room and run the same command again"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.filename):
        return f"cannot write to the cache: {error.strerror} ({error.filename}); set HF_HOME to another folder"
    if kind in ("RemoteProtocolError", "ReadError"):
        return f"{endpoint()} broke the connection off ({kind}); try again"
    if kind == "InvalidURL" or isinstance(error, (ValueError, TypeError, KeyError)):
        return f"{endpoint()} answers what no Hub does ({kind}); is a login page or proxy in between?"
    return f"no such folder here, and {endpoint()} cannot be reached ({kind}); check the network, or the folder's name"
