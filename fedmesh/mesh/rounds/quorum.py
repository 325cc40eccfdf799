"""How many of a charter's members stand behind a result, and why so many.

Of n members of the charter (not of those that are here), at most C = ceil(n/3) - 1 are in league with each other: the
bound of secure aggregation (`SessionHeader.colluders_for`). A quorum is q = floor(2n/3) + 1 of the n, or more.

* Two quorums share at least 2q - n > C members, so an honest one: of two results of one round, somebody honest would
  have signed both, and nobody honest does. A majority, n/2 + 1, would share one member, who may be a colluder.
* A partition with fewer than q members finishes nothing; of two parts at most one has q.
* q <= n - C: members that are silent, or lie, do not stop the others, as long as these are n - C.

It is the t of secure aggregation, for the same inequality, 2t > n + C. With more than C colluders two results of one
round can be certified; the two certificates then name at least 2q - n members that signed twice (`Fork`).
"""

__all__ = ["MAX_MEMBERS", "MIN_MEMBERS", "colluders_for", "quorum_for"]

MIN_MEMBERS = 4
MAX_MEMBERS = 128


def quorum_for(members: int) -> int:
    """floor(2n/3) + 1: the least number of which two groups always share somebody honest."""
    return 2 * members // 3 + 1


def colluders_for(members: int) -> int:
    """ceil(n/3) - 1: the most members in league with each other that `quorum_for` is made to bear."""
    return max(0, -(-members // 3) - 1)
