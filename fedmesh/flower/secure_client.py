"""A device's side of secure aggregation over Flower: messages in, replies out, a sealed state in the Context between.

The protocol is `fedmesh.secagg.Participant`'s. Here is what Flower adds: the session of the next round that is prepared
on the way, the model and scales that actually came, and the refusal to train for anybody who has not set up a session.
What is refused raises, and leaves the Context as it was; no error's text depends on the device's data, and `discreet`
keeps to that what the app raises in between.

A train message is answered in two halves, so that several devices can be trained together::

    turn = client.open(message, context)  # before anything is trained or paid for
    content = turn.mask(terms.input(codes, metrics), weight)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray

from fedmesh.errors import BudgetError, DecodeError, LedgerError, SecAggError
from fedmesh.flower import secure
from fedmesh.flower.arrays import vector
from fedmesh.flower.backbone import digest_in
from fedmesh.flower.desk import Credentials, Desk
from fedmesh.flower.records import number_in, ranges_in
from fedmesh.flower.secure import AHEAD, CURRENT, HELLO, Order
from fedmesh.flower.terms import Terms
from fedmesh.secagg import Participant

__all__ = ["SecureClient", "Turn", "discreet"]

_ASKED = ("advertise", "share", "sign", "unmask")
_AHEAD = ("advertise", "share")


class SecureClient:
    """Answers for any number of devices, and keeps nothing of them.

    Args:
        credentials: who a device is.
        terms: what it takes part in.
    """

    def __init__(self, credentials: Credentials, terms: Terms) -> None:
        self.terms = terms
        self._credentials = credentials

    def answer(self, message: Message, context: Context) -> RecordDict:
        """The content of the reply to a message of the type `secure.QUERY`.

        Raises:
            SecAggError: the session, or the message in it, is refused.
            DecodeError: the message is malformed.
        """
        current = secure.order_in(message.content, CURRENT, steps=(HELLO, *_ASKED))
        ahead = secure.order_in(message.content, AHEAD, steps=_AHEAD)
        if current is not None and current.step == HELLO:
            return secure.hello_answer(self._credentials(context).name)
        if current is None and ahead is None:
            raise DecodeError(f"a {secure.QUERY} message came without {CURRENT!r} or {AHEAD!r}: it asks for nothing")
        desk, content = self._desk(message, context), RecordDict()
        if current is not None:
            secure.attach_answer(content, desk.answer(current), CURRENT)
        desk.prepare(ahead, content)
        desk.save()
        return content

    def open(self, message: Message, context: Context) -> "Turn":
        """The first half of the answer to a train message: whatever can be refused is refused here.

        Raises:
            SecAggError: the message asks for an answer in the clear (``policy``), there is no session for its round, or
                one for another model or other scales.
            DecodeError: the message is malformed.
        """
        order = secure.order_in(message.content, CURRENT, steps=("train",))
        if order is None:
            raise SecAggError(
                f"a train message came without {CURRENT!r}: this device answers inside a secure sum only", code="policy"
            )
        ahead = secure.order_in(message.content, AHEAD, steps=_AHEAD)
        hashes = self._hashes(message.content)
        desk = self._desk(message, context)
        return Turn(desk, desk.train(order, hashes), hashes, ahead)

    def _desk(self, message: Message, context: Context) -> Desk:
        return Desk(self._credentials(context), self.terms, context, number_in(message.content))

    def _hashes(self, content: RecordDict) -> dict[str, bytes]:
        """Of the model and the scales that this very message brought."""
        ranges = ranges_in(content)
        if "arrays" not in content.array_records:
            raise DecodeError(f"a train message without 'arrays' came: it holds {sorted(content)}")
        size = self.terms.layout.size
        weights = vector(content.array_records["arrays"], "model", dtype="float32", max_bytes=4 * size)
        return {"model_hash": secure.model_hash(weights, digest_in(content)), "scale_hash": secure.scale_hash(ranges)}


class Turn:
    """One device's train step, between its two halves; made by `SecureClient.open`."""

    def __init__(self, desk: Desk, participant: Participant, hashes: Mapping[str, bytes], ahead: Order | None) -> None:
        self._desk = desk
        self._participant = participant
        self._hashes = hashes
        self._ahead = ahead

    def mask(self, values: NDArray[np.int64], weight: int = 1) -> RecordDict:
        """The content of the reply: the masked input, and the next session's message if one is being prepared.

        Args:
            values: by `Terms.input`, int64 [length].
            weight: 1 to the terms' cap.

        Raises:
            SecAggError: the input does not fit the session, or one has left in this round already.
        """
        masked = self._participant.supply(values, weight, **self._hashes)
        if masked is None:
            raise SecAggError("the shares of the others have not come yet", code="turn")
        content = RecordDict()
        secure.attach_answer(content, masked, CURRENT)
        self._desk.put_away(self._participant)
        self._desk.prepare(self._ahead, content)
        self._desk.save()
        return content


@contextmanager
def discreet() -> Iterator[None]:
    """Around what a device does with its data: of an error there only the kind is told, its text could hold some.

    Flower's own nodes send an exception's text to the server.

    Raises:
        SecAggError: ``input``, in place of any error; a ledger's are raised as they are: they tell of the budget only.
    """
    try:
        yield
    except (BudgetError, LedgerError):
        raise
    except Exception as error:
        kind = type(error).__name__
        raise SecAggError(f"the device has nothing to send: {kind} (its log says more)", code="input") from error
