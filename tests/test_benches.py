"""Every bench runs with --quick and reports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
BENCHES = sorted((REPO / "scripts" / "bench").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_a_bench_runs_and_reports_its_rows(path, tmp_path):
    found = tmp_path / "rows.json"
    environment = os.environ | {"PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(path), "--quick", "--json", str(found)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads(found.read_text())
    assert written["quick"] and written["rows"]
    assert {"met", "MISSED", "not measured", ""} >= {row["verdict"] for row in written["rows"]}
    assert any(row["reached"] is not None for row in written["rows"])
