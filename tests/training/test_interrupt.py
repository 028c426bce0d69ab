"""Real signals to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tl_jax.training.interrupt import Interrupt

TRAIN = """
import signal, sys, time
{before}
from tl_jax.training.interrupt import Interrupt

handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
try:
    with Interrupt() as interrupt:
        print("ready", flush=True)
        for step in range(1000):
            time.sleep(0.01)
            if interrupt.requested and {stops}:
                print("saved", flush=True)
                break
            if interrupt.requested:
                print("asked", flush=True)
        else:
            print("done", flush=True)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
except KeyboardInterrupt:
    print("at once", flush=True)
sys.exit(130 if interrupt.requested else 0)
"""


def start(*, before: str = "", stops: bool = True, **kwargs: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN.format(before=before, stops=stops)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        **kwargs,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_the_loop_save(number: int) -> None:
    process = start()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "saved\n")
    assert err == "\nstopping after this step, saving first (Ctrl-C once more stops at once, without)\n"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_further_ctrl_c_stops_at_once(first: int) -> None:
    process = start(stops=False)
    process.send_signal(first)
    assert process.stdout is not None and process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out.endswith("at once\n") and "done" not in out
    assert err.count("stopping after this step") == 1


def test_a_further_sigterm_is_patient() -> None:
    """Schedulers send it again while the checkpoint is being written."""
    process = start(stops="step > 100")  # type: ignore[arg-type]
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None and process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and out.endswith("saved\n")


def test_without_a_signal_nothing_happens() -> None:
    process = start(before="range = lambda n: [0, 1, 2]")
    assert process.communicate(timeout=30) == ("done\n", "") and process.returncode == 0


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup, or behind a `&` in a script."""
    process = start(before="signal.signal(signal.SIGINT, signal.SIG_IGN); range = lambda n: [0] * 50")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("done\n", "") and process.returncode == 0


def test_a_closed_standard_error_does_not_matter() -> None:
    process = start(before="import os; os.close(2)")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "saved\n")


def test_handlers_come_back_also_after_an_error() -> None:
    def mine(number: int, frame: object) -> None: ...

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(RuntimeError), Interrupt():
            assert signal.getsignal(signal.SIGTERM) is not mine
            raise RuntimeError
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before[1])
    assert signal.getsignal(signal.SIGINT) == before[0]


def test_it_can_be_entered_again(capfd: pytest.CaptureFixture[str]) -> None:
    interrupt = Interrupt()
    with interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
    with interrupt:
        assert not interrupt.requested
    assert "stopping after this step" in capfd.readouterr().err


def test_in_another_thread_it_does_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with Interrupt() as interrupt:
            seen.extend([signal.getsignal(signal.SIGINT) is before, interrupt.requested])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True, False]
