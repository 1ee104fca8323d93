"""From what was measured to rows: shares of rounding's KL, the luck of a build, limits, and one table a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxquant.stats import skewed_ratio

from .building import Build

# The most of rounding's KL that was set as an aim for the store model at group 64, by bits: without and with documents
LIMITS = {4: (0.92, 0.50), 3: (0.70, 0.33), 2: (0.47, 0.20)}


def row(
    build: Build, made: dict[str, Any], judged: dict[str, Any], right: dict[str, Any], copies: list[Any]
) -> dict[str, Any]:
    """One build's figures: what it took, its KL and share, the shares of copies, loops, and the limit it is held to."""
    entry: dict[str, Any] = {
        "build": build.name, "bits": build.bits, "group_size": build.group, "method": build.peer or build.method,
        "by_role": build.by_role, "peer": build.peer is not None, "recipe": None if build.peer else build.recipe,
        **made,
    }  # fmt: skip
    if "error" in made:
        return entry
    own, base = judged[build.name], judged[build.base.name]
    share = skewed_ratio(own["kl"], base["kl"])
    return entry | {
        "kl_nats": sum(own["kl"]) / sum(own["tokens"]),
        "same_top": own["alike"],
        "share": {"estimate": share.estimate, "low": share.low, "high": share.high, "method": share.method},
        "luck": luck([judged, *copies], build),
        "limit": limit(build, share.estimate),
        "loops": right.get(build.name),
    }


def luck(tables: list[dict[str, Any]], build: Build) -> dict[str, Any] | None:
    """Over the model and its copies: how much KL varies, and the share of rounding's, of sums and of each."""
    tables = [table for table in tables if build.name in table and build.base.name in table]
    if len(tables) < 2:
        return None
    own, base = (np.array([sum(t[b.name]["kl"]) for t in tables]) for b in (build, build.base))
    shares = own / base
    return {
        "forms": len(tables),
        "kl_spread": float(own.std(ddof=1) / own.mean()),
        "share": float(own.sum() / base.sum()),
        "shares": shares.tolist(),
        "share_spread": float(shares.std(ddof=1)),
    }


def limit(build: Build, share: float) -> dict[str, Any] | None:
    """The limit of a uniform build at group 64, and whether its share is within."""
    if build.peer or build.by_role or build.group != 64 or build.method == "rtn":
        return None
    most = LIMITS[build.bits][build.method != "mse"]
    return {"share": most, "met": share <= most}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, with a row for what did not run."""
    lines = [
        "| bits | group | build | bytes | KL, mnat | share of `rtn` | over copies | limit | said alike, % |"
        " calls right, % | CPU s |",
        "|--:|--:|---|--:|--:|---|---|---|--:|--:|--:|",
    ]
    for r in rows:
        name = f"mlx-lm {r['method']}" if r["peer"] else f"{'by role' if r['by_role'] else 'uniform'}, `{r['method']}`"
        start = f"| {r['bits']} | {r['group_size']} | {name} |"
        if "error" in r:
            lines.append(f"{start} does not run: {r['error']} | | | | | | | |")
            continue
        own, held = r["luck"], r["limit"]
        lines.append(
            f"{start} {r['bytes']:,} | {1e3 * r['kl_nats']:.3g} | {_within(r['share'])} |"
            f" {_luck(own)} | {_limit(held)} | {_percent(r['same_top'])} |"
            f" {_percent((r['loops'] or {}).get('right_call'))} | {r['cpu_s']:.3g} |"
        )
    return "\n".join(lines)


def _within(share: dict[str, Any]) -> str:
    interval = "" if share["low"] is None else f" [{share['low']:.2f}, {share['high']:.2f}]"
    return f"{share['estimate']:.2f}{interval}"


def _luck(own: dict[str, Any] | None) -> str:
    return f"{own['share']:.2f} ({min(own['shares']):.2f} to {max(own['shares']):.2f})" if own else "–"


def _limit(held: dict[str, Any] | None) -> str:
    return f"{held['share']:.2f}, {'met' if held['met'] else 'not met'}" if held else "–"


def _percent(share: dict[str, Any] | None) -> str:
    if not share:
        return "–"
    interval = "" if share["low"] is None else f" [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
    return f"{100 * share['estimate']:.1f}{interval}"
