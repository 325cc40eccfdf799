"""Flower's SecAgg+ on the complete graph: one client's stages as they are, the server's unmasking counted together.

Everybody is everybody's neighbour, as in fedmesh: the like-for-like comparison. The whole round would take Flower
several minutes, so each operation of its `unmask_stage` is measured and multiplied by how often that loop runs it.
"""

import os

import numpy as np
from flwr.app import ConfigRecord
from flwr.app.typing import ConfigRecordValues
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
)
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_subtraction
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from benchmarks.secagg_peers.clocks import Cost, Samples, best_of
from benchmarks.secagg_peers.flower_secagg import (
    CLIP,
    TARGET,
    Figures,
    as_parameters,
    masked_bytes,
    quantization,
)
from benchmarks.secagg_peers.setting import Setting


def measure(setting: Setting) -> Figures:
    """Client 1's stages among everybody, and the server's unmasking by its operations."""
    states = {node: _ready(setting, node) for node in range(1, setting.devices + 1)}
    keys = ConfigRecord({str(node): [state.pk1, state.pk2] for node, state in states.items()})
    me, share = states[1], Samples()
    for _ in range(2):
        with share.timed():
            _share_keys(me, keys)
    told = ConfigRecord(_ciphertexts(states))
    parameters, mask = as_parameters(setting.vector(1)), Samples()
    for _ in range(3):
        with mask.timed():
            masked = _collect_masked_vectors(me, told, 1, parameters)
    return Figures(
        share=share.best,
        mask=mask.best - quantization(parameters),
        unmask=_unmask(setting, states),
        bytes_per_parameter=masked_bytes(masked) / setting.length,
    )


def _ready(setting: Setting, node: int) -> SecAggPlusState:
    """A client after the setup stage."""
    told: dict[str, ConfigRecordValues] = {
        Key.SAMPLE_NUMBER: setting.devices,
        Key.SHARE_NUMBER: setting.devices,
        Key.THRESHOLD: setting.threshold,
        Key.CLIPPING_RANGE: CLIP,
        Key.TARGET_RANGE: TARGET,
        Key.MOD_RANGE: 1 << setting.ring_bits,
        Key.MAX_WEIGHT: 1.0,
    }
    state = SecAggPlusState(nid=node)
    _setup(state, ConfigRecord(told))
    return state


def _ciphertexts(states: dict[int, SecAggPlusState]) -> dict[str, ConfigRecordValues]:
    """What everybody sends to client 1. The shares in them are right in length only: masking does not look at them."""
    me = states[1]
    peers = {node: state for node, state in states.items() if node != me.nid}
    b_share, sk_share = me.rd_seed_share_dict[me.nid], me.sk1_share_dict[me.nid]
    sealed = [
        encrypt(me.ss2_dict[node], share_keys_plaintext_concat(node, me.nid, b_share, sk_share)) for node in peers
    ]
    return {Key.SOURCE_LIST: list(peers), Key.CIPHERTEXT_LIST: sealed}


def _unmask(setting: Setting, states: dict[int, SecAggPlusState]) -> Cost:
    """`unmask_stage`'s loop: it combines every share that came, not just `threshold`, and masks pairs of dropouts."""
    survivors = setting.devices - setting.dropouts
    one, other = states[1], states[2]
    modulus, masked = 1 << setting.ring_bits, [np.zeros(1, np.int64), setting.vector(1)]
    seed_shares = create_shares(os.urandom(32), setting.threshold, setting.devices)[:survivors]
    key_shares = list(create_shares(one.sk1, setting.threshold, setting.devices))[:survivors]
    seed = best_of(2, lambda: combine_shares(seed_shares))
    key = best_of(2, lambda: combine_shares(key_shares))
    agree = best_of(20, lambda: generate_shared_key(bytes_to_private_key(one.sk1), bytes_to_public_key(other.pk1)))
    shapes = [part.shape for part in masked]
    mask = best_of(10, lambda: parameters_subtraction(masked, pseudo_rand_gen(bytes(44), modulus, shapes)))
    pairs = setting.dropouts * (setting.devices - 1)
    return seed.times(survivors) + key.times(setting.dropouts) + mask.times(survivors) + (agree + mask).times(pairs)
