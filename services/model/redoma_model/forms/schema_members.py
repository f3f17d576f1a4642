"""Lists of members in a fixed order of which some may be left out: the properties of an object, the items of a set."""

from collections.abc import Sequence
from dataclasses import dataclass

from redoma_model.forms.schema_rules import Rules

_SEPARATOR = '"," ws '
# Rules for one list, where its members are counted.
MAX_COUNTED = 3_000


class TooManyMembers(Exception):
    """Members can't be counted, as that would take too many rules."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: the expression of it with the white space behind it, and whether it must be there."""

    expression: str
    required: bool = False


def members_expression(members: Sequence[Member], least: int, most: int | None, rules: Rules) -> str | None:
    """Gives the expression of a list in order, of so many members; None when there is no such list.

    Raises:
        TooManyMembers: They would have to be counted.
    """
    limit = len(members) if most is None else min(most, len(members))
    counts = limit < len(members) or least > sum(member.required for member in members)
    # How many are written so far, up to where more make no difference.
    top = max(1, (limit if limit < len(members) else least) if counts else 1)
    if counts and top * len(members) > MAX_COUNTED:
        raise TooManyMembers
    after: list[str | None] = [None if counts and count < least else "" for count in range(top + 1)]
    for member in reversed(members):
        after = [_choice(member, after, count, limit, rules) for count in range(top + 1)]
    return after[0]


def _choice(member: Member, after: list[str | None], count: int, limit: int, rules: Rules) -> str | None:
    """Gives the expression from a member on, when so many are written before it."""
    following = after[min(count + 1, len(after) - 1)] if count < limit else None
    taken = None
    if following is not None:
        taken = f"{_SEPARATOR if count else ''}{member.expression} {following}".rstrip()
    skipped = None if member.required else after[count]
    if taken is None or skipped is None:
        return skipped if taken is None else rules.add(taken)
    return rules.add(f"{taken} | {skipped}") if skipped else rules.add(f"( {taken} )?")
