"""The note of a migration and the folder that it stands in."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.record import DamagedRecord, load_note, save_note


def test_a_note_comes_back_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "g"
    save_note(folder, {"role": "source", "generation": 3})
    (folder / "spec.msgpack").write_bytes(b"x")
    assert load_note(folder) == {"role": "source", "generation": 3}
    save_note(folder, None)
    assert load_note(folder) is None
    assert sorted(path.name for path in folder.iterdir()) == ["reserve", "spec.msgpack"]


def test_an_arrival_that_never_began_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "g"
    save_note(folder, {"role": "target"})
    save_note(folder, None)
    assert not folder.exists()
    save_note(folder, None)  # nothing there: nothing to do


def test_a_damaged_note_is_told(tmp_path: Path) -> None:
    (tmp_path / "migration.msgpack").write_bytes(b"\xc1\xff")
    with pytest.raises(DamagedRecord, match="cannot be read"):
        load_note(tmp_path)
