"""Says by its exit code whether what listens on a port of this container is well.

healthy.py: a node, asked for /health: one that was cordoned, or that drains, is well too.
healthy.py PORT: a web server, asked for /healthcheck. Nothing but sockets is imported, since this
runs every few seconds.
"""

import os
import socket
import sys


def page(port: int, path: str) -> str:
    with socket.create_connection(("127.0.0.1", port), 8) as connection:
        connection.settimeout(8)
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        said = bytearray()
        while block := connection.recv(65536):
            said += block
    return said.decode(errors="replace")


if len(sys.argv) > 1:
    said = page(int(sys.argv[1]), "/healthcheck")
else:
    said = page(int(os.environ.get("CYXWIZ_METRICS__PORT", "9781")), "/health")
head, _, body = said.partition("\r\n\r\n")
well = " 200 " in head.partition("\r\n")[0]
sys.stdout.write("" if well else body)  # `docker inspect` shows it
sys.exit(0 if well else 1)
