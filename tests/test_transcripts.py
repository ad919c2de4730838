"""What the machines say to each other on each journey is what its transcript says."""

from pathlib import Path

import pytest

from tests.transcripts.__main__ import HERE, transcript
from tests.transcripts.journeys import JOURNEYS


@pytest.mark.parametrize("name", JOURNEYS)
def test_a_journey_is_what_its_transcript_says(name: str) -> None:
    written = (HERE / f"{name}.txt").read_text()
    assert transcript(name) == written, "if that is meant: `python -m tests.transcripts`"


def test_every_transcript_is_of_a_journey() -> None:
    assert sorted(path.stem for path in Path(HERE).glob("*.txt")) == sorted(JOURNEYS)
