"""Small programs with a question about each: Python, SQL, shell, JavaScript, TOML. CC0 1.0."""

from __future__ import annotations

from random import Random
from typing import Any

from benchmarks.quality_set.words import TOWNS, number_id

Record = dict[str, Any]
_NOUNS = (
    "order",
    "sensor",
    "invoice",
    "ticket",
    "parcel",
    "reading",
    "member",
    "route",
    "batch",
    "sample",
    "account",
    "lesson",
)
_FIELDS = ("weight", "price", "delay", "score", "length", "age", "count", "volume", "voltage", "rank")


def code_tasks(draw: Random, count: int) -> list[Record]:
    """Programs in turn from each language."""
    makers = (_python, _sql, _shell, _javascript, _toml, _python_class)
    return [makers[n % len(makers)](draw, n) for n in range(count)]


def _chat(kind: str, n: int, *turns: str) -> Record:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return {"id": f"code-{kind}-{n}", "slices": ["code", f"code:{kind}"], "messages": messages}


def _python(draw: Random, n: int) -> Record:
    noun, field, other = draw.choice(_NOUNS), *draw.sample(_FIELDS, 2)
    limit, keep = draw.randrange(2, 500), draw.choice(("at least", "at most", "exactly"))
    sign = {"at least": ">=", "at most": "<=", "exactly": "=="}[keep]
    how = draw.choice(("sum", "max", "min", "len"))
    name = f"{how}_{field}_of_{noun}s"
    inner = f"{noun}['{field}'] for {noun} in {noun}s if {noun}['{other}'] {sign} {limit}"
    body = f"len([{inner}])" if how == "len" else f"{how}(({inner}), default=None)" if how != "sum" else f"sum({inner})"
    code = (
        f"def {name}({noun}s: list[dict[str, float]]) -> float | None:\n"
        f'    """{how.capitalize()} of {field} over {noun}s whose {other} is {keep} {limit}."""\n    return {body}\n'
    )
    rows = [{field: draw.randrange(1, 900), other: draw.choice((limit, limit - 1, limit + 1))} for _ in range(4)]
    kept = [row[field] for row in rows if eval(f"{row[other]} {sign} {limit}")]
    result = {"sum": sum(kept), "max": max(kept, default=None), "min": min(kept, default=None), "len": len(kept)}[how]
    return _chat(
        "python", n, f"Write a Python function {name} that takes {noun}s (dicts): the {how} of {field} where {other} is {keep} {limit}.",
        f"```python\n{code}```", f"What does it return for {rows}?", f"`{result}`: {field} of those that count is {kept}.",
    )  # fmt: skip


def _python_class(draw: Random, n: int) -> Record:
    noun, field, other = draw.choice(_NOUNS), *draw.sample(_FIELDS, 2)
    step, top = draw.randrange(2, 60), draw.randrange(100, 9000)
    name = noun.capitalize() + field.capitalize()
    code = (
        f"from dataclasses import dataclass, field\n\n\n@dataclass\nclass {name}Log:\n    limit: int = {top}\n"
        f"    seen: dict[str, int] = field(default_factory=dict)\n\n"
        f"    def add(self, {noun}: str, {field}: int, {other}: int = {step}) -> bool:\n"
        f"        total = self.seen.get({noun}, 0) + {field} * {other}\n        if total > self.limit:\n"
        f'            raise ValueError(f"{{{noun}}}: {{total}} exceeds {{self.limit}}")\n'
        f"        self.seen[{noun}] = total\n        return total == self.limit\n"
    )
    times = top // step
    return _chat(
        "python", n, f"What is the largest {field} that a fresh {name}Log takes in one call with the default {other}?\n```python\n{code}```",
        f"{times}: {times} * {step} = {times * step}, and the limit is {top}. With {times + 1} it raises ValueError.",
        "And what is returned then?", f"`{times * step == top}`, because the total is{'' if times * step == top else ' not'} the limit.",
    )  # fmt: skip


def _sql(draw: Random, n: int) -> Record:
    noun, group, field = draw.choice(_NOUNS), draw.choice(("town", "month", "owner", "branch")), draw.choice(_FIELDS)
    least, top, since = (
        draw.randrange(2, 90),
        draw.randrange(3, 20),
        f"{draw.randrange(2015, 2026)}-{draw.randrange(1, 13):02d}-01",
    )
    town = draw.choice(TOWNS)
    query = (
        f"SELECT {group}, COUNT(*) AS n, AVG({field}) AS mean_{field}\nFROM {noun}s\nWHERE created >= '{since}'\n"
        f"  AND ({group} IS NOT NULL AND {group} <> '{town}')\nGROUP BY {group}\nHAVING COUNT(*) >= {least}\n"
        f"ORDER BY mean_{field} DESC, {group}\nLIMIT {top};"
    )
    return _chat(
        "sql", n,
        f"Table {noun}s({group} text, {field} real, created date). For each {group} but {town}: how many since {since} and the "
        f"average {field}; only those with {least} or more, highest average first, {top} rows.",
        f"```sql\n{query}\n```", "An index for it?",
        f"```sql\nCREATE INDEX {noun}s_created_{group} ON {noun}s (created, {group}, {field});\n```",
    )  # fmt: skip


def _shell(draw: Random, n: int) -> Record:
    noun, days, size = draw.choice(_NOUNS), draw.randrange(2, 90), draw.randrange(1, 500)
    folder = f"/srv/{draw.choice(TOWNS).lower().replace(' ', '-')}/{noun}s"
    ending = draw.choice(("log", "csv", "tmp", "jsonl", "bak"))
    find = f"find {folder} -type f -name '*.{ending}' -mtime +{days} -size +{size}k"
    column, least = draw.randrange(2, 9), draw.randrange(10, 999)
    return _chat(
        "shell", n, f"List .{ending} files under {folder} older than {days} days and above {size} KiB, then delete them.",
        f"First look:\n```sh\n{find} -print\n```\nThen:\n```sh\n{find} -delete\n```",
        f"From {noun}s.csv, count the rows whose column {column} is over {least}.",
        f"```sh\nawk -F, 'NR > 1 && ${column} > {least} {{ n++ }} END {{ print n + 0 }}' {noun}s.csv\n```",
    )  # fmt: skip


def _javascript(draw: Random, n: int) -> Record:
    noun, field = draw.choice(_NOUNS), draw.choice(_FIELDS)
    wait, tries, port = draw.randrange(50, 5000, 50), draw.randrange(2, 9), draw.randrange(3000, 9999)
    code = (
        f"async function load{noun.capitalize()}s(tries = {tries}) {{\n  for (let i = 0; i < tries; i++) {{\n"
        f"    const answer = await fetch('http://localhost:{port}/{noun}s?sort={field}');\n"
        f"    if (answer.ok) return (await answer.json()).map(({{ id, {field} }}) => [id, {field}]);\n"
        f"    await new Promise((done) => setTimeout(done, {wait} * 2 ** i));\n  }}\n  throw new Error('no {noun}s');\n}}"
    )
    total = sum(wait * 2**i for i in range(tries))
    return _chat(
        "javascript", n, f"Load {noun}s from port {port} sorted by {field}, {tries} tries, waiting {wait} ms and twice as long each time.",
        f"```js\n{code}\n```", "How long does it wait in the worst case?",
        f"{' + '.join(str(wait * 2**i) for i in range(tries))} = {total} ms.",
    )  # fmt: skip


def _toml(draw: Random, n: int) -> Record:
    noun, town = draw.choice(_NOUNS), draw.choice(TOWNS)
    port, workers, token = draw.randrange(1024, 65000), draw.randrange(1, 64), number_id(draw, 14)
    paths = [f"/{draw.choice(_NOUNS)}s/{draw.choice(_FIELDS)}" for _ in range(3)]
    text = (
        f'title = "{noun}s of {town}"\n\n[server]\nport = {port}\nworkers = {workers}\n\n[server.limits]\nbody_kib = {port // 7}\n'
        f"timeout_s = {workers / 4}\n\n" + "\n".join(f'[[routes]]\npath = "{p}"\ncache_s = {i * workers}\n' for i, p in enumerate(paths))
        + f'\n[secret]\ntoken = "{token}"\n'
    )  # fmt: skip
    flat = {
        "server.port": port,
        "server.limits.timeout_s": workers / 4,
        "routes.1.path": paths[1],
        "secret.token": token,
    }
    asked = f"```toml\n{text}```\nWhat are {', '.join(flat)}?"
    return _chat("toml", n, asked, "\n".join(f"{key} = {value!r}".replace("'", '"') for key, value in flat.items()))
