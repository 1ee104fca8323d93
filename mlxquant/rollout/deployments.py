"""The plan of a rollout, and the deployments of a model group that LiteLLM chooses among in each of its stages.

    mirror    users get the baseline; a share of their requests goes to the candidate too, whose answers nobody gets
    cohorts   the candidate serves the cohorts that are named for it; all others as before
    part      the candidate serves a share of all other requests, too
    all       the candidate serves everybody but the cohorts that are named for the baseline
    back      the baseline serves everybody; the candidate is asked nothing

How LiteLLM chooses (1.108, measured): it takes the deployments that share a tag with the request, or those tagged
`default` where none does, leaves out those that cool down, and draws one by weight. `silent_model` mirrors every
request of its deployment, so a share of requests is mirrored by a second deployment of the same server, of that weight.
A cohort's deployment has weight 0: alone it is drawn all the same, and beside one of the baseline's it never is, so a
request with tags of both sides gets the baseline. Where a request fails, a server of the baseline is drawn, so that all
of them share what a dead candidate leaves; where that one fails too, each of them is asked in turn.

What fails three times within a minute is left alone for a while, whoever is to blame: a client with requests that no
server takes would so take the model from everybody, or leave it to the candidate alone. So neither a baseline's only
server nor a fallback is ever left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ..endpoint.client import checked_model, parse_server
from ..errors import UsageError

STAGES = ("mirror", "cohorts", "part", "all", "back")
BASELINE, CANDIDATE = "baseline", "candidate"
MIRRORED, MIRROR, FALLBACK, LAST, COHORT = "mirrored", "mirror", "fallback", "last", "cohort"
# LiteLLM's own: what serves requests whose tags nothing else has, and prefixes of tags that demand or exclude
_DEFAULT, _MARKS = "default", ("&", "!")
_TAG = re.compile(r"[^\s,\"'\\]{1,100}")
_NAME = re.compile(r"[\w.@:/+-]{1,200}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_ID = re.compile(r"(baseline|candidate)-[0-9]{1,4}(?:\.(mirrored|mirror|fallback|last|cohort))?(?:@([0-9a-f]{12}))?")
_MOST_SERVERS = 100
# ends of an address that is an endpoint's and not the API's
_ENDPOINTS = ("/completions", "/responses", "/messages", "/models", "/embeddings")


@dataclass(frozen=True, slots=True)
class Side:
    """The servers of one build: their addresses, what they call the model, which variable holds their key.

    `build` is what identifies the build: format, recipe, recipe_sha256, manifest_sha256, as far as it is known.
    """

    urls: tuple[str, ...]
    model: str | None
    key_env: str | None
    variant: str
    build: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The side in the header of a configuration."""
        return {
            "urls": list(self.urls), "model": self.model, "key_env": self.key_env, "variant": self.variant,
            "build": dict(self.build),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What is rolled out how: `mirror` and `serve` are shares in percent, `cohorts` pairs of a tag and a side."""

    name: str
    baseline: Side
    candidate: Side
    mirror: float
    serve: float
    cohorts: tuple[tuple[str, str], ...]
    timeout_s: float

    def tags(self, role: str) -> list[str]:
        """The cohorts that a side serves."""
        return [tag for tag, side in self.cohorts if side == role]

    def group(self, purpose: str = "") -> str:
        """The name of a model group: the one that clients ask for, the mirror's, the fallback's."""
        return f"{self.name}-{purpose}" if purpose else self.name

    def as_dict(self) -> dict[str, Any]:
        """The plan in the header of a configuration."""
        return {
            "name": self.name, "baseline": self.baseline.as_dict(), "candidate": self.candidate.as_dict(),
            "mirror": self.mirror, "serve": self.serve, "cohorts": [list(pair) for pair in self.cohorts],
            "timeout_s": self.timeout_s,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Deployment:
    """An entry of LiteLLM's `model_list`; `weight` None where its group has no other kind of entry.

    `cools` says whether it is left alone for a while after failures.
    """

    group: str
    id: str
    side: Side
    url: str
    tags: tuple[str, ...]
    weight: float | None = None
    silent: str | None = None
    cools: bool = True


@dataclass(frozen=True, slots=True)
class DeploymentId:
    """What the id of a deployment says: whose it is, for what, and the first digits of its build's manifest hash."""

    role: str
    purpose: str | None
    manifest: str | None


def read_id(text: str) -> DeploymentId | None:
    """What the id of a deployment says; None for one that `rollout` did not write.

    >>> read_id("candidate-1.mirror@0123456789ab")
    DeploymentId(role='candidate', purpose='mirror', manifest='0123456789ab')
    """
    named = _ID.fullmatch(text)
    return DeploymentId(named[1], named[2], named[3]) if named else None


def check_plan(plan: RolloutPlan) -> None:
    """Raise UsageError where a plan cannot be carried out, naming the option."""
    if not _NAME.fullmatch(plan.name):
        raise UsageError(f"--model {plan.name[:80]!r}: letters, digits and . _ @ : / + - expected; clients ask for it")
    for role, side in ((BASELINE, plan.baseline), (CANDIDATE, plan.candidate)):
        _check_side(role, side, plan.timeout_s)
    shared = {url.rstrip("/") for url in plan.baseline.urls} & {url.rstrip("/") for url in plan.candidate.urls}
    if shared and plan.baseline.model == plan.candidate.model:
        raise UsageError(f"--candidate {min(shared)}: is the baseline's server and model, too; nothing would change")
    for option, share in (("--mirror", plan.mirror), ("--serve", plan.serve)):
        if not 0 <= share <= 100:
            raise UsageError(f"{option} {share:g}%: from 0% to 100% expected")
    if plan.mirror + plan.serve > 100:
        raise UsageError(
            f"--mirror {plan.mirror:g}% and --serve {plan.serve:g}%: at most 100% together, for a mirrored request is"
            " one that the baseline serves"
        )
    seen = set[str]()
    for tag, role in plan.cohorts:
        if not _TAG.fullmatch(tag) or tag == _DEFAULT or tag.startswith(_MARKS):
            raise UsageError(
                f"--cohort {tag[:80]!r}: a tag without white space, quotes and commas expected, that is not default and"
                " begins with neither & nor !, which LiteLLM has a meaning for"
            )
        if role not in (BASELINE, CANDIDATE):
            raise UsageError(f"--cohort {tag}={role[:80]}: baseline or candidate expected after =")
        if tag in seen:
            raise UsageError(f"--cohort {tag}: is given twice; one side serves a cohort")
        seen.add(tag)


def _check_side(role: str, side: Side, timeout_s: float) -> None:
    if not 0 < len(side.urls) <= _MOST_SERVERS:
        raise UsageError(f"--{role}: 1 to {_MOST_SERVERS} addresses expected, {len(side.urls)} found")
    for url in side.urls:
        path = parse_server(url, timeout_s, option=f"--{role}").path
        if path.endswith(_ENDPOINTS):
            raise UsageError(
                f"--{role} {url}: LiteLLM adds /chat/completions itself; the address before it expected, such as"
                " http://HOST:PORT/v1"
            )
    if len({url.rstrip("/") for url in side.urls}) < len(side.urls):
        raise UsageError(f"--{role}: an address stands twice; name each server once")
    model = checked_model(side.model, f"--{role}-model")
    if not model or not model.isprintable() or model != model.strip():
        raise UsageError(f"--{role}-model {(side.model or '')[:80]!r}: a name as the server lists it expected")
    if side.key_env is not None and not _VARIABLE.fullmatch(side.key_env):
        raise UsageError(f"--{role}-key-env: the name of a variable expected, which holds the key; not the key itself")


def doubtful_addresses(plan: RolloutPlan) -> list[str]:
    """Addresses without a path: mlx_lm.server answers there, LM Studio, vLLM and oMLX only below /v1."""
    return [url for side in (plan.baseline, plan.candidate) for url in side.urls if not urlsplit(url).path.strip("/")]


def stages(plan: RolloutPlan) -> dict[str, list[Deployment]]:
    """The deployments of each stage, in the order of `STAGES`."""
    mirror = list(_entries(plan.candidate, CANDIDATE, MIRROR, plan.group(MIRROR), (_DEFAULT,)))
    fallback = list(_fallback(plan))
    if not plan.mirror:
        mirror = []
    everybody = (_DEFAULT, *plan.tags(BASELINE))
    chosen = (*plan.tags(CANDIDATE),)
    cohorts = list(_served(plan.candidate, CANDIDATE, COHORT, plan, chosen, 0)) if chosen else []
    part = list(_served(plan.candidate, CANDIDATE, None, plan, (_DEFAULT,), plan.serve)) if plan.serve else []
    kept = plan.tags(BASELINE)
    return {
        "mirror": [*_mirrored(plan, (_DEFAULT,), 100), *mirror, *fallback],
        "cohorts": [*_mirrored(plan, everybody, 100), *cohorts, *mirror, *fallback],
        "part": [*_mirrored(plan, everybody, 100 - plan.serve), *part, *cohorts, *mirror, *fallback],
        "all": [
            *(_served(plan.baseline, BASELINE, COHORT, plan, tuple(kept), 1) if kept else ()),
            *_served(plan.candidate, CANDIDATE, None, plan, (_DEFAULT, *chosen), 0 if kept else 1),
            *fallback,
        ],
        "back": [*_served(plan.baseline, BASELINE, None, plan, (_DEFAULT,), 1), *fallback],
    }


def next_stage(plan: RolloutPlan, stage: str) -> str | None:
    """The stage after one, over those in which nothing would change; None after the last, and to go on from `back`.

    Without a cohort of the candidate's, `cohorts` is as `mirror`; without a share to serve, `part` is as `cohorts`.
    """
    follows = {"mirror": "cohorts", "cohorts": "part", "part": "all"}
    empty = {"cohorts": not plan.tags(CANDIDATE), "part": not plan.serve}
    after = follows.get(stage)
    while after is not None and empty.get(after, False):
        after = follows[after]
    return after


def fallback_groups(plan: RolloutPlan) -> list[str]:
    """Groups that are asked in turn where a request fails: the baseline's servers, then each of several alone."""
    group, servers = plan.group(FALLBACK), len(plan.baseline.urls)
    return [group, *(f"{group}-{number}" for number in range(1, servers + 1) if servers > 1)]


def _fallback(plan: RolloutPlan) -> Iterator[Deployment]:
    group, *alone = fallback_groups(plan)
    for entry in _entries(plan.baseline, BASELINE, FALLBACK, group, (_DEFAULT,)):
        yield replace(entry, cools=False)
    last = _entries(plan.baseline, BASELINE, LAST, "", (_DEFAULT,)) if alone else ()
    for name, entry in zip(alone, last, strict=True):
        yield replace(entry, group=name, cools=False)


def _mirrored(plan: RolloutPlan, tags: tuple[str, ...], share: float) -> Iterator[Deployment]:
    """The baseline for `share` percent of requests, those that are mirrored apart from the others."""
    if share > plan.mirror:
        yield from _served(plan.baseline, BASELINE, None, plan, tags, share - plan.mirror)
    if plan.mirror:
        silent = plan.group(MIRROR)
        yield from _served(plan.baseline, BASELINE, MIRRORED, plan, tags, plan.mirror, silent)


def _served(
    side: Side,
    role: str,
    purpose: str | None,
    plan: RolloutPlan,
    tags: tuple[str, ...],
    share: float,
    silent: str | None = None,
) -> Iterator[Deployment]:
    """A side's servers in the group that clients ask for, each with its part of a share."""
    weight = round(share / len(side.urls), 6)
    yield from _entries(side, role, purpose, plan.group(), tags, weight, silent)


def _entries(
    side: Side,
    role: str,
    purpose: str | None,
    group: str,
    tags: Sequence[str],
    weight: float | None = None,
    silent: str | None = None,
) -> Iterator[Deployment]:
    hashed = side.build.get("manifest_sha256")
    for number, url in enumerate(side.urls, 1):
        name = f"{role}-{number}{f'.{purpose}' if purpose else ''}{f'@{hashed[:12]}' if hashed else ''}"
        cools = role == CANDIDATE or len(side.urls) > 1
        yield Deployment(group, name, side, url, tuple(tags), weight, silent, cools)
