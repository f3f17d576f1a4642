"""Wraps a text that arrives in pieces at the ends of words, as a terminal would in their middle."""

from rich.cells import cell_len


class WordWrap:
    """Wraps one text. A word that may still grow is held back until it ends."""

    __slots__ = ("_column", "_width", "_word")

    def __init__(self, width: int) -> None:
        """Begins at the left edge of a terminal that is `width` cells wide."""
        self._width = width
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """Takes a piece and gives what can be printed."""
        out: list[str] = []
        for character in text:
            if not character.isspace():
                self._word += character
                if cell_len(self._word) >= self._width:
                    out.append(self.flush())
                continue
            out.append(self.flush())
            if character == "\n":
                out.append("\n")
                self._column = 0
            elif self._column < self._width:
                out.append(character)
                self._column += 1
        return "".join(out)

    def flush(self) -> str:
        """Gives the word held back, on a line that it fits."""
        word, self._word = self._word, ""
        size = cell_len(word)
        line_break = "\n" if self._column and self._column + size > self._width else ""
        self._column = size if line_break else self._column + size
        return line_break + word
