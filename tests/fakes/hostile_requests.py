"""Requests with one hostile value each, made from a sound request by its descriptor, and what may be answered."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from redoma_kit.errors import KIT_ERRORS, STATUS_DETAILS_KEY, ErrorTable, failure_from_status, reason_name

LONG = "x" * (1 << 20)
LIST_LENGTH = 100_000
TEXTS = (
    "a\0b",
    "\x01",
    "\x7f\x9f",
    LONG,
    "\U0001f469\u200d\U0001f4bb\U0010ffff\ufdd0",
    "\u202eevil\u2066",
    "a" + "\u0301" * 300,
    " ",
    "*",
    "%",
    "_%'; DROP TABLE tenants; --",
    "{}[]$(id)`id`\\",
    "-",
    "tenants/-",
    "tenants/%2e",
    "tenants/acme/../globex",
    "tenants/acme/",
    "tenants/acme\n",
    "tenants/acme\0",
    "tenants/\u0430cme",
    "tenants/acme/apiKeys/\0",
    "tenants/acme/users/%",
    "tenants/acme/apiKeys/../../globex",
    "tenants/globex/users/" + "0" * 32,
    "tenants/acme/erasures/" + "0" * 32,
    "tenants/-/quota",
    "tenants/" + "a" * 64,
    "platform",
    "platform/apiKeys/" + "0" * 16,
    "plans/" + "z" * 63,
    "::1/0",
    "https://[",
    "99999999999999999999999999",
)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), -1, 0, 1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), -1, 0, 1, 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), -1, 0, 1, 2, 2**31 - 1),
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
    FieldDescriptor.CPPTYPE_FLOAT: (float("-inf"), -1.0, 3.4e38, float("inf"), float("nan")),
    FieldDescriptor.CPPTYPE_DOUBLE: (float("-inf"), -1.0, 1.7e308, float("inf"), float("nan")),
}
BYTES = (b"", b"\0", b"\xff" * (1 << 20))
# Years 1 and 9999 and what lies beyond, and nanoseconds that are none.
TIMES = (
    (-(2**63), 0),
    (-62_135_596_801, 0),
    (-62_135_596_800, 0),
    (-1, 999_999_999),
    (0, -1),
    (0, 2**31 - 1),
    (253_402_300_799, 999_999_999),
    (253_402_300_800, 0),
    (2**63 - 1, 0),
)
LENGTHS = ((-(2**63), 0), (-1, -1), (0, 0), (0, -1), (1, -1), (1, 2**31 - 1), (315_576_000_001, 0), (2**63 - 1, 0))


PAGE_TOKEN = "page_token"
# Of messages that hold themselves.
MAX_DEPTH = 4

# Documented, and yet no answer to a value.
TROUBLE = frozenset(
    {"INTERNAL", "STORAGE_UNAVAILABLE", "DEADLINE_EXCEEDED", "CONTENT_UNREADABLE", "SHUTTING_DOWN", "GENERATION_FAILED"}
)
DRIVERS_WORDS = ("asyncpg", "sqlite", "sqlalchemy", "traceback", "0x00", "surrogate", "encod", "exception", "errno")
MAX_MESSAGE = 500

Change = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Hostile:
    """A request, and what is hostile about it: the value of one field."""

    request: Message
    field: str
    value: str


def hostile_requests(sound: Message, tokens: Sequence[str] = ()) -> Iterator[Hostile]:
    """Gives copies of a request with one field each replaced by what nobody sends in good faith.

    `tokens` are what fields for page tokens are given besides.
    """
    for field, value, change in _changes(cast(Descriptor, sound.DESCRIPTOR), "", tokens, 0):
        copy = type(sound)()
        copy.CopyFrom(sound)
        change(copy)
        yield Hostile(copy, field, value)


def forged_tokens(genuine: str) -> tuple[str, ...]:
    """Gives page tokens for the list of a genuine one, with places that no list has."""
    digest, *position = json.loads(base64.urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4)))
    numbers: tuple[object, ...] = (0, -1, 2**62, 2**63 - 1, 2**63, 10**400, True, None, 1.5)
    texts: tuple[object, ...] = ("", "\0", "\ud800", "%", "x" * 700, "\U0010ffff", None, [], {})
    forged = [
        _token([digest, *position[:place], value, *position[place + 1 :]])
        for place, part in enumerate(position)
        for value in (numbers if isinstance(part, int) else texts)
    ]
    return (*forged, *map(_token, ([digest], [digest, *position, 1], [], {}, digest, None)))


def problem_of(error: grpc.aio.AioRpcError, errors: ErrorTable) -> str:
    """Says what is wrong with a refusal by a service whose table is `errors`; empty if it is as documented."""
    failure = failure_from_status(error)
    if failure is None or sum(detail.Is(ErrorInfo.DESCRIPTOR) for detail in _status_of(error).details) != 1:
        return f"not one ErrorInfo: {error.code()} {error.details()}"
    documented = {(rule.code, reason_name(rule.reason)) for rule in (*KIT_ERRORS.values(), *errors.values())}
    if (failure.code, failure.reason) not in documented or failure.reason in TROUBLE:
        return f"{failure.code} {failure.reason}: {failure.message}"
    spoken = any(word in failure.message.lower() for word in DRIVERS_WORDS)
    return f"unfit words: {failure.message}" if spoken or len(failure.message) > MAX_MESSAGE else ""


def _status_of(error: grpc.aio.AioRpcError) -> Status:
    found = (value for key, value in error.trailing_metadata() or () if key == STATUS_DETAILS_KEY)
    return Status.FromString(next(found, b""))


def _token(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _changes(kind: Descriptor, prefix: str, tokens: Sequence[str], depth: int) -> Iterator[tuple[str, str, Change]]:
    for field in kind.fields:
        name = f"{prefix}{field.name}"
        if depth > MAX_DEPTH:
            return
        if field.message_type is None:
            yield from _scalars(field, name, tokens)
        elif field.message_type.GetOptions().map_entry:
            yield from _entries(field, name)
        else:
            inner = _inner(field.message_type, f"{name}.", tokens, depth)
            yield from ((path, value, partial(_within, field, change)) for path, value, change in inner)
            if field.is_repeated:
                yield name, f"{LIST_LENGTH} empty", partial(_fill, field)


def _inner(kind: Descriptor, prefix: str, tokens: Sequence[str], depth: int) -> Iterator[tuple[str, str, Change]]:
    pairs = {"google.protobuf.Timestamp": TIMES, "google.protobuf.Duration": LENGTHS}.get(kind.full_name)
    if pairs is None:
        yield from _changes(kind, prefix, tokens, depth + 1)
        return
    for seconds, nanos in pairs:
        yield prefix, f"{seconds} s {nanos} ns", partial(_set_time, seconds, nanos)


def _scalars(field: FieldDescriptor, name: str, tokens: Sequence[str]) -> Iterator[tuple[str, str, Change]]:
    values = [*_values(field), *(tokens if field.name == PAGE_TOKEN else ())]
    for value in values:
        yield name, repr(value)[:60], partial(_set, field, [value] if field.is_repeated else value)
    if field.is_repeated:
        yield name, f"{LIST_LENGTH} times", partial(_set, field, [values[-1]] * LIST_LENGTH)


def _entries(field: FieldDescriptor, name: str) -> Iterator[tuple[str, str, Change]]:
    parts = cast(Descriptor, field.message_type).fields_by_name
    key, value = parts["key"], parts["value"]
    ordinary = _values(value)[-1] if value.message_type is None else None
    for odd in _values(key):
        yield f"{name} key", repr(odd)[:60], partial(_put, field, {odd: ordinary})
    if value.message_type is None:
        for odd in _values(value):
            yield f"{name} value", repr(odd)[:60], partial(_put, field, {_values(key)[-1]: odd})
    if key.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        yield name, f"{LIST_LENGTH} entries", partial(_put, field, {str(n): ordinary for n in range(LIST_LENGTH)})


def _values(field: FieldDescriptor) -> Sequence[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return BYTES
    return TEXTS if field.type == FieldDescriptor.TYPE_STRING else INTEGERS[field.cpp_type]


def _set(field: FieldDescriptor, value: Any, message: Any) -> None:
    if field.is_repeated:
        message.ClearField(field.name)
        getattr(message, field.name).extend(value)
    else:
        setattr(message, field.name, value)


def _put(field: FieldDescriptor, entries: Any, message: Any) -> None:
    held = getattr(message, field.name)
    for key, value in entries.items():
        if value is None:
            held[key].SetInParent()
        else:
            held[key] = value


def _within(field: FieldDescriptor, change: Change, message: Any) -> None:
    held = getattr(message, field.name)
    inner = held.add() if field.is_repeated else held
    inner.SetInParent()
    change(inner)


def _fill(field: FieldDescriptor, message: Any) -> None:
    held = getattr(message, field.name)
    for _ in range(LIST_LENGTH):
        held.add()


def _set_time(seconds: int, nanos: int, message: Any) -> None:
    message.seconds, message.nanos = seconds, nanos
