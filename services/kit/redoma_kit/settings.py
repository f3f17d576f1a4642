"""Settings of a service, from its command line, the environment and a TOML file, validated before anything starts.

A value given in the environment wins over the file. `--print-config` shows what is in force, secrets masked.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from redoma_kit.callers import SPIFFE_ID


class TlsSettings(BaseModel):
    """The files of a service's own identity, PEM."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca_file: Path = Field(description="Certificates of the authorities whose clients and servers are trusted.")
    cert_file: Path = Field(description="The service's certificate, with its SPIFFE id as URI name.")
    key_file: Path = Field(description="The private key of `cert_file`.")


class LogSettings(BaseModel):
    """How the service logs. Logs go to standard error and never hold prompts, answers or credentials."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["json", "console"] = Field("json", description="One JSON object a line, or text for people.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least severe that is logged.")


class MetricsSettings(BaseModel):
    """Where Prometheus scrapes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field("", description="host:port of the /metrics page; empty is off.")


class TracingSettings(BaseModel):
    """Where OpenTelemetry traces go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    otlp_endpoint: str = Field("", description="URL of an OTLP gRPC collector; empty is off.")


class UpstreamSettings(BaseModel):
    """Another Redoma service that this one calls."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field(description="host:port to dial, or unix:PATH of a socket.")
    server_name: str = Field(description="The DNS name its certificate must carry, such as model.private.redoma.")


class ServiceSettings(BaseSettings):
    """What every service has. A service subclasses it and sets `env_prefix`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_nested_delimiter="__")

    listen: str = Field(
        "127.0.0.1:50051",
        description="host:port to serve gRPC on, or unix:PATH of a socket, which only this user may connect to.",
    )
    tls: TlsSettings = Field(description="The service's identity; all traffic is mutual TLS 1.3.")
    forwarders: tuple[Annotated[str, Field(pattern=f"^{SPIFFE_ID.pattern}$")], ...] = Field(
        (),
        description="SPIFFE ids of the proxies that others call through, such as spiffe://redoma/hospital-a/gateway: "
        "what they say of a caller's certificate is believed, and nobody else's word is.",
    )
    jwks_file: Path = Field(description="Public keys that sign callers' identities (JWKS); read again when it changes.")
    max_stream_s: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="The longest a call may last, in seconds.",
        validation_alias=AliasChoices("REDOMA_MAX_STREAM_S", "max_stream_s"),
    )
    drain_grace_s: float | None = Field(
        None, ge=0, description="How long running calls may go on after SIGTERM, in seconds; unset is max_stream_s."
    )
    max_message_bytes: int = Field(8 << 20, ge=1 << 16, description="The largest gRPC message accepted.")
    reflection: bool = Field(False, description="Serve gRPC reflection.")
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()

    @property
    def grace_s(self) -> float:
        """How long running calls may go on after SIGTERM."""
        return self.max_stream_s if self.drain_grace_s is None else self.drain_grace_s

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then what the TOML file said (passed as init values)."""
        return (env_settings, init_settings)


S = TypeVar("S", bound=ServiceSettings)


def load_settings(settings_type: type[S], config_file: Path | None) -> S:
    """Reads settings from the environment and `config_file`.

    Raises:
        SettingsError: The file can't be read, or a value is missing or wrong; the message names each.
    """
    values: dict[str, Any] = {}
    if config_file is not None:
        if not config_file.is_file():
            raise SettingsError(f"The settings file {config_file} does not exist.")
        try:
            values = dict(TomlConfigSettingsSource(settings_type, config_file)())
        except ValueError as error:
            raise SettingsError(f"{config_file} is not valid TOML: {error}.") from error
    try:
        return settings_type(**values)
    except ValidationError as error:
        prefix = settings_type.model_config.get("env_prefix", "")
        lines = []
        for problem in error.errors(include_url=False, include_input=False):
            path = ".".join(str(part) for part in problem["loc"])
            lines.append(
                f"  {path}: {problem['msg']} (set it in the file or as {prefix}{path.upper().replace('.', '__')})"
            )
        raise SettingsError("These settings are missing or wrong:\n" + "\n".join(lines)) from error


class SettingsError(Exception):
    """The settings can't be used; the message says what to change."""


def describe_settings(settings_type: type[ServiceSettings]) -> str:
    """Lists each setting with its environment variable, default and meaning, for `--help`."""
    prefix = settings_type.model_config.get("env_prefix", "")
    lines: list[str] = []

    def add(model: type[BaseModel], path: tuple[str, ...]) -> None:
        for name, field in model.model_fields.items():
            here = (*path, name)
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                add(inner, here)
                continue
            variable = "REDOMA_MAX_STREAM_S" if name == "max_stream_s" else prefix + "__".join(here).upper()
            default = "required" if field.is_required() else f"default {field.default!r}"
            lines.append(f"  {'.'.join(here)}  [{variable}]\n      {field.description or ''} ({default})")

    add(settings_type, ())
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Action(Generic[S]):
    """Something to do with a service's settings instead of serving.

    Attributes:
        meaning: What it does, for `--help`.
        text_of: Does it with the settings and the option's value, and gives what to print.
        metavar: What the option's value is; empty for an option without one, whose value is empty.
    """

    meaning: str
    text_of: Callable[[S, str], str]
    metavar: str = ""


def settings_from_command_line(
    settings_type: type[S],
    prog: str,
    summary: str,
    argv: list[str] | None = None,
    actions: Mapping[str, "Action[S]"] = MappingProxyType({}),
) -> S:
    """Reads `--config FILE`, `--print-config` and `--help`, and returns the settings in force.

    `actions` are more things to do with the settings, by option. Exits with status 0 after one, with status 2 and the
    reasons when settings are wrong.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=summary,
        epilog=f"Settings (in the TOML file, or [environment variable]):\n{describe_settings(settings_type)}\n\n"
        f"Example: {prog} --config {prog}.toml --print-config",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("--print-config", action="store_true", help="print the settings in force as JSON and exit")
    for option, action in actions.items():
        if action.metavar:
            parser.add_argument(option, metavar=action.metavar, help=f"{action.meaning} and exit")
        else:
            parser.add_argument(option, action="store_const", const="", help=f"{action.meaning} and exit")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(settings_type, arguments.config)
    except SettingsError as error:
        parser.exit(2, f"{prog}: {error}\n")
    if arguments.print_config:
        sys.stdout.write(json.dumps(settings.model_dump(mode="json"), indent=2) + "\n")
        raise SystemExit(0)
    for option, action in actions.items():
        value = getattr(arguments, option.removeprefix("--").replace("-", "_"))
        if value is not None:
            sys.stdout.write(action.text_of(settings, value))
            raise SystemExit(0)
    return settings
