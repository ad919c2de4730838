"""Journeys as text: the real machines, wired together directly, and what they said to each other.

`wires` delivers, `words` spells messages out, `journeys` tells what happens, and one text file for
each journey is both the manual and what `tests/test_transcripts.py` compares with. No links and no
processes are in them: what is said is heard, in order. ``python -m tests.transcripts`` writes the
files anew.

``A -> B`` is a message, ``:: A`` something that happened in the process of A, ``A :>`` what A's
machine asked its process for.
"""
