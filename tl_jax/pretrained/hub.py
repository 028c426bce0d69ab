"""From what the user calls a model to the folder it lies in, fetched from the Hugging Face hub where it is not here."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from tl_jax.errors import InputError, did_you_mean
from tl_jax.pretrained.sources import BESIDE, FILES, Source, has_weights, model_files, patterns
from tl_jax.pretrained.weights import SUFFIXES as WEIGHT_SUFFIXES
from tl_jax.pretrained.weights import no_weights

_log = logging.getLogger(__name__)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(name_or_folder: str | os.PathLike[str] | Source, revision: str | None = None) -> Source:
    """Where a model lies: the folder or the file of weights given, or a snapshot of the hub repository `org/name`.

    `revision` is a branch, tag or commit of the repository. Without a network a complete snapshot in the hub's cache
    serves, with a warning that says so. Raises `InputError` for a name that is neither, a repository or revision that
    does not exist, is gated or holds no weights that are read, and for a hub that cannot be reached.
    """
    if isinstance(name_or_folder, Source):
        return name_or_folder
    name = os.fspath(name_or_folder)
    return located(name, revision) or _fetch(name, revision, hint=_nearest(Path(name).expanduser()))


def located(name: str, revision: str | None = None) -> Source | None:
    """The folder or file of that name; None where there is none and it could be a repository's.

    Raises `InputError` as `resolve` does; nothing is fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{name} is a folder, which has no revision {revision!r}: that is for hub repositories")
        return Source(name, folder.resolve())
    if folder.is_file():
        if folder.suffix not in WEIGHT_SUFFIXES:
            raise InputError(f"{name} is a file: give the folder it lies in, or weights ({', '.join(WEIGHT_SUFFIXES)})")
        if revision is not None:
            raise InputError(f"{name} is a file, which has no revision {revision!r}: that is for hub repositories")
        return Source(name, folder.parent.resolve(), file=folder.name)  # a link is known by its own name and place
    if folder.suffix in WEIGHT_SUFFIXES and folder.parent.is_dir():
        raise InputError(f"there is no file {name}{_nearest(folder, Path.is_file)}")
    if not _REPOSITORY.fullmatch(name):
        raise InputError(
            f"there is no folder {name}{_nearest(folder)}; "
            "a repository of the hub is given as org/name, like google-bert/bert-base-uncased"
        )
    return None


def config_of(name: str) -> Path | None:
    """The config.json of a folder or of a hub repository, fetched alone; None where there is none to be had."""
    folder = Path(name).expanduser()
    if folder.exists() or not _REPOSITORY.fullmatch(name):
        return folder / "config.json" if (folder / "config.json").is_file() else None
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, "config.json"))
    except Exception:  # whatever it is, loading the model tells it
        return None


def _fetch(name: str, revision: str | None, hint: str) -> Source:
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id

    at = f"{name} at {revision}" if revision else name
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        raise InputError(f"there is no folder {name}{hint}, and no repository of the hub can have that name") from None

    def snapshot(files: Iterable[str], local: bool = False) -> Source:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=[*files, *BESIDE], local_files_only=local
            )
        )
        return Source(name, folder, folder.name)  # the hub's cache names snapshots by their commit

    def cached() -> Source:
        """The snapshot that is here, whole: where it has no safetensors, PyTorch's files must be there."""
        safe = model_files(snapshot(FILES, local=True).folder)
        return snapshot(patterns(safe), local=True)

    if revision is not None and _COMMIT.fullmatch(revision):  # a commit never changes: if it is here, it is complete
        try:
            return cached()
        except errors.LocalEntryNotFoundError:
            pass
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, timeout=10)
        names = [file.rfilename for file in info.siblings or ()]
        if not has_weights(names):  # told before anything is downloaded
            raise InputError(no_weights(f"the repository {at}", names))
        return snapshot(patterns(names))
    except errors.GatedRepoError:
        raise InputError(
            f"{at} is gated: ask for access on its page, then log in with `hf auth login` or set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"there is no folder {name}{hint}, and no repository of that name on the hub "
            "(or it is private: log in with `hf auth login`, or set HF_TOKEN)"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"the repository {name} has no revision {revision!r}") from None
    except (errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as e:
        reason = f"{type(e).__name__}: {e}".splitlines()[0]
    try:
        source = cached()
    except errors.LocalEntryNotFoundError:
        raise InputError(
            f"there is no folder {name}{hint}, and the hub cannot be reached for {at} ({reason}); "
            f"give a folder, or fill the cache where there is a network: hf download {name}"
        ) from None
    _log.warning("the hub cannot be reached (%s): %s is taken from its cache, commit %s", reason, at, source.revision)
    return source


def _nearest(missing: Path, kind: Callable[[Path], bool] = Path.is_dir) -> str:
    """The tail of a message: the siblings of that kind whose names are like that of one that does not exist."""
    try:
        siblings = [p.name for p in missing.parent.iterdir() if kind(p)]
    except OSError:
        return ""
    hint = did_you_mean(missing.name, siblings)
    return hint if hint.endswith("?") else ""  # not the list of all of them
