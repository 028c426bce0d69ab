"""How the examples of a run are read: texts by the model's tokenizer, images by its image processor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tl_jax import data
from tl_jax.errors import InputError
from tl_jax.pictures import Picture
from tl_jax.tasks import is_labelled
from tl_jax.training.examples import Prepared, prepare, prepare_texts, prepare_windows
from tl_jax.training.image_examples import image_store, prepare_images

Say = Callable[[str], object]
_OF_TEXTS = ("encode", "max_length", "pad_id")
_OF_LANGUAGE = (*_OF_TEXTS, "ids", "decode", "eos_id")
_OF_IMAGES = ("shape", "mode", "resample", "identity", "pixels", "scaled")


class Reading(ABC):
    """What makes examples of a data set, or of what is asked; it says what it cut or left out."""

    @property
    @abstractmethod
    def pad(self) -> int:
        """The token id of padding."""

    @property
    @abstractmethod
    def described(self) -> str:
        """What it gives the model, for a line about it."""

    @abstractmethod
    def labelled(
        self, dataset: data.Dataset, columns: Any, labels: Sequence[str], say: Say, name: str = ""
    ) -> data.Examples:
        """Encode a data set with what is to be predicted; `place` of the examples says what each was made of.

        Raises `InputError` for inputs that cannot be read and labels that are missing or not among `labels`.
        """

    @abstractmethod
    def asked(self, inputs: Sequence[Any], say: Say) -> data.Examples:
        """Encode inputs without labels; an example's index is its place in `inputs`."""

    @abstractmethod
    def named(self, value: Any) -> Any:
        """What an input is called in an answer."""


@dataclass(frozen=True)
class TextReading(Reading):
    """Texts, up to `max_length` tokens of each."""

    processor: Any
    max_length: int

    @property
    def pad(self) -> int:
        return int(self.processor.pad_id)

    @property
    def described(self) -> str:
        return f"texts up to {self.max_length} tokens"

    def labelled(
        self, dataset: data.Dataset, columns: Any, labels: Sequence[str], say: Say, name: str = ""
    ) -> data.Encoded:
        return self._told(self._prepared(dataset, columns, labels), say, name)

    def asked(self, inputs: Sequence[Any], say: Say) -> data.Encoded:
        return self._told(prepare_texts(inputs, self.processor, self.max_length), say)

    def _prepared(self, dataset: data.Dataset, columns: Any, labels: Sequence[str]) -> Prepared:
        return prepare(dataset, columns, labels, self.processor, self.max_length)

    def _told(self, found: Prepared, say: Say, name: str = "") -> data.Encoded:
        if note := found.note(self.max_length, name):
            say(note)
        return found.examples

    def named(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class LanguageReading(TextReading):
    """Texts that are to be continued, cut by `task` into windows of up to `max_length` tokens."""

    task: Any

    def _prepared(self, dataset: data.Dataset, columns: Any, labels: Sequence[str]) -> Prepared:
        return prepare_windows(self.task, dataset, columns, self.processor, self.max_length)


@dataclass(frozen=True)
class ImageReading(Reading):
    """Images; what is done with those that cannot be read is `corrupt`. With `keep` their bytes are kept on disk."""

    processor: Any
    corrupt: str = "refuse"
    keep: bool = True

    @property
    def pad(self) -> int:
        return 0

    @property
    def described(self) -> str:
        return f"images of {' × '.join(map(str, self.processor.shape))}"

    def labelled(
        self, dataset: data.Dataset, columns: Any, labels: Sequence[str], say: Say, name: str = ""
    ) -> data.EncodedImages:
        numbers = data.class_numbers(data.label_texts(dataset, columns.label), labels, dataset.source)
        pictures, store = data.pictures(dataset, columns.input), image_store(say, keep=self.keep)
        found = prepare_images(pictures, self.processor, store, corrupt=self.corrupt, targets=numbers)
        if note := found.note(name):
            say(f"note: {note}")
        return found.examples

    def asked(self, inputs: Sequence[Any], say: Say) -> data.EncodedImages:
        pictures = [Picture.of(value) for value in inputs]
        store = image_store(_unheard, keep=False)
        found = prepare_images(pictures, self.processor, store, corrupt=self.corrupt)
        if note := found.note():
            say(f"note: {note}")
        return found.examples

    def named(self, value: Any) -> Any:
        return Picture.of(value).name


def _unheard(text: str) -> None:
    """Opening what is asked is not worth a word."""


def reading(
    task: Any,
    processor: Any,
    *,
    name: str | None = None,
    max_length: int | None = None,
    corrupt: str = "refuse",
    keep: bool = True,
) -> Reading:
    """The reading that `task` needs, by the processor of the model called `name`.

    Raises `InputError` for a model that has none, and for one that does not do.
    """
    image = getattr(task, "reads", "tokens") == "image"
    if processor is None:
        lacks = "image processor (preprocessor_config.json): images" if image else "tokenizer: texts"
        raise InputError(f"the model ({name}) has no {lacks} cannot be encoded")
    needed = _OF_IMAGES if image else _OF_TEXTS if is_labelled(task) else _OF_LANGUAGE
    if lacking := [wanted for wanted in needed if not hasattr(processor, wanted)]:
        hint = (
            "tl.pretrained.ImageProcessor makes one of what a preprocessor_config.json says"
            if image
            else "tl.pretrained.OwnTokenizer makes one of a function from a text to its token ids"
        )
        raise InputError(f"the model's processor, {type(processor).__name__}, has no {', '.join(lacking)}: {hint}")
    if image:
        return ImageReading(processor, corrupt, keep)
    length = max_length or processor.max_length
    if hasattr(processor, "checked"):  # what a processor of the user's own allows is its own affair
        length = processor.checked(length)
    return TextReading(processor, length) if is_labelled(task) else LanguageReading(processor, length, task)
