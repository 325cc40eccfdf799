"""What a member keeps for who comes after a coordinator: masked sums of this round's sessions, a few."""

__all__ = ["Deputy"]

_MOST = 4


class Deputy:
    """Of one round. `kept`: attempt -> what its coordinator handed over."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}

    def take(self, attempt: int, data: bytes, *, is_its_own: bool) -> bool:
        """Whether that of `attempt` is kept, be it this or an earlier copy.

        `is_its_own`: who coordinates it sent this itself, which goes before what others have.
        """
        if attempt not in self.kept and len(self.kept) >= _MOST:
            return False
        if is_its_own or attempt not in self.kept:
            self.kept[attempt] = data
        return True
