"""A private apt: fetches packages of another architecture and suite without root and without touching the host's apt.

apt itself resolves dependencies, checks signatures and hashes, and resumes partial files; what is ours is its
configuration. It gets a configuration file of its own, made from the host's ``Acquire`` settings (proxies, validity
checks) and nothing else: hooks, pins and foreign sources of the host stay out. The dpkg status file is private too; it
declares what a guest without a boot loader never needs (initramfs-tools, kmod, linux-base) as installed.

Layout of the folder: ``apt.conf sources.list status lists/ archives/ downloads``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wherry.errors import AptError, SignatureProblem
from wherry.image import sources, store

Report = Callable[[float, str], None]  # percent done 0..100, what is being fetched

_ARCH = "riscv64"
_STATUS = """Package: wherry-host
Status: install ok installed
Priority: optional
Section: misc
Maintainer: none
Architecture: {architecture}
Version: 99
Provides: linux-initramfs-tool, initramfs-tools (= 99), kmod (= 99), linux-base (= 99), debconf (= 99), debconf-2.0
Description: stands for what a guest image does without

"""
_SIGNATURE_WORDS = ("is not signed", "NO_PUBKEY", "GPG error", "signature", "BADSIG", "EXPKEYSIG")
_URI_LINE = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$")
IMPORT_HINT = "bring your own kernel instead: wherry image import --name NAME --kernel Image --initrd initrd"


@dataclass(frozen=True)
class Package:
    """A package file as apt resolved it."""

    file: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.file.split("_", 1)[0]


def host_codename(os_release: Path = Path("/etc/os-release")) -> str:
    """VERSION_CODENAME, or "" where the file or the field is missing."""
    try:
        match = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', os_release.read_text(), re.M)
    except OSError:
        return ""
    return match[1] if match else ""


class Apt:
    """One private apt folder. Not safe for two processes at once: apt's own lock refuses the second."""

    def __init__(
        self,
        folder: Path,
        *,
        mirror: str = "",
        suite: str = "trixie",
        more_suites: Sequence[str] = (),
        keyring: Path | None = None,
        architecture: str = _ARCH,
    ) -> None:
        """Write the configuration. ``more_suites`` are of the same mirror; the last one's versions win.

        Raises :class:`AptError` where apt, a mirror or a keyring is missing."""
        for tool in ("apt-get", "apt-config", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise AptError(f"{tool} not found: images are built with Debian's apt; {IMPORT_HINT}")
        self.folder = folder.absolute()
        self.suites = (suite, *more_suites)
        self.architecture = architecture
        source = sources.debian_source(sources.read_all(), host_codename())
        self.mirror = mirror or (source.uri if source else "")
        if not self.mirror:
            raise AptError(f"no Debian mirror in this host's apt sources: give --mirror URI; or {IMPORT_HINT}")
        found = keyring or sources.keyring(source)
        if found is None or not found.is_file():
            raise AptError(
                f"no Debian archive keyring ({found or sources.KEYRINGS[1]}): install debian-archive-keyring"
            )
        self.keyring = found
        self._write_configuration()

    @property
    def archives(self) -> Path:
        return self.folder / "archives"

    def _write_configuration(self) -> None:
        for name in ("lists/partial", "archives/partial", "empty"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_text(_STATUS.format(architecture=self.architecture))
        origin = f"deb [arch={self.architecture} signed-by={self.keyring}] {self.mirror}"
        (self.folder / "sources.list").write_text("".join(f"{origin} {suite} main\n" for suite in self.suites))
        ours = {
            "APT::Architecture": self.architecture,
            **({"APT::Default-Release": self.suites[-1]} if len(self.suites) > 1 else {}),
            "APT::Install-Recommends": "false",
            "APT::Get::AllowUnauthenticated": "false",
            "APT::Update::Error-Mode": "any",
            "APT::Sandbox::User": "root",  # the folder may be under a home that user _apt cannot enter
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowWeakRepositories": "false",
            "Acquire::AllowDowngradeToInsecureRepositories": "false",
            "Acquire::ForceHash": "SHA256",  # the kind of hash that --print-uris tells
            "Acquire::Retries": "3",
            "Acquire::Languages": "none",
            "Dir::State": f"{self.folder}",
            "Dir::State::lists": f"{self.folder}/lists",
            "Dir::State::status": f"{self.folder}/status",
            "Dir::Cache": f"{self.folder}",
            "Dir::Cache::archives": f"{self.folder}/archives",
            "Dir::Etc::sourcelist": f"{self.folder}/sources.list",
            "Dir::Etc::sourceparts": f"{self.folder}/empty",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": f"{self.folder}/empty",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": f"{self.folder}/empty",
            "Dir::Log": f"{self.folder}/log",
        }
        text = self._host_acquire() + "#clear APT::Architectures;\n"
        text += "".join(f'{key} "{value}";\n' for key, value in ours.items())
        text += f'APT::Architectures {{ "{self.architecture}"; }};\n'
        (self.folder / "apt.conf").write_text(text)

    @staticmethod
    def _host_acquire() -> str:
        """The host's transport settings; index targets are apt's own defaults and would be doubled."""
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
        lines = [x for x in dump.splitlines() if x.startswith("Acquire::") and "::IndexTargets" not in x]
        return "".join(line + "\n" for line in lines if not line.split(" ", 1)[0].endswith("::"))

    def _run(self, arguments: Sequence[str], report: Report | None = None) -> str:
        """apt-get with our configuration; progress from its status descriptor. Returns stdout."""
        read_end, write_end = os.pipe()
        command = ["apt-get", "-q", "-y", "-o", f"APT::Status-Fd={write_end}", *arguments]
        environment = {
            **os.environ,
            "APT_CONFIG": str(self.folder / "apt.conf"),
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        output = self.folder / "output.log"
        with output.open("w+b") as log, os.fdopen(read_end) as status:
            try:
                process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(write_end,),
                    env=environment,
                )
            finally:
                os.close(write_end)
            try:
                for line in status:
                    kind, _, rest = line.partition(":")
                    fields = rest.split(":", 2)
                    if kind == "dlstatus" and report is not None and len(fields) == 3:
                        report(float(fields[1]), fields[2].strip())
                code = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
            log.seek(0)
            text = log.read().decode(errors="replace")
        if code != 0:
            raise self._failure(arguments[0], text)
        return text

    def _failure(self, what: str, text: str) -> AptError:
        errors = [line for line in text.splitlines() if line.startswith(("E:", "Err:"))] or text.splitlines()[-3:]
        message = f"apt-get {what}: " + "; ".join(line.removeprefix("E:").strip() for line in errors[:3])
        if any(word in line for line in text.splitlines() if line[:2] in ("E:", "W:") for word in _SIGNATURE_WORDS):
            return SignatureProblem(f"{message} (keyring {self.keyring}, mirror {self.mirror})")
        if what == "update" and "unexpected size" in text:
            message += f"; {self.mirror} is between two states: try another --mirror or --suite, or later"
        return AptError(message)

    def update(self, report: Report | None = None) -> None:
        """Fetch and verify the package lists."""
        self._run(["update"], report)

    def resolve(self, packages: Sequence[str]) -> list[Package]:
        """The closure of ``packages`` as files with sizes, in apt's order. Unknown names are an :class:`AptError`."""
        # Files that lie in archives/ already are not printed, so the question is asked with an empty cache.
        text = self._run(
            ["-o", f"Dir::Cache::archives={self.folder}/empty", "install", "--print-uris", "--", *packages]
        )
        found = [Package(m["file"], int(m["size"]), m["sha256"]) for m in map(_URI_LINE.match, text.splitlines()) if m]
        if not found:
            raise AptError(f"apt resolved {' '.join(packages)} to no package file")
        return found

    def download(self, packages: Sequence[str], report: Report | None = None) -> list[Path]:
        """Fetch the closure into ``archives/``; what is there and intact is not fetched again.

        Returns the .deb files."""
        wanted = self.resolve(packages)
        self._run(["install", "--download-only", "--", *packages], report)
        files = [self.archives / package.file for package in wanted]
        for file, package in zip(files, wanted, strict=True):
            if not file.is_file():
                raise AptError(f"{file.name}: apt did not leave it in {self.archives}")
            # apt trusts a cached file of the right size; we do not.
            if store.hash_file(file)[0] != package.sha256:
                file.unlink()
                raise AptError(f"{file.name}: its hash is not the signed one; it was removed from the cache, try again")
        return files


def unpack(debs: Sequence[Path], target: Path) -> None:
    """The file trees of ``debs`` over each other in ``target``; maintainer scripts are not run."""
    target.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        done = subprocess.run(["dpkg-deb", "-x", str(deb), str(target)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise AptError(f"{deb.name}: {done.stderr.strip() or 'dpkg-deb failed'}")
