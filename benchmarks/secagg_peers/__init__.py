"""The contenders of `benchmarks.secagg`: Flower's SecAgg+, fedmesh, and the machine itself."""
