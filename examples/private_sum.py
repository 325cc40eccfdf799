"""A hundred people and the mean of what they hold: private to each of them, and nobody has to be trusted with it.

python examples/private_sum.py

Everybody adds a hundredth of the noise. In a federation the integers go through a secure sum (examples/secure_sum.py).
"""

import math

import numpy as np

from fedmesh.privacy import SystemNoise, epsilon, skellam
from fedmesh.types import PrivacyEvent

PEOPLE, SIZE, BITS = 100, 1000, 20
CLIP = 1.0
NOISE_MULTIPLIER = 4.0  # of all the noise together, in clips
SEED = b"public, and the same for all"


def main() -> None:
    """Encode, add up modulo 2^BITS, decode, and say what it cost."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(0.02, 0.01, (PEOPLE, SIZE))  # all a little above zero; norms of about 0.7

    sigma = NOISE_MULTIPLIER * CLIP / math.sqrt(PEOPLE)
    dimension = skellam.dimension(SIZE)
    gamma = skellam.granularity(clip=CLIP, members=PEOPLE, dimension=dimension, sigma_local=sigma, bits=BITS)
    noise = SystemNoise()
    sent = [
        skellam.encode(vector, clip=CLIP, gamma=gamma, sigma_local=sigma, seed_rotation=SEED, rng=noise)
        for vector in vectors
    ]

    half = 1 << (BITS - 1)
    total = (sum(sent) + half) % (1 << BITS) - half  # what a ring of BITS bits keeps of it
    mean = skellam.decode(total, gamma=gamma, seed_rotation=SEED, size=SIZE) / PEOPLE

    bound = skellam.sensitivity(CLIP, gamma, dimension)
    variance = PEOPLE * (sigma / gamma) ** 2
    event = PrivacyEvent("skellam", {"l2": bound.l2, "l1": bound.l1, "variance": variance})
    print(f"mean over all coordinates: {mean.mean():.4f}, truly {vectors.mean():.4f}")
    print(f"one person alone sent numbers of standard deviation {np.std(sent[0]) * gamma:.2f}, for values around 0.02")
    print(f"epsilon {epsilon([event], 1e-5, 'rdp'):.2f} at delta 1e-5, for each of them, in {BITS} bits a number")


if __name__ == "__main__":
    main()
