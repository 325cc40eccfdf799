"""Strangers, impostors and hostile members against a peer that listens, and a peer that dials them."""

import asyncio
import contextlib
import ssl
import time

import pytest
from cryptography import x509
from meshes import Uri, leaf, rogue
from peer_mesh import HOST, PeerMesh, running, until

from fedmesh.errors import PeerError
from fedmesh.identity.certificates import DAY_S, new_key, pem
from fedmesh.identity.keyfiles import key_pem
from fedmesh.transport.limits import PARCEL_BYTES
from fedmesh.transport.peer_wire import Answer, Hello, Kind, head_of
from fedmesh.transport.tls import accepting, dialling, pinning

RUN = b"attacker"


@pytest.fixture
def mesh(tmp_path):
    return PeerMesh(tmp_path)


def files(mesh, certificate, key, *chain):
    path = mesh.mesh.folder / f"{certificate.serial_number:x}.pem"
    path.write_bytes(key_pem(key) + pem(certificate, *(chain or [mesh.mesh.issuer.certificate])))
    return path


def forged(mesh, **options):
    """A certificate that the mesh's issuer signed, of whatever kind."""
    key = new_key()
    options = {"begin": time.time() - 300, **options}
    return files(mesh, leaf(mesh.mesh.issuer.certificate, mesh.mesh.issuer_key(), key=key, **options), key)


def strangers(mesh):
    """A certificate of somebody else's authority of the same name."""
    _, issuer, issuer_key = rogue(now=mesh.mesh.begun)
    key = new_key()
    return files(mesh, leaf(issuer, issuer_key, key=key, begin=mesh.mesh.begun), key, issuer)


class Attacker:
    """Dials with any certificate, and says anything."""

    def __init__(self, mesh, peer):
        self.mesh, self.port = mesh, peer.listening[0][1]
        self.root = mesh.member("victim").root_path

    async def dial(self, context):
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port, ssl=context)

    async def greet(self, tls_path, *, to="victim"):
        await self.dial(dialling(tls_path, self.root))
        self.say(Kind.HELLO, Hello(to, RUN).to_bytes())
        return await self.answer()

    def say(self, kind, body):
        self.writer.write(head_of(kind, len(body)) + body)

    async def answer(self):
        head = await self.reader.readexactly(4)
        body = await self.reader.readexactly(int.from_bytes(head[1:], "big"))
        return Answer.from_bytes(body).code

    async def hung_up(self):
        with contextlib.suppress(OSError):
            while await self.reader.read(1 << 16):
                pass
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def test_an_honest_member_is_let_in_by_these_means(mesh):
    async def test(entered):
        victim = await entered(mesh.open("victim"))
        attacker = Attacker(mesh, victim)
        assert await attacker.greet(mesh.member("device-1").tls_path) == ""
        await until(lambda: victim.links == ["device-1"])
        assert not victim.counts
        attacker.writer.close()
        await until(lambda: not victim.links)
        await attacker.hung_up()

    running(test)


def test_no_certificate_or_a_strangers(mesh):
    """TLS 1.3: both are connected, and find out when something should come."""

    async def test(entered):
        victim = await entered(mesh.open("victim"))
        attacker = Attacker(mesh, victim)
        context = pinning()
        shown = pinning()
        shown.load_cert_chain(strangers(mesh))
        for each, reason in ((context, "no_certificate"), (shown, "refused_authority")):
            await attacker.dial(each)
            await attacker.hung_up()
            await until(lambda reason=reason: victim.counts[reason] == 1)
        assert not victim.links

    running(test)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"begin": time.time() - 15 * DAY_S}, "expired"),
        ({"begin": time.time() + DAY_S}, "early"),
        ({"names": None}, "name"),
        ({"names": (Uri("fedmesh://elsewhere/device-1"),)}, "name"),
        ({"names": (Uri("fedmesh://home/device-1"), Uri("fedmesh://home/device-2"))}, "name"),
        ({"names": (x509.DNSName("device-1"),)}, "name"),
        ({"common": "device-2"}, "name"),
        ({"names": (Uri("fedmesh://home/victim"),), "common": "victim"}, "peer"),
    ],
)
def test_certificates_that_the_handshake_lets_through(mesh, options, code):
    async def test(entered):
        victim = await entered(mesh.open("victim"))
        attacker = Attacker(mesh, victim)
        await attacker.dial(dialling(forged(mesh, **options), attacker.root))
        assert await attacker.answer() == code
        await attacker.hung_up()
        assert victim.counts == {f"refused_{code}": 1}
        assert not victim.links

    running(test)


def test_who_wanted_somebody_else_is_told(mesh):
    async def test(entered):
        victim = await entered(mesh.open("victim"))
        attacker = Attacker(mesh, victim)
        assert await attacker.greet(mesh.member("device-1").tls_path, to="device-9") == "peer"
        assert victim.counts == {"refused_peer": 1}
        await attacker.hung_up()

    running(test)


@contextlib.asynccontextmanager
async def impostor(mesh, tls_path, heard):
    """Listens with any certificate, and keeps what it is told."""

    async def accept(reader, writer):
        with contextlib.suppress(OSError):
            heard.append(await reader.read(1 << 16))
        writer.close()

    context = accepting(tls_path, mesh.member("victim").root_path, required=False)
    server = await asyncio.start_server(accept, HOST, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("who", ["another", "stranger", "expired"])
def test_an_impostor_at_the_address_is_told_nothing(mesh, who):
    async def test(entered):
        victim = await entered(mesh.open("victim"))
        heard = []
        path = {
            "another": lambda: mesh.member("device-2").tls_path,
            "stranger": lambda: strangers(mesh),
            "expired": lambda: forged(mesh, begin=time.time() - 15 * DAY_S),
        }[who]()
        code = {"another": "refused_peer", "stranger": "refused_authority", "expired": "refused_expired"}[who]
        async with impostor(mesh, path, heard) as address:
            mesh.addresses["device-1"] = [address]
            dialling = asyncio.create_task(victim.connect("device-1", wait_s=3_600))
            await until(lambda: victim.counts[code] >= 1)
            with pytest.raises(PeerError, match="no connection with device-1"):
                await victim.connect("device-1", wait_s=0.1)
            assert not dialling.done()
            dialling.cancel()
            mesh.addresses["device-1"] = []
            assert not any(heard)
            assert "device-1" not in victim.present

    running(test)


def test_a_live_session_ends_when_its_certificate_is_revoked_and_it_does_not_come_back(mesh):
    async def test(entered):
        victim, thief = await entered(mesh.open("victim")), await entered(mesh.open("thief"))
        await thief.send("victim", b"before")
        messages = victim.receive()
        assert await anext(messages) == ("thief", b"before")
        mesh.mesh.issuer.revoke("thief", time.time())
        _, revocations = mesh.mesh.issuer.lists(time.time())
        mesh.member("victim").accept(time.time(), revocations=revocations)
        sending = asyncio.create_task(thief.send("victim", b"after"))
        await until(lambda: victim.counts["refused_revoked"] >= 1)
        assert not sending.done(), "it was taken"
        sending.cancel()
        assert victim.counts["cut_revoked"] == 1
        assert not victim.links
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                raise AssertionError(await anext(messages))

    running(test)


def test_a_live_session_ends_when_its_certificate_does(mesh):
    async def test(entered):
        late = [0.0]
        victim = await entered(mesh.open("victim", clock=lambda: time.time() + late[0]))
        other = await entered(mesh.open("other"))
        await other.connect("victim", wait_s=120)
        late[0] = 15 * DAY_S
        await until(lambda: victim.counts["cut_expired"] == 1)
        assert not victim.links

    running(test)


@pytest.mark.parametrize(
    "said",
    [
        (Kind.PARCEL << 24 | PARCEL_BYTES + 1).to_bytes(4),
        b"\x03\xff\xff\xff",
        b"\x63\0\0\1x",
        head_of(Kind.HELLO, 1) + b"x",
        head_of(Kind.ANNOUNCEMENT, 1) + b"\xff",
    ],
)
def test_an_oversized_or_unknown_frame_ends_the_connection(mesh, said):
    async def test(entered):
        victim = await entered(mesh.open("victim"))
        attacker = Attacker(mesh, victim)
        await attacker.greet(mesh.member("device-1").tls_path)
        attacker.writer.write(said)
        await attacker.hung_up()
        assert victim.counts["malformed"] == 1
        assert not victim.links

    running(test)


@pytest.mark.parametrize("said", [b"\x01\0\1\1", b"\x03\0\0\1x", b"\x01\0\0\4abcd", b"\x02\0\0\1x"])
def test_a_stranger_keeps_nothing_of_us(mesh, said):
    """Before the hello nothing but a hello is taken, and no long one."""

    async def test(entered):
        victim = await entered(mesh.open("victim"))
        attacker = Attacker(mesh, victim)
        await attacker.dial(dialling(mesh.member("device-1").tls_path, attacker.root))
        attacker.writer.write(said)
        await attacker.hung_up()
        assert victim.counts["malformed"] == 1

    running(test)


def test_slow_loris_at_every_step(mesh):
    async def test(entered):
        async def attacked(**options):
            """A victim that waits long but for one step, and who is slow at it: a busy machine is at all of them."""
            patient = {"handshake_s": 120.0, "hello_s": 120.0, "frame_s": 120.0}
            victim = await entered(mesh.open("victim", **{**patient, **options}))
            return victim, Attacker(mesh, victim)

        tls = dialling(mesh.member("device-1").tls_path, mesh.member("victim").root_path)
        victim, silent = await attacked(handshake_s=0.2)
        silent.reader, silent.writer = await asyncio.open_connection(HOST, silent.port)
        await silent.hung_up()
        assert victim.counts["slow"] == 1, "no handshake"
        assert not victim.carrier.listener._strangers, "there is room for another one"
        victim, no_hello = await attacked(hello_s=0.2)
        await no_hello.dial(tls)
        await no_hello.hung_up()
        assert victim.counts["slow"] == 1, "no hello"
        drop = Attacker(mesh, victim)
        await drop.dial(tls)
        drop.writer.write(b"\x01")
        await drop.hung_up()
        assert victim.counts["slow"] == 2, "a part of one"
        victim, dribbles = await attacked(frame_s=0.2)
        await dribbles.greet(mesh.member("device-1").tls_path)
        await until(lambda: victim.links)
        dribbles.writer.write(head_of(Kind.PARCEL, 1000))
        for _ in range(900):  # each byte in time, the frame never whole
            if not victim.links:
                break
            dribbles.writer.write(b"x")
            await asyncio.sleep(0.02)
        await dribbles.hung_up()
        assert victim.counts["slow"] == 1, "a frame that stays open"

    running(test)


def test_a_flood_of_connections_is_bounded_and_members_go_on(mesh):
    async def test(entered):
        victim = await entered(mesh.open("victim", strangers=6, per_address=4, handshake_s=120.0))
        friend = await entered(mesh.open("friend"))
        await friend.connect("victim", wait_s=120)
        flood = [await asyncio.open_connection(HOST, victim.listening[0][1]) for _ in range(40)]
        await until(lambda: victim.counts["flood"] == 36)
        assert victim.carrier.listener._strangers == {HOST: 4}
        await friend.send("victim", b"still there")
        for _, writer in flood:
            writer.close()
        await until(lambda: not victim.carrier.listener._strangers)
        late = await entered(mesh.open("late"))
        await late.send("victim", b"in the end")

    running(test)


def test_a_member_that_reads_nothing_is_given_up(mesh):
    async def test(entered):
        victim = await entered(mesh.open("victim", frame_s=0.3))
        attacker = Attacker(mesh, victim)
        await attacker.greet(mesh.member("device-1").tls_path)
        await until(lambda: victim.links)
        attacker.writer.transport.pause_reading()
        link = victim.carrier.pool.links["device-1"]
        while victim.links:
            if not link.is_full:  # the system's buffers, at both ends, take some more now and then
                link.send(Kind.PARCEL, bytes(PARCEL_BYTES))
            await asyncio.sleep(0)
        assert victim.counts["slow"] == 1
        attacker.writer.transport.abort()

    running(test)


def test_a_shunned_peer_is_not_heard_whatever_its_connection(mesh):
    async def test(entered):
        victim, other = await entered(mesh.open("victim")), await entered(mesh.open("other"))
        await other.connect("victim", wait_s=120)
        victim.shun("other")
        await other.post("victim", b"x")
        await until(lambda: victim.counts["shunned"])

    running(test)


def test_no_older_tls_and_no_name_of_whom_we_dial_in_the_clear(mesh):
    async def test(entered):
        victim = await entered(mesh.open("victim"))
        context = dialling(mesh.member("device-1").tls_path, mesh.member("victim").root_path)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):  # an alert, or a reset before it was read
            await asyncio.open_connection(HOST, victim.listening[0][1], ssl=context)
        await until(lambda: victim.counts["handshake"] == 1)
        first = []

        async def listen(reader, writer):
            first.append(await reader.read(4096))
            writer.close()

        server = await asyncio.start_server(listen, HOST, 0)
        mesh.addresses["device-1"] = [server.sockets[0].getsockname()[:2]]
        call = asyncio.create_task(victim.connect("device-1", wait_s=3_600))
        await until(lambda: first)
        assert not call.done()
        call.cancel()
        mesh.addresses["device-1"] = []
        server.close()
        assert b"device-1" not in first[0]

    running(test)
