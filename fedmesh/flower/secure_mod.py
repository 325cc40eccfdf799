"""Secure aggregation as a Flower mod, around any ClientApp that answers ``train`` with one packet of the delta codec.

The app trains and quantizes as before and knows nothing of sessions; of its reply only the masked codes leave::

    secagg = SecAggMod(credentials, terms)
    app = ClientApp(mods=[secagg])
    app.query("secagg")(secagg.steps)  # the steps that are not training


    @app.train()
    def train(message, context): ...
"""

from collections.abc import Callable, Sequence

import numpy as np
from flwr.app import Context, Message, MessageType, MetricRecord
from numpy.typing import NDArray

from fedmesh.errors import DecodeError, SecAggError
from fedmesh.flower.arrays import vector
from fedmesh.flower.desk import Credentials
from fedmesh.flower.records import ranges_in
from fedmesh.flower.secure import AHEAD, CURRENT, QUERY
from fedmesh.flower.secure_client import SecureClient, discreet
from fedmesh.flower.terms import Terms
from fedmesh.quantization.codec import DeltaCodec

__all__ = ["SecAggMod"]


class SecAggMod:
    """A Flower mod. Of the app's reply it uses ``update/delta`` and, behind it in the sum, `Terms.reported` metrics.

    Where `Terms.weight_cap` is above 1 the device weighs ``metrics/num-examples``, and the cap at most. Messages other
    than ``train`` and the protocol's own are refused: their answers would leave in the clear.

    Args:
        credentials: who the device is.
        terms: what it takes part in.
    """

    def __init__(self, credentials: Credentials, terms: Terms) -> None:
        self._client = SecureClient(credentials, terms)
        self._terms = terms

    def __call__(self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        """Answers `message` in place of the app, or masks what the app answers.

        Raises:
            SecAggError: the message, or the session it belongs to, is refused.
            DecodeError: the message, or the app's reply, is malformed.
        """
        kind = message.metadata.message_type
        if kind == QUERY:
            return self.steps(message, context)
        if kind != MessageType.TRAIN:
            raise SecAggError(
                f"a message {kind!r} came: this device answers inside a secure sum only, and that takes 'train'",
                code="policy",
            )
        turn = self._client.open(message, context)
        ranges = ranges_in(message.content)
        for name in (CURRENT, AHEAD):
            message.content.pop(name, None)  # the app sees what it would see without the mod
        with discreet():
            reply = call_next(message, context)
        if reply.has_error():  # its text is the app's, and would leave in the clear
            raise SecAggError("the app answered with an error: this device has nothing for the sum", code="input")
        return Message(turn.mask(*self._input(reply, ranges)), reply_to=message)

    def steps(self, message: Message, context: Context) -> Message:
        """The steps of the protocol besides training, for ``ClientApp.query("secagg")``."""
        return Message(self._client.answer(message, context), reply_to=message)

    def _input(self, reply: Message, ranges: Sequence[float]) -> tuple[NDArray[np.int64], int]:
        terms = self._terms
        codec = DeltaCodec(terms.layout, terms.bits, ranges)
        records = reply.content.array_records
        if "update" not in records:
            raise DecodeError(
                f"the app's reply holds {sorted(reply.content)}; wanted 'update' with one packet, 'delta'"
            )
        packet = vector(records["update"], "delta", dtype="uint8", max_bytes=codec.packet_bytes)
        codes = codec.codes(packet.tobytes(), max_bytes=codec.packet_bytes)
        metrics = reply.content.metric_records.get("metrics", MetricRecord())
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        return terms.input(codes, numbers), self._weight(metrics)

    def _weight(self, metrics: MetricRecord) -> int:
        if self._terms.weight_cap == 1:
            return 1
        count = metrics.get("num-examples")
        if not isinstance(count, int) or isinstance(count, bool):
            raise DecodeError("the app's reply has no num-examples in its metrics, by which its codes are weighted")
        return self._terms.weight(count)
