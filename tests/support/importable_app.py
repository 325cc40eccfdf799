"""A client app that a worker process can import by name."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

NUMBER = 3
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Twice the sum of what came."""
    doubled = 2 * float(message.content["arrays"]["model"].numpy().sum())
    return Message(RecordDict({"metrics": MetricRecord({"doubled": doubled})}), reply_to=message)
