"""What calls may use: prices, how the limits stand, and what running calls hold."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, PrimaryKeyConstraint, String, Table

from redoma_tenant.store.schema.base import METADATA, UtcDateTime

PRICES = Table(
    "prices",
    METADATA,
    Column("model", String(128), primary_key=True),
    Column("input_micros_per_million", BigInteger, nullable=False),
    Column("cached_input_micros_per_million", BigInteger, nullable=False),
    Column("output_micros_per_million", BigInteger, nullable=False),
)

# How the limits of a tenant (`api_key_id` is empty) or of one of its keys stand. The row of the tenant is locked by
# every transaction that changes any of the tenant's. The buckets hold when they are full again, in microseconds since
# the epoch. `held_tokens` is what all calls hold; `day` is the day since the epoch and `month` months since the year 0
# that the sums after them are of.
QUOTA_COUNTERS = Table(
    "quota_counters",
    METADATA,
    Column("tenant_id", String(63), nullable=False),
    Column("api_key_id", String(16), nullable=False),
    Column("requests_full_us", BigInteger, nullable=False),
    Column("tokens_full_us", BigInteger, nullable=False),
    Column("open_calls", Integer, nullable=False),
    Column("held_tokens", BigInteger, nullable=False),
    Column("day", Integer, nullable=False),
    Column("day_used_tokens", BigInteger, nullable=False),
    Column("day_held_tokens", BigInteger, nullable=False),
    Column("month", Integer, nullable=False),
    Column("month_used_tokens", BigInteger, nullable=False),
    Column("month_held_tokens", BigInteger, nullable=False),
    Column("month_used_nanos", BigInteger, nullable=False),
    Column("month_held_nanos", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "api_key_id"),
)

# What a call holds, from Reserve until its last counts are booked. `state` is OPEN (it runs, or its chat died), SETTLED
# (booked; the model service's journal may know more) or CLOSED. What is held is besides what is counted. The price is
# the one of its beginning. After `lapse_time` the journal is asked about it, unless it is CLOSED. `settle_time` of an
# OPEN one is when it was found to have lapsed.
RESERVATIONS = Table(
    "reservations",
    METADATA,
    Column("tenant_id", String(63), nullable=False),
    Column("token_id", String(64), nullable=False),
    Column("state", String(8), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("api_key_id", String(16), nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("model", String(128), nullable=False),
    Column("adapter", String(80), nullable=False),
    Column("held_tokens", BigInteger, nullable=False),
    Column("held_nanos", BigInteger, nullable=False),
    Column("reserved_input_tokens", BigInteger, nullable=False),
    Column("granted_output_tokens", BigInteger),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("input_micros_per_million", BigInteger, nullable=False),
    Column("cached_input_micros_per_million", BigInteger, nullable=False),
    Column("output_micros_per_million", BigInteger, nullable=False),
    Column("is_exact", Boolean, nullable=False),
    Column("day", Integer, nullable=False),
    Column("month", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("lapse_time", UtcDateTime, nullable=False),
    Column("settle_time", UtcDateTime),
    PrimaryKeyConstraint("tenant_id", "token_id"),
    Index(None, "state", "lapse_time"),
)
