"""A device that answers at once."""

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, _context: Context) -> Message:
    """Nothing."""
    return Message(RecordDict(), reply_to=message)
