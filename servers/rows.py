"""A server as pages show it: what is written of it, worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from controlpanel.figures import date_text
from servers.compute.backends import compute_for
from servers.compute.base import ComputeError
from servers.models import Server


def why_unavailable(backend: str) -> str:
    """Why no server can run on the backend, as a sentence; empty if all is well."""
    try:
        return compute_for(backend).unavailable_reason() or ""
    except ComputeError as error:
        return str(error)


@dataclass(frozen=True)
class ServerRow:
    server: Server

    @cached_property
    def version(self) -> str:
        """Changes with every change of the server: pages ask by it for news."""
        booting = "b" if self.server.is_booting else ""
        return f"{self.server.changed_at.timestamp():.6f}{booting}"

    @property
    def refresh(self) -> str:
        """How soon an open page asks again, as htmx wants it; a settled row never."""
        if self.server.is_changing:
            return "every 2s"
        return "every 4s" if self.server.is_booting else ""

    @property
    def refresh_detail(self) -> str:
        """The page of one server asks on, for a machine may also stop by itself."""
        return self.refresh or "every 15s"

    @property
    def created(self) -> str:
        return date_text(self.server.created_at)

    @property
    def created_iso(self) -> str:
        return self.server.created_at.isoformat()

    @property
    def colour(self) -> str:
        """The word by which the state's colour is chosen."""
        return "build" if self.server.is_changing else self.server.status.lower()

    @property
    def ssh_command(self) -> str:
        """Empty while there is nobody to answer."""
        server = self.server
        if not (server.is_active and server.ssh_port):
            return ""
        return f"ssh -p {server.ssh_port} root@{server.ssh_host}"

    @property
    def is_loopback(self) -> bool:
        host = self.server.ssh_host
        return host.startswith("127.") or host in {"::1", "localhost"}
