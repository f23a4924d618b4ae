"""Copies to the device on a stream of their own arrive whole, in order, and are not overwritten while training reads them."""

import itertools
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from distgan.batch import BatchLayout
from distgan.data.plan import SamplePlan
from distgan.data.reading.reader import Reader
from distgan.data.reading.upload import Upload
from distgan.data.shards.manifest import open_manifest
from tests.shards import write_set

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_slices_on_the_device_are_the_readers(tmp_path: Path) -> None:
    manifest = open_manifest(write_set(tmp_path, [40, 24], side=64))
    plan = SamplePlan(np.array([40, 24]), manifest.hash, 0, shuffle_window=2)
    device = torch.device("cuda")
    busy = torch.randn(4096, 4096, device=device)
    layout = BatchLayout(32, 1, 1, 0)
    with (
        closing(Reader(manifest, plan, layout, 64, 1, num_workers=0)) as expected,
        closing(Reader(manifest, plan, layout, 64, 1, num_workers=2, pin_memory=True)) as reader,
    ):
        upload = Upload(reader, device)
        copies = []
        for _ in range(40):
            real = next(upload)
            busy = (busy @ busy).clamp(-1, 1)  # training is late: slices pile up behind it
            copies.append((real.images.clone(), real.labels.clone(), real.numbers))
            del real
        for (images, labels, numbers), one in zip(copies, itertools.islice(expected, 40), strict=True):
            assert torch.equal(images.cpu(), one.images)
            assert torch.equal(labels.cpu(), one.labels)
            assert np.array_equal(numbers, one.numbers)
