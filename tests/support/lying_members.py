"""A member of runs that does as it likes with its real key: an honest node, between whose core and network a test sits.

Any node may be it: which one coordinates is known only when it does, and one of five may lie.
"""

import dataclasses

from mesh_nodes import until

from fedmesh.mesh.rounds import Certificate
from fedmesh.mesh.rounds.messages import Ask, Certificates, decode, encode
from fedmesh.mesh.rounds.voting import Phase, Proof, vote_statement
from fedmesh.secagg import Identity

LONGEST = 1 << 26


class Insider:
    """One node, from before its runs begin.

    Args:
        twist: called as (insider, to, message) with what its core sends; gives the messages that leave instead.

    Attributes:
        said, heard: (other, message) so far.
    """

    def __init__(self, nodes, name, charter, twist):
        self.nodes, self.name, self.charter, self.twist = nodes, name, charter, twist
        self.said, self.heard = [], []
        node = nodes.nodes[name]
        self.identity, self.blobs = Identity(node.membership.signing_key()), node.runs.blobs
        self._runs, self._send = node.runs, node.runs._means.send
        node.runs._means = dataclasses.replace(node.runs._means, send=self._sent)
        self._listening = False

    @property
    def others(self):
        return [name for name in self.charter.names if name != self.name]

    def say(self, to, message):
        """Sends what no honest core would."""
        self._send(self.charter, to, encode(message, self.charter.hash))

    def read(self, data):
        return decode(data, self.charter.hash, max_bytes=LONGEST)

    def forged(self, result, phase, attempt, signatures):
        """A quorum of signatures: those that there are, its own, and its own under others' names."""
        mine = self.identity.sign(vote_statement(phase, attempt, result))
        return {**dict.fromkeys(self.charter.names, mine), **signatures}

    def press(self, result, attempt, prepares):
        """Tells everybody that a quorum has prepared, committed and certified this; so many have prepared it indeed."""
        steps = [(Phase.PREPARE, prepares), (Phase.COMMIT, {})]
        proofs = [Proof(at, attempt, result, self.forged(result, at, attempt, votes)) for at, votes in steps]
        asks = [Ask(Phase(proof.phase + 1), attempt, result, proof, {}) for proof in proofs]
        certificate = Certificate(result, self.forged(result, Phase.CERTIFY, attempt, {}))
        for name in self.others:
            for message in (*asks, Certificates((certificate,))):
                self.say(name, message)

    def _sent(self, charter, to, data):
        self._listen()
        message = self.read(data)
        for other in self.twist(self, to, message):
            self.said.append((to, other))
            self.say(to, other)

    def _listen(self):
        run = self._runs.all.get(self.charter.hash)
        if self._listening or run is None:
            return
        self._listening, received = True, run.received

        def hear(sender, data):
            self.heard.append((sender, self.read(data)))
            received(sender, data)

        run.received = hear


def insiders(nodes, charter, twist):
    """All nodes, before the run of this charter begins."""
    return {name: Insider(nodes, name, charter, twist) for name in charter.names}


def refused(nodes, name, reason):
    return nodes.nodes[name].runs.counts[reason]


def stories(nodes):
    return lambda: [nodes.story(name) for name in nodes.names]


async def same_end(nodes, *names):
    """The run goes on to its end, with the same results everywhere, a liar's own node included; the results."""
    await until(lambda: nodes.is_over(*names), 200.0, about=stories(nodes))
    certificates = nodes.results(names[0])
    assert [nodes.hashes(name) for name in names] == [nodes.hashes(names[0])] * len(names)
    assert len(certificates) == nodes.run_of(names[0]).charter.rounds
    return [certificate.result for certificate in certificates]
