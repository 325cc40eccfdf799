"""What an issuer has to answer: a grant, or a refusal that it counts."""

from meshes import NOW, answer


def refused(mesh, message, code, *, nonce=None, peer=None, now=NOW):
    """The message gets no more than this code, and is counted under it."""
    before = mesh.issuer.refused[code]
    reply = answer(mesh.issuer.handle(message, peer, nonce or mesh.issuer.hello().nonce, now))
    assert reply.get("refused") == code, reply
    assert mesh.issuer.refused[code] == before + 1


def granted(mesh, message, nonce, *, peer=None, now=NOW):
    """The answer to a message that is granted what it asks for."""
    reply = answer(mesh.issuer.handle(message, peer, nonce, now))
    assert "refused" not in reply, reply
    return reply
