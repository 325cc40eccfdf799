"""Laws of what is kept, of what is asked for, and of what an origin tells."""

import random
from functools import reduce
from operator import or_

from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_worlds import CHUNK, blob_of, model

from fedmesh.mesh.swarm import Settings
from fedmesh.mesh.swarm.collecting import kept
from fedmesh.mesh.swarm.download import Download
from fedmesh.mesh.swarm.neighbours import Asked, Neighbour
from fedmesh.mesh.swarm.seeding import Seeding

BLOBS = [blob_of(model(seed, seed * CHUNK // 2 + 1)) for seed in range(1, 6)]
TEN = blob_of(model(1, 10 * CHUNK))
some = st.sets(st.sampled_from([blob.sha256 for blob in BLOBS]))


@given(order=st.permutations(BLOBS), pinned=some, in_slots=some, max_bytes=st.integers(0, 12 * CHUNK))
@settings(deadline=None)
def test_what_is_pinned_stays_and_the_rest_is_bounded(order, pinned, in_slots, max_bytes):
    staying = kept(order, pinned=pinned, in_slots=in_slots, max_bytes=max_bytes)
    sizes = {digest: blob.length_of(index) for blob in order for index, digest in enumerate(blob.chunks)}
    held = {digest for blob in order if blob.sha256 in pinned for digest in blob.chunks}
    assert held <= staying <= sizes.keys()
    assert sum(sizes[digest] for digest in staying - held) <= max_bytes
    everything = kept(order, pinned=pinned, in_slots=in_slots, max_bytes=1 << 40)
    assert everything == held | {d for b in order if b.sha256 not in in_slots for d in b.chunks}


@given(
    masks=st.lists(st.integers(0, 1023), min_size=1, max_size=8),
    here=st.integers(0, 1023),
    sources=st.integers(1, 6),
    pipeline=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_nothing_is_asked_twice_of_too_many_or_of_who_has_it_not(masks, here, sources, pipeline, seed):
    download = Download(TEN, here, Settings(sources=sources, pipeline=pipeline), random.Random(seed))
    neighbours = [Neighbour(f"n{number}") for number in range(len(masks))]
    for one, mask in zip(neighbours, masks, strict=True):
        one.masks[TEN.sha256] = mask
    planned = download.plan(neighbours, 0.0)
    assert len({index for _, index in planned}) == len(planned)
    assert all(one.masks[TEN.sha256] >> index & 1 and not here >> index & 1 for one, index in planned)
    asked = [one.name for one, _ in planned]
    assert len(set(asked)) <= sources
    assert max(map(asked.count, asked), default=0) <= pipeline
    reachable = 0
    for mask in masks:
        reachable |= mask & ~here
    assert bool(planned) == bool(reachable)


@given(masks=st.lists(st.integers(0, 1023), min_size=2, max_size=5), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_the_first_that_is_asked_for_is_the_rarest(masks, seed):
    download = Download(TEN, 0, Settings(), random.Random(seed))
    neighbours = [Neighbour(f"n{number}") for number in range(len(masks))]
    for one, mask in zip(neighbours, masks, strict=True):
        one.masks[TEN.sha256] = mask
    counts = [sum(mask >> index & 1 for mask in masks) for index in range(10)]
    planned = download.plan(neighbours, 0.0)
    if planned:
        assert counts[planned[0][1]] == min(count for count in counts if count)


def test_who_lets_wait_does_not_count_as_a_source():
    download = Download(TEN, 0, Settings(sources=2, pipeline=1), random.Random(1))
    neighbours = [Neighbour(f"n{number}") for number in range(6)]
    for one in neighbours:
        one.masks[TEN.sha256] = 1023

    def plan(now):
        planned = download.plan(neighbours, now)
        for number, (one, index) in enumerate(planned):
            one.asked[number] = Asked(number, "", 0, 1, index, now)
        return len(planned)

    assert [plan(now) for now in (0.0, 0.5, 1.5, 2.0, 3.0, 9.0)] == [2, 0, 2, 0, 0, 0]


@given(peers=st.integers(2, 6), count=st.integers(1, 30), reveal=st.integers(1, 3), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_an_origin_tells_of_each_chunk_once_and_of_everything_who_is_stuck(peers, count, reveal, seed):
    seeding, rng = Seeding(count, reveal, random.Random(seed)), random.Random(seed)
    masks = {f"p{number}": 0 for number in range(peers)}
    everything = (1 << count) - 1
    told = dict.fromkeys(masks, 0)
    for _ in range(count):
        parts = seeding.update(masks, 0.0, patience_s=2.0, waits=lambda _name: False)
        for name, mask in parts.items():
            assert mask & told[name] == told[name]
            told[name] = mask
            masks[name] |= mask
            masks[name] &= rng.getrandbits(count) | told[name]
        if reduce(or_, masks.values()) == everything:  # all are out: nothing is held back from here on
            break
    together = sum(mask.bit_count() for mask in told.values())
    assert together <= count
    lacking = [name for name, mask in masks.items() if mask != everything]
    seeding.update(masks, 5.0, patience_s=2.0, waits=lambda _name: False)
    parts = seeding.update(masks, 9.0, patience_s=2.0, waits=lambda _name: False)
    assert all(parts[name] == everything for name in lacking)
    fresh = Seeding(count, reveal, random.Random(seed))
    for now in (0.0, 5.0, 9.0):
        parts = fresh.update(dict.fromkeys(masks, 0), now, patience_s=2.0, waits=lambda _name: True)
    assert sum(mask.bit_count() for mask in parts.values()) <= min(count, reveal * peers)


@given(peers=st.integers(2, 6), count=st.integers(2, 30), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_an_origin_tells_everybody_of_everything_once_all_chunks_are_out(peers, count, seed):
    seeding, everything = Seeding(count, 1, random.Random(seed)), (1 << count) - 1
    masks = {f"p{number}": 0 for number in range(peers)}
    for index in range(count):
        parts = seeding.update(masks, 0.0, patience_s=2.0, waits=lambda _name: True)
        assert everything not in parts.values()
        masks[f"p{index % peers}"] |= 1 << index
    assert set(seeding.update(masks, 0.0, patience_s=2.0, waits=lambda _name: True).values()) == {everything}
    masks["p0"] = everything
    assert set(seeding.update(masks, 0.0, patience_s=2.0, waits=lambda _name: True).values()) == {everything}
