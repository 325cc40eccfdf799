"""Public keys of Ed25519 (RFC 8032) that nobody should be enrolled with.

Under a key of low order one signature fits many messages. A key that is no point on the curve is not told apart:
nothing verifies under it.
"""

__all__ = ["is_sound"]

_FIELD = (1 << 255) - 19
_SIGN_BIT = 1 << 255
_ORDER_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_LOW_ORDER = {0, 1, _FIELD - 1, _ORDER_EIGHT, _FIELD - _ORDER_EIGHT}  # y of the eight points whose order divides eight


def is_sound(key: bytes) -> bool:
    """Whether the 32 bytes of `key` are the canonical encoding (RFC 8032 5.1.3) of a point that is not of low order."""
    y = int.from_bytes(key, "little") & ~_SIGN_BIT
    return len(key) == 32 and y < _FIELD and y not in _LOW_ORDER
