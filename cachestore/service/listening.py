"""Where the server listens: a port nobody else has, with TLS if so set, or a socket that only its owner can reach."""

import os
import socket
import stat
from pathlib import Path

import grpc

from cachestore.errors import ConfigError
from cachestore.service.auth.tls import ServerTls
from cachestore.service.settings import ServiceSettings


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
        raise ConfigError(
            f"cannot listen at {settings.target}: the port is in use or not allowed; choose another service.port, "
            "or 0 for a free one"
        )
    if settings.unix_socket:
        os.chmod(settings.unix_socket, 0o600)
        return settings.target
    return f"{settings.target.rpartition(':')[0]}:{port}"


def leave(settings: ServiceSettings) -> None:
    """Removes the socket that `listen` made."""
    if settings.unix_socket:
        Path(settings.unix_socket).unlink(missing_ok=True)


def _prepare(path: Path) -> None:
    if not path.is_absolute():
        raise ConfigError(f"service.unix_socket must be an absolute path, got {str(path)!r}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.parent.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise ConfigError(
                f"{path.parent}, the directory of service.unix_socket, must belong to the store's user alone; "
                f"run: chmod 700 {path.parent}"
            )
        if not path.exists():
            return
        if not path.is_socket():
            raise ConfigError(f"service.unix_socket = {str(path)!r} exists and is no socket; remove it")
        if _answers(path):
            raise ConfigError(f"service.unix_socket = {str(path)!r} is in use by another server; choose another")
        path.unlink()
    except OSError as error:
        raise ConfigError(f"service.unix_socket = {str(path)!r} cannot be used: {error.strerror}") from error


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
