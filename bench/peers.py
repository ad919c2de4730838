"""Who is measured, in the order of the table's columns."""

from bench.clusters import Dask, Fabric, Ray
from bench.peer import Peer
from bench.pools import Futures, Joblib, Loky, Pool

PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Fabric, Ray, Dask, Pool, Futures, Loky, Joblib)
}

BARE = "bare"
"""The column of what there is to be had: an echo, a memcpy, a Python that does nothing."""
