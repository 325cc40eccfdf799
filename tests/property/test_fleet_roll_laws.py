"""Laws of the roll, whatever is delivered in whatever order, how often and how late."""

from hypothesis import given
from hypothesis import strategies as st

from fedmesh.fleet.protocol import Here
from fedmesh.fleet.roll import Roll, Stand

RUN = 1
WORDS = st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=20, unique_by=lambda word: word[0])


def here(available):
    return Here("full", ("vision",), available, "" if available else "power", 0, "test")


def told(words):
    roll = Roll("home")
    roll.admit(["a"])
    roll.heard("a", 100.0)
    for date, available in words:
        roll.here("a", here(available), float(date))
    return roll.last("a"), tuple(roll.to_offer(RUN, 100.0))


@given(words=WORDS, data=st.data())
def test_the_newest_word_counts_however_the_words_are_shuffled_and_repeated(words, data):
    delivered = data.draw(
        st.permutations(words + data.draw(st.lists(st.sampled_from(words), max_size=5)) if words else [])
    )
    assert told(delivered) == told(sorted(words))


@given(words=WORDS, data=st.data())
def test_answers_end_at_the_newest_one(words, data):
    order = data.draw(st.permutations(words))
    roll = Roll("home")
    roll.admit(["a"])
    roll.offered(RUN, "a", 100.0)
    for date, accepted in order:
        roll.answered(RUN, "a", accepted=accepted, why="", sent=float(date), now=100.0)
    stand = roll.standing(RUN, "a").stand
    if not words:
        assert stand is Stand.ASKED
    else:
        assert stand is (Stand.ACCEPTED if max(words)[1] else Stand.DECLINED)


@given(events=st.lists(st.tuples(st.sampled_from(["heard", "there", "gone"]), st.floats(0, 500)), max_size=12))
def test_who_is_there_is_never_gone(events):
    roll = Roll("home")
    roll.admit(["a"])
    now = 0.0
    for what, passed in events:
        now += passed
        if what == "heard":
            roll.heard("a", now)
        else:
            roll.presence("a", now, there=what == "there")
        assert not (roll.is_there("a", now) and roll.is_gone("a", now))
