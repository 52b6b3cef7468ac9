"""The coordinator's own certificate in use: links read its files anew, the API's TLS context is given the new one."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence

from hypercorn.config import Config as ServerConfig

from coordinator.ca import Authority, OwnFiles
from protocol.transport import TlsFiles

log = logging.getLogger(__name__)


class OwnCertificate:
    """``hosts``: names and addresses that it is for; ``wall`` gives Unix seconds. Raises OSError when it cannot be
    written."""

    def __init__(self, ca: Authority, hosts: Sequence[str], wall: Callable[[], float]) -> None:
        self._ca = ca
        self._hosts = [host for host in hosts if host not in ("0.0.0.0", "::")]
        self._wall = wall
        self._context: ssl.SSLContext | None = None
        self.files: OwnFiles = ca.own(self._hosts, wall())
        self._served = self.files.certificate.read_bytes()

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(self.files.certificate, self.files.key, self.files.ca)

    def refresh(self) -> None:
        """Make a new one if it is time; new connections get it at once, those that are open go on."""
        self.files = self._ca.own(self._hosts, self._wall())
        served = self.files.certificate.read_bytes()
        if served != self._served:
            if self._context is not None:
                self._context.load_cert_chain(self.files.certificate, self.files.key)
            self._served = served
            log.info("serving a new certificate until %.0f", self.files.expires)

    def hold(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Keep a listener's context up to date from here on."""
        self._context = context
        return context


class ApiConfig(ServerConfig):
    """Hypercorn's configuration with a TLS context that follows :class:`OwnCertificate`; ``own`` None: plain HTTP."""

    def __init__(self, own: OwnCertificate | None) -> None:
        super().__init__()
        self._own = own
        if own is not None:
            self.certfile, self.keyfile = str(own.files.certificate), str(own.files.key)

    def create_ssl_context(self) -> ssl.SSLContext | None:
        context = super().create_ssl_context()
        return self._own.hold(context) if context is not None and self._own is not None else context
