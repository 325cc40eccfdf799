"""A fleet over packets: what is sent, which replies count, and what becomes of the rest."""

import asyncio
import time

import pytest
from flower_apps import instruction
from flwr.app import Message, RecordDict
from switchboards import RUN, Board

from fedmesh.errors import ConfigError, PeerError, StoppedError
from fedmesh.fleet.protocol import Abandon, Here, Instruct, Offer, Reply
from fedmesh.flower.envelope import Envelope, unfold
from fedmesh.flower.node import error_reply
from fedmesh.flower.records import new_message_id


def run(scene, **options):
    async def whole():
        board = Board(**options)
        await board.meet()
        await scene(board)
        return board

    return asyncio.run(whole())


def asked(board, name="a", **metadata):
    """An instruction that was submitted to the device."""
    message = instruction(board.node(name))
    message.metadata.__dict__.update({"_message_id": new_message_id(), "_run_id": RUN, **metadata})
    board.fleet.submit(message)
    return message


def answer(message):
    reply = Message(RecordDict(), reply_to=message)
    reply.metadata.__dict__["_message_id"] = new_message_id()
    return reply


def reasons(replies):
    return [reply.error.reason if reply.has_error() else "good" for reply in replies]


def test_an_instruction_is_the_message_sealed_for_the_device_until_its_stage_is_over():
    async def scene(board):
        message = asked(board)
        await board.settle()
        packet = board.read()
        assert (board.mail.posted[-1][0], packet.kind) == ("a", "instruct")
        assert Instruct.read(packet.fields) == Instruct(RUN, message.metadata.message_id, "train", 3)
        assert unfold(Envelope(bytes(packet.parts[0]), packet.parts[1:])).content == message.content
        assert 0 < board.mail.posted[-1][3] <= 60
        assert 0 < packet.expires - time.time() <= 60

    run(scene)


def test_a_reply_comes_once_and_ends_the_wait():
    async def scene(board):
        message = asked(board)
        await board.settle()
        assert board.fleet.collect(0) == []
        body, parts = board.reply(answer(message))
        board.hear("a", body, parts)
        board.hear("a", body, parts)
        (reply,) = board.fleet.collect(1)
        assert reply.metadata.reply_to_message_id == message.metadata.message_id
        assert board.fleet.collect(5) == []
        assert board.switchboard.refused == {"unasked": 1}

    run(scene)


def test_a_reply_of_another_device_or_to_nothing_is_dropped_and_counted():
    async def scene(board):
        message = asked(board)
        body, parts = board.reply(answer(message))
        board.hear("b", body, parts)
        board.hear("a", Reply(RUN, "nothing", ""), parts)
        board.hear("a", Reply(RUN + 1, message.metadata.message_id, ""), parts)
        assert board.fleet.collect(0) == []
        board.hear("a", body, parts)
        assert reasons(board.fleet.collect(1)) == ["good"]
        assert board.switchboard.refused == {"unasked": 3}

    run(scene)


@pytest.mark.parametrize(
    ("parts", "error", "reason", "count"),
    [
        ([b"no message"], "", "cannot be read", "malformed"),
        ([], "", "neither", "fields"),
        ([b"x"], "crashed", "with both", "fields"),
        ([b"x" * 10_001], "", "more than 10000 bytes", "oversized"),
        ([], "restarted", "restarted", None),
    ],
)
def test_what_a_device_makes_of_its_answer_costs_that_device_the_round(parts, error, reason, count):
    async def scene(board):
        first, second = asked(board, "a"), asked(board, "b")
        board.hear("a", Reply(RUN, first.metadata.message_id, error), parts)
        body, good = board.reply(answer(second))
        board.hear("b", body, good)
        replies = {reply.metadata.src_node_id: reply for reply in board.fleet.collect(1)}
        assert reason in replies[board.node("a")].error.reason
        assert replies[board.node("b")].has_content()
        assert board.switchboard.refused == ({count: 1} if count else {})

    run(scene)


@pytest.mark.parametrize("field", ["_run_id", "_src_node_id", "_dst_node_id", "_reply_to_message_id", "_message_type"])
def test_an_envelope_that_says_that_it_answers_something_else_is_an_error(field):
    async def scene(board):
        message = asked(board)
        reply = answer(message)
        body, _ = board.reply(reply)
        reply.metadata.__dict__[field] = "query" if field in {"_reply_to_message_id", "_message_type"} else 77
        board.hear("a", body, board.reply(reply)[1])
        (found,) = board.fleet.collect(1)
        assert "cannot be read" in found.error.reason
        assert board.switchboard.refused == {"malformed": 1}

    run(scene)


def test_an_error_of_the_app_is_its_reply():
    async def scene(board):
        message = asked(board)
        body, parts = board.reply(error_reply(message, 5, "ValueError"))
        board.hear("a", body, parts)
        assert reasons(board.fleet.collect(1)) == ["ValueError"]

    run(scene)


def test_abandoned_messages_are_told_and_late_replies_dropped():
    async def scene(board):
        first, second = asked(board, "a"), asked(board, "a")
        other = asked(board, "b")
        await board.settle()
        board.mail.posted.clear()
        ids = [message.metadata.message_id for message in (first, second)]
        board.fleet.abandon([*ids, "unknown"])
        await board.settle()
        assert [post[0] for post in board.mail.posted] == ["a"]
        assert Abandon.read(board.read().fields).messages == tuple(ids)
        body, parts = board.reply(answer(first))
        board.hear("a", body, parts)
        body, parts = board.reply(answer(other))
        board.hear("b", body, parts)
        assert [r.metadata.src_node_id for r in board.fleet.collect(1)] == [board.node("b")]
        assert board.switchboard.refused == {"unasked": 1}

    run(scene)


def test_what_cannot_be_delivered_is_an_error_at_once():
    async def scene(board):
        board.mail.full = True
        asked(board)
        await board.settle()
        assert reasons(board.fleet.collect(1)) == ["full"]
        board.mail.full = False
        asked(board)
        await board.settle()
        board.mail.posted[-1][2].outcome.set_result("it was denied")
        await board.settle()
        assert reasons(board.fleet.collect(1)) == ["it was denied"]

    run(scene)


def test_who_is_gone_is_given_up():
    async def scene(board):
        asked(board, "a")
        asked(board, "b")
        await board.settle()
        with board.switchboard.roll() as roll:
            roll.admit(["b"])
        board.switchboard.tick()
        assert reasons(board.fleet.collect(1)) == ["the device is gone"]
        assert board.fleet.node_ids == (board.node("b"),)

    run(scene)


def test_who_is_not_there_or_too_late_or_too_much_is_refused():
    async def scene(board):
        with pytest.raises(PeerError, match="enrolled"):
            board.fleet.submit(instruction(77))
        with pytest.raises(PeerError, match="time to live"):
            asked(board, _created_at=time.time() - 100, _ttl=50.0)
        message = instruction(board.node("a"))
        record = message.content["arrays"]
        for number in range(1100):
            record[f"w{number}"] = next(iter(record.values()))
        with pytest.raises(ConfigError, match="put the weights into one"):
            board.fleet.submit(message)

    run(scene)


def test_a_run_is_stopped_from_outside_and_its_fleet_closes_behind_it():
    async def scene(board):
        message = asked(board)
        await board.settle()
        board.fleet.stop = StoppedError("enough")
        with pytest.raises(StoppedError):
            board.fleet.collect(None)
        with pytest.raises(StoppedError):
            board.fleet.submit(message)
        board.fleet.close()
        board.fleet.close()
        await board.settle()
        assert Abandon.read(board.read().fields).messages == (message.metadata.message_id,)
        assert board.fleet.node_ids == ()

    run(scene)


def test_states_stay_on_the_devices():
    async def scene(board):
        assert board.fleet.states() == {}
        board.fleet.restore({})
        with pytest.raises(ConfigError, match="simulation"):
            board.fleet.restore({2: b"state"})

    run(scene)


def test_a_device_that_does_not_know_the_run_is_offered_it_again():
    async def scene(board):
        message = asked(board)
        await board.settle()
        board.hear("a", Reply(RUN, message.metadata.message_id, "run"))
        assert reasons(board.fleet.collect(1)) == ["run"]
        assert board.fleet.node_ids == (board.node("b"),)
        board.switchboard.tick()
        await board.settle()
        packet = board.read()
        assert Offer.read(packet.fields).run == RUN
        assert bytes(packet.parts[0]) == b"task"

    run(scene)


def test_forged_replayed_and_misdirected_packets_change_nothing_and_are_counted():
    async def scene(board):
        away = Here("full", ("vision",), False, "policy", 0, "test")
        forged = board.seal("b", away)
        board.switchboard.take("a", forged)  # b's packet under a's name
        good = board.seal("a", Here("full", ("vision",), True, "", 1, "test"))
        board.switchboard.take("a", good)
        board.switchboard.take("a", good)
        board.switchboard.take("a", good[:-1] + bytes([good[-1] ^ 1]))
        board.switchboard.take("a", board.seal("a", away, to="b"))
        board.switchboard.take("a", board.seal("a", away, now=time.time() - 120))
        board.switchboard.take("stranger", board.seal("a", away))
        board.switchboard.take("a", b"\xff" * 100)
        board.switchboard.take("a", board.seal("a", away, kind="dance"))
        board.switchboard.take("a", board.seal("a", away, fields={"tier": 3}))
        board.switchboard.take("a", board.seal("a", away, now=time.time() - 30))  # good for 60 s, older than the last
        assert board.switchboard.refused == {
            "proof": 2, "replay": 1, "name": 2, "expired": 1, "malformed": 1, "kind": 1, "fields": 1, "stale": 1
        }  # fmt: skip
        assert board.fleet.node_ids == tuple(sorted(map(board.node, "ab")))

    run(scene)
