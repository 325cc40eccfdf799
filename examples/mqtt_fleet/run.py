"""A whole fleet on this machine: a broker, a coordinator and six devices, each a process with its own key.

Three rounds on real digits under secure aggregation and a privacy budget; a device and the coordinator are killed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import checks
import files
import mesh
from stage import Stage


def main(folder: Path) -> None:
    """The story, in a new folder."""
    folder.mkdir(parents=True)
    stage = Stage(folder)
    try:
        print("enrolling six devices ...", flush=True)
        (port, issuer), serving = mesh.found(stage), mesh.free_port()
        files.write(folder, Path(__file__).with_name("digits.toml"), port=port, issuer=issuer, serving=serving)
        stage.fedmesh("model", "init", "repository")
        for name in ("coordinator", *mesh.TIERS):
            stage.fedmesh("config", "check", f"{name}.toml")
        coordinator = ["coordinator", "run", "coordinator.toml", "--json-events", "events.jsonl"]
        stage.start("coordinator", *coordinator)
        for name in mesh.TIERS:
            stage.start(name, "client", "run", f"{name}.toml")
        print(checks.round_line(stage.until("RoundFinished", round=1)), flush=True)
        stage.until("StageStarted", round=2, stage="train")
        print("round 2: pi-3 is killed while it trains, and has half a minute to come back", flush=True)
        stage.kill("pi-3")
        print(checks.round_line(stage.until("RoundFinished", round=2)), flush=True)
        stage.until("StageStarted", round=3)
        print("round 3: the coordinator is killed, and started again", flush=True)
        stage.kill("coordinator")
        stage.start("coordinator", *coordinator)
        print(checks.round_line(stage.until("RoundFinished", round=3)), flush=True)
        stage.until("RunFinished")
        print("pi-3 is switched on again; the model of round 3 arrives everywhere ...", flush=True)
        stage.start("pi-3", "client", "run", "pi-3.toml")
        checks.show(stage, serving)
    finally:
        stage.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A whole fleet on this machine.")
    parser.add_argument("folder", nargs="?", type=Path, help="is made, and kept; by default a temporary one")
    with tempfile.TemporaryDirectory() as made:
        if (folder := (parser.parse_args().folder or Path(made) / "fleet").resolve()).exists():
            parser.error(f"{folder} is there already: name a new folder")
        try:
            main(folder)
        except KeyboardInterrupt:
            sys.exit("stopped: all that was started has ended")
