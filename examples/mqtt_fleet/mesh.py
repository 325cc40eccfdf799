"""Who is who: an authority, two servers, and six devices that enrol with a token each, as on day one of any fleet."""

import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from stage import Stage

from fedmesh.testing.loopback_broker import free_port

TIERS = {"pi-1": "full", "pi-2": "full", "pi-3": "full", "watch-1": "lite", "watch-2": "lite", "screen-1": "inference"}


def found(stage: Stage) -> tuple[int, int]:
    """Makes the authority, enrols everybody, and starts the broker; the ports of broker and issuer."""
    issuer, port = free_port(), free_port()
    stage.fedmesh("ca", "init", "ca", "--name", "example")
    for server in ("broker", "coordinator"):
        stage.fedmesh("ca", "server", server, "--out", server, "--dns", "localhost")
    stage.start("ca", "ca", "serve", "ca", "--listen", f"127.0.0.1:{issuer}")
    wait_for(issuer)

    def enrol(device: str) -> None:
        token = stage.fedmesh("ca", "token", device, "--address", f"localhost:{issuer}")
        stage.fedmesh("enroll", "--dir", device, FEDMESH_TOKEN=token)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(enrol, TIERS))
    tls, root = stage.folder / "broker/tls.pem", stage.folder / "broker/root.pem"
    where = ["--name", "localhost", "--port", port, "--user", "root"]
    stage.fedmesh("broker", "config", "mosquitto", *map(str, where), "--ca", root, "--cert", tls, "--key", tls)
    mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/sbin")
    if mosquitto is None:
        raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
    stage.start("mosquitto", mosquitto, "-c", stage.folder / "mosquitto/mosquitto.conf")
    wait_for(port)
    return port, issuer


def wait_for(port: int) -> None:
    """Returns when somebody listens there."""
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nobody listens on port {port}: look at the logs")
