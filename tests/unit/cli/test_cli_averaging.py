"""What the command line says of a run of gossip averaging."""

import dataclasses

import pytest
from quick_averaging import NAMES, kit_of

from fedmesh.cli import mesh, run
from fedmesh.errors import ConfigError
from fedmesh.peer.sizes import check_averaged
from fedmesh.types import Layout

STATUS = {
    "task": "digits", "run": "5f0c1d2e94b7a386", "kind": "gossip", "round": 3, "rounds": 20, "attempt": None,
    "aggregator": None, "results": 2, "void": 0, "unsettled": 0, "here": 9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("running", "step 3 of 20, 9 members train; 2 averages in 20 steps so far"),
        ("over", "2 averages in 20 steps"),
        ("waiting", "on its way"),
        ("elsewhere", "not in it"),
        ("stopped", "see the events"),
    ],
)
def test_the_status_is_a_line(state, words):
    line = mesh._line_of({**STATUS, "state": state})
    assert line.startswith("run 5f0c1d2e of digits, gossip averaging: ")
    assert words in line


def test_a_start_says_that_nobody_aggregates(tmp_path):
    begun = {"run": "ab", "task": "digits", "members": list(NAMES), "quorum": 4, "rounds": 20, "kind": "gossip"}
    lines = run._lines({**begun, "group": 4}, tmp_path)
    assert lines[0] == "run ab of digits, 20 steps"
    assert "average in groups of 4 or more" in lines[1]
    assert "no aggregator" in lines[1]
    assert "agree" not in lines[1]


def test_a_model_whose_sums_no_message_holds_is_refused():
    kit = kit_of()
    check_averaged(kit, 5, 1)
    large = dataclasses.replace(kit, layout=Layout(("weights",), ((30_000_000,),)))
    with pytest.raises(ConfigError, match="take a smaller model"):
        check_averaged(large, 5)
    middling = dataclasses.replace(kit, layout=Layout(("weights",), ((5_000_000,),)))
    check_averaged(middling, 5)
    with pytest.raises(ConfigError, match=r"raise \[limits\] message_mb"):
        check_averaged(middling, 5, 8)
