"""The progress bar: shown on a terminal, silent elsewhere, and never a key in it."""

from __future__ import annotations

import contextlib
import io

from mlxquant.cli.bars import pass_bar, progress_bar
from mlxquant.words.progress import Progress, waiting
from mlxquant.words.secrets import secret_from


class Terminal(io.StringIO):
    """A stderr that somebody watches."""

    def isatty(self) -> bool:
        return True


def shown(unit: str | None, *events: Progress) -> str:
    """What a terminal gets before the bar goes away."""
    with contextlib.redirect_stderr(Terminal()) as stream, progress_bar(unit) if unit else progress_bar() as watch:
        for event in events:
            watch(event)
        return stream.getvalue()


def test_on_a_terminal_it_shows_what_is_done_and_what_is_at_hand():
    text = shown("trial", Progress(3, 10, "trial 1", "build-8bit"))
    assert "3/10" in text
    assert "build-8bit trial 1" in text


def test_a_step_that_takes_long_shows_how_far_it_is():
    text = shown("step", Progress(1, 6, "layer 0, 4,096 of 40,960 tokens", part=0.1))
    assert "1.1/6" in text
    assert "layer 0, 4,096 of 40,960 tokens" in text


def test_long_names_are_cut_at_their_beginning():
    text = shown("step", Progress(1, 2, "model.language_model.layers.17.mlp.experts.gate_up_proj"))
    assert "…ers.17.mlp.experts.gate_up_proj"[-20:] in text
    assert "language_model" not in text


def test_bytes_are_written_in_binary_units():
    assert "0.00B" in shown(None, Progress(0, 3 * 2**20, "a"))


def test_a_download_that_is_waited_for_shows_before_anything_is_done():
    with contextlib.redirect_stderr(Terminal()) as stream, progress_bar() as watch:
        waiting("model-00001-of-00002.safetensors", 0.26)
        assert "downloads 26% of model-00001-of-00002.safetensors" in stream.getvalue()
        watch(Progress(2**20, 2**21, "lm_head"))
    waiting("model-00002-of-00002.safetensors", 0.5)
    assert "00002-of-00002" not in stream.getvalue()


def test_a_key_is_redacted_before_it_is_cut(monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-0123456789abcdefghij")
    secret_from("A_KEY", "--api-key-env")
    text = shown("trial", Progress(1, 2, "a trial of a long name, sk-0123456789abcdefghij, and more of it"))
    assert "abcdefghij" not in text


def test_elsewhere_it_is_silent_but_for_what_an_earlier_run_did(capsys):
    with progress_bar("trial") as watch:
        watch(Progress(1, 2, "trial"))
    with pass_bar() as watch:
        watch(Progress(1, 2, "layer 0"))
        watch(Progress(2, 2, "layers 0 to 1 were done", resumed=True))
    assert capsys.readouterr().err == "mlxquant: layers 0 to 1 were done\n"
