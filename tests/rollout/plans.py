"""Plans of rollouts for tests, and texts that names of a plan may be made of."""

from __future__ import annotations

from hypothesis import strategies as st

from mlxquant.rollout.deployments import RolloutPlan, Side

TAGS = st.from_regex(r"[a-zA-Z0-9_.:äß日-]{1,12}", fullmatch=True).filter(lambda tag: tag != "default")
HOSTS = st.from_regex(r"https?://[a-z][a-z0-9]{0,8}(:[1-9][0-9]{0,3})?(/v1)?", fullmatch=True)
NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
ANY = st.text(st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs"]), max_size=20)


def side(role: str, *urls: str, key_env: str | None = None, **build: str) -> Side:
    return Side(urls or (f"http://{role}:8080/v1",), "default_model", key_env, role, build)


def plan(**changes: object) -> RolloutPlan:
    fields: dict[str, object] = {
        "name": "qwen", "baseline": side("baseline"), "candidate": side("candidate"), "mirror": 5.0, "serve": 10.0,
        "cohorts": (("batch", "candidate"), ("vip", "baseline")), "timeout_s": 60.0,
    }  # fmt: skip
    return RolloutPlan(**(fields | changes))  # type: ignore[arg-type]


@st.composite
def plans(draw: st.DrawFn) -> RolloutPlan:
    """Any plan that `check_plan` lets pass."""
    hosts = draw(st.lists(HOSTS, min_size=2, max_size=5, unique_by=lambda url: url.rstrip("/")))
    cut = draw(st.integers(1, len(hosts) - 1))
    mirror = draw(st.integers(0, 100))
    tags = draw(st.lists(TAGS, max_size=4, unique=True))
    build = {"manifest_sha256": "0123456789abcdef" * 4, "recipe": draw(ANY)} if draw(st.booleans()) else {}
    baseline, candidate = (
        Side(tuple(urls), draw(NAMES), draw(st.sampled_from([None, "SOME_KEY"])), draw(ANY), build)
        for urls in (hosts[:cut], hosts[cut:])
    )
    return plan(
        name=draw(st.from_regex(r"[\w.@:/+-]{1,20}", fullmatch=True)),
        baseline=baseline, candidate=candidate, mirror=float(mirror), serve=float(draw(st.integers(0, 100 - mirror))),
        cohorts=tuple((tag, draw(st.sampled_from(["baseline", "candidate"]))) for tag in tags),
    )  # fmt: skip
