"""Typed access to JSON bodies. Null is the same as absent, and whatever is wrong is refused with its path."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from redoma_kit.errors import InvalidField


class Fields:
    """The fields of a JSON object. Every method raises InvalidField for a value of another type."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def path(self, name: str) -> str:
        """Gives the path of a field in the body."""
        return self._prefix + name

    def raw(self, name: str) -> Any:
        """Gives a field as it is."""
        return self._values.get(name)

    def boolean(self, name: str) -> bool | None:
        """Gives a truth value."""
        value: bool | None = self._typed(name, lambda found: isinstance(found, bool), "true or false")
        return value

    def integer(self, name: str) -> int | None:
        """Gives a whole number."""
        value = self._typed(name, is_whole, "a whole number")
        return None if value is None else int(value)

    def number(self, name: str) -> float | None:
        """Gives a finite number."""
        value = self._typed(name, is_number, "a number")
        return None if value is None else to_float(value, self.path(name))

    def text(self, name: str, most: int | None = None) -> str | None:
        """Gives a string of at most `most` characters."""
        value: str | None = self._typed(name, lambda found: isinstance(found, str), "a string")
        if value is not None:
            check_text(value, self.path(name))
            if most is not None and len(value) > most:
                raise InvalidField(self.path(name), f"at most {most} characters")
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Gives an object."""
        value: dict[str, Any] | None = self._typed(name, lambda found: isinstance(found, dict), "an object")
        return value

    def _typed(self, name: str, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self._values.get(name)
        if value is not None and not fits(value):
            raise InvalidField(self.path(name), f"must be {expected}, not {kind_of(value)}")
        return value


def json_object(body: bytes) -> dict[str, Any]:
    """Reads a body that must be a JSON object.

    Raises:
        InvalidField: It is something else; the field is `body`.
    """
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidField("body", "is not valid JSON") from None
    if not isinstance(value, dict):
        raise InvalidField("body", f"must be an object, not {kind_of(value)}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def check_text(text: str, path: str) -> None:
    """Raises InvalidField for a string that is no Unicode text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidField(path, "holds half of a surrogate pair, which is no character") from None


def is_whole(value: Any) -> bool:
    """Says whether it is a whole number. JSON has one kind of number: 5.0 is 5, and some languages write it so."""
    return is_number(value) and (isinstance(value, int) or value.is_integer())


def is_number(value: Any) -> bool:
    """Says whether it is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def to_float(value: Any, path: str) -> float:
    """Gives a number as a float; raises InvalidField for one that is too large."""
    try:
        return float(value)
    except OverflowError:
        raise InvalidField(path, "is out of range") from None


def kind_of(value: Any) -> str:
    """Gives words for the kind of a JSON value."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", float: "a fraction", str: "a string", list: "an array", dict: "an object"}
    return kinds.get(type(value), "a number")
