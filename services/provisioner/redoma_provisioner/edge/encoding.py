"""Turns resources in Envoy's JSON shape into the bytes that an Envoy reads, and refuses what Envoy's API does not have.

The descriptors are Envoy's own (`make gen`), in a pool of their own, so that nothing of them meets the stubs that other
parts import.
"""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)

from redoma_provisioner.edge.snapshot import TYPES, Config, InvalidSnapshot, Snapshot

BOOTSTRAP = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap"
_OF_PROTOBUF = (any_pb2, descriptor_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)


class InvalidResource(InvalidSnapshot):
    """A resource is not one of its type; the message names it and what is wrong."""

    def __init__(self, type_url: str, name: str, problem: str) -> None:
        super().__init__(f"{short_type(type_url)} {name}: {problem}")


def short_type(type_url: str) -> str:
    """Gives the last part of a type's name, such as "Cluster"."""
    return type_url.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One resource as it is sent.

    Attributes:
        version: Its version.
        content: The serialized message of its type.
    """

    version: str
    content: bytes


EncodedResources = Mapping[str, Mapping[str, Encoded]]


class Encoder:
    """Encodes resources by Envoy's descriptors."""

    def __init__(self, descriptors: bytes) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for module in _OF_PROTOBUF:
            self._pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
            self._pool.Add(file)

    def encode(self, type_url: str, name: str, config: Config) -> bytes:
        """Gives the serialized message, the same bytes for the same value.

        Raises:
            InvalidResource: A field, a value or a type in it is unknown.
        """
        descriptor = self._pool.FindMessageTypeByName(type_url.rpartition("/")[2])
        message = message_factory.GetMessageClass(descriptor)()
        try:
            json_format.ParseDict(config, message, descriptor_pool=self._pool)
        except (json_format.ParseError, TypeError, ValueError) as error:
            # What follows the first line lists every field there is.
            raise InvalidResource(type_url, name, str(error).partition("\n")[0]) from error
        return message.SerializeToString(deterministic=True)

    def encode_snapshot(self, snapshot: Snapshot, former: EncodedResources) -> EncodedResources:
        """Encodes all resources of a snapshot; what is in `former` with the same version is taken from there.

        Raises:
            InvalidResource: One of them can't be encoded, or is of a type that is not served.
        """
        for type_url in snapshot.resources:
            if type_url not in TYPES:
                raise InvalidResource(type_url, "", "resources of this type are not served")
        encoded: dict[str, dict[str, Encoded]] = {}
        for type_url, versions in snapshot.resource_versions.items():
            kept = former.get(type_url, {})
            configs = snapshot.of(type_url)
            encoded[type_url] = {
                name: kept[name]
                if name in kept and kept[name].version == version
                else Encoded(version, self.encode(type_url, name, configs[name]))
                for name, version in versions.items()
            }
        return encoded


def envoy_descriptors() -> bytes:
    """Reads the descriptors that are shipped with this package."""
    return importlib.resources.files(__package__).joinpath("envoy_types.binpb").read_bytes()
