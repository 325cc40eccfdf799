"""Masks: which bytes they are, by another implementation, and that both fast modes are the slow one."""

import hashlib
import os
import sys

import numpy as np
import pytest
from Crypto.Cipher import AES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedmesh.errors import SecAggError
from fedmesh.secagg import masks
from fedmesh.secagg.masks import add_mask, add_masks, expand

SEED = bytes(range(32))
TYPES = ("u1", "u2", "u4", "u8")


def slow_stream(seed, length):
    """The definition: AES of each counter block, by pycryptodome."""
    digest = hashlib.sha256(b"fedmesh/secagg/mask/1" + seed).digest()
    blocks = [digest[16:28] + (counter + 2).to_bytes(4, "big") for counter in range(-(-length // 16))]
    return AES.new(digest[:16], AES.MODE_ECB).encrypt(b"".join(blocks))[:length]


def test_sp_800_38a_counter_mode():
    """F.5.1, of the library that the streams come from."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    first = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = (
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    sealed = (
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
        "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
    )
    assert Cipher(AES128(key), CTR(first)).encryptor().update(bytes.fromhex(plain)).hex() == sealed


@pytest.mark.parametrize("mode", [masks._counter_mode, masks._galois_mode])
def test_the_galois_counter_specification_gives_the_first_block(mode):
    """McGrew and Viega, test case 2: the zero block under the zero key and nonce."""
    assert mode(bytes(16), bytes(12)).update(bytes(16)).hex() == "0388dace60b6a392f328c2b971b2fe78"


@pytest.mark.parametrize("length", [1, 16, 100_000, 3 << 20])
def test_both_modes_give_the_stream_of_the_definition(length):
    digest = hashlib.sha256(b"fedmesh/secagg/mask/1" + SEED).digest()
    wanted = slow_stream(SEED, length)
    for mode in (masks._counter_mode, masks._galois_mode):
        assert mode(digest[:16], digest[16:28]).update(bytes(length)) == wanted


def test_golden_masks():
    """Only added to, never edited: devices and aggregators of different versions must agree."""
    assert expand(bytes(32), 4, np.uint16).tolist() == [54604, 12224, 11929, 58669]
    assert expand(SEED, 3, np.uint32).tolist() == [1832268237, 2310016090, 1678448696]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [0, 1, 15, 65_536, 65_537, 400_001])
def test_elements_are_the_stream_in_little_endian_over_every_chunk(dtype, count):
    size = np.dtype(dtype).itemsize
    wanted = np.frombuffer(slow_stream(SEED, count * size), np.dtype(dtype).newbyteorder("<"))
    assert np.array_equal(expand(SEED, count, dtype), wanted)


@pytest.mark.parametrize("dtype", TYPES)
def test_many_masks_are_the_sum_of_each_and_wrap(dtype):
    count, random = 70_000, np.random.default_rng(1)
    plus = [random.bytes(32) for _ in range(150)]
    minus = [random.bytes(32) for _ in range(150)]
    start = random.integers(0, 256, count).astype(dtype)
    wanted = start.copy()
    with np.errstate(over="ignore"):
        for seed in plus:
            wanted += expand(seed, count, dtype)
        for seed in minus:
            wanted -= expand(seed, count, dtype)
    got = start.copy()
    add_masks(got, iter(plus), iter(minus))
    assert np.array_equal(got, wanted)
    add_masks(got, reversed(minus), plus[::-1])
    assert np.array_equal(got, start)


def test_a_mask_subtracted_is_gone():
    vector = np.arange(1000, dtype=np.uint16)
    add_mask(vector, SEED)
    assert np.count_nonzero(vector == np.arange(1000)) < 10
    add_mask(vector, SEED, subtract=True)
    assert np.array_equal(vector, np.arange(1000))


def test_a_part_of_a_larger_array_and_a_foreign_byte_order_are_masked_like_any_other():
    whole = np.zeros((100, 2), np.uint32)
    add_mask(whole[:, 1], SEED)
    assert np.array_equal(whole[:, 1], expand(SEED, 100, np.uint32))
    assert not whole[:, 0].any()
    foreign = np.zeros(100, ">u4" if sys.byteorder == "little" else "<u4")
    add_mask(foreign, SEED)
    assert np.array_equal(foreign, expand(SEED, 100, np.uint32))


def test_the_mode_is_chosen_once_and_either_way_gives_the_same():
    assert masks._fastest_mode() in {masks._counter_mode, masks._galois_mode}
    assert masks._fastest_mode() is masks._fastest_mode()


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_seed_has_32_bytes(length):
    vector = np.zeros(10, np.uint16)
    with pytest.raises(SecAggError, match=f"32 bytes, not {length}") as refusal:
        add_masks(vector, [SEED, bytes(length)])
    assert refusal.value.code == "malformed"
    assert not vector.any()


def test_a_vector_longer_than_a_stream_is_refused():
    endless = np.broadcast_to(np.uint16(0), (1 << 36,))
    with pytest.raises(SecAggError, match="one mask has") as refusal:
        add_mask(endless, SEED)
    assert refusal.value.code == "input"


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros(3, np.int64), np.zeros((2, 2), np.uint16), np.uint16(3)])
def test_only_vectors_of_unsigned_integers_are_masked(array):
    with pytest.raises(ValueError, match="vector of unsigned integers"):
        add_mask(array, SEED)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_several_threads_add_the_same(threads: int, dtype: type) -> None:
    plus, minus = ([os.urandom(32) for _ in range(count)] for count in (5, 4))
    alone, together = np.full(1 << 20, 7, dtype), np.full(1 << 20, 7, dtype)
    add_masks(alone, plus, minus)
    add_masks(together, iter(plus), iter(minus), threads=threads)
    np.testing.assert_array_equal(together, alone)


def test_a_malformed_seed_is_refused_by_several_threads_too() -> None:
    with pytest.raises(SecAggError, match="32 bytes"):
        add_masks(np.zeros(1 << 20, np.uint16), [bytes(32), bytes(31)], threads=2)
