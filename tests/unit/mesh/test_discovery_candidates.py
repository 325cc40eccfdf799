"""Whom to try next: fair between sources, never too often, and hints that expire."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from fedmesh.errors import ConfigError
from fedmesh.mesh.discovery import Address, Attempt, Candidates, Here, Hint, Settings, Source

NOBODY = Here()
SEED = ("10.0.0.1", 7946)


def candidates(
    *, seeds: dict[str, list[Address]] | None = None, known: Iterable[tuple[str, Address]] = (), **settings: float
) -> Candidates:
    return Candidates(
        seeds=seeds or {},
        known=lambda without: [each for each in known if each[0] not in without],
        rng=random.Random(1),
        settings=Settings(**settings),  # type: ignore[arg-type]
    )


def hint(number: int, *, at: float = 0.0, key: str = "") -> Hint:
    return Hint(Source.NEARBY, ((f"10.1.{number >> 8}.{number & 255}", 7946),), at, key or f"key-{number}")


def run(
    wanted: Candidates,
    *,
    until: float,
    answers: Callable[[Attempt], str] = lambda _: "",
    here: Callable[[], Here] = lambda: NOBODY,
    before: Callable[[float], None] | None = None,
    now: float = 0.0,
) -> list[tuple[float, Attempt]]:
    """What is tried from `now` on, and answered at once; with `before`, which is called each second."""
    made = []
    while now < until:
        if before is not None:
            before(now)
        while (attempt := wanted.next(now, here())) is not None:
            made.append((now, attempt))
            if name := answers(attempt):
                wanted.reached(attempt, name, now)
            else:
                wanted.failed(attempt, now)
        due = wanted.due(now, here()) if before is None else now + 1.0
        now = until if due is None else max(now + 1e-6, due)
    return made


def test_nothing_to_try_is_nothing_due() -> None:
    wanted = candidates()
    assert wanted.next(5.0, NOBODY) is None
    assert wanted.due(5.0, NOBODY) is None


def test_a_seed_is_tried_by_its_name_at_once_and_again_for_ever() -> None:
    made = run(candidates(seeds={"gate": [SEED]}), until=3_600.0)
    assert made[0] == (0.0, Attempt(Source.SEED, SEED, "gate", ""))
    assert made[-1][0] > 3_000.0


def test_no_address_is_tried_more_often_than_its_gap_and_failures_double_it() -> None:
    made = run(candidates(seeds={"gate": [SEED]}, gap_s=5, longest_s=300), until=2_000.0)
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(made)]
    for number, gap in enumerate(gaps):
        least = min(300.0, 5 * 2.0 ** (number + 1))
        assert least <= gap <= 1.5 * least


def test_who_answers_is_not_called_again_within_the_gap_even_if_it_goes_away_at_once() -> None:
    made = run(candidates(seeds={"gate": [SEED]}, gap_s=5), until=60.0, answers=lambda _: "gate")
    assert 60 / 7.6 <= len(made) <= 60 / 5 + 1


def test_an_attempt_of_which_nobody_says_what_came_of_it_is_not_made_twice_at_once() -> None:
    wanted = candidates(seeds={"gate": [SEED]})
    assert wanted.next(0.0, NOBODY) is not None
    assert wanted.next(0.0, NOBODY) is None
    assert 5.0 <= (wanted.due(0.0, NOBODY) or 0.0) <= 7.5


def test_of_one_party_one_address_is_tried_at_a_time() -> None:
    wanted = candidates(gap_s=5)
    wanted.offer(Hint(Source.NEARBY, (("10.1.0.7", 1), ("10.1.0.8", 1)), 0.0, "key"))
    first = wanted.next(0.0, NOBODY)
    assert first is not None
    assert wanted.next(0.0, NOBODY) is None
    assert wanted.due(0.0, NOBODY) == 5.0
    wanted.failed(first, 1.0)
    second = wanted.next(1.0, NOBODY)
    assert second is not None
    assert second.address != first.address
    wanted.reached(second, "bert", 1.0)  # the membership does not know yet
    assert wanted.next(5.9, NOBODY) is None


def test_who_is_here_is_not_looked_for() -> None:
    wanted = candidates(seeds={"gate": [SEED]}, known=[("bert", ("10.0.0.2", 1))])
    wanted.offer(hint(7))
    here = Here({"gate", "bert"}, {("10.1.0.7", 7946)})
    assert wanted.next(0.0, here) is None
    assert wanted.due(0.0, here) is None


def test_members_from_before_are_looked_for_unless_they_are_here_or_somebody_else_tries_them() -> None:
    known = [("bert", ("10.0.0.2", 1)), ("cleo", ("10.0.0.3", 1)), ("dora", ("10.0.0.4", 1))]
    wanted = candidates(known=known)
    assert [attempt.name for _, attempt in run(wanted, until=1.0)] == [
        "bert",
        "cleo",
        "dora",
    ]  # as the book orders them
    here = Here({"dora"}, absent={"bert"})
    assert [attempt.name for _, attempt in run(candidates(known=known), until=1.0, here=lambda: here)] == ["cleo"]


def test_who_is_here_cannot_conceal_members_from_before() -> None:
    """One that answers and tells of nobody else: all others are tried, whatever else is in the book."""
    gone = [(f"gone-{n}", (f"10.0.1.{n}", 1)) for n in range(30)]
    wanted = candidates(known=[("liar", ("10.0.0.9", 1)), *gone, ("bert", ("10.0.0.2", 1))])
    made = run(wanted, until=100.0, here=lambda: Here({"liar"}))
    assert "bert" in {attempt.name for _, attempt in made}


def test_what_is_nearby_is_tried_even_if_others_are_here_and_once_while_its_member_is() -> None:
    wanted = candidates()
    wanted.offer(hint(7))
    here = Here({"bert"})
    made = run(wanted, until=100.0, here=lambda: here, answers=lambda _: "bert")
    assert [(attempt.address, attempt.name) for _, attempt in made] == [(("10.1.0.7", 7946), "")]
    here = NOBODY  # it went away
    assert run(wanted, now=100.0, until=100.1, here=lambda: here) != []


def test_a_hint_expires_after_some_failures_and_is_not_taken_up_again_from_the_same_announcement() -> None:
    wanted = candidates(tries=3, forget_s=900)
    assert wanted.offer(hint(7))
    made = run(wanted, until=600.0)
    assert len(made) == 3
    assert wanted.nearby == 0
    assert not wanted.offer(hint(7, at=600.0))
    assert wanted.offer(hint(7, at=1_600.0))


def test_a_hint_expires_even_if_another_source_names_the_same_address() -> None:
    address = ("10.1.0.7", 7946)
    wanted = candidates(seeds={"gate": [address]}, known=[("bert", address)], tries=3)
    wanted.offer(hint(7))
    made = Counter(attempt.source for _, attempt in run(wanted, until=5_000.0))
    assert wanted.nearby == 0
    assert made[Source.SEED] > 3
    assert made[Source.KNOWN] > 3


def test_a_restarted_peer_announces_itself_anew_and_is_tried_again() -> None:
    wanted = candidates(tries=3)
    wanted.offer(hint(7))
    run(wanted, until=600.0)
    assert wanted.offer(hint(7, at=600.0, key="another"))
    assert run(wanted, now=600.0, until=601.0) != []


def test_an_address_that_is_announced_again_and_again_is_not_tried_more_often() -> None:
    """Under ever new names: as many failures as there are, the address remembers them all."""
    wanted = candidates(tries=3, nearby=8)
    serial = iter(range(10**6))

    def lie(now: float) -> None:
        wanted.offer(Hint(Source.NEARBY, (("10.1.0.7", 7946),), now, f"lie-{next(serial)}"))

    made = run(wanted, until=2_000.0, before=lie)
    assert len(made) <= 6 + 2_000 / 300 + 1


def test_a_goodbye_is_hearsay_too_the_address_is_tried_once_more() -> None:
    wanted = candidates(tries=5)
    wanted.offer(hint(7))
    wanted.withdraw("key-7")
    wanted.withdraw("nobody")
    assert len(run(wanted, until=600.0)) == 1
    assert wanted.nearby == 0


def test_a_forged_goodbye_does_not_make_us_forget_who_is_there() -> None:
    wanted = candidates(tries=5)
    wanted.offer(hint(7))
    wanted.withdraw("key-7")
    run(wanted, until=1.0, answers=lambda _: "bert")
    assert len(run(wanted, now=1.0, until=1_000.0)) == 5


def test_a_new_hint_of_the_same_key_replaces_the_old_one_and_its_addresses_keep_their_failures() -> None:
    wanted = candidates(tries=3)
    wanted.offer(hint(7))
    run(wanted, until=7.0)  # one failure, maybe two
    wanted.offer(Hint(Source.NEARBY, (("10.1.0.7", 7946), ("10.1.0.8", 7946)), 7.0, "key-7"))
    made = Counter(attempt.address[0] for _, attempt in run(wanted, now=7.0, until=600.0))
    assert made["10.1.0.7"] < 3
    assert made["10.1.0.8"] == 3


def test_a_flood_of_hints_takes_nothing_from_seeds_and_known_members() -> None:
    """More of each than its budget lets through: who shared it with the flood would have a third."""
    seeds = {f"gate-{n}": [(f"10.0.0.{n}", 7946)] for n in range(30)}
    known = [(f"peer-{n}", (f"10.0.1.{n}", 7946)) for n in range(30)]
    alone = run(candidates(seeds=seeds, known=known, longest_s=10), until=300.0)
    wanted = candidates(seeds=seeds, known=known, longest_s=10)
    serial = iter(range(10**6))

    def flood(now: float) -> None:
        for _ in range(20):
            wanted.offer(hint(next(serial), at=now))

    flooded = run(wanted, until=300.0, before=flood)
    count = Counter(attempt.source for _, attempt in flooded)
    quiet = Counter(attempt.source for _, attempt in alone)
    assert wanted.nearby <= Settings().nearby
    assert count[Source.NEARBY] <= 4 + 300 / 2 + 1  # its own budget, and no more
    for source in (Source.SEED, Source.KNOWN):
        assert quiet[source] > 140
        assert abs(count[source] - quiet[source]) <= 2  # the steps of the clock apart
        assert next(at for at, attempt in flooded if attempt.source is source) == 0.0


def test_who_was_there_before_a_flood_is_found_in_it_and_stays() -> None:
    """A hint that led to a member does not give way to those that led to nobody."""
    wanted = candidates(nearby=16)
    wanted.offer(hint(7))
    run(wanted, until=0.05, answers=lambda _: "bert")
    for number in range(1_000, 2_000):
        wanted.offer(hint(number))
    made = run(wanted, now=10.0, until=200.0, answers=lambda attempt: "bert" if attempt.key == "key-7" else "")
    assert "key-7" in {attempt.key for _, attempt in made}


def test_neither_the_first_nor_the_last_of_too_many_hints_is_sure_of_its_place() -> None:
    kept: Counter[str] = Counter()
    for chance in range(200):
        wanted = Candidates(seeds={}, known=lambda _without: [], rng=random.Random(chance), settings=Settings(nearby=8))
        for number in range(16):
            wanted.offer(hint(number))
        kept.update(key for key, _ in wanted._nearby.live())
    assert 0 < kept["key-0"] < 200
    assert 0 < kept["key-7"] < 200


def test_one_that_claims_many_addresses_has_one_ticket() -> None:
    first: Counter[str] = Counter()
    for chance in range(200):
        wanted = Candidates(seeds={}, known=lambda _without: [], rng=random.Random(chance))
        wanted.offer(Hint(Source.NEARBY, tuple((f"10.2.0.{n}", 1) for n in range(1, 200)), 0.0, "liar"))
        wanted.offer(hint(7))
        attempt = wanted.next(0.0, NOBODY)
        assert attempt is not None
        first[attempt.key] += 1
    assert 60 < first["key-7"] < 140


def test_of_a_hint_only_some_addresses_are_taken() -> None:
    wanted = candidates(addresses=8, tries=1)
    wanted.offer(Hint(Source.NEARBY, tuple((f"10.2.0.{n}", 1) for n in range(1, 200)), 0.0, "liar"))
    assert len(run(wanted, until=600.0)) == 8


def test_nothing_is_tried_that_could_not_be_remembered() -> None:
    wanted = candidates(tried=4, burst=100, nearby=64)
    for number in range(32):
        wanted.offer(hint(number))
    assert len(run(wanted, until=0.05)) == 4
    due = wanted.due(0.05, NOBODY)
    assert due is not None
    assert due >= 5.0
    assert wanted.next(due, NOBODY) is not None


def test_seeds_are_bounded() -> None:
    wanted = candidates(seeds={f"gate-{n}": [(f"10.0.{n >> 8}.{n & 255}", 1)] for n in range(300)}, burst=4096)
    assert len(run(wanted, until=0.05)) == 64


def test_due_tells_when_next_has_something() -> None:
    wanted = candidates(seeds={"gate": [SEED]}, known=[("bert", ("10.0.0.2", 1))])
    wanted.offer(hint(7))
    now = 0.0
    for _ in range(50):
        while (attempt := wanted.next(now, NOBODY)) is not None:
            wanted.failed(attempt, now)
        due = wanted.due(now, NOBODY)
        assert due is not None
        assert due > now
        assert wanted.next(due - 0.01, NOBODY) is None
        now = due
        attempt = wanted.next(now, NOBODY)
        assert attempt is not None
        wanted.failed(attempt, now)


@pytest.mark.parametrize("name", ["gap_s", "burst", "tries", "nearby", "every_s"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings(**{name: 0})  # type: ignore[arg-type]
