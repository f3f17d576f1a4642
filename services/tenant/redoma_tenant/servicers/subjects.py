"""What a request is about, read off any request of this service: the resource, and what changes of it.

Requests name their resource in a field `name`, `parent` or `tenant`, in the message of the resource itself, or by an id
to be. Of values only those are told that can't be content or a credential: enums, truths and numbers.
"""

import re
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from redoma_tenant.audit.wording import resource_in
from redoma_tenant.names import OWN, tenant_name

MASK = "update_mask"
PATH = re.compile(r"[a-z0-9_.*]{1,64}")
NAMES = ("name", "parent")
ID = "_id"
MODEL = "model"
SUBJECTS = frozenset({"name", MODEL})
FIELDS = "fields"
MADE = "made"
# Changed along with everything, or no change at all.
NOT_CHANGES = frozenset({"name", "etag"})
NUMBERS = frozenset({FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32})


def named_resource(request: Message, own: str) -> str:
    """Gives the name of the resource that a request names; `tenants/-` is `own`, the caller's tenant."""
    for text in _names(request):
        if text == tenant_name(OWN) or text.startswith(f"{tenant_name(OWN)}/"):
            text = text.replace(tenant_name(OWN), tenant_name(own), 1) if own else ""
        if resource := resource_in(text):
            return resource
    return ""


def changed_values(request: Message) -> dict[str, str]:
    """Gives the names of the fields that a request changes, and those of their values that may be told."""
    subject = _subject(request)
    if subject is None:
        return {}
    mask = getattr(request, MASK, None)
    masked = [path for path in mask.paths if PATH.fullmatch(path)] if mask is not None else []
    set_fields = [field for field, _ in subject.ListFields() if field.name not in NOT_CHANGES]
    fields = masked or [field.name for field in set_fields]
    told = {field.name: text for field in set_fields if (text := _told(field, getattr(subject, field.name)))}
    return ({FIELDS: ",".join(fields)} if fields else {}) | told


def made_resource(named: str, response: Message) -> tuple[str, dict[str, str]]:
    """Gives the resource that a call was about, which may be made by it, and what it made of another."""
    subject = _subject(response)
    made = resource_in(getattr(subject, "name", "")) if subject is not None else ""
    if not made or made == named:
        return named, {}
    if not named or made.startswith(f"{named}/"):
        return made, {}
    return named, {MADE: made}


def _names(request: Message) -> Iterator[str]:
    fields = request.DESCRIPTOR.fields_by_name
    yield from (getattr(request, name) for name in NAMES if name in fields)
    for name in fields:
        if name.endswith(ID):
            yield f"{name.removesuffix(ID)}s/{getattr(request, name)}"
    messages = _messages(request)
    for message in messages:
        yield from (getattr(message, name) for name in NAMES if name in message.DESCRIPTOR.fields_by_name)
    for message in (request, *messages):
        if MODEL in message.DESCRIPTOR.fields_by_name:
            yield f"models/{getattr(message, MODEL)}"


def _messages(message: Message) -> list[Message]:
    """Gives the single messages of our own that a message holds and that are set."""
    package = message.DESCRIPTOR.file.package
    return [
        value
        for field, value in message.ListFields()
        if field.message_type is not None and not field.is_repeated and field.message_type.file.package == package
    ]


def _subject(message: Message) -> Message | None:
    return next((inner for inner in _messages(message) if SUBJECTS & set(inner.DESCRIPTOR.fields_by_name)), None)


def _told(field: FieldDescriptor, value: object) -> str:
    if field.is_repeated:
        return ""
    if field.enum_type is not None and isinstance(value, int):
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else ""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return str(bool(value)).lower()
    return str(value) if field.cpp_type in NUMBERS else ""
