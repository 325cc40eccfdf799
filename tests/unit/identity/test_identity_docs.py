"""docs/identity.md says what is so."""

from pathlib import Path

from fedmesh.errors import IDENTITY_CODES

PAGE = (Path(__file__).parents[3] / "docs" / "identity.md").read_text("utf-8")


def test_every_code_is_explained():
    codes = PAGE[PAGE.index("**Codes**") : PAGE.index("## For programs")]
    assert all(f"`{code}`" in codes for code in IDENTITY_CODES)


def test_every_file_is_named(tmp_path):
    from meshes import Mesh

    mesh = Mesh(tmp_path)
    device = mesh.enrol()
    for path in (*mesh.ca.iterdir(), *device.folder.iterdir()):
        assert f"`{path.name.replace('device-1', 'ID')}`" in PAGE, path.name
