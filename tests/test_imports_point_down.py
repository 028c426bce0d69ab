"""The rooms of tl_jax import downward only: the graph is drawn from the source, imports inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A room may import those above it in this list; rooms of one line do not import each other.
ORDER = (
    ("errors",),
    ("cache_folder", "disk", "groups", "heap", "pictures", "tabular", "trees"),
    ("rules",),
    ("hooks", "own", "scopes"),
    ("stage",),
    ("model",),
    ("generation", "inspection", "models", "metrics"),
    ("pretrained", "parallel"),
    ("methods", "tasks", "data"),
    ("training",),
    ("experiment",),
    ("manifest",),
    ("run_folder", "assembly", "compilation"),
    ("preparation",),
    ("model_card", "sweeping"),
    ("run",),
    ("finetuning", "loading", "verification"),
    ("estimation", "analysis"),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
EXEMPT = {"__init__.py"}  # the package's own face: it names every room and imports each only when asked

LINEN = {"stage.py", "model.py", "models/layers.py", "models/conv_layers.py", "models/decoder_layers.py"}
ORBAX = {"training/snapshot.py"}
PLAIN = {"errors", "groups", "pictures", "rules", "data", "experiment", "cli"}  # rooms without jax
NEVER = {"torch", "tensorflow", "sklearn", "transformers", "peft"}
APART = {"verification/reference_process.py"}  # a program for a process of its own: it may, and nothing imports it


def imports(source: str, package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Every dotted name that a module imports, with its line; `package` is where the module lies."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, (start, node.module)))
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno


def faults(root: Path) -> list[str]:
    """What is wrong with the imports of the package tl_jax in `root`, a line each."""
    found = []
    for file in sorted((root / "tl_jax").rglob("*.py")):
        path = file.relative_to(root / "tl_jax").as_posix()
        if path in EXEMPT:
            continue
        room = path.partition("/")[0].removesuffix(".py")
        if room not in RANK:
            found.append(f"{path}: the room {room!r} has no place in ORDER")
            continue
        package = ("tl_jax", *Path(path).parent.parts)
        for name, line in imports(file.read_text(encoding="utf-8"), package):
            head, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if name == "tl_jax.__version__":
                continue
            if head == "tl_jax" and other not in RANK:
                found.append(f"{path}:{line} imports {name}: not a room; name the one that has it")
            elif head == "tl_jax" and other != room and RANK[other] >= RANK[room]:
                found.append(f"{path}:{line} imports {name}: {other} does not lie below {room}")
            elif f"{name}.".startswith("flax.linen.") and path not in LINEN:
                found.append(f"{path}:{line} imports {name}: Linen stays in {', '.join(sorted(LINEN))}")
            elif head == "orbax" and path not in ORBAX:
                found.append(f"{path}:{line} imports {name}: Orbax stays in {', '.join(sorted(ORBAX))}")
            elif head == "tl_jax" and f"{rest.replace('.', '/')}.py" in APART:
                found.append(f"{path}:{line} imports {name}: that is a program of its own")
            elif head in NEVER and path not in APART:
                found.append(f"{path}:{line} imports {name}: tl_jax works without {head}")
            elif head == "jax" and room in PLAIN:
                found.append(f"{path}:{line} imports {name}: {room} is plain Python")
    return found


def test_imports_point_down() -> None:
    assert (ROOT / "tl_jax" / "rules.py").is_file()
    assert not faults(ROOT), "\n" + "\n".join(faults(ROOT))


@pytest.mark.parametrize(
    ("path", "line", "fault"),
    [
        ("rules.py", "from tl_jax.model import Model", "model does not lie below rules"),
        ("rules.py", "from tl_jax import model", "model does not lie below rules"),
        ("rules.py", "from .model import Model", "model does not lie below rules"),
        ("rules.py", "def f():\n    import tl_jax.training.step", "training does not lie below rules"),
        ("rules.py", "importlib.import_module('tl_jax.training.step')", "training does not lie below rules"),
        ("rules.py", "import jax", "rules is plain Python"),
        ("tasks/text.py", "from tl_jax.data.dataset import Dataset", "data does not lie below tasks"),
        ("tasks/text.py", "from ..data.dataset import Dataset", "data does not lie below tasks"),
        ("tasks/text.py", "from .. import data", "data does not lie below tasks"),
        ("training/step.py", "import tl_jax", "name the one that has it"),
        ("training/step.py", "from tl_jax import train_step", "name the one that has it"),
        ("models/bert.py", "from flax import linen as nn", "Linen stays in"),
        ("models/bert.py", "import flax.linen as nn", "Linen stays in"),
        ("models/bert.py", "from flax.linen import Dense", "Linen stays in"),
        ("training/loop.py", "from orbax.checkpoint import v1", "Orbax stays in"),
        ("data/readers.py", "import torch.utils", "tl_jax works without torch"),
        ("verification/checking.py", "import torch", "tl_jax works without torch"),
        ("verification/checking.py", "from tl_jax.verification import reference_process", "a program of its own"),
        ("cli/verify.py", "import tl_jax.verification.reference_process", "a program of its own"),
        ("attic/old.py", "", "no place in ORDER"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, path: str, line: str, fault: str) -> None:
    file = tmp_path / "tl_jax" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"import json\n{line}\n", encoding="utf-8")
    (found,) = faults(tmp_path)
    assert fault in found


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("__init__.py", "from tl_jax.cli import main"),
        ("model.py", "from flax import linen as nn"),
        ("model.py", "from tl_jax.errors import InputError"),
        ("models/layers.py", "import flax.linen as nn"),
        ("models/conv_layers.py", "import flax.linen as nn"),
        ("models/bert.py", "from tl_jax.models.layers import Dense"),
        ("models/bert.py", "from . import layers"),
        ("training/snapshot.py", "from orbax.checkpoint import v1"),
        ("cli/main.py", "from tl_jax.finetuning import finetune"),
        ("finetuning.py", "from tl_jax import __version__, pretrained"),
        ("verification/reference_process.py", "import torch"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, path: str, line: str) -> None:
    file = tmp_path / "tl_jax" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line + "\n", encoding="utf-8")
    assert not faults(tmp_path)
