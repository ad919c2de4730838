"""The command ``fabric``: public names of the fabric, shown in a terminal."""
