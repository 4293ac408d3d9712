"""``tls_proxy.py PORT TARGET CERTIFICATE``: offer with TLS what listens on the port TARGET."""

from __future__ import annotations

import socket
import ssl
import sys
import threading


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
