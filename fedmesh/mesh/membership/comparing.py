"""Anti-entropy: two views are compared row by row, and only what differs is sent (Demers et al. 1987, push-pull).

A view travels as summaries, each of a range of names, so that every message fits a frame whatever the mesh's size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from fedmesh.mesh.membership.messages import MAX_ROWS, PAGE_BYTES, States, Summary

__all__ = ["differences", "pages", "summaries"]


def summaries(view: Mapping[str, tuple[int, int]], own: bytes) -> Iterator[Summary]:
    """The view as messages. `own`, the sender's statement about itself, goes with the first."""
    names = sorted(view)
    after = ""
    for start in range(0, len(names), MAX_ROWS):
        part = names[start : start + MAX_ROWS]
        until = "" if start + MAX_ROWS >= len(names) else part[-1]
        yield Summary(after, until, tuple((name, *view[name]) for name in part), () if after else (own,))
        after = until


def differences(view: Mapping[str, tuple[int, int]], summary: Summary) -> tuple[list[str], list[str]]:
    """Names of whom `view` knows more than the summary, and of whom it knows less, in the summary's range."""
    theirs: dict[str, tuple[int, int]] = {
        name: (incarnation, state) for name, incarnation, state in summary.rows if _is_within(summary, name)
    }
    more = [
        name for name, standing in view.items() if _is_within(summary, name) and standing > theirs.get(name, (0, 0))
    ]
    less = [name for name, standing in theirs.items() if standing > view.get(name, (0, 0))]
    return more, less


def pages(names: Iterable[str], wants: Iterable[str], proof: Callable[[str], list[bytes]]) -> Iterator[States]:
    """The statements about `names`, and what is wanted, as messages that fit."""
    asked, page, size = tuple(wants)[:MAX_ROWS], list[bytes](), 0
    for name in names:
        statements = proof(name)
        length = sum(map(len, statements))
        if size + length > PAGE_BYTES or len(page) + len(statements) > MAX_ROWS:
            yield States(tuple(page), asked)
            asked, page, size = (), [], 0
        page += statements
        size += length
    if page or asked:
        yield States(tuple(page), asked)


def _is_within(summary: Summary, name: str) -> bool:
    return name > summary.after and (not summary.until or name <= summary.until)
