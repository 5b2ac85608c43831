"""What the hand-read header promises: hostile bytes are refused early, short ones are told from broken ones."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackd.disk.fits_header import FitsHeader, number_of, read_header
from stackd.disk.inbox import Unfinished
from stackd.errors import SetError

MANY = 10**8


def header_bytes(*cards: str) -> bytes:
    text = "".join(card.ljust(80) for card in (*cards, "END"))
    return text.encode("latin-1").ljust(-(-len(text) // 2880) * 2880)


def image_cards(bits: object = 16, axes: tuple[object, ...] = (4, 3)) -> list[str]:
    sizes = [f"NAXIS{i}  = {size}" for i, size in enumerate(axes, 1)]
    return ["SIMPLE  =                    T", f"BITPIX  = {bits}", f"NAXIS   = {len(axes)}", *sizes]


def read(content: bytes, max_pixels: int = MANY) -> FitsHeader:
    return read_header(io.BytesIO(content), len(content), max_pixels)


def test_values_of_all_kinds_are_understood() -> None:
    """Fixed and free format, quotes in quotes, comments with slashes, Fortran exponents."""
    cards = [
        "OBJECT  = 'Barnard''s / star'  / what it is",
        "EXPTIME = 060.00 / s",
        "GAIN    =                  100",
        "CDELT1  = 1.5D-3",
        "COOLED  =                    T / cooler",
        "EMPTY   =",
        "COMMENT = 'not a value'",
    ]
    header = read(header_bytes(*image_cards(), *cards) + bytes(24))

    assert header.values["OBJECT"] == "Barnard's / star"
    assert header.values["EXPTIME"] == 60.0
    assert header.values["GAIN"] == 100
    assert header.values["CDELT1"] == 0.0015
    assert header.values["COOLED"] is True
    assert header.values["EMPTY"] == ""
    assert (header.bands, header.height_px, header.width_px, header.data_offset) == (1, 3, 4, 2880)
    assert all(len(card) == 80 for card in header.cards)


def test_unprintable_bytes_leave_every_card_where_it_was() -> None:
    """Control characters and UTF-8 reach neither logs nor reports, nor do they shift the cards."""
    header = read(header_bytes(*image_cards(), "OBJECT  = 'M\x1b31\xe9'") + bytes(24))

    assert header.values["OBJECT"] == "M?31?"


def test_missing_padding_is_accepted_and_missing_data_is_unfinished() -> None:
    """Some capture programs leave the last block unpadded; a byte less than the data is a growing file."""
    head = header_bytes(*image_cards())

    assert read(head + bytes(24)).width_px == 4
    with pytest.raises(Unfinished, match="2903 bytes long where its header declares 2904"):
        read(head + bytes(23))
    with pytest.raises(Unfinished, match="within its header"):
        read(head[:2000])


def test_a_header_without_end_is_given_up_after_64_blocks() -> None:
    """A file of endless cards costs 184 kB, not minutes."""
    file = io.BytesIO(header_bytes(*image_cards())[:320].ljust(400 * 2880))

    with pytest.raises(SetError, match="no END"):
        read_header(file, 400 * 2880, MANY)

    assert file.tell() == 64 * 2880


@pytest.mark.parametrize(
    "cards",
    [
        image_cards(axes=(0, 3)),
        image_cards(axes=(-4, 3)),
        image_cards(axes=("4.5", 3)),
        image_cards(axes=("T", 3)),
        image_cards(axes=(4, 3, 2)),
        image_cards(axes=(4, 3, 3, 1)),
        image_cards(axes=(4,)),
        image_cards(bits=12),
        image_cards(bits="'16'"),
        ["SIMPLE  =                    T"],
    ],
)
def test_senseless_structures_are_refused_not_waited_for(cards: list[str]) -> None:
    """No size of file makes these an image."""
    with pytest.raises(SetError) as caught:
        read(header_bytes(*cards) + bytes(2880))

    assert not isinstance(caught.value, Unfinished)
    assert caught.value.remedy


def test_a_giant_is_refused_before_its_length_is_believed() -> None:
    """200000x200000 px on a few bytes is no growing file."""
    with pytest.raises(SetError, match="max_pixels") as caught:
        read(header_bytes(*image_cards(axes=(200_000, 200_000))))

    assert not isinstance(caught.value, Unfinished)


def test_an_image_in_the_first_extension_is_found() -> None:
    """Its own cards win over those of the empty primary unit, which are kept too."""
    primary = header_bytes(
        "SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 0", "OBJECT  = 'M31'", "GAIN    = 1"
    )
    extension = header_bytes("XTENSION= 'IMAGE   '", *image_cards()[1:], "GAIN    = 2")

    header = read(primary + extension + bytes(24))

    assert (header.values["OBJECT"], header.values["GAIN"]) == ("M31", 2)
    assert header.data_offset == 2 * 2880
    with pytest.raises(SetError, match="no plain image"):
        read(primary + header_bytes("XTENSION= 'BINTABLE'", *image_cards()[1:]) + bytes(24))


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_random_bytes_give_a_verdict_and_nothing_else(noise: bytes, place: int) -> None:
    """Whatever is overwritten in a header: it is read, or refused with a reason."""
    content = bytearray(header_bytes(*image_cards(), "OBJECT  = 'M31'") + bytes(24))
    content[place : place + len(noise)] = noise
    try:
        header = read(bytes(content), max_pixels=10_000)
    except SetError as error:
        assert error.reason
    else:
        assert header.width_px * header.height_px <= 10_000


def test_numbers_are_finite_or_none() -> None:
    """Programs write numbers as text, and sometimes nan."""
    assert number_of("60.0") == 60.0
    assert [number_of(value) for value in ("nan", "inf", "slow", True, None)] == [None] * 5
