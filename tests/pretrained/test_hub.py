"""The hub's own client against a server on loopback, in processes of their own: it reads its settings when imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parity import assert_same_bits
from tests.pretrained.conftest import Maker, pickle_weights
from tests.pretrained.hub_server import Hub, serve
from tl_jax.errors import InputError
from tl_jax.pretrained import Source, load, resolve

PROGRAM = """
import json, sys
from tl_jax.errors import InputError
from tl_jax.pretrained import resolve

def answer(name, revision):
    try:
        source = resolve(name, revision)
    except InputError as e:
        return {"error": str(e)}
    return {"folder": str(source.folder), "name": source.name, "revision": source.revision}

print(json.dumps([answer(*query) for query in json.loads(sys.argv[1])]))
assert not {"torch", "transformers", "jax"} & set(sys.modules)
"""


TINY, PICKLED = "someone/tiny-bert", "someone/pickled"


@pytest.fixture
def hub(tiny_bert: Maker, tmp_path: Path) -> Iterator[Hub]:
    folder = tiny_bert()
    for name in ("README.md", "pytorch_model.bin", "modeling_evil.py", "onnx/model.safetensors", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("never fetched")
    for name in ("chat_template.jinja", "generation_config.json"):  # what goes with a language model
        (folder / name).write_text("{}")
    pickled = tiny_bert()
    pickle_weights(pickled, shards=2)
    flax = tmp_path / "flax"
    flax.mkdir()
    for name in ("config.json", "flax_model.msgpack"):
        (flax / name).write_text("{}")
    with serve(Hub({TINY: folder, PICKLED: pickled, "someone/flax": flax})) as server:
        yield server


def ask(hub_url: str, cache: Path, *names: str | tuple[str, str], **env: str) -> tuple[list[dict[str, Any]], str]:
    """What a process makes of these names (or names and revisions), and what it printed on standard error."""
    settings = {"HF_ENDPOINT": hub_url, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    queries = [(name, None) if isinstance(name, str) else name for name in names]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(queries)],
        env={**kept, **settings, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


def test_a_repository_is_fetched_once_and_kept(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    commit = Hub.commit(hub.repositories[TINY])
    answers, said = ask(hub.url, cache, TINY, (TINY, "v1"), (TINY, "v2"))
    assert [a.get("revision") for a in answers] == [commit, commit, None]
    assert answers[0]["name"] == TINY and said == ""
    assert answers[2]["error"] == "the repository someone/tiny-bert has no revision 'v2'"
    fetched = Path(answers[0]["folder"])
    names = sorted(p.name for p in fetched.rglob("*") if p.is_file())
    beside = ["chat_template.jinja", "generation_config.json"]
    assert names == sorted([*beside, "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"])
    assert not [line for line in hub.asked if line.endswith((".py", ".bin", ".onnx", ".md", "onnx/model.safetensors"))]

    model, variables = load(fetched)
    _, expected = load(hub.repositories[TINY])
    assert model.info.processor is not None
    assert_same_bits(variables, expected)

    # a commit never changes: once it is here, nothing is asked, and nothing need be said
    hub.asked.clear()
    assert ask(hub.url, cache, (TINY, commit)) == ([answers[0]], "") and hub.asked == []

    # a hub that is down, or out of reach, or not to be asked: the cache serves, which is said
    hub.down = True
    for url, env in ((hub.url, {}), (NOWHERE, {}), (hub.url, {"HF_HUB_OFFLINE": "1"})):
        again, said = ask(url, cache, TINY, **env)
        assert again == answers[:1]
        assert "the hub cannot be reached" in said and f"taken from its cache, commit {commit}" in said

    # but a snapshot that is not whole is not taken for the model
    (fetched / "model.safetensors").unlink()
    again, _ = ask(hub.url, cache, TINY)
    assert "the hub cannot be reached" in again[0]["error"]
    hub.down = False
    assert ask(hub.url, cache, (TINY, commit)) == (answers[:1], "")
    assert (fetched / "model.safetensors").is_file()


def test_pickles_are_fetched_where_there_are_no_safetensors(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    commit = Hub.commit(hub.repositories[PICKLED])
    (answer,), said = ask(hub.url, cache, PICKLED)
    assert said == ""
    fetched = Path(answer["folder"])
    shards = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    names = sorted(p.name for p in fetched.rglob("*") if p.is_file())
    assert names == ["config.json", *shards, "pytorch_model.bin.index.json", "tokenizer_config.json", "vocab.txt"]
    assert_same_bits(load(fetched)[1], load(hub.repositories[PICKLED])[1])

    hub.asked.clear()
    assert ask(hub.url, cache, (PICKLED, commit)) == ([answer], "") and hub.asked == []

    # a snapshot that lacks a pickle is not whole either
    (fetched / shards[1]).unlink()
    hub.down = True
    again, _ = ask(hub.url, cache, PICKLED)
    assert "the hub cannot be reached" in again[0]["error"]
    hub.down = False
    assert ask(hub.url, cache, (PICKLED, commit)) == ([answer], "") and (fetched / shards[1]).is_file()


def test_repositories_that_cannot_be_had(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (missing, gated, flax), _ = ask(hub.url, cache, "someone/missing", "someone/gated", "someone/flax")
    assert "there is no folder someone/missing, and no repository of that name on the hub" in missing["error"]
    assert "HF_TOKEN" in missing["error"]
    assert "someone/gated is gated: ask for access" in gated["error"]
    assert "the repository someone/flax holds flax_model.msgpack but no model.safetensors" in flax["error"]
    assert not [line for line in hub.asked if "resolve" in line]  # nothing was downloaded for these
    (alone,), _ = ask(NOWHERE, cache, TINY)
    assert "the hub cannot be reached for someone/tiny-bert (ConnectError" in alone["error"]
    assert "give a folder, or fill the cache" in alone["error"] and "hf download someone/tiny-bert" in alone["error"]


# -- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    expected = (tmp_path / "org/name").resolve()
    assert resolve("org/name") == Source("org/name", expected)  # a folder here hides a repository of that name
    assert resolve(Path("org/name")).folder == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/org/name").folder == expected
    source = resolve("org/name")
    assert resolve(source) is source


def test_a_link_to_a_file_is_known_by_its_own_name_and_place(tmp_path: Path) -> None:
    """As in the hub's cache, where a snapshot is links to nameless files."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for name in ("abc", "net.th"):
        (tmp_path / "blobs" / name).touch()
    (tmp_path / "snapshot" / "net.th").symlink_to(tmp_path / "blobs" / "abc")
    source = resolve(tmp_path / "snapshot" / "net.th")
    assert source.place == (tmp_path / "snapshot" / "net.th").absolute()
    assert source.place.resolve() == (tmp_path / "blobs" / "abc").resolve()


def test_a_name_that_no_repository_can_have(tmp_path: Path) -> None:
    for name in ("models/bert--base", "models/bert-base-", "ckpt/run.", "a/" + "b" * 97):
        with pytest.raises(InputError, match="no repository of the hub can have that name"):
            resolve(name)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, which has no revision 'main'"):
        resolve(tmp_path, "main")


def test_a_file_is_not_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(InputError, match="give the folder it lies in"):
        resolve(tmp_path / "config.json")


def test_a_misspelt_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "my_model").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"no folder .*my_modle; did you mean 'my_model'\?; a repository .* org/name"):
        resolve(tmp_path / "my_modle")
    with pytest.raises(InputError, match=r"no folder bert-base; a repository of the hub is given as org/name"):
        resolve("bert-base")


def test_folders_never_import_the_hubs_client(tiny_bert: Maker) -> None:
    program = (
        "import sys; from tl_jax.pretrained import resolve; resolve(sys.argv[1])\n"
        "assert 'huggingface_hub' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tiny_bert())], check=True)
