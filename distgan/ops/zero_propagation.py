"""For torch.compile what `conv2d.split_convolutions` is for eager penalties: a graph pass that computes nothing on zeros.

    torch.compile(module, fullgraph=True, options=COMPILE_OPTIONS)

A compiled exact penalty is torch.func.grad inside the compiled module. Its joint graph of forward and backward holds the zeros
that torch returns as second derivative of a piecewise linear activation, and on them the backward of every layer below.

This module imports Inductor, which takes a second: import it where something is compiled.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

aten = torch.ops.aten

# The arguments that all have to be zero for the result to be. (0 * inf and 0 / 0 count as 0 in this file.)
_SUMMANDS: dict[Any, set[int]] = {
    **{packet: {0} for packet in (aten.alias, aten.clone, aten.detach, aten._to_copy, torch.ops.prims.convert_element_type)},
    **{packet: {0} for packet in (aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.t, aten.expand)},
    **{packet: {0} for packet in (aten.squeeze, aten.unsqueeze, aten.slice, aten.select, aten.index, aten._unsafe_index, aten.gather)},
    **{packet: {0} for packet in (aten.neg, aten.sum, aten.mean, aten.div, aten.avg_pool2d, aten._adaptive_avg_pool2d)},
    **{packet: {0, 1} for packet in (aten.add, aten.sub, aten.select_scatter, aten.slice_scatter)},
    **{packet: {0, 2} for packet in (aten.index_put, aten._unsafe_index_put)},
    aten.scatter_add: {0, 3},
    aten.where: {1, 2},
}
# Zero where one of the first two arguments is.
_PRODUCTS = {aten.mul, aten.mm, aten.bmm, aten.convolution}
# Position of the value that fills the result.
_FILLED = {aten.full: 1, aten.full_like: 1, aten.new_full: 2, aten.scalar_tensor: 0}


class PropagateZeros(CustomGraphPass):
    """Find the tensors that are zero whatever the inputs are, and remove what is computed from them, or for them alone.

    Only tensors whose sizes are numbers: a graph with dynamic shapes stays as it is.
    """

    def __call__(self, graph: Graph) -> None:
        zeros: set[Node] = set()
        for node in list(graph.nodes):
            if node.op == "call_function" and _is_zero(node, zeros):
                zeros.add(node)
            elif (summand := _only_summand(node, zeros)) is not None:
                node.replace_all_uses_with(summand)
        for zero in zeros:
            readers = [user for user in zero.users if user not in zeros]
            if readers and not _is_filled(zero):
                full = _full(graph, zero)
                for reader in readers:
                    reader.replace_input_with(zero, full)
        graph.eliminate_dead_code()

    def uuid(self) -> Any:
        """Inductor looks up compiled graphs by this among other things: by the source of this file."""
        return get_hash_for_files((__file__,))


COMPILE_OPTIONS: dict[str, Any] = {"joint_custom_pre_pass": PropagateZeros()}


def _packet(node: Node) -> Any:
    """The operator of `node` without its overload."""
    return getattr(node.target, "overloadpacket", None)


def _is_zero(node: Node, zeros: set[Node]) -> bool:
    """Whether all that `node` returns, a tensor or several, is zero; `zeros` holds the nodes before it of which that is true."""
    packet = _packet(node)  # a backward of any kind is linear in its first argument, the gradient of the output
    known = {position for position, argument in enumerate(node.args) if isinstance(argument, Node) and argument in zeros}
    if node.target is operator.getitem:
        return 0 in known
    if packet is None or not _has_known_size(node):
        return False
    if packet is aten.cat:
        return all(part in zeros for part in node.args[0])  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
    if packet in _PRODUCTS:
        return bool(known & {0, 1}) and (packet is not aten.convolution or node.args[2] is None)  # without a bias
    if packet in _SUMMANDS:
        return _SUMMANDS[packet] <= known
    return _is_filled(node) or (packet.__name__.endswith(("_backward", "_backward_data")) and 0 in known)


def _is_filled(node: Node) -> bool:
    """Whether `node` makes a tensor of zeros out of nothing."""
    position = _FILLED.get(_packet(node))
    value = None if position is None else node.args[position]
    return isinstance(value, int | float) and value == 0


def _has_known_size(node: Node) -> bool:
    """Whether `node` returns tensors (some may be None) whose sizes and strides are numbers."""
    values = node.meta.get("val")
    tensors = [value for value in (values if isinstance(values, list | tuple) else [values]) if value is not None]
    return bool(tensors) and all(
        isinstance(tensor, Tensor) and all(isinstance(size, int) for size in (*tensor.shape, *tensor.stride())) for tensor in tensors
    )


def _only_summand(node: Node, zeros: set[Node]) -> Node | None:
    """What `node` is equal to because it adds or subtracts zero, or None."""
    if _packet(node) not in {aten.add, aten.sub} or node.kwargs:
        return None
    first, second = node.args
    summand = first if second in zeros else second if first in zeros and _packet(node) is aten.add else None
    if not isinstance(summand, Node):
        return None
    before, after = summand.meta["val"], node.meta["val"]
    return summand if before.shape == after.shape and before.dtype == after.dtype else None  # neither broadcast nor promoted


def _full(graph: Graph, zero: Node) -> Node:
    """A new node beside `zero` that fills a tensor like it."""
    value = zero.meta["val"]
    options = {"dtype": value.dtype, "layout": value.layout, "device": value.device, "pin_memory": False}
    with graph.inserting_after(zero):
        full = graph.call_function(aten.full.default, (list(value.shape), 0), options)
    full.meta = {**zero.meta, "val": torch.zeros_like(value, memory_format=torch.contiguous_format)}
    return full
