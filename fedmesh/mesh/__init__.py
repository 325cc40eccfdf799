"""The mesh: a federation with no broker and no coordinator. So far: how a model gets around (`fedmesh.mesh.swarm`)."""
