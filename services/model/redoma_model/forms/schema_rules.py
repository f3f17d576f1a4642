"""The rules of the grammar of a schema, and the pieces that their expressions are made of."""

from collections.abc import Collection, Iterable


class Rules:
    """Rules by name; the same expression is never there twice unless its name was reserved."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._made = 0

    def add(self, expression: str) -> str:
        """Gives the name of a rule that stands for an expression."""
        if expression not in self._names:
            name = self._names[expression] = self.reserve()
            self._rules[name] = expression
        return self._names[expression]

    def reserve(self) -> str:
        """Gives a name for a rule that is defined later, as it may hold itself."""
        self._made += 1
        return f"r{self._made}"

    def define(self, name: str, expression: str) -> None:
        """Sets what a reserved name stands for."""
        self._rules[name] = expression

    def text(self) -> str:
        """Gives all rules in GBNF."""
        return "".join(f"{name} ::= {expression}\n" for name, expression in self._rules.items())

    def one_of(self, texts: Collection[str], begin: int = 0) -> str:
        """Gives an expression of what follows the first `begin` characters of texts that begin alike.

        Texts go together as long as they begin alike, so that few ways to read one are open at once.
        """
        by_next: dict[str, list[str]] = {}
        for text in sorted(texts):
            by_next.setdefault(text[begin : begin + 1], []).append(text)
        found: list[str] = []
        for group in by_next.values():
            end = _common(group[0], group[-1])
            rest = "" if len(group) == 1 else f" {self.add(self.one_of(group, end))}"
            found.append(f"{literal(group[0][begin:end])}{rest}")
        return either(found)


def either(expressions: Iterable[str]) -> str:
    """Gives an expression of alternatives, in parentheses unless there is one alone."""
    found = list(dict.fromkeys(expressions))
    return found[0] if len(found) == 1 else f"( {' | '.join(found)} )"


def literal(text: str) -> str:
    """Gives an expression of one text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\x7f", "\\x7F")
    return f'"{escaped}"'


def repeat(least: int, most: int | None) -> str:
    """Gives the suffix for a number of repetitions; None is without end."""
    return f"{{{least},{'' if most is None else most}}}"


def _common(first: str, last: str) -> int:
    """Gives how many characters texts have in common at their beginning, by the first and the last of them in order."""
    return next((place for place, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), len(first))
