"""Laws of deltas, manifests, rollouts and slots."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from registry_worlds import code_of

from fedmesh.registry import Manifest, Pointer, Rollout, delta
from fedmesh.registry.chunks import count_of
from fedmesh.registry.manifest import GAPS, Blob, Delta, Schema, Variant
from fedmesh.registry.state import NAMES, State

files = st.binary(max_size=2000) | st.integers(0, 3000).map(bytes)
hashes = st.binary(min_size=32, max_size=32)
counts = st.integers(0, 1 << 30)


@given(files, files)
def test_a_delta_gives_back_what_it_was_made_of(base, new):
    assert delta.decode(base, delta.encode(base, new), max_bytes=len(new)) == new


@given(files, st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 255)), max_size=40))
def test_a_delta_of_a_few_bytes_gives_back_what_it_was_made_of(base, changes):
    new = bytearray(base)
    for place, value in changes:
        if place < len(new):
            new[place] = value
    assert delta.decode(base, delta.encode(base, bytes(new)), max_bytes=len(new)) == bytes(new)


def checked(what: bool) -> None:
    assert what


def slow(base: bytes, new: bytes) -> list[tuple[int, int]]:
    """The twin: where, and by how much."""
    return [(i, (b - a) % 256) for i, (a, b) in enumerate(zip(base, new, strict=False)) if a != b]


@given(files, files)
def test_gaps_and_places_are_inverse_and_as_the_slow_twin_has_them(base, new):
    places = np.array([place for place, _ in slow(base, new)], np.int64)
    stream = delta._gaps(places)
    assert delta._places(np.frombuffer(stream, np.uint8)).tolist() == places.tolist()


@given(files, files, st.data())
def test_a_damaged_delta_is_refused_or_gives_bytes_of_the_length_it_says(base, new, data):
    made = bytearray(delta.encode(base, new))
    place = data.draw(st.integers(0, len(made) - 1))
    made[place] ^= data.draw(st.integers(1, 255))
    assert code_of(lambda: checked(len(delta.decode(base, bytes(made), max_bytes=len(new))) <= len(new))) in {
        "",
        "delta",
    }


@st.composite
def blobs(draw) -> Blob:
    length = draw(st.integers(1, 1 << 20))
    return Blob(draw(hashes), length, tuple(draw(hashes) for _ in range(count_of(length))))


tags = st.lists(st.sampled_from(["arm64", "vnni", "npu.2", "hog-64"]), unique=True, max_size=3).map(tuple)
variants = st.builds(
    Variant,
    st.sampled_from(["int8", "float16"]),
    tags,
    blobs(),
    st.lists(st.builds(Delta, hashes, st.just(GAPS), blobs()), max_size=2).map(tuple),
)
sizes = st.none() | st.integers(0, 512)
schemas = st.lists(st.builds(Schema, st.just("float32"), st.lists(sizes, max_size=4).map(tuple)), max_size=2).map(tuple)
manifests = st.builds(
    Manifest,
    version=st.integers(1, 1 << 30),
    created=counts,
    variants=st.lists(variants, min_size=1, max_size=3).map(tuple),
    inputs=schemas,
    outputs=schemas,
    parent=st.none() | hashes,
    round=st.none() | counts,
    survivors=st.none() | counts,
    epsilon=st.none() | st.floats(0, 1e6),
    scenario=st.none() | hashes,
    task=st.text(max_size=20),
    golden=st.none() | st.tuples(hashes, counts),
    restores=st.none() | counts,
)


@given(manifests)
def test_a_manifest_comes_back_as_it_was_and_has_one_encoding(manifest):
    again = Manifest.decode(manifest.encode())
    assert again == manifest
    assert again.encode() == manifest.encode()


@given(manifests, st.data())
def test_a_damaged_manifest_is_another_one_or_none(manifest, data):
    made = bytearray(manifest.encode())
    made[data.draw(st.integers(0, len(made) - 1))] ^= data.draw(st.integers(1, 255))
    assert code_of(lambda: checked(Manifest.decode(bytes(made)).encode() == bytes(made))) in {"", "malformed"}


@given(st.integers(1, 1 << 30), st.floats(0, 100), st.floats(0, 100), st.text(max_size=20))
def test_who_is_asked_at_a_percentage_is_asked_at_every_higher_one(version, one, other, device):
    low, high = sorted((one, other))
    if Rollout(version, low).includes(device, (), 0):
        assert Rollout(version, high).includes(device, (), 0)
    assert Rollout(version, 100).includes(device, (), 0)
    assert not Rollout(version, 0).includes(device, (), 0)


@given(st.integers(1, 1 << 30), st.floats(0, 100), counts, tags)
def test_a_rollout_comes_back_as_it_was(version, percent, not_before, wanted):
    rollout = Rollout(version, percent, not_before, wanted)
    assert Rollout.decode(rollout.encode()) == rollout


@given(st.binary(max_size=300))
def test_noise_is_no_pointer_manifest_or_rollout(noise):
    for kind in (Pointer, Manifest, Rollout):
        assert code_of(lambda kind=kind: kind.decode(noise)) == "malformed"


steps = st.lists(st.sampled_from(["install", "fill", "try", "crash", "fail", "bad", "rot", "commit"]), max_size=30)


@given(steps, st.booleans(), st.integers(1, 3))
def test_what_runs_was_probed_and_what_failed_is_not_tried_again(taken, trial, most):  # noqa: C901 - one machine
    """For every sequence of installations, crashes and failures; and the state on the disk is the state."""
    state, version = State(), 0
    probed: set[bytes] = set()
    for step in taken:
        version += 1
        digest = version.to_bytes(32, "big")
        spare = state.spare
        if state.running.state == "trying" and step in {"install", "fill"}:
            continue  # the installer waits for the trial to end
        if step in {"install", "fill"}:
            state = state.emptied().filled(spare, version, digest, digest)
        if step == "install":
            state = state.tried(spare)
            probed.add(digest)
            state = state.taken(spare, trial=trial)
        if step == "try" and state[spare].state == "pending":
            state = state.tried(spare)
        if step == "crash":
            state = state.booted(most)
        if step == "fail" and state.active:
            state = state.refused(state.active, "health")
        if step == "bad" and state[spare].state == "trying":
            state = state.refused(spare, "probe")
        if step == "rot" and state.active:
            state = state.refused(state.active, "rot", remember=False)
        if step == "commit":
            state = state.committed()
        assert State.decode(state.encode()) == state
        if state.active:
            assert state.running.state in {"good", "trying"}
            assert state.running.manifest in probed
            assert state.failure(state.running.manifest) is None
        assert all(state[name].attempts <= most for name in NAMES if state[name].state == "pending")


@given(st.integers(1, 3))
def test_an_attempt_that_never_comes_back_is_made_so_many_times(most):
    state = State().emptied().filled("a", 1, bytes(32), bytes(32))
    for made in range(1, most + 1):
        state = state.tried("a")
        state = state.booted(most)
        assert (state["a"].state == "bad") == (made == most)
    assert replace(state, generation=0).failure(bytes(32)) is not None
