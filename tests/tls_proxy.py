"""``tls_proxy.py PORT TARGET CERTIFICATE``: offer with TLS what listens on the port TARGET."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from .green import wait_until
from .servers import Process, free_port


@contextmanager
def tls(target: int, folder: Path) -> Iterator[tuple[int, Path]]:
    """Offer with TLS, as ``localhost``, what listens on a port: the port, and the authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = folder / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    port = free_port()
    arguments = str(port), str(target), str(certificate)
    proxy = Process(sys.executable, "-m", "tests.tls_proxy", *arguments)
    wait_until(lambda: "ready" in proxy.output(), "the proxy")
    yield port, folder / "ca.pem"
    proxy.end()


def forward(source: socket.socket, target: socket.socket) -> None:
    """Hand on all that comes from *source*, and its end."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


def main(port: int, target: int, certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("ready", flush=True)
        while True:
            client = context.wrap_socket(listener.accept()[0], server_side=True)
            server = socket.create_connection(("127.0.0.1", target))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=forward, args=pair, daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
