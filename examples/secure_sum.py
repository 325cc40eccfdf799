"""Seven devices add up vectors that nobody sees, and one of them is lost on the way.

python examples/secure_sum.py
"""

import numpy as np

from fedmesh.secagg import Aggregator, Identity, Participant, Policy, Ring, Roster, SessionHeader

DEVICES = tuple(f"device-{number}" for number in range(7))
LOST = "device-3"  # after its keys are shared: the others' masks with it have to be taken off the sum


def header(length: int) -> SessionHeader:
    """What the aggregator announces, and every device checks against its own policy."""
    threshold = SessionHeader.threshold_for(len(DEVICES))
    return SessionHeader(
        task="example", round=1, cohort=DEVICES, threshold=threshold, min_cohort=threshold,
        ring_bits=Ring.bits_for(len(DEVICES), weight_cap=1, value_bits=8), length=length,
    )  # fmt: skip


def main() -> None:
    """Runs the five steps; on a network, every message below would be sent."""
    identities = {name: Identity.generate() for name in (*DEVICES, "aggregator")}
    roster = Roster({name: identity.public for name, identity in identities.items()})  # enrolled, and pinned everywhere
    rng = np.random.default_rng(1)
    vectors = {name: rng.integers(-127, 128, 10) for name in DEVICES}

    session = header(length=10)
    devices = {name: Participant(name, identities[name], roster, Policy()) for name in DEVICES}
    aggregator = Aggregator(session, identities["aggregator"], roster)

    sent = [(name, device.begin(session, vectors[name])) for name, device in devices.items()]
    while aggregator.result is None:
        step = aggregator.step
        received = [message for name, answer in sent for message in aggregator.handle(name, answer)]
        if aggregator.step == step:  # somebody did not answer: go on without
            received = aggregator.advance()
        answers = [(name, devices[name].handle(message)) for name, message in received]
        sent = [
            (name, answer) for name, answer in answers if answer is not None and not (step == "share" and name == LOST)
        ]

    result = aggregator.result
    result.verify(session, roster)
    print(f"in the sum: {', '.join(result.survivors)}")
    print(f"secure sum: {result.total}")
    print(f"plain sum:  {sum(vectors[name] for name in result.survivors)}")


if __name__ == "__main__":
    main()
