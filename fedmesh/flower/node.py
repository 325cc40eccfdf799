"""What a device does with a Flower message: check, run the client app once, reply.

Guaranteed: one Context a run, kept between messages and across `state`/`restore`; a message is run at most once (a
repeated one gets the first reply again, within the last few); an expired one is not run; a message from anyone but the
server is refused; an exception of the app becomes an error reply and leaves the Context as it was before.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfigValue
from flwr.common import serde
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import Context as ProtoContext
from google.protobuf.message import DecodeError as ProtobufError

from fedmesh import wire
from fedmesh.errors import DecodeError, PeerError
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.flower.identity import SERVER_NODE_ID, acting_as
from fedmesh.flower.records import copy_records, new_message_id
from fedmesh.flower.sessions import STATE as SESSIONS

__all__ = ["ClientCallable", "Node", "error_reply", "lasting"]

ClientCallable = Callable[[Message, Context], Message]
"""A Flower ClientApp, or anything that is called like one."""

STATE_VERSION = 1


class Node:
    """One device, without any I/O.

    Args:
        node_id: its id; messages for another are refused.
        client_app: what runs.
        node_config: the Context's node_config, e.g. ``{"partition-id": 0, "num-partitions": 10}``.
        remember: replies kept for repeated messages.
        explain: whether an error reply carries the text of the exception and of its causes. Only its type otherwise: a
            text can hold data, so a device outside a simulation says no more than the type.
        now: Unix seconds, against which a message's time to live is held.
    """

    def __init__(
        self,
        node_id: int,
        client_app: ClientCallable,
        node_config: Mapping[str, UserConfigValue],
        *,
        remember: int = 4,
        explain: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.node_id = node_id
        self.client_app = client_app
        self.node_config = dict(node_config)
        self._remember = remember
        self._explain = explain
        self._now = now
        self._contexts: dict[int, Context] = {}
        self._replies: OrderedDict[str, Envelope] = OrderedDict()

    def handle(self, message: Message) -> Message:
        """The reply to `message`, which is an error reply if the app failed or the message came too late.

        Raises:
            PeerError: the message is not from the server, or not for this node.
        """
        metadata = message.metadata
        if metadata.src_node_id != SERVER_NODE_ID or metadata.dst_node_id != self.node_id:
            raise PeerError(
                f"node {self.node_id} got a message from node {metadata.src_node_id} for node {metadata.dst_node_id}; "
                f"it takes messages from node {SERVER_NODE_ID}, the server, for itself"
            )
        if metadata.message_id in self._replies:
            return unfold(self._replies[metadata.message_id])
        if self._now() > metadata.created_at + metadata.ttl:
            return error_reply(message, ErrorCode.MESSAGE_UNAVAILABLE, "the message was past its time to live")
        reply = self._run(message)
        if self._remember:
            self._replies[metadata.message_id] = fold(reply)
            while len(self._replies) > self._remember:
                self._replies.popitem(last=False)
        return reply

    def context(self, run_id: int) -> Context:
        """The Context of a run, created empty."""
        if run_id not in self._contexts:
            config = dict(self.node_config)
            self._contexts[run_id] = Context(run_id, self.node_id, config, RecordDict(), {})
        return self._contexts[run_id]

    def state(self) -> bytes:
        """What survives a restart: the Contexts. Empty when no app has put anything into one."""
        return _state_of(self._contexts.values())

    def restore(self, state: bytes) -> None:
        """Takes up a `state`, in place of what the node held.

        Raises:
            DecodeError: the bytes are not a node's state.
        """
        self._contexts.clear()
        self._replies.clear()
        self._contexts = {context.run_id: context for context in _contexts_in(state)}

    def _run(self, message: Message) -> Message:
        context = self.context(message.metadata.run_id)
        before = copy_records(context.state)
        try:
            with acting_as(message.metadata.run_id, self.node_id):
                reply = self.client_app(message, context)
        except Exception as error:  # noqa: BLE001 - whatever an app raises becomes an error reply
            context.state = before
            reason = _explained(error) if self._explain else type(error).__name__
            return error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
        if not isinstance(reply, Message) or reply.metadata.reply_to_message_id != message.metadata.message_id:
            context.state = before
            return error_reply(
                message,
                ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
                f"the client app returned {_described(reply)}: build the reply as Message(content, reply_to=message)",
            )
        reply.metadata.__dict__["_message_id"] = new_message_id()
        return reply


def lasting(state: bytes) -> bytes:
    """What of a node's state is worth keeping for a later process: all but sessions of secure aggregation.

    A session that was cut off is never gone on with; it is a new attempt then, with new keys.

    Raises:
        DecodeError: the bytes are not a node's state.
    """
    if SESSIONS.encode() not in state:  # nothing to take out: what error feedback keeps can be as large as the model
        return state
    contexts = _contexts_in(state)
    for context in contexts:
        context.state.pop(SESSIONS, None)
    return _state_of(contexts)


def _state_of(contexts: Iterable[Context]) -> bytes:
    filled = [context for context in contexts if context.state]
    if not filled:
        return b""
    protos = [serde.context_to_proto(context).SerializeToString(deterministic=True) for context in filled]
    return wire.dumps({"version": STATE_VERSION, "contexts": protos})


def _contexts_in(state: bytes) -> list[Context]:
    if not state:
        return []
    plain = wire.loads(state, max_bytes=len(state))
    if not isinstance(plain, dict) or plain.get("version") != STATE_VERSION:
        raise DecodeError(f"these {len(state)} bytes are not the state of a node, version {STATE_VERSION}")
    try:
        return [serde.context_from_proto(ProtoContext.FromString(data)) for data in plain["contexts"]]
    except (ProtobufError, KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"the state of a node does not hold Flower contexts: {error}") from error


def error_reply(message: Message, code: int, reason: str) -> Message:
    """A reply to `message` that carries an error; `code` is one of Flower's ErrorCode."""
    reply = Message(Error(code=code, reason=reason), reply_to=message)
    reply.metadata.__dict__["_message_id"] = new_message_id()
    return reply


def _explained(error: BaseException) -> str:
    text, cause = f"{type(error).__name__}: {error}", error.__cause__
    return text if cause is None or str(cause) in text else f"{text}; from {_explained(cause)}"


def _described(reply: object) -> str:
    return "a reply to another message" if isinstance(reply, Message) else f"a {type(reply).__name__}"
