"""Instructions whose model, envelope or length a device does not take: refused before anything is charged for them."""

import asyncio

import heads
import numpy as np
import pytest
from attacked_devices import attacked, conversing
from device_fleet import RUN, private_task
from flwr.app import Array, ArrayRecord, ConfigRecord
from hostile import Watch

from fedmesh.fleet.protocol import Instruct
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.envelope import fold


@pytest.fixture
def site(tmp_path):
    return attacked(tmp_path)


def array(data, dtype="float32", shape=(heads.SIZE,), stype="numpy.ndarray"):
    made = Array(np.zeros(1, np.float32))
    made.data, made.dtype, made.shape, made.stype = data, dtype, shape, stype
    return ArrayRecord({"model": made})


def header(count, kind="<f4"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({count},), }}"
    text += " " * (118 - len(text) - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def poisoned(value):
    weights = heads.start().copy()
    weights[3] = value
    return vector_record("model", weights)


MODELS = {
    "NaN": poisoned(float("nan")),
    "infinity": poisoned(float("inf")),
    "another type": vector_record("model", heads.start().astype(np.float64)),
    "a shorter one": vector_record("model", heads.start()[:-1]),
    "a longer one": vector_record("model", np.zeros(heads.SIZE + 1, np.float32)),
    "another name": vector_record("other", heads.start()),
    "a bomb: little that says it is much": array(header(10**14)),
    "objects, which only pickle reads": array(header(3, "|O8") + b"\x80\x04cos\nsystem\n."),
    "a compressed file": array(b"PK\x03\x04" + bytes(200)),
    "nothing": array(b""),
}


def test_models_that_are_none_are_refused_before_anything_is_charged(site):
    """In one run, so that one process has to refuse them all, and to do the honest round behind them."""
    watch, errors = Watch(), {}

    async def main():
        async with conversing(site, watch) as (voice, _):
            assert (await voice.offer(private_task()))["accepted"]
            for name, record in MODELS.items():
                message = voice.train(1)
                message.content["arrays"] = record
                await voice.instruct(message)
                reply, answer = await voice.reply()
                errors[name] = reply.error or answer.error.reason
            message = voice.train(1)
            message.content["config"] = ConfigRecord({"server-round": -1, "delta-ranges": [float("nan")]})
            await voice.instruct(message)
            reply, answer = await voice.reply()
            errors["a config of other values"] = reply.error or answer.error.reason
            assert site.charges() == 0
            reply, answer = await voice.round(1)
            assert not reply.error
            assert not answer.has_error(), answer.error

    asyncio.run(main())
    assert set(errors.values()) <= {"DecodeError", "malformed", "ConfigError"}, errors
    assert watch.count("instruction", "malformed") + watch.count("instruction", "policy") == len(errors)
    assert site.charges() == 1


def test_an_envelope_that_says_something_else_than_its_packet_is_refused(site):
    watch = Watch()

    def stamped(voice, **metadata):
        message = voice.train(1)
        message.metadata.__dict__.update(metadata)
        return message

    async def main():
        async with conversing(site, watch) as (voice, _):
            assert (await voice.offer(private_task()))["accepted"]
            honest = voice.train(1)
            body = Instruct(RUN, honest.metadata.message_id, "train", 1)
            for message in (
                stamped(voice, _run_id=99),
                stamped(voice, _message_id="another"),
                stamped(voice, _message_type="query.secagg"),
                stamped(voice, _src_node_id=5),
                stamped(voice, _dst_node_id=5),
            ):
                envelope = fold(message)
                said = Instruct(RUN, f"m-{id(message)}", "train", 1)
                if message.metadata.message_id != "another" and message.metadata.message_type == "train":
                    said = Instruct(RUN, message.metadata.message_id, "train", 1)
                await voice.say(said, envelope.meta, *map(bytes, envelope.buffers))
                reply, answer = await voice.reply()
                assert (reply.error, answer) == ("malformed", None)
            envelope = fold(honest)
            await voice.say(Instruct(RUN, "cut", "train", 1), envelope.meta[:30])
            assert (await voice.reply())[0].error == "malformed"
            await voice.say(Instruct(RUN, "empty", "train", 1))
            assert (await voice.reply())[0].error == "malformed"
            await voice.say(Instruct(99, "m", "train", 1), b"x")
            assert (await voice.reply())[0].error == "run"
            await voice.say(body, envelope.meta, *map(bytes, envelope.buffers))
            reply, answer = await voice.reply()
            assert not reply.error
            assert not answer.has_error()

    asyncio.run(main())
    assert watch.count("instruction", "malformed") == 7
    assert watch.count("instruction", "run") == 1
    assert site.charges() == 1


def test_a_message_longer_than_the_device_takes_is_not_kept(site):
    watch = Watch()
    site.write(privacy={"required": True}, limits={"message_mb": 1})

    async def main():
        async with conversing(site, watch) as (voice, agent):
            assert (await voice.offer(private_task()))["accepted"]
            await voice.say(Instruct(RUN, "long", "train", 1), bytes(3 << 19))
            assert (await voice.reply())[0].error == "limits"
            assert agent._journal.outstanding(RUN) == []

    asyncio.run(main())
    assert watch.count("instruction", "limits") == 1
