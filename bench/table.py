"""Every row, in the order of the table."""

from bench import actors, calls, crowds, deaths, graphs, objects, starts
from bench.rows import Row

ROWS: dict[str, Row] = {
    row.name: row
    for family in (calls, actors, graphs, crowds, objects, starts, deaths)
    for row in family.ROWS
}
