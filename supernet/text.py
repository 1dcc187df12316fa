"""Text to token ids and back: bytes, or any Hugging Face tokenizer folder. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from supernet.artifacts import read_json, write_json, write_text

if TYPE_CHECKING:
    import tokenizers

BYTE_FILE = "byte_tokenizer.json"
HF_FILE = "tokenizer.json"
_HF_COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")


class Encoded(NamedTuple):
    """Token ids and the bytes of text that each stands for, both (n,) int64; the bytes add up to the text's."""

    ids: np.ndarray
    n_bytes: np.ndarray


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into token ids and back.

    Attributes:
        vocab_size: ids are below it.
        bos_id: the token that belongs before a text; None when the tokenizer adds none by default.
        eos_id: the token that ends a text, or None.
        fingerprint: equal for tokenizers that give equal ids.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    fingerprint: str

    def encode(self, text: str) -> np.ndarray:
        """Return the (n,) int64 ids of a text, without special tokens around it."""

    def encode_sized(self, text: str) -> Encoded:
        """Return the ids and the bytes of text behind each."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of token ids."""

    def save(self, folder: str | Path) -> Path:
        """Write the files that `load_tokenizer` reads, and return the folder."""


class ByteTokenizer:
    """UTF-8 bytes as tokens: 256 ids, no special token.

    Example:
        >>> ByteTokenizer().encode("né").tolist()
        [110, 195, 169]
    """

    vocab_size: int = 256
    bos_id: int | None = None
    eos_id: int | None = None
    fingerprint: str = "byte"

    def encode(self, text: str) -> np.ndarray:
        """Return the text's UTF-8 bytes, (n,) int64."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def encode_sized(self, text: str) -> Encoded:
        """Return the text's bytes, each of one byte."""
        ids = self.encode(text)
        return Encoded(ids, np.ones_like(ids))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of bytes; what is not UTF-8 (a cut character) becomes U+FFFD.

        Raises:
            ValueError: an id is not a byte.
        """
        values = np.asarray(ids, dtype=np.int64)
        if values.size and not 0 <= values.min() <= values.max() < self.vocab_size:
            raise ValueError(f"ids run from {values.min()} to {values.max()}: bytes are 0 to 255")
        return values.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def save(self, folder: str | Path) -> Path:
        """Write the marker file of the byte tokenizer into `folder`."""
        write_json(Path(folder) / BYTE_FILE, {"type": "byte", "vocab_size": self.vocab_size})
        return Path(folder)

    def __repr__(self) -> str:
        return "ByteTokenizer()"


class HFTokenizer:
    """A Hugging Face tokenizer, read from its `tokenizer.json` by the `tokenizers` library.

    Args:
        path: a folder that holds `tokenizer.json` (as `save_pretrained` writes it), or that file.

    Raises:
        FileNotFoundError: there is no `tokenizer.json`.
        ValueError: the file is not a tokenizer; names it.
    """

    def __init__(self, path: str | Path) -> None:
        import tokenizers

        self._file = _tokenizer_file(Path(path))
        self._companions = {
            name: (self._file.parent / name).read_text(encoding="utf-8")
            for name in _HF_COMPANIONS
            if (self._file.parent / name).is_file()
        }
        self._text = self._file.read_text(encoding="utf-8")
        try:
            self._backend: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(self._text)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{self._file} is not a Hugging Face tokenizer: {error}") from error
        self._backend.no_truncation()  # files may carry the settings of the last training call
        self._backend.no_padding()
        self.vocab_size = self._largest_id() + 1
        self.bos_id = self._default_bos()
        self.eos_id = self._special_id("eos")
        special = f"{self.bos_id} {self.eos_id} "
        self.fingerprint = hashlib.sha256((special + self._text).encode("utf-8")).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Return the (n,) int64 ids of a text; no special token is added around it."""
        return np.asarray(self._backend.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def encode_sized(self, text: str) -> Encoded:
        """Return the ids and the bytes of `text` behind each.

        A character that is cut over several tokens counts for the first of them; text that has no token (dropped by
        normalisation) counts for the next one, at the end for the last one.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = np.asarray(encoding.ids, dtype=np.int64)
        if not len(ids):
            return Encoded(ids, ids.copy())
        ends = np.asarray(encoding.offsets, dtype=np.int64)[:, 1]  # in characters
        ends = np.maximum.accumulate(ends)
        ends[-1] = len(text)
        return Encoded(ids, np.diff(_byte_positions(text)[ends], prepend=0))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of ids, special tokens left out."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: str | Path) -> Path:
        """Write `tokenizer.json` and the small files that belong to it into `folder`."""
        folder = Path(folder)
        for name, text in {HF_FILE: self._text, **self._companions}.items():
            write_text(folder / name, text)
        return folder

    def __repr__(self) -> str:
        return f"HFTokenizer({str(self._file)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": str(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _largest_id(self) -> int:
        return max(self._backend.get_vocab(with_added_tokens=True).values())

    def _companion(self, name: str) -> dict[str, Any]:
        try:
            return json.loads(self._companions.get(name, "{}"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self._file.parent / name} is not JSON: {error}") from error

    def _special_id(self, kind: str) -> int | None:
        """Return the id of the "bos" or "eos" token as the folder names it, or None."""
        token = self._companion("tokenizer_config.json").get(f"{kind}_token")
        if token is None:
            token = self._companion("special_tokens_map.json").get(f"{kind}_token")
        if token is not None:
            return self._backend.token_to_id(token["content"] if isinstance(token, dict) else token)
        value = self._companion("generation_config.json").get(f"{kind}_token_id")
        return value[0] if isinstance(value, list) else value

    def _default_bos(self) -> int | None:
        """Return the BOS id if the tokenizer puts one before a text by default."""
        if self._companion("tokenizer_config.json").get("add_bos_token"):
            return self._special_id("bos")
        bos = self._special_id("bos")
        return bos if bos is not None and bos in self._backend.encode("").ids[:1] else None


def load_tokenizer(source: Tokenizer | str | Path) -> Tokenizer:
    """Return the tokenizer of a folder, of a `tokenizer.json`, or the one called "byte".

    Args:
        source: "byte"; a folder that `Tokenizer.save` or Hugging Face's `save_pretrained` wrote; a tokenizer.json; or a
            tokenizer, which comes back as it is.

    Raises:
        FileNotFoundError: no tokenizer is there.
        ValueError: the file is not a tokenizer.
    """
    if not isinstance(source, (str, Path)):
        return source
    if str(source) == "byte":
        return ByteTokenizer()
    path = Path(source)
    marker = path / BYTE_FILE if path.is_dir() else path
    if marker.name == BYTE_FILE and marker.is_file():
        if read_json(marker).get("type") != "byte":
            raise ValueError(f"{marker} does not describe a byte tokenizer")
        return ByteTokenizer()
    return HFTokenizer(path)


def _tokenizer_file(path: Path) -> Path:
    file = path / HF_FILE if path.is_dir() else path
    if file.is_file():
        return file
    hint = ""
    if (path / "tokenizer.model").is_file():
        hint = (
            " It has a SentencePiece tokenizer.model: convert it with transformers' AutoTokenizer(...).save_pretrained."
        )
    raise FileNotFoundError(
        f"no tokenizer at {path}: give 'byte', or a folder that holds {HF_FILE} or {BYTE_FILE}.{hint}"
    )


def _byte_positions(text: str) -> np.ndarray:
    """Return the UTF-8 position of every character and of the end, (len(text) + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)])


def stored_tokenizer(folder: str | Path) -> Tokenizer | None:
    """Return the tokenizer that lies in a checkpoint's folder; None where there is none."""
    present = any((Path(folder) / name).is_file() for name in (HF_FILE, BYTE_FILE))
    return load_tokenizer(folder) if present else None
