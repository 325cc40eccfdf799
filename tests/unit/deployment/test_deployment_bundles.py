"""The bundles of devices: their configuration is one, and their script does what it prints, once and again."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fedmesh.configuration import ClientConfig

ROOT = Path(__file__).parents[3]
BUNDLES = [ROOT / "clients/raspberry-pi", ROOT / "clients/wearable"]
STUBS = ("useradd", "systemctl", "runuser", "apt-get", "chown")

needs_sh = pytest.mark.skipif(
    shutil.which("runuser") is None or os.uname().machine not in {"x86_64", "aarch64"}, reason="wants Linux of 64 bits"
)
INSTALL = """
case "$*" in  # ownership is root's to give; the folder is made all the same
    *" -o "*) for last; do :; done; mkdir -p "$last" ;;
    *) /usr/bin/install "$@" ;;
esac
"""
PYTHON = """
case "$*" in
    "-m venv"*) mkdir -p "$3/bin"; cp "$(dirname "$0")/pip" "$3/bin/python" ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """Runs a bundle's script on a machine that is a folder; what it would change outside of it is written down."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name in STUBS:
        stub(programs / name, f'echo "{name} $*" >>"{log}"')
    stub(programs / "id", '[ "$1" = -u ] && echo 0 || [ -e "$0.known" ]')
    stub(programs / "install", INSTALL)
    stub(programs / "python3", PYTHON)
    stub(programs / "pip", f'echo "python $*" >>"{log}"')
    root = tmp_path / "root"
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "DESTDIR": str(root)}

    def run(bundle, *arguments):
        log.write_text("")
        done = subprocess.run(
            [bundle / "install.sh", *arguments], capture_output=True, text=True, check=False, env=environment, cwd="/"
        )
        return done, log.read_text().replace(str(root), ""), root

    return run


def stub(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_the_configuration_is_one(bundle):
    config = ClientConfig.load(bundle / "client.toml")
    assert config.privacy.required
    assert config.secure_aggregation.required
    assert config.metrics.listen is not None
    assert config.metrics.listen.loopback
    assert (config.tier == "lite") is (bundle.name == "wearable")


@pytest.mark.parametrize("script", [bundle / "install.sh" for bundle in BUNDLES], ids=lambda path: path.parent.name)
def test_the_script_is_clean(script):
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@needs_sh
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_a_dry_run_does_nothing(machine, bundle):
    done, log, root = machine(bundle, "--broker", "broker.example", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert log == ""
    assert [path for path in root.rglob("*") if path.is_file()] == []
    for step in ("useradd", "venv", "pip install", "enroll", "config check", "systemctl restart"):
        assert step in done.stdout
    assert ("[train,serve]" in done.stdout) is (bundle.name == "raspberry-pi")


@needs_sh
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_it_installs_and_installs_again(machine, bundle, tmp_path):
    (tmp_path / "root.json").write_text("{}")
    done, log, root = machine(bundle, "--broker", "broker.example", "--trusted-root", str(tmp_path / "root.json"))
    assert done.returncode == 0, done.stderr
    assert "useradd --system" in log
    full = bundle.name == "raspberry-pi"
    assert ("--upgrade --extra-index-url https://download.pytorch.org/whl/cpu fedmesh[train,serve]\n" in log) is full
    assert ("--upgrade fedmesh[serve]\n" in log) is not full
    assert "runuser -u fedmesh -- /opt/fedmesh/bin/fedmesh enroll --dir /var/lib/fedmesh/identity" in log
    assert "runuser -u fedmesh -- /opt/fedmesh/bin/fedmesh config check /etc/fedmesh/client.toml" in log
    assert log.rstrip().endswith("systemctl restart fedmesh-client.service")
    config = ClientConfig.load(root / "etc/fedmesh/client.toml")
    assert config.broker.host == "broker.example"
    assert config.registry.trusted_root.read_text() == "{}"
    unit = root / "etc/systemd/system/fedmesh-client.service"
    assert unit.read_text() == (ROOT / "clients/raspberry-pi/fedmesh-client.service").read_text()
    assert (unit.parent / "fedmesh-client.service.d/50-bundle.conf").exists() is (bundle.name == "wearable")

    # Again, on a device that has lived: what is its own is kept.
    (root / "var/lib/fedmesh/identity").mkdir()
    (root / "var/lib/fedmesh/identity/tls.pem").touch()
    mine = (root / "etc/fedmesh/client.toml").read_text() + "# mine\n"
    (root / "etc/fedmesh/client.toml").write_text(mine)
    (tmp_path / "bin/id.known").touch()
    done, log, root = machine(bundle, "--broker", "other.example")
    assert done.returncode == 0, done.stderr
    assert "useradd" not in log
    assert "enroll" not in log
    assert (root / "etc/fedmesh/client.toml").read_text() == mine


@needs_sh
def test_another_root_of_trust_is_not_slipped_in(machine, tmp_path):
    (tmp_path / "root.json").write_text("{}")
    bundle = BUNDLES[0]
    assert machine(bundle, "--trusted-root", str(tmp_path / "root.json"))[0].returncode == 0
    (tmp_path / "root.json").write_text("another")
    done, _, root = machine(bundle, "--trusted-root", str(tmp_path / "root.json"))
    assert done.returncode == 1
    assert "is another root" in done.stderr
    assert (root / "etc/fedmesh/root.json").read_text() == "{}"


@needs_sh
def test_what_config_check_finds_stops_it_before_the_start(machine, tmp_path):
    stub(tmp_path / "bin/runuser", 'case "$*" in *"fedmesh config check"*) exit 2 ;; esac')
    done, log, _ = machine(BUNDLES[0])
    assert done.returncode == 1
    assert "correct what is wrong above" in done.stderr
    assert "restart" not in log


@needs_sh
def test_a_32_bit_system_is_refused(machine, tmp_path):
    stub(tmp_path / "bin/uname", "echo armv7l")
    done, log, _ = machine(BUNDLES[0])
    assert done.returncode == 1
    assert "a 64-bit one is needed" in done.stderr
    assert log == ""


@needs_sh
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--broker"], "--broker wants a value"),
        (["--broker", "a/b;rm"], "wanted the name of a host"),
        (["--bogus"], "unknown option --bogus"),
        (["--trusted-root", "/none"], "cannot be read"),
    ],
)
def test_a_wrong_argument_is_said(machine, arguments, said):
    done, _, _ = machine(BUNDLES[0], *arguments)
    assert done.returncode == 1
    assert said in done.stderr


@needs_sh
def test_removing_keeps_keys_and_ledgers(machine):
    assert machine(BUNDLES[1])[0].returncode == 0
    _, _, root = machine(BUNDLES[1])
    (root / "var/lib/fedmesh/ledger").touch()
    done, log, root = machine(BUNDLES[1], "--remove")
    assert done.returncode == 0, done.stderr
    assert "systemctl disable --now fedmesh-client.service" in log
    assert (root / "var/lib/fedmesh/ledger").exists()
    assert (root / "etc/fedmesh/client.toml").exists()
    assert not (root / "opt/fedmesh").exists()
    assert not list((root / "etc/systemd/system").iterdir())


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_the_page_names_what_is_there(bundle):
    page = (bundle / "README.md").read_text("utf-8")
    for path in bundle.iterdir():
        if path.name not in {"README.md", "client.toml"}:
            assert f"`{path.name}`" in page or f"/{path.name}`" in page, path.name
