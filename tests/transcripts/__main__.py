"""Writes the transcripts anew: ``python -m tests.transcripts``. Read what changed in them."""

from pathlib import Path

from tests.transcripts.journeys import JOURNEYS

HERE = Path(__file__).parent


def transcript(name: str) -> str:
    """The text of a journey's file: what it is about, then what was said."""
    journey = JOURNEYS[name]
    return f"{journey.__doc__}\n\n{journey()}"


def main() -> None:
    """Write them all."""
    for name in JOURNEYS:
        (HERE / f"{name}.txt").write_text(transcript(name))
    print(f"wrote {len(JOURNEYS)} transcripts")


if __name__ == "__main__":
    main()
