"""The files of TOML that an operator would write: one for the coordinator, one for each device."""

from pathlib import Path

from mesh import TIERS

TRAINING = [name for name, tier in TIERS.items() if tier != "inference"]

COORDINATOR = """
[identity]
folder = "coordinator"
[broker]
host = "localhost"
port = {port}
[issuer]
address = "localhost:{issuer}"
[data]
folder = "data"
[registry]
folder = "repository"
[[task]]
scenario = "{scenario}"
round = {{ min_devices = 4, deadline_s = 180 }}
"""

DEVICE = """
tier = "{tier}"
limits.nice = 0                # all share this machine
[identity]
folder = "{name}"
[broker]
host = "localhost"
port = {port}
[state]
folder = "{name}/state"
[registry]
trusted_root = "repository/public/metadata/1.root.json"
"""

DATA = """
[data]
kind = "dataset"
name = "digits"
partition = {partition}
of = {of}
"""


def write(folder: Path, scenario: Path, *, port: int, issuer: int, serving: int) -> None:
    """Writes them all; the device that only answers does so on the port `serving`."""
    (folder / "coordinator.toml").write_text(COORDINATOR.format(port=port, issuer=issuer, scenario=scenario))
    for name, tier in TIERS.items():
        text = DEVICE.format(name=name, tier=tier, port=port)
        if name in TRAINING:
            text += DATA.format(partition=TRAINING.index(name), of=len(TRAINING))
        else:
            text += f'[inference]\nlisten = "127.0.0.1:{serving}"\n'
        (folder / f"{name}.toml").write_text(text)
