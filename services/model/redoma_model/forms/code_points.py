"""Sets of characters as sorted ranges of code points, without the halves of surrogate pairs."""

from collections.abc import Iterable

CodePoints = tuple[tuple[int, int], ...]

LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
ALL: CodePoints = ((0, _SURROGATES[0] - 1), (_SURROGATES[1] + 1, LAST))


def joined(ranges: Iterable[tuple[int, int]]) -> CodePoints:
    """Gives the characters that are in any of some ranges."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def others(characters: CodePoints) -> CodePoints:
    """Gives the characters that are not in a set."""
    found: list[tuple[int, int]] = []
    begin = 0
    for first, last in joined((*characters, _SURROGATES)):
        if first > begin:
            found.append((begin, first - 1))
        begin = last + 1
    return (*found, (begin, LAST)) if begin <= LAST else tuple(found)


def common(one: CodePoints, other: CodePoints) -> CodePoints:
    """Gives the characters that are in both sets."""
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(one) and j < len(other):
        first, last = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if first <= last:
            found.append((first, last))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def holds(characters: CodePoints, code_point: int) -> bool:
    """Tells whether a character is in a set."""
    return any(first <= code_point <= last for first, last in characters)
