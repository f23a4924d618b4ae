"""Ranks: who this process is, the process group, and what the ranks agree on."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from distgan.errors import InputError


@dataclass(frozen=True)
class World:
    """This process among all; sharding goes by `rank`, devices and ports by `local_rank`."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    num_nodes: int = 1
    _patient_group: list[dist.ProcessGroup] = field(default_factory=list, init=False, repr=False, compare=False)  # one, while there is any

    @classmethod
    def from_environment(cls) -> "World":
        """From the variables that torchrun (or DeepSpeed's launcher) sets; without them a world of one.

        Raises:
            InputError: a variable is no number, or there are fewer GPUs than ranks on this node.
        """
        rank, size, local_rank = _integer("RANK", 0), _integer("WORLD_SIZE", 1), _integer("LOCAL_RANK", 0)
        num_nodes = _integer("GROUP_WORLD_SIZE", _integer("CROSS_SIZE", 1))
        if not torch.cuda.is_available():
            return cls(rank, size, local_rank, torch.device("cpu"), num_nodes)
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"LOCAL_RANK is {local_rank}, but this node has {torch.cuda.device_count()} GPUs; start at most as many processes on it."
            )
        return cls(rank, size, local_rank, torch.device("cuda", local_rank), num_nodes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @contextmanager
    def process_group(self, timeout_seconds: float, patience_seconds: float, even_alone: bool = False) -> Iterator[None]:
        """The group of all ranks: gloo for CPU tensors, nccl for GPU tensors; on one rank only if it is to be there `even_alone`.

        Args:
            timeout_seconds: for which a rank waits for the others in an exchange before it gives up.
            patience_seconds: the same at the end of `rank_0_works`.
        """
        if self.size == 1 and not even_alone:
            yield
            return
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self.device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=timeout_seconds),
            device_id=self.device if on_gpu else None,
            store=dist.HashStore() if self.size == 1 else None,  # pyright: ignore[reportPrivateImportUsage]
        )
        self._patient_group.append(cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(seconds=patience_seconds))))
        try:
            yield
            dist.barrier()  # a rank that hung up while another is still in its last exchange could bring that one down
        finally:
            self._patient_group.clear()
            dist.destroy_process_group()

    @contextmanager
    def rank_0_works(self) -> Iterator[None]:
        """Rank 0 may take long within this, as to save, draw or evaluate; at the end the others wait for it, with patience. Collective."""
        yield
        for group in self._patient_group:
            dist.barrier(group)

    def broadcast_integer(self, value: int) -> int:
        """Rank 0's value, on every rank. Collective."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.int64)
        dist.broadcast(tensor, src=0)
        return int(tensor.item())

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` by its mean over the ranks. Collective."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def gather(self, values: list) -> list[list]:
        """The lists of JSON values that the ranks give, by rank. Collective."""
        if self.size == 1:
            return [values]
        own = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(own) if values else 0]))
        longest = int(max(sizes))
        if longest == 0:
            return [[] for _ in sizes]
        texts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(texts, torch.nn.functional.pad(own, (0, longest - len(own))))
        return [json.loads(bytes(text[: int(size)].tolist())) if size else [] for text, size in zip(texts, sizes, strict=True)]

    def disagreements(self, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Which tensors are not the same bits as rank 0's, and where: ['u on rank 1', 'u on rank 3']. Collective.

        Tensors of the same names and shapes on every rank; what is exchanged is one number of each, a sum over its bytes.
        """
        if self.size == 1:
            return []
        sums = [_bytes_of(tensor).sum(dtype=torch.int64) for tensor in tensors.values()]
        own = torch.stack(sums).cpu()  # [number of tensors]
        of_ranks = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(of_ranks, own)
        differ = [(theirs != of_ranks[0]).tolist() for theirs in of_ranks]
        return [f"{name} on rank {rank}" for number, name in enumerate(tensors) for rank in range(self.size) if differ[rank][number]]


class AnyRank:
    """Whether any rank raised its hand, learnt one call later, so that nobody waits for the exchange."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hand = torch.zeros(1)
        self._pending: dist.Work | None = None

    def __call__(self, raised: bool) -> bool:
        """Offer this rank's hand; the answer, the same on every rank, is about the hands of the call before. Collective."""
        if self._world.size == 1:
            return raised
        answer = self._finish()
        self._hand = torch.tensor([float(raised)])
        self._pending = dist.all_reduce(self._hand, op=dist.ReduceOp.MAX, async_op=True)
        return answer

    def _finish(self) -> bool:
        if self._pending is None:
            return False
        self._pending.wait()
        self._pending = None
        return bool(self._hand.item())

    def close(self) -> None:
        """Take part in the exchange still under way. Collective."""
        self._finish()


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _integer(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise InputError(f"The environment variable {name} is {text!r}; start with torchrun, or unset it.")
    return int(text)
