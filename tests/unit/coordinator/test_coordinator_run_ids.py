"""Ids of runs."""

from flwr.proto.message_pb2 import Metadata

from fedmesh.coordinator.run_ids import new_run_id


def test_all_are_as_long_in_a_message():
    drawn = [new_run_id() for _ in range(500)]
    assert {Metadata(run_id=number).ByteSize() for number in drawn} == {10}
    assert len(set(drawn)) == 500
