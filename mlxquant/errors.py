"""What can go wrong, said so that a person can act on it.

Every message follows one form: where, what was expected, what was found, what to do. The library raises
these; only the command line prints them. A problem that a user cannot cause is not one of these: it stays
an ordinary exception with a traceback, because it is our bug.
"""

from __future__ import annotations

# What third-party model code raises on a config, weights or inputs that it cannot use
MODEL_ERRORS = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError, AssertionError,
    RuntimeError,
)  # fmt: skip


class MlxquantError(Exception):
    """Base of every error whose message is meant for the person at the keyboard. Exit code 3.

    `reason` is what is wrong without the place at which it is, for a table that names the place itself; where nobody
    gave it, it is the message's first line. `advice` is what to do, which ends the message; `problem` is the message
    without it, for whoever has other advice.
    """

    exit_code = 3

    def __init__(self, message: str = "", *, reason: str | None = None, advice: str | None = None) -> None:
        super().__init__(f"{message}; {advice}" if advice else message)
        self.reason = reason or message.partition("\n")[0]
        self.problem, self.advice = message, advice


class UsageError(MlxquantError):
    """The request itself is off: a value, a name or a combination that cannot mean anything. Exit code 2."""

    exit_code = 2


class SourceError(MlxquantError):
    """A checkpoint that cannot be read or is not what its config says. Names the file or tensor."""


class LayoutError(SourceError):
    """A checkpoint and the model class that mlx-lm has for it do not fit together."""


class RecipeError(MlxquantError):
    """A recipe that is not there or has mistakes; all of them are in the message, one a line. Exit code 2."""

    exit_code = 2


class PlanError(MlxquantError):
    """Rules and model do not fit, such as a dimension that no group size divides."""


class OutputError(MlxquantError):
    """The build cannot be written where it was asked for."""


class NonFiniteError(MlxquantError):
    """A weight holds NaN or infinity, or a group's range overflows its scale."""


class BuildError(MlxquantError):
    """A build on disk that is damaged or not an MLX build."""


class RecordError(MlxquantError):
    """A JSON record that cannot be read, or lacks what its schema promises."""


class OtherRankError(MlxquantError):
    """Another rank of the same command cannot do its part, and says why itself; this one has nothing to add."""


class MeasurementError(MlxquantError):
    """A run that gave no figure. `kind` says why in a word: timeout, refused, malformed, skipped, …"""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def as_dict(self) -> dict[str, str]:
        """The failure in a record, in place of figures."""
        return {"kind": self.kind, "message": str(self)}


class DataError(MlxquantError):
    """Texts, conversations or a suite that cannot be used. All faulty lines are in the message, one a line."""
