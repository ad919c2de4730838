"""The words themselves: closed, documented, pinned to the wire integer, whole after a journey."""

import re
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fabric.protocol.messages import PROTOCOL, AnyMessage, Message
from tests import docs

ALL: tuple[type[Message], ...] = get_args(AnyMessage)

ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(list[AnyMessage])


# -- values of any message


def values(kind: msgspec.inspect.Type) -> SearchStrategy[Any]:
    """Values of a type, as msgspec sees it. A type that is not here has no place in a message."""
    match kind:
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.IntType():
            return st.integers(min_value=-(2**63), max_value=2**63 - 1)
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False)
        case msgspec.inspect.StrType():
            return st.text(max_size=20)
        case msgspec.inspect.BytesType():
            return st.binary(max_size=20)
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([values(each) for each in types])
        case msgspec.inspect.ListType(item_type=item):
            return st.lists(values(item), max_size=3)
        case msgspec.inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3).map(tuple)
        case msgspec.inspect.TupleType(item_types=types):
            return st.tuples(*[values(each) for each in types])
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: values(field.type) for field in fields})
    raise TypeError(f"{kind!r} in a message: teach the test, or choose a plainer type")


def messages_of(kind: type[Message]) -> SearchStrategy[Message]:
    """Any message of that type, every field filled in."""
    return values(msgspec.inspect.type_info(kind))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_message_is_the_same_after_encoding_and_decoding(kind: type[Message]) -> None:
    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(st.lists(messages_of(kind), min_size=1, max_size=3))
    def journey(said: list[Message]) -> None:
        assert DECODER.decode(ENCODER.encode(said)) == said

    journey()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(ALL).flatmap(messages_of), max_size=6))
def test_messages_of_all_kinds_share_a_frame(said: list[Message]) -> None:
    assert DECODER.decode(ENCODER.encode(said)) == said


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_noise_is_refused_with_a_decode_error_and_nothing_else(noise: bytes) -> None:
    try:
        DECODER.decode(noise)
    except msgspec.DecodeError:
        return


# -- the words


def test_any_message_is_every_message() -> None:
    assert sorted(kind.__name__ for kind in ALL) == sorted(
        kind.__name__ for kind in Message.__subclasses__()
    )


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_tag_of_a_message_is_its_name_in_snake_case(kind: type[Message]) -> None:
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    assert kind.__struct_config__.tag == snake


def test_each_message_says_first_who_says_it_to_whom() -> None:
    source = docs.source_of_words()
    named = {kind.__name__ for kind in ALL}
    silent = [each.name for each in docs.entries(source) if each.name in named and not each.route]
    assert silent == []


# -- pinned and written


def test_the_wire_integer_changes_with_the_messages() -> None:
    old, new = docs.PIN.read_text(), docs.pin()
    assert not docs.is_same_integer_for_other_words(old, new), (
        f"the messages changed: if wire integer {PROTOCOL} is committed, PROTOCOL has to become "
        f"{PROTOCOL + 1}; then run `python -m tests.docs`"
    )
    assert old == new, "the wire integer changed: run `python -m tests.docs`"


@pytest.mark.parametrize(
    ("old", "new", "is_forbidden"),
    [
        ("", "1 aa\n", False),
        ("1 aa\n", "1 aa\n", False),
        ("1 aa\n", "1 bb\n", True),
        ("1 aa\n", "2 bb\n", False),
    ],
)
def test_only_a_new_integer_allows_other_words(old: str, new: str, is_forbidden: bool) -> None:
    assert docs.is_same_integer_for_other_words(old, new) is is_forbidden


def test_the_protocol_page_is_what_the_code_says() -> None:
    source = docs.source_of_words()
    assert docs.PAGE.read_text() == docs.page(source), "stale: run `python -m tests.docs`"
