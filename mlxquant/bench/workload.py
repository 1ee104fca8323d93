"""What `bench` measures and what one measurement is: workloads, settings, samples, failures.

Words follow llama-bench where they mean the same. `pp512` is a prompt of 512 tokens, timed until the first token
after it has been sampled: what a user waits for. `tg128` is 128 tokens generated one after another. `@ d4096` says
that 4,096 tokens were in the cache before the clock started.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from ..errors import UsageError

_LABEL = re.compile(r"(?P<kind>pp|tg)(?P<n>\d+)(?: @ d(?P<depth>\d+))?")
WARM_TOKENS = 16  # a warm-up generates at most so many


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table: a prompt or a number of generated tokens, after `n_depth` tokens in the cache."""

    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0

    @property
    def label(self) -> str:
        """llama-bench's name for it. ``Workload(n_gen=128, n_depth=4096).label == "tg128 @ d4096"``."""
        name = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return f"{name} @ d{self.n_depth}" if self.n_depth else name

    @classmethod
    def parse(cls, label: str) -> Workload:
        """Read what `label` wrote; a label of another form is a ValueError."""
        parts = _LABEL.fullmatch(label)
        if parts is None:
            raise ValueError(f"{label!r}: pp512, tg128 or tg128 @ d4096 expected")
        count, depth = int(parts["n"]), int(parts["depth"] or 0)
        return cls(count, 0, depth) if parts["kind"] == "pp" else cls(0, count, depth)

    def counts(self) -> dict[str, int]:
        """Its numbers of tokens, as llama-bench and a result's row call them."""
        return {"n_prompt": self.n_prompt, "n_gen": self.n_gen, "n_depth": self.n_depth}

    def warm(self) -> Workload:
        """The same, short enough to be run before every measurement."""
        return replace(self, n_gen=min(self.n_gen, WARM_TOKENS))


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """How it is measured: llama-bench's `-p -n -d -r`, sequences at once (`batch`), and what surrounds a run.

    `prompt` says what the tokens are: "text", "random" or the name of a file.
    """

    prompts: tuple[int, ...] = (512,)
    generate: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = (0,)
    repetitions: int = 5
    batch: int = 1
    prefill_step_size: int = 2048
    delay_s: float = 0.0
    warmups: int = 1
    seed: int = 0
    prompt: str = "text"

    def __post_init__(self) -> None:
        wrong = [
            f"{name}: {value} is less than {least}"
            for name, value, least in (
                ("-p", min(self.prompts, default=0), 0),
                ("-n", min(self.generate, default=0), 0),
                ("-d", min(self.depths, default=0), 0),
                ("-r", self.repetitions, 1),
                ("-b", self.batch, 1),
                ("--prefill-step-size", self.prefill_step_size, 1),
                ("--delay", self.delay_s, 0),
                ("--warmups", self.warmups, 0),
            )
            if value < least
        ]
        if not self.workloads():
            wrong.append("nothing to measure: give -p or -n a number above 0")
        if wrong:
            raise UsageError("\n".join(wrong))

    def workloads(self) -> list[Workload]:
        """Every combination, as llama-bench has it: prompts, then generation, at each depth."""
        return list(
            dict.fromkeys(
                workload
                for depth in self.depths
                for workload in (
                    *(Workload(n_prompt=n, n_depth=depth) for n in self.prompts if n),
                    *(Workload(n_gen=n, n_depth=depth) for n in self.generate if n),
                )
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """The settings as a record keeps them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run.

    `tokens` were processed or generated in `seconds`, over all sequences of the batch. `ttft_s` is the time until
    the first token of an answer, `token_s` the times between one token (or chunk of a stream) and the next.
    `extra` holds what only one way of measuring knows, such as a server's own counts.
    """

    seconds: float
    tokens: int
    ttft_s: float | None = None
    token_s: tuple[float, ...] = ()
    peak_memory_bytes: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def tok_s(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """The sample's fields in a record; times to the microsecond."""
        return {
            "seconds": round(self.seconds, 6),
            "tokens": self.tokens,
            "tok_s": round(self.tok_s, 4),
            "ttft_s": None if self.ttft_s is None else round(self.ttft_s, 6),
            "token_s": [round(s, 6) for s in self.token_s],
            "peak_memory_bytes": self.peak_memory_bytes,
            **self.extra,
        }


class Subject(Protocol):
    """Something whose speed can be measured: a build loaded here, or a model behind an endpoint."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def describe(self, settings: BenchSettings) -> dict[str, Any]:
        """What it is, for the record."""

    def open(self) -> float | None:
        """Make it ready; seconds that loading took, None where that is not ours to know."""

    def close(self) -> None:
        """Free its memory."""

    def measure(self, workload: Workload, settings: BenchSettings, run: int) -> Sample:
        """Run a workload once; `run` counts the runs. Raises MeasurementError."""
