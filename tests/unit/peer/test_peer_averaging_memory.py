"""What a member keeps of a run of gossip averaging."""

import numpy as np
import pytest

from fedmesh.errors import ConfigError
from fedmesh.mesh.gossip import Ended
from fedmesh.peer.averaging_memory import Memory, Saved

CODES = np.array([-32767, 0, 5, 32767])


def after(saved, step, outcome, codes, settled):
    return saved.after(Ended(step, outcome, ("anna", "bert"), codes, settled))


def test_nothing_was_kept_before_the_first_step(tmp_path):
    saved = Memory(tmp_path).load()
    assert (saved.begun, saved.ended, saved.codes) == (0, 0, None)


def test_it_is_read_as_it_was_kept_and_a_step_that_was_begun_is_not_begun_again(tmp_path):
    memory = Memory(tmp_path)
    memory.begin(3)
    assert memory.load().begun == 3
    saved = after(after(Saved(), 3, "mixed", CODES, CODES), 4, "unsettled", CODES, CODES)
    saved = after(saved, 6, "left-out", CODES[::-1], CODES)
    memory.keep(saved)
    found = memory.load()
    assert found.codes.tolist() == found.model.tolist() == CODES[::-1].tolist()
    assert (found.begun, found.ended, found.mixed, found.left_out, found.unsettled) == (6, 6, 1, 1, 1)
    memory.begin(7)
    found = memory.load()
    assert (found.begun, found.ended) == (7, 6)
    assert found.model.tolist() == CODES.tolist()  # it was killed in a step: the training of step 6 may be in its sum
    assert found.survivors == ()
    memory.keep(after(found, 7, "mixed", CODES, CODES))
    assert memory.load().model.tolist() == CODES.tolist()
    assert memory.load().survivors == ("anna", "bert")


@pytest.mark.parametrize("name", ["begun", "model"])
@pytest.mark.parametrize("data", [b"", b"\x80", b"\x81\x61x"])
def test_what_is_damaged_is_refused(tmp_path, name, data):
    memory = Memory(tmp_path)
    memory.begin(1)
    memory.keep(after(Saved(), 1, "mixed", CODES, CODES))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match="damaged"):
        memory.load()


def test_where_nothing_can_be_written_nothing_is_begun(tmp_path):
    with pytest.raises(ConfigError, match="cannot write"):
        Memory(tmp_path / "missing").begin(1)
