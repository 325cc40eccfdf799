"""Six members of a mesh that learn together, with no broker and no coordinator; and a seventh that comes late.

Three rounds on real digits under secure aggregation and a privacy budget. In round 2 whoever coordinates is killed. At
the end the member that publishes models is switched off, and the late one has to get the model from its neighbours.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import checks
import stage
import story
from members import ALL, LATE, PUBLISHER, TRAINING, founded

from fedmesh.testing.namespaces import Lan, missing


def main(folder: Path) -> None:
    """The story, in a new folder."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        why_not = missing()
        lan = None if why_not else stack.enter_context(Lan())
        print(f"{len(ALL)} members, " + (f"all on loopback: there is no {why_not}" if why_not else "a machine each"))
        peers = stack.enter_context(founded(folder, lan))
        peers.start(*TRAINING)
        stage.until(peers, "all have met", lambda: story.have_met(peers, TRAINING))
        print(stage.begin(peers), flush=True)
        print(story.round_line(story.certified(peers, TRAINING[0], 1)), flush=True)
        killed = story.coordinator_of(peers, 2)
        print(f"round 2: {killed}, who coordinates it, is killed", flush=True)
        peers.kill(killed)
        witness = next(name for name in TRAINING if name != killed)
        print(story.round_line(story.certified(peers, witness, 2)), flush=True)
        print(f"{killed} is switched on again, and catches up", flush=True)
        peers.start(killed)
        for name in TRAINING:
            last = story.certified(peers, name, 3)
        print(story.round_line(last), flush=True)
        model = checks.delivered(peers, TRAINING)
        print(f"version {model}, signed by {PUBLISHER}, runs on all others; {PUBLISHER} is switched off, {LATE} comes")
        story.leave(peers, PUBLISHER)
        peers.start(LATE)
        checks.show(peers, model, killed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A mesh that learns without a server, on this machine.")
    parser.add_argument("folder", nargs="?", type=Path, help="is made, and kept; by default a temporary one")
    with tempfile.TemporaryDirectory() as made:
        if (folder := (parser.parse_args().folder or Path(made) / "mesh").resolve()).exists():
            parser.error(f"{folder} is there already: name a new folder")
        try:
            main(folder)
        except KeyboardInterrupt:
            sys.exit("stopped: all that was started has ended")
