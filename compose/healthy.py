"""Says by its exit code whether what listens on a port of this container is well.

healthy.py: a node; its metrics say whether it takes jobs. One that was cordoned, or that drains, is
well too. healthy.py PORT: a web server, asked for /healthcheck. Nothing but sockets is imported,
since this runs every few seconds.
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


def takes_jobs(metrics: str) -> bool:
    lines = [line.rpartition(" ") for line in metrics.splitlines() if line.startswith("cyxwiz_")]
    values = {name: float(value) for name, _, value in lines}
    works = any(
        value > 0 and name.startswith("cyxwiz_slots{") and f'state="{state}"' in name
        for name, value in values.items()
        for state in ("ready", "draining")
    )
    return values.get("cyxwiz_redis_up") == 1 and (works or values.get("cyxwiz_cordoned") == 1)


if len(sys.argv) > 1:
    well = " 200 " in page(int(sys.argv[1]), "/healthcheck").partition("\r\n")[0]
else:
    well = takes_jobs(page(int(os.environ.get("CYXWIZ_METRICS__PORT", "9781")), "/metrics"))
sys.exit(0 if well else 1)
