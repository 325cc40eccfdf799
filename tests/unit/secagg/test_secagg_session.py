"""What parties must agree on, as bytes."""

from hypothesis import given
from hypothesis import strategies as st

from fedmesh.secagg.session import label

texts = st.characters(exclude_categories=["Cs"])
parts = (
    st.binary(max_size=3) | st.text(texts, max_size=3) | st.sampled_from([b"x" * n for n in (254, 255, 256, 70_000)])
)


@given(st.lists(parts, max_size=5))
def test_a_label_is_every_part_behind_its_length(given_parts):
    encoded = [part.encode() if isinstance(part, str) else part for part in given_parts]
    assert label(*given_parts) == b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


def test_golden_label():
    assert label("ab", b"", "é").hex() == "0000000000000002" + "6162" + "0000000000000000" + "0000000000000002" + "c3a9"
