import platform
import subprocess
import sys

import pytest

from fedmesh.quantization.runtime import cpu_flags, products_saturate, session_options


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", {"avx2"}, True),
        ("AMD64", set(), True),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("x86_64", {"avx512_vnni"}, False),
        ("aarch64", {"asimd"}, False),
        ("armv7l", set(), False),
    ],
)
def test_products_saturate_on_x86_without_vnni(machine, flags, saturates):
    assert products_saturate(machine, frozenset(flags)) is saturates


def test_flags_are_read_as_linux_spells_them(tmp_path):
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\nbugs\t\t: x\n")
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert cpu_flags(x86) == {"fpu", "avx2", "avx512_vnni"}
    assert cpu_flags(arm) == {"fp", "asimd", "asimddp"}
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_sessions_are_exact_on_this_machine_and_need_no_torch():
    options = session_options(threads=2)
    assert options.intra_op_num_threads == 2
    if products_saturate(platform.machine(), cpu_flags()):
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="x64quantprecision"):
            options.get_session_config_entry("session.x64quantprecision")
    code = "import sys, fedmesh.quantization.runtime as r; r.session_options(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
