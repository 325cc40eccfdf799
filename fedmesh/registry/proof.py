"""What shows, without a network, that a model may run: the roots since the trusted one, and targets they vouch for.

It is put beside the model in its slot. Says that enough signers allowed the version; not that it is the newest, nor
that they have not thought better of it since: only a refresh knows. What has expired since then is still shown.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fedmesh.errors import RegistryError
from fedmesh.files import read_bounded
from fedmesh.registry.fields import Fields
from fedmesh.registry.limits import MANIFEST_BYTES, Limits
from fedmesh.registry.manifest import Manifest, manifest_target
from fedmesh.wire import dumps

__all__ = ["GOLDEN", "MANIFEST", "MODEL", "PROOF", "Proof", "verify_folder"]

MODEL, MANIFEST, GOLDEN, PROOF = "model.onnx", "manifest.cbor", "golden.cbor", "proof.cbor"
_FORMAT = "fedmesh-proof/1"
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Proof:
    """Files of TUF metadata: roots, oldest first, and targets."""

    roots: tuple[bytes, ...]
    targets: bytes

    def encode(self) -> bytes:
        """The file's content."""
        return dumps({"format": _FORMAT, "roots": list(self.roots), "targets": self.targets})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The proof in a file's content. Raises: RegistryError: ``malformed``."""
        fields = Fields.read(data, _FORMAT, max_bytes=_MOST_BYTES)
        roots, targets = fields.take("roots", list), fields.take("targets", bytes)
        fields.finish()
        if not all(isinstance(item, bytes) for item in roots) or len(roots) > 1024:
            raise RegistryError("the roots in a proof are not files", code="malformed")
        return cls(tuple(roots), targets)

    def check(self, trusted_root: bytes, version: int, manifest: bytes) -> None:
        """Whether `manifest` is the one of `version` that signers allowed, as seen from `trusted_root`.

        Raises:
            RegistryError: ``signature``, ``rollback``, ``malformed``, ``hash`` or ``missing``.
        """
        from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
        from tuf.api.metadata import Metadata, Root, Targets

        try:
            root: Metadata[Root] = _read(trusted_root, Root)
            root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
            for data in self.roots:
                new: Metadata[Root] = _read(data, Root)
                if new.signed.version <= root.signed.version:
                    continue  # from before the trusted one
                if new.signed.version != root.signed.version + 1:
                    raise RegistryError("a root is missing between the trusted one and the signers'", code="rollback")
                for judge in (root, new):  # TUF 5.3.4: by the old root's keys, and by its own
                    judge.signed.verify_delegate(Root.type, new.signed_bytes, new.signatures)
                root = new
            targets: Metadata[Targets] = _read(self.targets, Targets)
            root.signed.verify_delegate(Targets.type, targets.signed_bytes, targets.signatures)
        except UnsignedMetadataError as error:
            raise RegistryError(
                f"the metadata beside the model is not signed by who may: {error}", code="signature"
            ) from error
        except RepositoryError as error:
            raise RegistryError(f"the metadata beside the model is damaged: {error}", code="malformed") from error
        vouched = targets.signed.targets.get(manifest_target(version))
        if vouched is None:
            raise RegistryError(f"version {version} is not one that the signers allowed", code="missing")
        if vouched.hashes.get("sha256") != hashlib.sha256(manifest).hexdigest():
            raise RegistryError(f"the manifest of version {version} is not the one that was signed", code="hash")


def _read(data: bytes, kind: type[Any]) -> Any:
    from tuf.api.metadata import Metadata

    read: Metadata[Any] = Metadata.from_bytes(data)
    if not isinstance(read.signed, kind):
        raise RegistryError(f"there is {read.signed.type} metadata where {kind.type} should be", code="malformed")
    return read


def verify_folder(folder: Path, trusted_root: bytes, *, model: str = MODEL) -> Manifest:
    """The manifest of the model in `folder`, if all that is beside it fits: metadata, manifest, model and golden set.

    Raises:
        RegistryError: it does not; ConfigError: a file is missing.
    """
    data = read_bounded(folder / MANIFEST, MANIFEST_BYTES, called="the manifest")
    manifest = Manifest.decode(data)
    Proof.decode(read_bounded(folder / PROOF, _MOST_BYTES, called="the proof")).check(
        trusted_root, manifest.version, data
    )
    sha256 = hashlib.sha256(read_bounded(folder / model, Limits().model_bytes, called="the model")).digest()
    if all(variant.blob.sha256 != sha256 for variant in manifest.variants):
        raise RegistryError(
            f"{folder / model} is not a file of version {manifest.version}: its SHA-256 differs", code="hash"
        )
    if manifest.golden is not None:
        golden = read_bounded(folder / GOLDEN, manifest.golden[1], called="the golden set")
        if hashlib.sha256(golden).digest() != manifest.golden[0]:
            raise RegistryError(f"{folder / GOLDEN} is not the golden set of version {manifest.version}", code="hash")
    return manifest
