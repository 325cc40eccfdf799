"""Rounds that do nothing, timed; the seconds of each go into the file that the run's configuration names."""

import json
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Waits for all devices, then asks each once a round."""
    devices, rounds = int(context.run_config["devices"]), int(context.run_config["rounds"])
    while len(list(grid.get_node_ids())) < devices:
        time.sleep(0.1)
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
        replies = list(grid.send_and_receive(messages))
        assert len(replies) == devices, f"{len(replies)} replies"
        assert not any(reply.has_error() for reply in replies), "a device failed"
        took.append(time.perf_counter() - began)
    Path(str(context.run_config["out"])).write_text(json.dumps(took))
