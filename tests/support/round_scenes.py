"""Stories of one run each, as docs/mesh.md has them in pictures: what was sent and came, who died, who agreed."""

from dataclasses import dataclass, field

from round_sessions import read
from round_worlds import World

from fedmesh.mesh.rounds.messages import Ask, Certificates, Handover, HandoverKept, Status, Step, Vote


@dataclass(frozen=True)
class Sent:
    """A message: `came` None, it was lost or nobody was there; `what` is what it is to a reader."""

    what: str
    round: int
    attempt: int
    sender: str
    to: str
    at: float
    came: float | None


@dataclass
class Scene:
    """What happened, in the order in which it did.

    Attributes:
        fallen: name -> times of its crashes; risen: of its starts.
        apart: since when, until when, and which groups could not hear each other.
        trained: (name, begin, end, round, attempt). certified: (name, when, result).
    """

    world: World
    sent: list[Sent] = field(default_factory=list)
    fallen: dict[str, list[float]] = field(default_factory=dict)
    risen: dict[str, list[float]] = field(default_factory=dict)
    apart: list[tuple[float, float, tuple[tuple[str, ...], ...]]] = field(default_factory=list)
    trained: list[tuple[str, float, float, int, int]] = field(default_factory=list)
    certified: list = field(default_factory=list)

    def of(self, what, **facts):
        """Messages of one kind, with these fields."""
        return [
            one for one in self.sent
            if one.what == what and all(getattr(one, name) == value for name, value in facts.items())
        ]  # fmt: skip


class Recorded(World):
    """A world that writes its scene down. Who is here is known after `detect_s`, and a training takes 2 to 3 s."""

    def __init__(self, size, seed, **facts):
        super().__init__(size, seed, **facts)
        self.delay_s = 0.3
        self.scene = Scene(self)
        self._message = None
        self.on_send = self._noticed

    def start(self, name):
        self.scene.risen.setdefault(name, []).append(self.now)
        super().start(name)

    def crash(self, name):
        self.scene.fallen.setdefault(name, []).append(self.now)
        super().crash(name)

    def partition(self, *groups):
        self._since = self.now, tuple(tuple(group) for group in groups)
        super().partition(*groups)

    def heal(self):
        since, groups = self._since
        self.scene.apart.append((since, self.now, groups))
        super().heal()

    def _noticed(self, _sender, _to, message):
        self._message = message
        return True

    def _post(self, sender, to, data):
        self.sent += len(data)
        came = self.now + self.rng.uniform(self.delay_s / 2, self.delay_s)
        index = len(self.scene.sent)
        self.scene.sent.append(_sent(self._message, sender, to, self.now))
        self._at(came, "noted", index, sender, to, data)

    def _on_noted(self, index, sender, to, data):
        if to in self.members and self._hear(sender, to):
            self.scene.sent[index] = Sent(**{**vars(self.scene.sent[index]), "came": self.now})
        self._on_message(sender, to, data)

    def _train(self, name, life, number, attempt, done):
        end = self.now + self.rng.uniform(2.0, 3.0)
        self.scene.trained.append((name, self.now, end, number, attempt))
        self._at(end, "trained", name, life, number, attempt, done)

    def _judge_result(self, name, certificate):
        self.scene.certified.append((name, self.now, certificate.result))
        super()._judge_result(name, certificate)


def _sent(message, sender, to, at):
    number, attempt = getattr(message, "round", 0), getattr(message, "attempt", 0)
    match message:
        case Status():
            what = "status"
        case Step():
            what = read(message.data)[0]
        case Handover():
            what = "handover"
        case HandoverKept():
            what = "kept"
        case Ask():
            what, number = f"{message.phase.name.lower()}?", message.result.round
        case Vote():
            what = message.phase.name.lower()
        case Certificates():
            what = "certificate"
            number = message.certificates[-1].result.round if message.certificates else 0
        case _:
            what = "request"
    return Sent(what, number, attempt, sender, to, at, None)


def _world(size, seed, *, detect_s=1.0, **facts):
    world = Recorded(size, seed, detect_s=detect_s, **facts)
    world.start_all()
    return world


def as_it_should():
    """A round in which nothing goes wrong, among four."""
    world = _world(4, 1, rounds=1)
    world.until(world.is_over, 60)
    return world.scene


def killed_behind_the_signatures():
    """Whoever coordinates dies when the quorum of signatures has left it; comes back six seconds later."""
    return _killed(lambda scene: scene.of("reveal"), attempts=2)


def killed_before_them():
    """Whoever coordinates dies when the first masked input has come; comes back six seconds later."""
    return _killed(lambda scene: [one for one in scene.of("masked") if one.came is not None], attempts=2)


def killed_in_the_vote():
    """Whoever coordinates dies when it has asked all to commit; comes back six seconds later."""
    return _killed(lambda scene: scene.of("commit"), attempts=2)


def apart():
    """Five of seven on one side: these go on with the second round, the two get what they miss when it heals."""
    world = _world(7, 3, rounds=2, detect_s=0.05)
    world.until(lambda: 1 in world.results and world.members["m0"].round == 2, 60)
    two = [name for name in world.names if name != world.members["m0"].coordinator][:2]
    world.partition([name for name in world.names if name not in two], two)
    five = [name for name in world.names if name not in two]
    world.until(lambda: world.is_over(five), 60)
    world.run(1.5)
    world.heal()
    world.until(world.is_over, 60)
    return world.scene


def nobody_has_a_quorum():
    """Three of seven and four: both wait, and go on together when it heals."""
    world = _world(7, 4, rounds=1, detect_s=0.05)
    world.run(0.1)
    world.partition(world.names[:3], world.names[3:])
    world.run(5)
    world.heal()
    world.until(world.is_over, 60)
    return world.scene


def _killed(moment, **facts):
    world = _world(5, 2, rounds=1, **facts)
    world.until(lambda: moment(world.scene), 60)
    first = world.members["m0"].coordinator
    world.crash(first)
    world.run(6)
    world.start(first)
    world.until(world.is_over, 60)
    return world.scene
