"""The tokens that a tokenizer has beside its vocabulary's: what roles they play, and which were added to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_jax.errors import InputError
from tl_jax.pretrained.json_files import read_json
from tl_jax.pretrained.malformed import plain

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

# In the order in which transformers adds those that a vocabulary lacks.
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SWITCHES = ("lstrip", "rstrip", "single_word", "normalized", "special")


def content(token: Any) -> str:
    """A special token as a config writes it: a string, or an object that holds one."""
    said = token.get("content") if isinstance(token, dict) else token
    if not isinstance(said, str):
        raise InputError(f"a special token must be a text, not {token!r:.99}")
    return said


@dataclass(frozen=True)
class Tokens:
    """`settings` say the roles; `added` are the tokens added to the vocabulary, by the id that file `said_by` says."""

    settings: Mapping[str, Any]
    added: Mapping[int, Any]
    said_by: Path | None = None

    @classmethod
    def read(cls, files: Mapping[str, Path], settings: Mapping[str, Any]) -> Tokens:
        """What a tokenizer's files say of them; raises `InputError` for added tokens without a number for an id.

        As in transformers, `added_tokens_decoder` in tokenizer_config.json stands for all that special_tokens_map.json
        and added_tokens.json say; without it the former holds over tokenizer_config.json.
        """
        if "added_tokens_decoder" in settings:
            path = files["tokenizer_config.json"]
            return cls(settings, _by_id(path, _object(path, settings["added_tokens_decoder"])), path)
        roles = {**settings, **read_json(files.get("special_tokens_map.json"))}
        special = {content(token) for token in (*_named(roles).values(), *_extras(settings))}
        beside = files.get("added_tokens.json")
        added = {i: {"content": token, "special": token in special} for token, i in read_json(beside).items()}
        return cls(roles, _by_id(beside, added), beside)

    @property
    def added_names(self) -> set[str]:
        return {content(token) for token in self.added.values()}

    def roles(self, standard: Mapping[str, str]) -> dict[str, str]:
        """The special tokens by role, those of `standard` unless the settings name others."""
        return {role: content(self.settings.get(f"{role}_token") or token) for role, token in standard.items()}

    def add(self, tokenizer: Tokenizer, roles: Mapping[str, str]) -> None:
        """Make the added tokens, and then those of the roles, tokens that are found in a text before it is split.

        Raises `InputError` where an added token's id is not the one that its file says.
        """
        wanted = {content(token): token for _, token in sorted(self.added.items())}
        named = {role: roles[role] for role in _ROLES if role in roles} | _named(self.settings)
        for token in (*(named[role] for role in _ROLES if role in named), *_extras(self.settings)):
            wanted.setdefault(content(token), token)
        special = {content(token) for token in named.values()}
        added = self.added_names
        tokenizer.add_tokens([_made(token, name in special or name not in added) for name, token in wanted.items()])
        for i, token in self.added.items():
            if (found := tokenizer.token_to_id(name := content(token))) != i:
                raise InputError(
                    f"{self.said_by} says that the token {plain(name)} has the id {i:,}, and added to the vocabulary "
                    f"it gets {'none' if found is None else f'{found:,}'}: they are not of one tokenizer"
                )


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {role: token for role in _ROLES if (token := settings.get(f"{role}_token"))}


def _extras(settings: Mapping[str, Any]) -> Iterable[Any]:
    """The special tokens of no role: under transformers 5's name, or the one it had before."""
    said = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    if not isinstance(said, dict | list | tuple):
        raise InputError(f"extra_special_tokens must be a list of tokens, not {said!r:.99}")
    return said.values() if isinstance(said, dict) else said


def _object(path: Path, said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise InputError(f"{path}: added_tokens_decoder must be an object of tokens by id, not {said!r:.99}")
    return said


def _by_id(path: Path | None, added: Mapping[Any, Any]) -> dict[int, Any]:
    if wrong := [i for i in added if not str(i).isdecimal()]:
        raise InputError(f"{path}: the id of an added token must be a whole number, not {wrong[0]!r:.99}")
    return {int(i): token for i, token in added.items()}


def _made(token: Any, special: bool) -> AddedToken:
    """The token with the switches it is said to have; a special one is special whatever it is said to be."""
    from tokenizers import AddedToken

    switches = {name: token[name] for name in _SWITCHES if name in token} if isinstance(token, dict) else {}
    made = AddedToken(content(token), **{"special": special, **switches})
    made.special = made.special or special
    return made
