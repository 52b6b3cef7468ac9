"""Which cluster the commands talk to: address, token, CA.

Order: flags, then ``WHERRY_API``/``WHERRY_TOKEN``/``WHERRY_CA``, then ``$WHERRY_HOME/cli.json`` (mode 0600, written by
the coordinator for its own user): ``{"api": URL, "token": TOKEN, "ca": PATH or null}``.
"""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from wherry import paths
from wherry.errors import UsageProblem, WherryError

DEFAULT_API = "http://127.0.0.1:7451"


@dataclass(frozen=True)
class Target:
    """A cluster's API. ``ca`` is the file with the cluster's CA certificate, for https."""

    api: str = DEFAULT_API
    token: str = ""
    ca: Path | None = None

    def verify(self) -> ssl.SSLContext | bool:
        """What httpx checks the server with: the cluster CA alone where one is known."""
        if self.ca is None or not self.api.startswith("https:"):
            return True
        try:
            return ssl.create_default_context(cafile=str(self.ca))
        except (OSError, ssl.SSLError) as error:
            raise WherryError(f"CA certificate {self.ca}: {error}") from None


def load(api: str = "", token: str = "", file: Path | None = None) -> Target:
    """The target for this run. Raises :class:`WherryError` for a file that is no JSON object of strings."""
    if file is None:
        paths.check_state(paths.home())
    path = file or paths.home() / "cli.json"
    stored: dict[str, str] = {}
    if path.is_file():
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WherryError(f"{path}: {error}") from None
        if not isinstance(data, dict) or not all(v is None or isinstance(v, str) for v in data.values()):
            raise WherryError(f"{path}: must be an object of strings with keys api, token, ca")
        stored = {key: value for key, value in data.items() if value}
    environment = os.environ
    address = api or environment.get("WHERRY_API", "") or stored.get("api", DEFAULT_API)
    if not address.startswith(("http://", "https://")):
        problem = UsageProblem if api else WherryError
        raise problem(f"API address {address!r}: must begin with http:// or https://")
    ca = environment.get("WHERRY_CA", "") or stored.get("ca", "")
    secret = token or environment.get("WHERRY_TOKEN", "") or stored.get("token", "")
    return Target(address.rstrip("/"), secret, Path(ca) if ca else None)
