"""Writes TOML, which the standard library only reads."""

import json
from collections.abc import Mapping

Table = dict[str, object]


def render_toml(table: Mapping[str, object]) -> str:
    """Gives a TOML document of plain values, lists of them, and tables and lists of tables at any depth."""
    return "\n".join(_lines(table, ())) + "\n"


def _lines(table: Mapping[str, object], path: tuple[str, ...]) -> list[str]:
    lines = [f"{name} = {_value(value)}" for name, value in table.items() if not _tables(value)]
    for name, value in table.items():
        here = (*path, name)
        for inner in _tables(value):
            heading = ".".join(here)
            lines += ["", f"[{heading}]" if isinstance(value, Mapping) else f"[[{heading}]]", *_lines(inner, here)]
    return lines


def _tables(value: object) -> list[Mapping[str, object]]:
    """Gives the tables that a value is or lists; none for a plain one."""
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, Mapping)]


def _value(value: object) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's, but for the delete character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
