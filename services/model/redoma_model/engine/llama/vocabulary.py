"""A model's tokens: their texts, which of them end an answer, and which mean something beyond their letters."""

import ctypes
from ctypes import c_int32

import llama_cpp.llama_cpp as lib

from redoma_model.engine.text import THINK_CLOSE, THINK_OPEN

_CONTROL = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
_MARKER = _CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED


class LlamaVocabulary:
    """A model's tokens. Usable from any thread."""

    __slots__ = ("_ends", "_pieces", "_texts", "_vocab", "adds_bos", "bos", "eos", "markers", "pointer", "size")

    def __init__(self, vocab: lib.llama_vocab_p) -> None:
        self._vocab = self.pointer = vocab
        self.size = lib.llama_vocab_n_tokens(vocab)
        self.bos = lib.llama_vocab_bos(vocab)
        self.eos = lib.llama_vocab_eos(vocab)
        self.adds_bos = self.bos >= 0 and bool(lib.llama_vocab_get_add_bos(vocab))
        self._texts: list[bytes] = [self._read(token) for token in range(self.size)]
        self._pieces = list(self._texts)
        self._ends = frozenset(token for token in range(self.size) if lib.llama_vocab_is_eog(vocab, token))
        markers: list[str] = []
        shown = {THINK_OPEN.encode(), THINK_CLOSE.encode()}
        for token, text in enumerate(self._texts):
            attributes = lib.llama_vocab_get_attr(vocab, token)
            if attributes & _CONTROL and text not in shown:
                self._pieces[token] = b""
            if attributes & _MARKER and text.strip():
                markers.append(text.decode(errors="replace"))
        self.markers = tuple(markers)

    def _read(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if written >= 0:
                return buffer.raw[:written]
            size = -written

    @property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max((len(text) for text in self._texts), default=1) or 1

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Gives the tokens of `text`."""
        data = text.encode()
        room = len(data) + 2
        buffer = (c_int32 * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), buffer, room, False, parse_special)
        if count < 0:
            buffer = (c_int32 * -count)()
            count = lib.llama_tokenize(self._vocab, data, len(data), buffer, -count, False, parse_special)
        return buffer[:count]

    def text(self, token: int) -> bytes:
        """Gives a token's text, control tokens included; empty for no token."""
        return self._texts[token] if 0 <= token < self.size else b""

    def piece(self, token: int) -> bytes:
        """Gives what the token adds to an answer."""
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        """Tells whether the token ends an answer."""
        return token in self._ends
