"""The files of coordinator and device: what they say, their defaults, and what a mistake is answered with."""

import tomllib
from pathlib import Path

import pytest

from fedmesh.configuration import ClientConfig, CoordinatorConfig
from fedmesh.configuration.learner import DataSetData, HookData, NpzData
from fedmesh.configuration.values import Address
from fedmesh.errors import ConfigError

COORDINATOR = """
[identity]
folder = "identity"
[broker]
host = "broker.local"
[data]
folder = "state"
[[task]]
scenario = "digits"
"""
CLIENT = """
[identity]
folder = "identity"
[broker]
host = "broker.local"
[state]
folder = "/var/lib/fedmesh"
[data]
kind = "npz"
path = "examples.npz"
"""


def coordinator(text: str = "") -> CoordinatorConfig:
    return CoordinatorConfig.parse(tomllib.loads(COORDINATOR + text), source="mine.toml", folder=Path("/etc/fm"))


def client(text: str = "", base: str = CLIENT) -> ClientConfig:
    return ClientConfig.parse(tomllib.loads(base + text), source="mine.toml", folder=Path("/etc/fm"))


def complaint(read, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith("mine.toml: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_relative_paths_are_relative_to_the_file():
    assert coordinator().identity.folder == Path("/etc/fm/identity")
    assert coordinator().registry_folder == Path("/etc/fm/state/registry")
    assert client().state.folder == Path("/var/lib/fedmesh")
    assert client().data == NpzData(kind="npz", path=Path("/etc/fm/examples.npz"))
    assert client().registry_folder == Path("/var/lib/fedmesh/registry")


def test_a_file_is_read_from_its_folder(tmp_path):
    (tmp_path / "coordinator.toml").write_text(COORDINATOR)
    assert CoordinatorConfig.load(tmp_path / "coordinator.toml").data.folder == tmp_path / "state"
    (tmp_path / "client.toml").write_text(CLIENT)
    assert ClientConfig.load(tmp_path / "client.toml").identity.folder == tmp_path / "identity"


def test_folders_that_are_named_are_taken():
    text = '[registry]\ntrusted_root = "root.json"\nfolder = "seen"'
    assert client(text).registry_folder == Path("/etc/fm/seen")
    assert coordinator('[registry]\nfolder = "models"').registry_folder == Path("/etc/fm/models")


def test_tables_of_no_file_keep_their_paths():
    assert CoordinatorConfig.parse(tomllib.loads(COORDINATOR), source="here").data.folder == Path("state")


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("sqlite:///runs.db", "sqlite:////etc/fm/runs.db"),
        ("sqlite:////srv/runs.db?timeout=9", "sqlite:////srv/runs.db?timeout=9"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql+psycopg://fm@db/runs", "postgresql+psycopg://fm@db/runs"),
    ],
)
def test_the_file_of_a_journal_is_relative_to_the_configuration(url, read):
    assert coordinator(f'[journal]\nurl = "{url}"').journal_url == read


def test_a_journal_without_a_url_is_a_file_in_the_data_folder():
    assert coordinator().journal_url == "sqlite:////etc/fm/state/runs.sqlite3"


def test_a_password_in_the_url_of_the_journal_is_in_no_message():
    read = coordinator('[journal]\nurl = "postgresql://me:hunter2@db/runs"')
    assert "hunter2" not in repr(read)
    assert "hunter2" not in complaint(coordinator, '[journal]\nurl = "mysql://me:hunter2@db/runs"')


def test_a_scenario_is_a_name_or_a_path():
    assert coordinator().task[0].scenario == "digits"
    read = coordinator('[[task]]\nscenario = "mine.toml"\nname = "second"')
    assert read.task[1].scenario == "/etc/fm/mine.toml"
    base = CLIENT.replace(
        'kind = "npz"\npath = "examples.npz"', 'kind = "dataset"\nname = "mine.toml"\npartition = 0\nof = 2'
    )
    data = client(base=base).data
    assert isinstance(data, DataSetData)
    assert data.name == "/etc/fm/mine.toml"


def test_a_device_that_says_nothing_is_careful():
    read = client()
    assert read.privacy.required
    assert "central" not in read.privacy.modes
    assert (read.privacy.example_epsilon, read.privacy.client_epsilon) == (8.0, 8.0)
    assert read.secure_aggregation.required
    assert read.secure_aggregation.smallest_cohort == 4
    assert read.metrics.listen is None
    assert read.coordinators == ("coordinator",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[brokr]\nhost = 'a'", "brokr: unknown key, did you mean broker?"),
        ("[journal]\nurn = 'a'", "journal.urn: unknown key, did you mean journal.url?"),
        ("[registry]\nrounds = 3", "registry.rounds: unknown key, did you mean task.rounds?"),
        (
            "[[task]]\nscenario = 'har'\nround.dedline_s = 3",
            "task.1.round.dedline_s: unknown key, did you mean task.1.round.deadline_s?",
        ),
        ("[[task]]\nscenario = 'har'\nround.quorum = '3'", "task.1.round.quorum: should be a valid integer (got '3')"),
        ("[[task]]\nscenario = 'digits'", "two tasks are called 'digits'"),
        ("[[task]]\nscenario = 'har'\nround = {wanted = 3, quorum = 4}", "quorum is 4, but a round has 3 devices"),
        (
            "[[task]]\nscenario = 'har'\ndevices = ['a', 'b']\nround.quorum = 3",
            "round.quorum is 3, but devices names 2",
        ),
        ("[[task]]\nscenario = 'har'\ndevices = ['a', 'a']", "devices names somebody twice"),
        ("[[task]]\nscenario = 'har'\ndevices = ['A/b']", "'A/b' is no name of a party"),
        ("[metrics]\nlisten = 9464", "metrics.listen: wanted HOST:PORT in quotes, got 9464"),
        ("[metrics]\nlisten = 'localhost'", "metrics.listen: 'localhost' is not HOST:PORT"),
        ("[journal]\nurl = 'runs.db'", "journal.url: wanted a URL of SQLAlchemy"),
    ],
)
def test_a_mistake_in_a_coordinators_file_names_its_key(text, said):
    assert said in complaint(coordinator, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[privacy]\nepsilon = 3", "privacy.epsilon: unknown key, did you mean"),
        ("[eligibility]\nwindows = '22:00-06:00'", "eligibility.windows: wanted a list (got"),
        ("[eligibility]\nwindows = ['22-6']", "'22-6' is no window: wanted '22:00-06:00'"),
        ("[eligibility]\nhook = 'battery'", "'battery' does not name a function: wanted 'module:function'"),
        ("[secure_aggregation]\nsmallest_cohort = 3", "secure_aggregation.smallest_cohort: should be greater than or"),
        ("[secure_aggregation]\nsmallest_cohort = 200", "no session fits"),
        ("[privacy]\nmax_task_epsilon = 9", "max_task_epsilon is 9, but the device's whole budgets are 8 and 8"),
        ("[privacy]\nmodes = []", "modes is empty"),
        ("[privacy]\nmodes = ['lokal']", "privacy.modes.0: should be 'local', 'shared', 'client' or 'central'"),
        ("[inference]\nhandoff = 'http://pi/predict'", "threshold is 0: nothing would be handed off"),
        ("[inference]\nhandoff = 'ftp://pi/predict'\nthreshold = 0.5", "inference.handoff: "),
        ("[inference]\nhandoff = 'https://pi:1'\nthreshold = 0.5", "handoff_peer is missing"),
        ("[inference]", "there is [inference], and [registry] is missing"),
        ("[registry]\ntrusted_root = ''", "registry.trusted_root: wanted a path, got an empty one"),
        ('[registry]\ntrusted_root = "a\\u0000b"', "registry.trusted_root: a path has no NUL in it"),
        ("[limits]\nnice = -5", "limits.nice: should be greater than or equal to 0 (got -5)"),
        ("[metrics]\nlisten = 'a b:9'", "metrics.listen: 'a b:9' is not HOST:PORT"),
    ],
)
def test_a_mistake_in_a_devices_file_names_its_key(text, said):
    assert said in complaint(client, text)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "tier is 'full', and [data] is missing"),
        ("[data]\npath = 'a'", "data: kind is missing"),
        ("[data]\nkind = 'csv'", "data: "),
        ("[data]\nkind = 'npz'\npth = 'a'", "data.pth: unknown key, did you mean data.path?"),
        ("[data]\nkind = 'npz'", "data.path: is missing"),
        ("[data]\nkind = 'dataset'\nname = 'digits'\npartition = 6\nof = 6", "partition is 6 of 6: they count from 0"),
        ("[data]\nkind = 'hook'\nfunction = 'rm -rf'", "data.function: 'rm -rf' does not name a function"),
        ("[tier]\n", "tier: should be 'full', 'lite' or 'inference'"),
    ],
)
def test_what_a_device_trains_on(data, said):
    base = CLIENT[: CLIENT.index("[data]")]
    assert said in complaint(lambda text: client(text, base), data)


def test_a_hook_is_named_and_not_imported():
    read = client("[data]\nkind = 'hook'\nfunction = 'no.such.module:load'", CLIENT[: CLIENT.index("[data]")])
    assert read.data == HookData(kind="hook", function="no.such.module:load")


def test_a_device_that_only_infers_wants_a_registry_and_no_data():
    head = 'tier = "inference"\n' + CLIENT
    assert "which never trains" in complaint(lambda text: client(text, head), "")
    bare = head[: head.index("[data]")]
    assert "no model would ever come" in complaint(lambda text: client(text, bare), "")
    read = client('[registry]\ntrusted_root = "root.json"', bare)
    assert read.registry_folder == Path("/var/lib/fedmesh/registry")


def test_a_file_that_is_none_is_refused(tmp_path):
    for content, said in [
        (b"\xff", "not a readable TOML"),
        (b"a = ", "not a readable TOML"),
        (b"#" * (1 << 21), "larger"),
    ]:
        (tmp_path / "a.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            ClientConfig.load(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="No such file"):
        ClientConfig.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "host", "loopback"),
    [
        ("127.0.0.1:9464", "127.0.0.1", True),
        ("[::1]:9464", "::1", True),
        ("localhost:9464", "localhost", True),
        ("0.0.0.0:9464", "0.0.0.0", False),
        ("[::]:9464", "::", False),
        ("pi.local:9464", "pi.local", False),
    ],
)
def test_an_address_says_whether_others_reach_it(text, host, loopback):
    read = Address.parse(text)
    assert (read.host, read.port, read.loopback, str(read)) == (host, 9464, loopback, text)


@pytest.mark.parametrize(
    "text", ["", ":1", "a:", "a:70000", "a:0", "::1:9", "[a]:9", "a:-1", "a:\uff11", "a/b:9", "a:000009"]
)
def test_what_is_no_address(text):
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        Address.parse(text)
