"""Tables that must be complete: errors, policy, and the schema that migrations make."""

import importlib
import pkgutil

import grpc
import structlog
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

import redoma_provisioner
from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma.provisioner.v1 import edge_pb2, membership_pb2, network_pb2, operation_pb2
from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import DomainError, failure_of
from redoma_kit.policy import CHAT, EDGE, EGRESS, PROVISIONER, TENANT
from redoma_provisioner.errors import ERRORS
from redoma_provisioner.policy import DISCOVERY_METHODS, PUBLIC_POLICY, private_policy
from redoma_provisioner.policy import PLATFORM as OPERATORS
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.store.schema import METADATA

OPERATORS_FILES = (network_pb2, operation_pb2, edge_pb2)
NOT_FOR_OPERATORS = {
    "/redoma.provisioner.v1.NetworkService/RedeemLinkGrant": EGRESS,
    "/redoma.provisioner.v1.NetworkService/WatchReplicas": CHAT | TENANT,
}


def subclasses(cls: type[DomainError]) -> set[type[DomainError]]:
    found = {cls}
    for sub in cls.__subclasses__():
        found |= subclasses(sub)
    return found


def test_every_exception_class_has_a_rule() -> None:
    for module in pkgutil.walk_packages(redoma_provisioner.__path__, "redoma_provisioner."):
        if not module.name.endswith("__main__") and "migrations" not in module.name:
            importlib.import_module(module.name)
    ours = {cls for cls in subclasses(DomainError) if cls.__module__.startswith("redoma_provisioner")}
    assert len(ours) > 8
    for cls in ours:
        assert cls in ERRORS, cls
        error = cls.__new__(cls)
        DomainError.__init__(error, "message", {"field": "x"})
        failure = failure_of(error, ERRORS)
        assert f"ERROR_REASON_{failure.reason}" in ErrorReason.DESCRIPTOR.values_by_name
        assert (failure.code is grpc.StatusCode.UNAVAILABLE) <= (failure.retry_after_s is not None)


def methods(*modules: object) -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
        for method in service.methods
    }


def test_every_rpc_of_the_public_role_is_for_operators_or_for_who_is_named_here() -> None:
    assert PUBLIC_POLICY.keys() == methods(*OPERATORS_FILES) | set(DISCOVERY_METHODS)
    for method in methods(*OPERATORS_FILES):
        rule = PUBLIC_POLICY[method]
        if method in NOT_FOR_OPERATORS:
            assert (rule.peers, rule.identity) == (NOT_FOR_OPERATORS[method], False), method
        else:
            assert (rule.peers, rule.any_scope) == (EDGE, OPERATORS), method
            assert rule.identity, method
            assert rule.bound_method, method


def test_the_private_role_is_for_the_public_provisioner_and_its_own_gateway() -> None:
    policy = private_policy("hospital-a")
    assert policy.keys() == methods(membership_pb2) | set(DISCOVERY_METHODS)
    for method in methods(membership_pb2):
        assert policy[method].peers == PROVISIONER
    for method in DISCOVERY_METHODS:
        assert policy[method].peers == {"spiffe://redoma/hospital-a/gateway"}
        assert PUBLIC_POLICY[method].peers == EDGE | EGRESS


async def test_migrations_make_the_tables(database_url: str) -> None:
    database = Database(database_url, structlog.stdlib.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    await database.upgrade(MIGRATIONS)

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))

    async with database.transaction(PLATFORM) as session:
        assert await (await session.connection()).run_sync(differences) == []
    await database.close()
