"""How long ranks take to exchange something: the laws of rings and trees, on nodes of several GPUs."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Topology:
    """Nodes of equal GPUs; bandwidths in bytes/s one way, latencies in seconds of one step from neighbour to neighbour."""

    gpus_per_node: int
    node_bandwidth: float  # of a GPU to others of its node
    node_latency: float
    network_bandwidth: float  # of a node to other nodes, all its adapters together
    network_latency: float
    launch_latency: float  # of an exchange, however small and on however many ranks

    def nodes(self, num_gpus: int) -> int:
        """How many nodes so many GPUs take, each but the last one full."""
        return -(-num_gpus // self.gpus_per_node)


def ring_seconds(num_bytes: float, num_ranks: int, bandwidth: float, latency: float) -> float:
    """An all-reduce on a ring: 2(n-1) steps, in each of which every rank sends an n-th.

    Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", equation 3.
    """
    steps = 2 * (num_ranks - 1)
    return steps / num_ranks * num_bytes / bandwidth + steps * latency


def double_tree_seconds(num_bytes: float, num_ranks: int, bandwidth: float, latency: float) -> float:
    """An all-reduce on two binary trees, each of which has half of the bytes: up and down, in pieces that follow each other.

    A rank sends all of them twice, as a leaf of one tree and within the other. Sanders, Speck & Traeff 2009, "Two-tree algorithms for
    full bandwidth broadcast, reduction and scan"; NCCL's trees.
    """
    if num_ranks == 1:
        return 0.0
    return 2 * num_bytes / bandwidth + 2 * math.ceil(math.log2(num_ranks)) * latency


def all_reduce_seconds(num_bytes: float, num_gpus: int, topology: Topology) -> float:
    """An all-reduce of a tensor of so many bytes, by the quickest way: one ring, or by nodes, with a ring or trees between them.

    By nodes: a reduce-scatter within each, an all-reduce of each GPU's part between them, an all-gather within each. All parts of a node
    share its network.
    """
    if num_gpus == 1:
        return 0.0
    nodes = topology.nodes(num_gpus)
    if nodes == 1:
        return topology.launch_latency + ring_seconds(num_bytes, num_gpus, topology.node_bandwidth, topology.node_latency)
    per_node = num_gpus // nodes
    # The ring passes each GPU and leaves each node once; of its steps, 2(nodes - 1) wait for the network.
    slowest = min(topology.node_bandwidth, topology.network_bandwidth)
    crossings = 2 * (nodes - 1) * (topology.network_latency - topology.node_latency)
    one_ring = ring_seconds(num_bytes, num_gpus, slowest, topology.node_latency) + crossings
    within = ring_seconds(num_bytes, per_node, topology.node_bandwidth, topology.node_latency)
    between = (topology.network_bandwidth, topology.network_latency)
    by_nodes = within + min(ring_seconds(num_bytes, nodes, *between), double_tree_seconds(num_bytes, nodes, *between))
    return topology.launch_latency + min(one_ring, by_nodes)


def sent_bytes_per_node(num_bytes: float, num_gpus: int, topology: Topology) -> float:
    """What each node sends to others in an all-reduce: 2(m-1)/m of its bytes, the least there is on m nodes."""
    nodes = topology.nodes(num_gpus)
    return 2 * (nodes - 1) / nodes * num_bytes
