"""What a run was made on and from: enough to say later whether the same bits can be expected."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tl_jax.errors import InputError


def machine_kind() -> dict[str, Any]:
    """What decides the bits of a computation beside the experiment. Equal kinds, equal bits."""
    import jax

    devices = jax.devices()
    return {
        "jax": version("jax"),
        "jaxlib": version("jaxlib"),
        "flax": version("flax"),
        "optax": version("optax"),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
    }


def machine_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What of a machine kind is another than before, in words; "" on the same kind."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed)


def _cpu() -> str:
    """Architecture and a digest of the CPU's features, which choose the instructions XLA and BLAS use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; raises `InputError` if the disk refuses."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, **how: Any) -> str:
    """JSON as people read it; in escapes where it holds what UTF-8 cannot, as names of files in Latin-1 do."""
    text = json.dumps(value, ensure_ascii=False, **how)
    return json.dumps(value, **how) if any("\ud800" <= character <= "\udfff" for character in text) else text


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raises `InputError` if the disk refuses."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises `InputError` if the disk refuses."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {e.strerror or e}") from None


def read_json(path: Path) -> Any:
    """Read JSON; raises `InputError` naming the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        raise InputError(f"{path} is damaged: {e}") from None
