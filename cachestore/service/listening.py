"""Where the server listens: a port nobody else has, with TLS if so set, or a socket that only its owner can reach."""

import errno
import os
import shlex
import socket
import stat
import tempfile
from pathlib import Path

import grpc

from cachestore.errors import ConfigError
from cachestore.service.auth.authority import Authority
from cachestore.service.auth.tls import ServerTls
from cachestore.service.settings import ServiceSettings


def check(settings: ServiceSettings) -> None:
    """ConfigError for what would keep a server under `settings` from listening here: key files, socket, host, ports.

    Nothing is made or begun. Whether the port is free is not looked at: the store that runs may be the one that has it.
    """
    Authority(settings).open()
    if settings.unix_socket:
        _check_socket(Path(settings.unix_socket))
        return
    if settings.port and settings.port == settings.bulk_port:
        raise ConfigError(
            f"service.port and service.bulk_port are both {settings.port}, and only one can listen there; choose "
            "another bulk_port, 0 for a free one, or -1 for none"
        )
    if settings.tls:
        ServerTls(settings).open()
    if reason := _unbindable(settings, 0):
        raise ConfigError(reason)


def listen(server: grpc.Server, settings: ServiceSettings, tls: ServerTls) -> str:
    """Binds the server; the address that clients use. ConfigError if that cannot be."""
    credentials = tls.credentials() if settings.tls else None
    if settings.unix_socket:
        _prepare(Path(settings.unix_socket))
    try:
        if credentials is None:
            port = server.add_insecure_port(settings.target)
        else:
            port = server.add_secure_port(settings.target, credentials)
    except RuntimeError:
        port = 0
    if not port:
        # the library does not say why
        reason = "" if settings.unix_socket else _unbindable(settings, settings.port)
        raise ConfigError(
            reason or f"cannot listen at {settings.target}; choose another service.port, or 0 for a free one"
        )
    if settings.unix_socket:
        os.chmod(settings.unix_socket, 0o600)
        return settings.target
    return f"{settings.target.rpartition(':')[0]}:{port}"


def leave(settings: ServiceSettings) -> None:
    """Removes the socket that `listen` made."""
    if settings.unix_socket:
        Path(settings.unix_socket).unlink(missing_ok=True)


def _unbindable(settings: ServiceSettings, port: int) -> str:
    """Why nobody can listen at this port of the host; empty if somebody could."""
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"cannot listen at {settings.target}: it is in use; choose another service.port, or 0 for a free one"
        if error.errno == errno.EACCES:
            return f"cannot listen at {settings.target}: this user may not; choose a service.port from 1024 up, or 0"
        return (
            f"service.host = {settings.host!r} is no address of this machine ({error.strerror}); give one that it has, "
            "127.0.0.1 for this machine alone, or 0.0.0.0 or :: for all that it has"
        )
    return ""


def _prepare(path: Path) -> None:
    try:
        _check_socket(path)
        if path.exists():
            if _answers(path):
                raise ConfigError(f"service.unix_socket = {str(path)!r} is in use by another server; choose another")
            path.unlink()
    except OSError as error:
        raise _unusable(path, error) from error


def _check_socket(path: Path) -> None:
    """ConfigError if a socket at `path` could be reached by others, or cannot be made there."""
    folder = path.parent
    try:
        if not os.path.lexists(folder):
            # not made here: of a path that is mistyped nothing is left behind
            raise ConfigError(
                f"service.unix_socket = {str(path)!r}: its directory is not there; make it for the store's user alone: "
                f"mkdir -p -m 700 {shlex.quote(str(folder))}"
            )
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            # not to be told to close the folder instead: it may be /tmp
            base = folder if os.access(folder, os.W_OK | os.X_OK) else tempfile.gettempdir()
            raise ConfigError(
                f"{folder}, the directory of service.unix_socket, must belong to the store's user alone; make the "
                f"socket a folder of its own with mkdir -p -m 700 {base}/cachestore-{os.getuid()} and set "
                f"service.unix_socket to {base}/cachestore-{os.getuid()}/{path.name}"
            )
        if path.exists() and not path.is_socket():
            raise ConfigError(f"service.unix_socket = {str(path)!r} exists and is no socket; remove it")
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"service.unix_socket = {str(path)!r} cannot be used: {error.strerror}")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except TimeoutError:
            return True
        return True
