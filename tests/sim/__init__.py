"""The deterministic simulator: the real machines and links in a made-up world.

`world` is time and chance, `network` carries frames and loses them, `processes` are the shells that
perform effects, `programs` is the users' code, `checkers` say what must never happen. A seed is the
whole history; nothing here reads a clock, and the machines are imported as they are shipped.
"""
