"""The sites of this machine: what each needs to run, put together from what a person chose."""

from collections.abc import Mapping
from dataclasses import dataclass

from redoma_cli.client import Demo
from redoma_cli.errors import CliError
from redoma_cli.local.home import Home, write_private
from redoma_cli.local.options import SiteOptions
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.plan import ProcessSpec
from redoma_cli.local.ports import LOOPBACK
from redoma_cli.local.private_site import prepare_private_site, private_program, provisioner_settings
from redoma_cli.local.provisioner_program import ProvisionerProgram
from redoma_cli.local.public_site import prepare_public_site, public_program
from redoma_cli.local.service import inherited_environment, own_settings
from redoma_cli.local.toml import render_toml
from redoma_kit.api_key import new_key


def admin_key(demo: Demo | None) -> str:
    """Gives the first administrator's key: the one in demo.json, which is the only place it lies in, else a new one."""
    if demo is not None and demo.admin_key:
        return demo.admin_key
    return new_key()


@dataclass(frozen=True, slots=True)
class LocalSites:
    """What runs on this machine.

    Attributes:
        home: Where it lives.
        options: What the person chose.
        environ: The person's environment.
        authority: The public site's authority.
        admin_key: The administrator's key.
    """

    home: Home
    options: SiteOptions
    environ: Mapping[str, str]
    authority: DevelopmentAuthority
    admin_key: str

    @property
    def edge(self) -> str:
        """URL of the edge."""
        return f"http://{LOOPBACK}:{self.options.port}"

    def public_specs(self) -> list[ProcessSpec]:
        """Writes the public site's settings and plans its processes.

        Raises:
            CliError: No port is free, or a bootstrap can't be made.
            OSError: A file can't be written.
        """
        bootstraps = self.public_provisioner().bootstrap
        return prepare_public_site(self.home, self.options, self.environ, self.authority, self.admin_key, bootstraps)

    def private_specs(self, site: str) -> list[ProcessSpec]:
        """Writes the private site's settings and plans its processes; it has joined as `site`.

        Raises:
            CliError: A bootstrap can't be made.
            OSError: A file can't be written.
        """
        if self.options.weights is None:
            raise CliError("No model is chosen for the private site.", "Set REDOMA_MODEL.")
        program = self.private_provisioner()
        return prepare_private_site(
            self.home,
            self.options,
            self.options.weights,
            self.environ,
            site,
            lambda proxy: program.bootstrap(proxy, site),
        )

    def public_provisioner(self) -> ProvisionerProgram:
        """Gives the public site's provisioner, for tasks of its own."""
        environment = inherited_environment(self.environ) | own_settings("provisioner", self.environ)
        return ProvisionerProgram(public_program(self.home, "provisioner"), environment)

    def private_provisioner(self) -> ProvisionerProgram:
        """Gives the private site's provisioner, for tasks of its own."""
        return private_provisioner(self.home, self.environ)

    def write_join_settings(self) -> None:
        """Writes what joining needs to know.

        Raises:
            OSError: A file can't be written.
        """
        self.home.private.create()
        settings = render_toml(provisioner_settings(self.home, self.options)).encode()
        write_private(private_program(self.home, "private-provisioner").config, settings)


def private_provisioner(home: Home, environ: Mapping[str, str]) -> ProvisionerProgram:
    """Gives the provisioner of this machine's private site, for tasks of its own."""
    environment = inherited_environment(environ) | own_settings("private-provisioner", environ)
    return ProvisionerProgram(private_program(home, "private-provisioner"), environment)
