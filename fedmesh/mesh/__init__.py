"""The mesh: a federation with no broker and no coordinator. So far: who is a member (`membership`), what was learned (`rounds`)."""
