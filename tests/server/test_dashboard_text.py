"""Numbers, times, architectures and events as people read them."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.dashboard import text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (0.62134, "0.6213"),
        (89.2, "89.20"),
        (1.0, "1.000"),
        (0.003, "0.003"),
        (1234.5, "1,234"),
        (1.2e-7, "1.2e-07"),
        (math.nan, "NaN"),
        (-math.inf, "-∞"),
        (None, "–"),
        ("12", "–"),
        (True, "–"),
    ],
)
def test_numbers_have_four_digits(value: object, said: str) -> None:
    assert text.number(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (980, "980"),
        (1000, "1.00 k"),
        (52_527_750, "52.5 M"),
        (999_990, "1.00 M"),
        (8.39e9, "8.39 G"),
    ],
)
def test_quantities_have_three_digits_and_a_prefix(value: float, said: str) -> None:
    assert text.quantity(value) == said


@settings(deadline=None)
@given(st.floats(1, 1e14))
def test_a_quantity_is_within_half_a_percent_of_what_it_says(value: float) -> None:
    figure, _, prefix = text.quantity(value).partition(" ")
    scale = {prefix: scale for scale, prefix in text.SCALES}.get(prefix, 1)
    assert float(figure) * scale == pytest.approx(value, rel=0.006)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7440, "2 h 04 min"),
        (273_600, "3 d 4 h"),
        (None, "–"),
    ],
)
def test_durations_name_their_two_largest_units(seconds: float | None, said: str) -> None:
    assert text.duration(seconds) == said


@settings(deadline=None)
@given(st.floats(0, 1e7))
def test_no_duration_shows_sixty_of_a_unit(seconds: float) -> None:
    assert not re.search(r"\b60 (s|min)", text.duration(seconds))


@pytest.mark.parametrize(
    ("value", "reference", "said"),
    [
        (0.6, 0.8, "−25 %"),
        (1.041, 1.0, "+4.1 %"),
        (-1, -2, "+50 %"),
        (30, 1, "×30"),
        (1, 0, ""),
        (math.nan, 1, ""),
    ],
)
def test_changes_are_relative_to_the_reference(value: float, reference: float, said: str) -> None:
    assert text.change(value, reference) == said


def test_an_architecture_is_grouped_by_what_its_choices_are_called() -> None:
    unet = {"channels_8": 16, "channels_4": 32, "attention_4": True, "heads": 2}
    assert text.compact(unet) == [("channels", "16·32"), ("attention", "yes"), ("heads", "2")]
    assert text.compact({"stage1.layer1": "3x3", "stage1.layer2": "5x5"}) == [("stage1", "3x3·5x5")]
    assert text.compact({"inner1": 64, "inner2": 128, "7": 1}) == [("inner", "64·128"), ("7", "1")]


def test_an_event_says_its_reason_first_and_no_ids() -> None:
    data = {"call": "1a2b", "attempt": 2, "metrics": {"rfid": 0.51234}, "reason": "lost"}
    assert text.event_text(data) == "lost · rfid 0.5123 · attempt 2"
    kept = {
        "artifacts": [{"id": "3c", "name": "a.png"}, {"id": "4d", "name": "b.png"}],
        "step": 3,
        "more": [1],
    }
    assert text.event_text(kept) == "artifacts a.png, b.png · step 3 · more [1]"


@pytest.mark.parametrize(
    ("size", "said"), [(12, "12 B"), (3290, "3.29 kB"), (345_678, "346 kB"), (4.8e6, "4.80 MB")]
)
def test_file_sizes_are_in_bytes(size: int, said: str) -> None:
    assert text.file_size(size) == said
