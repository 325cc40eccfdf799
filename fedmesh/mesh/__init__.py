"""The mesh: a federation with no broker and no coordinator.

So far: who is a member (`fedmesh.mesh.membership`), and rounds that a quorum certifies (`fedmesh.mesh.rounds`).
"""
