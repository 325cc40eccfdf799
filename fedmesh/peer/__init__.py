"""A running member of a mesh: links, discovery, membership, signed lists and models, on one event loop.

The parts decide, without a socket or a clock, in `fedmesh.mesh`; here is what carries their messages and calls them
when it is time. `node` puts them together.
"""
