"""What a wrong key in a scenario is answered with: the key, and the one that was probably meant."""

import pytest

from fedmesh.errors import ConfigError
from fedmesh.federation.scenario import Scenario


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"privacy": {"epsilno": 3}}, "privacy.epsilno: unknown key, did you mean privacy.epsilon? (got 3)"),
        ({"privcy": {}}, "privcy: unknown key, did you mean privacy?"),
        ({"client": {"epsilon": 3}}, "client.epsilon: unknown key, did you mean privacy.epsilon?"),
        ({"data": {"rounds": 3}}, "data.rounds: unknown key, did you mean rounds?"),
        ({"delta": {"zzz": 3}}, "delta.zzz: unknown key, there are codec, bits, error_feedback, range_fraction"),
        ({"privacy": 3}, "privacy: wanted a table, as [privacy] (got 3)"),
        ({"model": {"options": 3}}, "model.options: wanted a table, as [model.options]"),
        (
            {"strategy": {"weighting": "examples"}, "secure_aggregation": {"weight_cap": 1}},
            "weight_cap = 1 weights all devices alike: raise the cap, or use 'uniform'",
        ),
        ({"rounds": "ten"}, "rounds: should be a valid integer (got 'ten')"),
        ({"rounds": 10**21}, "rounds: should be less than or equal to 1000000"),
        (
            {"secure_aggregation": {"enabled": True}, "delta": {"codec": "float32"}},
            "secure aggregation adds integers, and delta.codec is 'float32'",
        ),
        (
            {"secure_aggregation": {"enabled": True}, "strategy": {"fraction": 0.3}},
            "among at least 4, but only 3 of 10 devices are asked in a round: raise partition.clients or",
        ),
        ({"secure_aggregation": {"group_size": 1025}}, "secure_aggregation.group_size: should be less than or equal"),
        ({"secure_aggregation": {"group_size": 3}}, "secure_aggregation.group_size: should be greater than or equal"),
        ({"strategy": {"quorum": 11}}, "mine.toml: strategy.quorum is 11, but only 10 of 10"),
    ],
)
def test_a_mistake_names_its_key_and_what_was_meant(tables, said):
    with pytest.raises(ConfigError) as caught:
        Scenario.parse({"name": "mine", **tables}, source="mine.toml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_mistake_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        Scenario.parse({"name": "mine", "round": 3, "client": {"batchsize": 4}}, source="mine.toml")
    assert "did you mean rounds?" in str(caught.value)
    assert "did you mean client.batch_size?" in str(caught.value)
