"""The scenes of `round_scenes` as space-time diagrams: ``python tests/support/round_pictures.py docs/images``."""

import sys
from pathlib import Path

import matplotlib as mpl
import round_scenes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

mpl.use("Agg")
from matplotlib import pyplot as plt

NAMES = ("anna", "bert", "cleo", "dora", "emil", "fred", "gina")
SESSION, KEPT, VOTE, TOLD, DEAD, TRAINING = "#2b6cb0", "#805ad5", "#2f855a", "#1a202c", "#c53030", "#f6ad55"
COLOURS = {
    **dict.fromkeys(("train", "masked", "sign", "signature", "quorum", "reveal"), SESSION),
    **dict.fromkeys(("handover", "kept"), KEPT),
    **dict.fromkeys(("prepare?", "prepare", "commit?", "commit", "certify?", "certify"), VOTE),
    "certificate": TOLD,
}
STAGES = {
    "train": "train", "handover": "to deputies", "sign": "sign the set", "quorum": "unmask",
    "prepare?": "prepare", "commit?": "commit", "certify?": "certify",
}  # fmt: skip
SCENES = {
    "mesh-round": (round_scenes.as_it_should, "A round in which nothing goes wrong"),
    "mesh-round-behind": (
        round_scenes.killed_behind_the_signatures,
        "The coordinator dies behind the signatures: a deputy goes on with the same set, and nobody trains again",
    ),
    "mesh-round-before": (
        round_scenes.killed_before_them,
        "It dies before them: a new session, new keys, fresh noise, charged again",
    ),
    "mesh-round-vote": (
        round_scenes.killed_in_the_vote,
        "It dies in the vote, when some are locked: the next one proposes the same result",
    ),
    "mesh-round-apart": (
        round_scenes.apart,
        "Five of seven go on; the other two catch up when the partition ends",
    ),
    "mesh-round-waiting": (
        round_scenes.nobody_has_a_quorum,
        "Three and four of seven: no side has a quorum of five, so both wait",
    ),
}


def draw(scene, title, path):
    """Writes a PNG."""
    rows = _rows(scene)
    end = max(when for _, when, _ in scene.certified) + 0.4
    begin = max([0.0, *(since - 0.3 for since, _, _ in scene.apart)]) - 0.1
    figure, axes = plt.subplots(figsize=(12, 1.7 + 0.62 * len(rows)), dpi=110)
    _draw_apart(axes, scene, rows)
    _draw_lives(axes, scene, rows, begin, end)
    _draw_leaders(axes, scene, rows, begin)
    for name, since, until, _, attempt in scene.trained:
        fallen = [when for when in scene.fallen.get(name, ()) if since < when < until]
        if since < begin:
            continue
        axes.plot(
            [since, min([until, *fallen])], [rows[name]] * 2, color=TRAINING, lw=9, solid_capstyle="butt", zorder=2
        )
        axes.text(
            since + 0.05,
            rows[name],
            "trains" if not attempt else "trains again, charged again",
            va="center",
            fontsize=7,
            zorder=6,
        )
    _draw_messages(axes, scene, rows, begin)
    for name, when, _ in scene.certified:
        axes.plot(when, rows[name], marker="*", color="#d69e2e", ms=14, mec=TOLD, mew=0.7, zorder=8)
    _draw_stages(axes, scene, rows, begin)
    axes.set_yticks(list(rows.values()), [NAMES[int(name[1:])] for name in rows])
    axes.set_xlim(begin, end)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("seconds")
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=56)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=11)
    _draw_legend(axes)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _rows(scene):
    """Members of one side of a partition stand together."""
    groups = scene.apart[0][2] if scene.apart else (tuple(scene.world.names),)
    return {name: row for row, name in enumerate(name for group in groups for name in group)}


def _draw_apart(axes, scene, rows):
    for since, until, groups in scene.apart:
        axes.axvspan(since, until, color="#edf2f7", zorder=0, ymax=0.99)
        border = len(groups[0]) - 0.5
        axes.plot([since, until], [border, border], color=DEAD, lw=2, ls=(0, (4, 3)), zorder=1)
        axes.text(
            until - 0.05, border - 0.06, "cut off from each other", ha="right", va="bottom", fontsize=8, color=DEAD
        )


def _draw_lives(axes, scene, rows, begin, end):
    for name, row in rows.items():
        deaths, births = scene.fallen.get(name, []), scene.risen[name]
        for birth, death in zip(births, [*deaths, end], strict=True):
            axes.plot([max(birth, begin), death], [row, row], color="#a0aec0", lw=1.5, zorder=1)
        for death, again in zip(deaths, births[1:], strict=True):
            axes.plot(death, row, marker="X", color=DEAD, ms=13, mec="white", zorder=9)
            axes.text(death + 0.15, row - 0.16, "kill -9", color=DEAD, fontsize=8, zorder=9)
            axes.plot(again, row, marker="o", color=VOTE, ms=8, mec="white", zorder=9)
            axes.text(again + 0.12, row - 0.16, "is back", color=VOTE, fontsize=8, zorder=9)


def _draw_leaders(axes, scene, rows, begin):
    """Who asks is marked from its first question to the last answer that it waits for."""
    spans = {}
    for one in scene.sent:
        if one.what in STAGES and one.at >= begin:
            spans.setdefault((one.round, one.sender), []).append(one.at)
    for (_, name), times in spans.items():
        fallen = [when for when in scene.fallen.get(name, ()) if when >= min(times)]
        until = min([max(times) + 0.5, *fallen])
        axes.plot(
            [min(times) - 0.1, until], [rows[name]] * 2, color="#bee3f8", lw=24, solid_capstyle="round", zorder=0.5
        )
        axes.text(min(times) - 0.1, rows[name] + 0.36, "coordinates", fontsize=8, color=SESSION, va="center", zorder=9)


def _draw_messages(axes, scene, rows, begin):
    """Each once: what is sent again until it is answered would hide the rest."""
    seen = set()
    for one in scene.sent:
        key = (one.what, one.round, one.attempt, one.sender, one.to)
        colour = COLOURS.get(one.what)
        if colour is None or key in seen or one.at < begin or (one.came is None and one.what == "certificate"):
            continue
        seen.add(key)
        ends = (
            (one.came, rows[one.to])
            if one.came is not None
            else (one.at + 0.1, rows[one.sender] + 0.35 * _sign(rows, one))
        )
        axes.annotate(
            "", ends, (one.at, rows[one.sender]), zorder=4,
            arrowprops={"arrowstyle": "-|>,head_width=.13,head_length=.25" if one.came is not None else "-",
                        "color": colour if one.came is not None else DEAD, "lw": 0.8, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def _sign(rows, one):
    return 1 if rows[one.to] > rows[one.sender] else -1


def _draw_stages(axes, scene, rows, begin):
    """What begins when, above."""
    seen = set()
    for one in scene.sent:
        key = (one.what, one.round, one.attempt, one.sender)
        if one.what in STAGES and key not in seen and one.at > begin:
            seen.add(key)
            axes.plot([one.at, one.at], [-0.55, len(rows) - 0.6], color="#cbd5e0", lw=0.8, ls=":", zorder=0)
            axes.text(
                one.at - 0.05, -0.62, STAGES[one.what], fontsize=8, rotation=40, ha="left", va="bottom", color="#4a5568"
            )


def _draw_legend(axes):
    handles = [
        Patch(color=TRAINING, label="training"),
        Line2D([], [], color=SESSION, label="secure aggregation"),
        Line2D([], [], color=KEPT, label="what deputies keep"),
        Line2D([], [], color=VOTE, label="votes"),
        Line2D([], [], color=TOLD, label="certificate"),
        Line2D([], [], color=DEAD, label="nobody was there"),
        Line2D([], [], marker="*", color="#d69e2e", ls="", ms=11, mec=TOLD, label="has the certified result"),
    ]
    axes.legend(handles=handles, ncols=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=8)


def main(folder):
    """All of them, into `folder`."""
    for name, (play, title) in SCENES.items():
        draw(play(), title, Path(folder) / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
