"""Lists whose latest come first."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Select, literal, tuple_

from redoma_tenant.pages import TimePlace
from redoma_tenant.store.schema.base import UtcDateTime


def newest_first(
    query: Select[Any], time: Column[datetime], id_: Column[str], after: TimePlace | None, limit: int
) -> Select[Any]:
    """Gives a query for at most `limit` rows, those after `after`, in the order of times and then of ids."""
    query = query.order_by(time.desc(), id_.desc()).limit(limit)
    if after is None:
        return query
    return query.where(tuple_(time, id_) < tuple_(literal(after.time, UtcDateTime), literal(after.id)))
