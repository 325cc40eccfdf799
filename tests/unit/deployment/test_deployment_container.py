"""The Containerfile: what it copies is there, and no line of pip can choose a build of torch with CUDA."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILE = ROOT / "deploy/Containerfile"
INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Name -> instructions of every stage, those of the stage it is built from first."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, rest in instructions():
        if instruction == "FROM":
            *_, base, _as, name = rest.split()
            assert _as == "AS"
            found[name] = list(found.get(base, []))
        if name:
            found[name].append((instruction, rest))
    return found


def test_there_are_these_targets():
    assert list(stages()) == ["wheel", "lite", "full", "coordinator"]


def test_what_is_copied_is_there():
    for instruction, rest in instructions():
        if instruction in {"COPY", "ADD"} and "--from=" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source


def test_the_wheel_gets_all_that_it_is_made_of():
    import tomllib

    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {source for kind, rest in stages()["wheel"] if kind == "COPY" for source in rest.split()[:-1]}
    wanted = {*build["packages"], *build["shared-data"]}
    assert {place.split("/")[0] for place in wanted} <= copied
    assert all((ROOT / place).exists() for place in wanted)


def test_every_line_of_pip_names_the_index_of_cpu_builds():
    lines = [rest for kind, rest in instructions() if kind == "RUN" and "pip " in rest]
    assert len(lines) >= 4
    for line in lines:
        assert line.count("pip ") == line.count(INDEX) == 1, line


@pytest.mark.parametrize(("target", "torch"), [("lite", False), ("full", True), ("coordinator", True)])
def test_only_who_trains_has_torch_and_it_comes_first(target, torch):
    lines = [rest for kind, rest in stages()[target] if kind == "RUN" and "pip " in rest]
    wanting = [number for number, line in enumerate(lines) if re.search(r" torch$|fedmesh\[(train|simulation)", line)]
    assert bool(wanting) is torch
    if torch:
        assert lines[wanting[0]].endswith(" torch")


@pytest.mark.parametrize("target", ["lite", "full", "coordinator"])
def test_a_target_runs_as_nobody_and_is_looked_after(target):
    last = dict(stages()[target])
    assert last["USER"] == "fedmesh"
    assert last["ENTRYPOINT"] == '["fedmesh"]'
    assert "/healthz" in last["HEALTHCHECK"]
    assert "run" in last["CMD"]


def test_both_machines_are_built_for():
    bases = [rest for kind, rest in instructions() if kind == "FROM" and "PYTHON" in rest]
    assert all(base.startswith(("--platform=$BUILDPLATFORM", "--platform=$TARGETPLATFORM")) for base in bases)
    # The wheel is of pure Python, so the machine that builds may make it for all.
    assert [base.split("=$")[1].split()[0] for base in bases] == ["BUILDPLATFORM", "TARGETPLATFORM"]
