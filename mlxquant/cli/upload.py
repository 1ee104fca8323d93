"""`mlxquant upload`: put a build on the Hub, with a card made from its records.

Alone in its module because each command is one, imported when it is run.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..words.text import some
from ..words.units import show_bytes
from .printing import echo


@click.command()
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.argument("repository", metavar="ORG/NAME")
@click.option("--public", is_flag=True, help="Make the repository public; a new one is private otherwise.")
@click.option("--base-model", metavar="ORG/NAME", help="What it was made from, if it was converted from a folder.")
@click.option(
    "--bench",
    "benches",
    multiple=True,
    metavar="RECORD",
    type=click.Path(path_type=Path),
    help="Put the measurements of this record into the card; may be given several times.",
)
@click.option(
    "--validate",
    "verdicts",
    multiple=True,
    metavar="RECORD",
    type=click.Path(path_type=Path),
    help="Put what validate --json judged of this build into the card, as a table; may be given several times.",
)
@click.option("--license", "license_id", metavar="ID", help="License by the Hub's id: apache-2.0, mit, other, …")
@click.option("--license-name", metavar="NAME", help="With --license other: its name.")
@click.option("--license-link", metavar="LINK", help="With --license other: a file of the repository or an address.")
@click.option("--dry-run", is_flag=True, help="Show the card and the files, and do nothing else.")
def command(
    build: Path,
    repository: str,
    public: bool,
    base_model: str | None,
    benches: tuple[Path, ...],
    verdicts: tuple[Path, ...],
    license_id: str | None,
    license_name: str | None,
    license_link: str | None,
    dry_run: bool,
) -> None:
    """Upload a build to the Hub, with a model card made from its records.

    The build is checked against its manifest first, byte for byte, and a damaged one is refused. An upload that broke
    off goes on with the same command. The card, README.md, is made for the Hub alone: the build stays as it is.

    \b
    mlxquant upload build me/Qwen3.5-122B-8bit --dry-run
    mlxquant upload build me/Qwen3.5-122B-8bit
    mlxquant upload build me/Qwen3.5-122B-8bit --public --bench speeds.json --base-model Qwen/Qwen3.5-122B-A10B
    mlxquant upload build me/Qwen3.5-122B-8bit --license apache-2.0 --validate verdict.json
    """
    from ..errors import UsageError
    from ..publish.upload import README, License, prepare, upload

    if license_id is None and (license_name or license_link):
        raise UsageError("--license-name and --license-link: for --license other, which is not given")
    licensed = License(license_id, license_name, license_link) if license_id else None
    what = prepare(build, repository, benches, base_model=base_model, license=licensed, verdicts=verdicts)
    if licensed is None:
        echo("mlxquant: note: the card names no license; --license ID says the base model's", err=True)
    if dry_run:
        echo(what.card)
        for name, size in sorted({**what.files, README: len(what.card.encode())}.items()):
            echo(f"{size:>18,}  {name}")
        who = "public" if public else "private, if it is new"
        echo(f"{what.nbytes:>18,}  bytes for {repository} ({who}); nothing was uploaded", err=True)
        return
    done = upload(what, public=public)
    echo(f"{done.url}: {show_bytes(what.nbytes)} at commit {done.commit[:12]}")
    if done.others:
        echo(f"mlxquant: warning: the repository holds other files too: {some(done.others, 5)}", err=True)
