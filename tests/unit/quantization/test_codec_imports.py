"""A node that only sums or forwards updates needs numpy, not torch."""

import subprocess
import sys

HEAVY = ("torch", "flwr", "opacus", "onnx", "onnxruntime", "sklearn", "scipy", "pydantic")


def test_the_codec_and_the_wire_format_load_nothing_heavy():
    program = (
        "import sys, fedmesh.quantization.codec, fedmesh.wire\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
