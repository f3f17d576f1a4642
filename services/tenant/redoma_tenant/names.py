"""Resource names and the rules for what people call things."""

import re
import unicodedata

from redoma_kit.errors import InvalidField, ScopeMissing
from redoma_kit.identity import PLATFORM_ADMIN, Identity

LABEL = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
TENANT_ID = LABEL
ERASURE_ID = re.compile(r"[0-9a-f]{32}")
API_KEY_ID = re.compile(r"[0-9a-f]{16}")
IDENTITY_PROVIDER_ID = re.compile(r"[0-9a-f]{16}")
USER_ID = re.compile(r"[0-9a-f]{32}")
MODEL_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
MAX_MODELS = 64
MAX_DISPLAY_NAME = 200
OWN = "-"
# Parent of the keys of operators, who are of no tenant: wherever a tenant's id is meant, theirs is empty.
PLATFORM = "platform"


def tenant_name(tenant: str) -> str:
    """Gives the resource name of a tenant."""
    return f"tenants/{tenant}"


def plan_name(plan: str) -> str:
    """Gives the resource name of a plan."""
    return f"plans/{plan}"


def quota_name(tenant: str) -> str:
    """Gives the resource name of a tenant's quota."""
    return f"{tenant_name(tenant)}/quota"


def api_key_name(tenant: str, api_key: str) -> str:
    """Gives the resource name of an API key, of an operator's if `tenant` is empty."""
    return f"{tenant_name(tenant) if tenant else PLATFORM}/apiKeys/{api_key}"


def user_name(tenant: str, user: str) -> str:
    """Gives the resource name of a user."""
    return f"{tenant_name(tenant)}/users/{user}"


def identity_provider_name(provider: str) -> str:
    """Gives the resource name of an identity provider."""
    return f"identityProviders/{provider}"


def check_tenant_id(field: str, value: str) -> None:
    """Raises InvalidField unless `value` may be a tenant's id."""
    if not TENANT_ID.fullmatch(value):
        raise InvalidField(
            field, "must be 1 to 63 of a-z, 0-9 and '-', begin with a letter and not end with '-', such as acme."
        )


def check_plan_id(field: str, value: str) -> None:
    """Raises InvalidField unless `value` may be a plan's id."""
    if not LABEL.fullmatch(value):
        raise InvalidField(
            field, "must be 1 to 63 of a-z, 0-9 and '-', begin with a letter and not end with '-', such as gold."
        )


def check_display_name(field: str, value: str) -> None:
    """Raises InvalidField if `value` is too long or holds control characters."""
    if len(value) > MAX_DISPLAY_NAME:
        raise InvalidField(field, f"has {len(value)} characters; the most is {MAX_DISPLAY_NAME}.")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise InvalidField(field, "must not hold control characters.")


def check_models(field: str, models: tuple[str, ...]) -> tuple[str, ...]:
    """Gives the models without repetitions.

    Raises:
        InvalidField: There are too many, or one can't be a model's id.
    """
    if len(models) > MAX_MODELS:
        raise InvalidField(field, f"has {len(models)} models; the most is {MAX_MODELS}.")
    for index, model in enumerate(models):
        if not MODEL_ID.fullmatch(model):
            raise InvalidField(f"{field}[{index}]", "is not the id of a model, 1 to 128 of A-Z, a-z, 0-9 and ._:/-.")
    return tuple(dict.fromkeys(models))


def parse_tenant_name(field: str, name: str) -> str:
    """Gives the tenant's id in `tenants/{tenant}`.

    Raises:
        InvalidField: `name` is of another form.
    """
    return _last_part(field, name, "tenants", TENANT_ID, "tenants/{tenant}")


def parse_plan_name(field: str, name: str) -> str:
    """Gives the plan's id in `plans/{plan}`.

    Raises:
        InvalidField: `name` is of another form.
    """
    return _last_part(field, name, "plans", LABEL, "plans/{plan}")


def parse_quota_name(field: str, name: str, caller: Identity) -> str:
    """Gives the tenant's id in `tenants/{tenant}/quota`, the caller's own for `tenants/-/quota`.

    Raises:
        InvalidField: `name` is of another form, or the caller has no tenant.
        TenantMismatch: It is of a tenant that the caller may not act for.
    """
    parent, separator, rest = name.rpartition("/quota")
    if not separator or rest:
        raise InvalidField(field, "must have the form tenants/{tenant}/quota.")
    return parse_parent(field, parent, caller)


def parse_identity_provider_name(field: str, name: str) -> str:
    """Gives the provider's id in `identityProviders/{provider}`.

    Raises:
        InvalidField: `name` is of another form.
    """
    return _last_part(field, name, "identityProviders", IDENTITY_PROVIDER_ID, "identityProviders/{provider}")


def parse_parent(field: str, parent: str, caller: Identity) -> str:
    """Gives the tenant's id in `tenants/{tenant}`, the caller's own for `tenants/-`.

    Raises:
        InvalidField: `parent` is of another form, or the caller has no tenant.
        TenantMismatch: It is a tenant that the caller may not act for.
    """
    if parent == tenant_name(OWN):
        if not caller.tenant:
            raise InvalidField(field, "this key belongs to no tenant, so name one: tenants/{tenant}.")
        return caller.tenant
    tenant = parse_tenant_name(field, parent)
    caller.check_tenant(tenant)
    return tenant


def parse_key_parent(field: str, parent: str, caller: Identity) -> str:
    """Gives the tenant's id as `parse_parent` does, or an empty one for `platform`.

    Raises:
        InvalidField, TenantMismatch: As for `parse_parent`.
        ScopeMissing: It is `platform`, and the caller is no operator.
    """
    if parent == PLATFORM:
        _check_operator(caller)
        return ""
    return parse_parent(field, parent, caller)


def parse_api_key_name(field: str, name: str, caller: Identity) -> tuple[str, str]:
    """Gives the tenant's and the key's id in `tenants/{tenant}/apiKeys/{key}`; no tenant's in `platform/apiKeys/{key}`.

    Raises:
        InvalidField: `name` is of another form.
        TenantMismatch: It is of a tenant that the caller may not act for.
        ScopeMissing: It is an operator's, and the caller is none.
    """
    parent, _, api_key = name.partition("/apiKeys/")
    if parent == PLATFORM and API_KEY_ID.fullmatch(api_key):
        _check_operator(caller)
        return "", api_key
    wanted = "tenants/{tenant}/apiKeys/{key} or platform/apiKeys/{key}"
    return _of_tenant(field, name, "/apiKeys/", API_KEY_ID, wanted, caller)


def parse_user_name(field: str, name: str, caller: Identity) -> tuple[str, str]:
    """Gives the tenant's and the user's id in `tenants/{tenant}/users/{user}`.

    Raises:
        InvalidField: `name` is of another form.
        TenantMismatch: It is of a tenant that the caller may not act for.
    """
    return _of_tenant(field, name, "/users/", USER_ID, "tenants/{tenant}/users/{user}", caller)


def is_principal(name: str, tenant: str) -> bool:
    """Says whether `name` has the form of the name of a key or a user of a tenant."""
    before, _, rest = name.partition(f"{tenant_name(tenant)}/")
    kind, _, last = rest.partition("/")
    form = {"apiKeys": API_KEY_ID, "users": USER_ID}.get(kind)
    return not before and form is not None and form.fullmatch(last) is not None


def parse_erasure_name(field: str, name: str, caller: Identity) -> tuple[str, str]:
    """Gives the tenant's and the erasure's id in `tenants/{tenant}/erasures/{erasure}`.

    Raises:
        InvalidField: `name` is of another form.
        TenantMismatch: It is of a tenant that the caller may not act for.
    """
    return _of_tenant(field, name, "/erasures/", ERASURE_ID, "tenants/{tenant}/erasures/{erasure}", caller)


def _of_tenant(
    field: str, name: str, collection: str, form: re.Pattern[str], wanted: str, caller: Identity
) -> tuple[str, str]:
    parent, separator, last = name.partition(collection)
    if not separator or not form.fullmatch(last):
        raise InvalidField(field, f"must have the form {wanted}.")
    tenant = parse_tenant_name(field, parent)
    caller.check_tenant(tenant)
    return tenant, last


def _last_part(field: str, name: str, collection: str, form: re.Pattern[str], wanted: str) -> str:
    found, _, last = name.partition("/")
    if found != collection or not form.fullmatch(last):
        raise InvalidField(field, f"must have the form {wanted}.")
    return last


def _check_operator(caller: Identity) -> None:
    if PLATFORM_ADMIN not in caller.scopes:
        raise ScopeMissing(PLATFORM_ADMIN)
