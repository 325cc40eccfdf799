import json

import pytest

from benchmarks.lite import SHARES, device, main


def test_a_lite_devices_figures():
    figures = device()
    assert 50_000 < figures["bytes"] < 80_000
    assert figures["load_ms"] > 0
    assert figures["example_ms"] > 0


@pytest.mark.slow
def test_the_benchmark_prints_its_figures(capsys):
    main(["--seeds", "1", "--epsilon", "--rounds", "6", "--json"])
    figures = json.loads(capsys.readouterr().out)
    ends = figures["accuracy"]["no privacy"]
    assert set(ends) == set(SHARES)
    assert ends["full"][0] >= ends["half"][0] > ends["lite"][0] > figures["start"][0]
    assert ends["half"] != ends["rescaled"]
