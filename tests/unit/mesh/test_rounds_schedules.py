"""Random stories of loss, duplication, reordering, crash, restart and partition: safe always, and over in the end."""

import pytest
from round_worlds import play

FOUND = {
    9: "a session was gone on with again and again, though who had signed its set could not reveal any more",
    16: "the same, with a restart of those who signed",
    23: "a coordinator whose quorum had left it was due at once, for ever",
    91: "a sum of fewer inputs than the charter allows was proposed, and nobody voted for it",
    1249: "a coordinator that had fetched in vain was due at once, for ever",
}
"""Seeds that failed once, and why; the story of a seed changes with `play`, what was wrong has a test of its own."""


@pytest.mark.parametrize("seed", sorted(FOUND))
def test_what_failed_once(seed):
    play(seed)


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_random_stories_are_safe_and_end(first):
    for seed in range(first, first + 20):
        play(seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("first", range(0, 10_000, 100))
def test_ten_thousand_random_stories_are_safe_and_end(first):
    for seed in range(first, first + 100):
        play(seed)


def test_a_story_is_the_same_every_time():
    first, second = play(5), play(5)
    assert (first.certified, first.now, first.sent) == (second.certified, second.now, second.sent)
