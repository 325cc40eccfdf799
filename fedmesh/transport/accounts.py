"""How much is held of what several channels share."""

__all__ = ["Account"]


class Account:
    """What is held in all, and by each channel.

    Attributes:
        total: of all channels. by_channel: of each one that had some.
    """

    __slots__ = ("by_channel", "total")

    def __init__(self) -> None:
        self.total = 0
        self.by_channel: dict[int, int] = {}

    def has_room(self, size: int, channel: int, most: int) -> bool:
        """Whether `channel` may have `size` more: at most `most` are held, but an eighth is each channel's own."""
        return self.total + size <= most or self.by_channel.get(channel, 0) + size <= most // 8

    def add(self, size: int, channel: int) -> None:
        """`channel` has so much more, or less."""
        self.total += size
        self.by_channel[channel] = self.by_channel.get(channel, 0) + size
