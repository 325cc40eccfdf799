"""Plain data <-> bytes: deterministic CBOR (RFC 8949) with numpy arrays (RFC 8746), bounded on the way in.

`dumps` gives one byte string for one value; `loads` accepts exactly what `dumps` can write, within the limits that the
caller sets, and raises `DecodeError` for everything else. There is no pickle, no tag that runs anything, no reference.
"""

from fedmesh.wire.decoder import loads
from fedmesh.wire.encoder import dumps

__all__ = ["dumps", "loads"]
