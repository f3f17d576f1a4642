"""The demo tenants, so that the first call after `redoma up` is one paste away."""

import json
import time
from collections.abc import Callable, Mapping, Sequence

import grpc

from redoma.chat.v1.openai_pb2 import ListModelsRequest
from redoma.tenant.v1.api_key_pb2 import ApiKey, CreateApiKeyRequest
from redoma.tenant.v1.tenant_pb2 import CreateTenantRequest, Tenant
from redoma_cli.client import CALL_TIMEOUT_S, EdgeClient, read_demo
from redoma_cli.errors import CliError, error_info
from redoma_cli.local.home import Home, write_private

TENANTS: Mapping[str, str] = {"acme": "Acme", "globex": "Globex"}
KEY_NAME = "demo"
# The edge may for a moment still use its connection to a service that was just started anew.
SETTLE_S, RETRY_S = 15.0, 0.2
# What a key that works is told while no private site is linked.
BEYOND_THE_KEY = ("MODEL_UNREACHABLE", "MODEL_LOADING", "MODEL_NOT_PROVISIONED")

Sleep = Callable[[float], None]


def ensure_demo(
    home: Home, edge: str, admin_key: str, clock: Callable[[], float] = time.monotonic, sleep: Sleep = time.sleep
) -> list[str]:
    """Makes sure that each demo tenant exists and that demo.json holds a key of it that works; keeps those that do.

    Returns:
        The tenants whose keys are refused though the keys are theirs: disabled ones.

    Raises:
        CliError: A call failed.
        OSError: demo.json can't be written.
    """
    kept = read_demo(home)
    keys = dict(kept.api_keys) if kept else {}
    disabled: list[str] = []
    deadline = clock() + SETTLE_S
    for tenant, display_name in TENANTS.items():
        while True:
            try:
                reason = _refusal(edge, keys[tenant]) if tenant in keys else "NO_KEY"
                if reason == "TENANT_DISABLED":
                    disabled.append(tenant)
                elif reason:
                    keys[tenant] = _new_key(edge, admin_key, tenant, display_name)
                break
            except CliError as error:
                if not _is_unavailable(error) or clock() > deadline:
                    raise
            sleep(RETRY_S)
    write_demo(home, edge, admin_key, [(tenant, keys[tenant]) for tenant in TENANTS])
    return disabled


def write_demo(home: Home, edge: str, admin_key: str, tenants: Sequence[tuple[str, str]]) -> None:
    """Writes demo.json, readable by the owner alone.

    Raises:
        OSError: It can't be written.
    """
    content = {
        "edge": edge,
        "admin_key": admin_key,
        "tenants": [{"id": tenant, "api_key": key} for tenant, key in tenants],
    }
    write_private(home.demo_file, (json.dumps(content, indent=2) + "\n").encode())


def _is_unavailable(error: CliError) -> bool:
    cause = error.__cause__
    return isinstance(cause, grpc.Call) and cause.code() is grpc.StatusCode.UNAVAILABLE


def _refusal(edge: str, key: str) -> str:
    """Says why a key is refused: the error's reason; empty when it works."""
    with EdgeClient(edge, key) as client, client.telling():
        try:
            client.openai.ListModels(ListModelsRequest(), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            info = error_info(error)
            if info is not None and info.reason in BEYOND_THE_KEY:
                return ""
            if code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise
            return info.reason if info and info.reason else code.name
    return ""


def _new_key(edge: str, admin_key: str, tenant: str, display_name: str) -> str:
    with EdgeClient(edge, admin_key) as client, client.telling():
        try:
            request = CreateTenantRequest(tenant_id=tenant, tenant=Tenant(display_name=display_name))
            client.tenants.CreateTenant(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call) or error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        key = CreateApiKeyRequest(parent=f"tenants/{tenant}", api_key=ApiKey(display_name=KEY_NAME))
        return client.keys.CreateApiKey(key, timeout=CALL_TIMEOUT_S).secret
