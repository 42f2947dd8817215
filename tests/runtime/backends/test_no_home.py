"""OpenVINO's telemetry needs a home folder; a user who has none is told so."""

import os
import sys

import pytest

from dynvid.grid.errors import BackendError
from dynvid.runtime.backends.openvino import OpenVinoBackend


@pytest.fixture
def failing_import(tmp_path, monkeypatch):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise RuntimeError('Could not determine home directory.')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)


def test_a_user_without_a_home_folder_is_told_to_set_home(failing_import, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(BackendError, match=f"User {os.getuid()} has no home folder.*Set HOME to a folder") as caught:
        OpenVinoBackend()
    assert caught.value.exit_code == 5


def test_another_failure_of_the_import_is_not_taken_for_it(failing_import, monkeypatch):
    monkeypatch.setenv("HOME", "/tmp")
    with pytest.raises(RuntimeError, match="Could not determine"):
        OpenVinoBackend()
