"""A calibration from end to end: one pass of the reference over the documents, and the file that comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import UsageError
from ..layout.layout import read_layout
from ..records.head import describe_machine, describe_versions, utc_date
from ..source.checkpoint import Checkpoint
from ..stream.engine import compare
from ..stream.options import CompareOptions, HasTokens
from ..stream.ranks import Ranks
from ..words.progress import Watch, unwatched
from .inputs import HOLD_OUT_EVERY, InputSums
from .record import calibration_bytes, fingerprint

# So many documents, one of which is held out, are the fewest that can be calibrated on.
FEWEST = 2


def run_calibration(
    source: Checkpoint,
    documents: Sequence[HasTokens],
    described: Mapping[str, Any],
    options: CompareOptions,
    progress: Watch = unwatched,
    ranks: Ranks | None = None,
) -> tuple[bytes, dict[str, Any]] | None:
    """Stream the documents through the reference, one layer in memory, and sum what enters its modules.

    `described` is what the file says of the documents. Gives the file's bytes, the same after a kill and in
    each run on one machine, and a summary with date and time; None on a rank that is not the first. Raises what
    `compare` raises; UsageError for fewer than `FEWEST` documents.
    """
    if len(documents) < FEWEST:
        raise UsageError(
            f"--data: at least {FEWEST} documents expected, since some are held out; {len(documents)} given"
        )
    layout = read_layout(source, dtype=options.dtype)
    sums = InputSums(layout.modules)
    alone = replace(options, noise_floor=False, own=False)
    done = compare(source, [], documents, sums, alone, progress, ranks, listener=sums)
    if done.rank != 0:
        return None
    unreached = {path: int((s.rows.sum(0) == 0).sum()) for path, s in sums.sums.items() if s.rows.any()}
    record = {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "source": {**done.source, "fingerprint": fingerprint(source)},
        "documents": {**described, "held_out_every": HOLD_OUT_EVERY},
        "compute": done.compute,
        "modules": sum(bool(s.rows.any()) for s in sums.sums.values()),
        "without_inputs": [path for path, s in sums.sums.items() if not s.rows.any()],
        "experts_unreached": {path: n for path, n in unreached.items() if n},
        "notes": list(done.notes),
    }
    return calibration_bytes(sums, record), {**record, "date": utc_date(), "pass": done.figures()}
