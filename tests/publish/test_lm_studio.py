"""Where LM Studio looks for models: its home and its settings, as its own tool finds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxquant.errors import OutputError
from mlxquant.publish.lm_studio import models_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LMSTUDIO_HOME", raising=False)
    return tmp_path


def test_the_usual_home_is_taken_and_said_to_be_new_where_it_is_not_there(home):
    models = models_folder()
    assert models.folder == home / ".lmstudio" / "models"
    assert "has not been started here yet" in models.notes[0]
    (home / ".lmstudio").mkdir()
    assert models_folder().notes == ()


def test_older_homes_the_pointer_and_the_variable_each_win_over_the_last(home, monkeypatch):
    for name in (".lmstudio", ".cache/lm-studio", "pointed", "named"):
        (home / name).mkdir(parents=True)
    assert models_folder().folder == home / ".cache/lm-studio/models"
    (home / ".lmstudio-home-pointer").write_text(f"{home / 'pointed'}\n")
    assert models_folder().folder == home / "pointed/models"
    monkeypatch.setenv("LMSTUDIO_HOME", str(home / "named"))
    assert models_folder().folder == home / "named/models"
    assert (home / ".lmstudio-home-pointer").read_text() == f"{home / 'pointed'}\n"


def test_the_folder_that_the_settings_name_is_taken(home):
    (home / ".lmstudio").mkdir()
    (home / "disk").mkdir()
    (home / ".lmstudio/settings.json").write_text(json.dumps({"downloadsFolder": str(home / "disk")}))
    assert models_folder().folder == home / "disk"


def test_a_folder_that_is_not_there_is_an_error_and_not_made(home):
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio/settings.json").write_text(json.dumps({"downloadsFolder": str(home / "disk")}))
    with pytest.raises(OutputError, match=r"downloadsFolder is .*disk, which is not there; connect that disk"):
        models_folder()
    assert not (home / "disk").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"downloadsFolder": 3}', "{}", "\xff"])
def test_settings_that_say_nothing_leave_the_usual_folder_and_a_note(home, text):
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio/settings.json").write_text(text)
    models = models_folder()
    assert models.folder == home / ".lmstudio/models"
    assert "names no downloadsFolder" in models.notes[0]
