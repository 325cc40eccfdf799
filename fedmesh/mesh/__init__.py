"""The mesh: a federation with no broker and no coordinator.

Who is there: `membership` and `discovery`. How a model gets around: `swarm`. How it is made:
`rounds`; or each member its own, by `gossip`.
"""
