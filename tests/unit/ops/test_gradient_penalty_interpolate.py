"""The images to take a penalty at, in every compiled form, against the reference twin: the same bits."""

import pytest
import torch
from torch import Tensor

from distgan.images import to_float
from distgan.ops import gradient_penalty_interpolate
from distgan.ops.gradient_penalty_interpolate import Mode, gradient_penalty_interpolate_reference, philox, shares

MODES: list[Mode] = ["mixture", "real", "fake"]
# Small images, which a warp takes; images for one block, with a rest; for several blocks; and what has no elements.
SHAPES = [(1,), (7,), (300, 3), (3, 2, 5, 7), (2, 3, 13, 17), (2, 3, 31, 33), (0, 3), (4, 0)]
SEED, OFFSET = 0x0123456789ABCDEF, 2**32 - 2  # the number of an image crosses 32 bits
ONES = 2**32 - 1


def images(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_twins_philox_gives_the_known_answers_of_random123(counter, key, answer):
    words = philox(tuple(torch.tensor([word]) for word in counter), key)  # type: ignore[arg-type]
    assert tuple(int(word) for word in words) == answer


def test_share_of_image_0_under_key_0_is_the_known_answer(ops):
    result = ops.gradient_penalty_interpolate(torch.ones(1, 1), torch.zeros(1, 1), 0, 0, 0)
    assert result.item() == (0x6627E8D5 >> 8) / 2**24


def test_shares_are_uniform_and_below_1():
    drawn = shares(SEED, 0, 20_000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert ((drawn * 10).long().bincount(minlength=10) - 2000).abs().max() < 250  # 5.9 standard deviations of a bin


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fake_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("real_dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_is_the_twin_to_the_bit(ops, real_dtype, fake_dtype, mode):
    for number, shape in enumerate(SHAPES):
        real, fake = images(shape, real_dtype, number), images(shape, fake_dtype, 1000 + number)
        actual = ops.gradient_penalty_interpolate(real, fake, SEED, OFFSET, MODES.index(mode))
        assert actual.dtype == torch.float32
        assert torch.equal(actual, gradient_penalty_interpolate_reference(real, fake, SEED, OFFSET, mode))


def test_the_twin_is_the_formula_in_float64():
    real, fake = images((4, 3, 5, 5), torch.uint8, 0), images((4, 3, 5, 5), torch.float32, 1)
    share = shares(SEED, 9, 4).double()[:, None, None, None]
    expected = share * to_float(real).double() + (1 - share) * fake.double()
    for fakes, tolerance in ((fake, 1e-6), (fake.double(), 1e-6)):
        result = gradient_penalty_interpolate(real, fakes, SEED, 9, "mixture")
        assert result.dtype == fakes.dtype
        torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


def test_every_byte_is_normalised_as_the_reader_does(ops):
    real = torch.arange(256, dtype=torch.uint8)[None]
    assert torch.equal(ops.gradient_penalty_interpolate(real, torch.zeros(1, 256), 0, 0, 1), to_float(real))


def test_an_image_has_the_same_share_in_any_slice(ops):
    real, fake = images((12, 3, 9, 9), torch.uint8, 0), images((12, 3, 9, 9), torch.float32, 1)
    whole = ops.gradient_penalty_interpolate(real, fake, SEED, OFFSET, 0)
    parts = (slice(0, 5), slice(5, 12))
    slices = [ops.gradient_penalty_interpolate(real[part], fake[part], SEED, OFFSET + part.start, 0) for part in parts]
    assert torch.equal(whole, torch.cat(slices))


def test_key_and_offset_count_in_all_their_bits(ops):
    ones, zeros = torch.ones(1, 1), torch.zeros(1, 1)
    for seed, offset in [(-1, 0), (-(2**63), 2**63 - 1), (2**63 - 1, 2**62), (1, 0), (2**32, 0), (0, 1), (0, 2**32)]:
        expected = shares(seed, offset, 1).item()
        assert ops.gradient_penalty_interpolate(ones, zeros, seed, offset, 0).item() == expected
        assert expected != shares(0, 0, 1).item()


def test_the_public_function_takes_keys_without_a_sign():
    ones, zeros = torch.ones(3, 1), torch.zeros(3, 1)
    assert torch.equal(gradient_penalty_interpolate(ones, zeros, 2**64 - 5, 0, "mixture")[:, 0], shares(-5, 0, 3))


@pytest.mark.parametrize("real_dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("mode", MODES)
def test_takes_any_memory_layout(ops, mode, real_dtype):
    shape = (3, 4, 12, 13)
    layouts = {
        "contiguous": lambda t: t,
        "channels-last": lambda t: t.to(memory_format=torch.channels_last),
        "off by one element": lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape),
        "samples inside": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        "with gaps": lambda t: t.repeat(1, 1, 1, 2)[..., ::2],
        "one for all": lambda t: t[:1].expand(t.shape),
    }
    for real_name, real_view in layouts.items():
        for fake_name, fake_view in layouts.items():
            real, fake = real_view(images(shape, real_dtype, 0)), fake_view(images(shape, torch.float32, 1))
            actual = ops.gradient_penalty_interpolate(real, fake, SEED, OFFSET, MODES.index(mode))
            assert torch.equal(actual, gradient_penalty_interpolate_reference(real, fake, SEED, OFFSET, mode))
            leader = real_name if mode == "real" else fake_name
            is_last = leader == "channels-last"
            assert actual.is_contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


def test_nan_and_infinity_pass_through(ops):
    real, fake = torch.tensor([[torch.nan, torch.inf, 1.0]]), torch.tensor([[0.0, 1.0, -torch.inf]])
    mixed = ops.gradient_penalty_interpolate(real, fake, 1, 0, 0)[0]
    assert mixed[0].isnan()
    assert mixed[1:].tolist() == [torch.inf, -torch.inf]
    assert torch.equal(ops.gradient_penalty_interpolate(real.nan_to_num(7), fake, 1, 0, 2), fake)


def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    real, fake = images((3, 3, 200, 201), torch.uint8, 0), images((3, 3, 200, 201), torch.bfloat16, 1)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            actual = gradient_penalty_interpolate(real, fake, SEED, OFFSET, "mixture")
            assert torch.equal(actual, gradient_penalty_interpolate_reference(real, fake, SEED, OFFSET, "mixture"))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_the_result_is_detached_and_new(mode, dtype):
    real, fake = torch.ones(2, 3, dtype=dtype, requires_grad=True), torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    result = gradient_penalty_interpolate(real, fake, 1, 0, mode)
    assert not result.requires_grad
    result.fill_(5)
    assert not real.eq(5).any()
    assert not fake.eq(5).any()


@pytest.mark.parametrize(
    ("real", "fake", "offset", "mode", "sentence"),
    [
        (torch.zeros(2, 3).int(), torch.zeros(2, 3), 0, 0, "real is int32, but this operator takes uint8, float32 or bfloat16."),
        (torch.zeros(2, 3), torch.zeros(2, 3).byte(), 0, 0, "fake is uint8, but this operator takes float32 or bfloat16."),
        (torch.zeros(2, 3), torch.zeros(2, 4), 0, 0, r"real is \[2, 3\] and fake is \[2, 4\]; they need one shape."),
        (torch.tensor(1.0), torch.tensor(1.0), 0, 0, "real has no dimension; dimension 0 has to count the images."),
        (torch.zeros(1).expand(2**31), torch.zeros(1).expand(2**31), 0, 0, "real has 2147483648 elements, .* at most 2147483647"),
        (torch.zeros(2), torch.zeros(2), -1, 0, "offset is -1, but it is the number of the first image, 0 or more."),
        (torch.zeros(2), torch.zeros(2), 0, 3, r"mode is 3; it has to be 0 \(mixture\), 1 \(real\) or 2 \(fake\)."),
        (torch.zeros(2), torch.zeros(2), 0, -1, "mode is -1; it has to be"),
    ],
)
def test_bad_input_is_a_sentence(ops, real, fake, offset, mode, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        ops.gradient_penalty_interpolate(real, fake, 1, offset, mode)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_devices_are_a_sentence():
    with pytest.raises(RuntimeError, match="fake and real are on different devices; move them to one"):
        gradient_penalty_interpolate(torch.zeros(2), torch.zeros(2).cuda(), 1, 0, "mixture")


def test_an_unknown_mode_is_a_sentence():
    with pytest.raises(ValueError, match=r"mode is 'both'; it has to be one of 'mixture', 'real', 'fake'\."):
        gradient_penalty_interpolate(torch.zeros(2), torch.zeros(2), 1, 0, "both")  # type: ignore[arg-type]


def test_opcheck():
    real, fake = images((3, 2, 5, 5), torch.uint8, 0), images((3, 2, 5, 5), torch.bfloat16, 1)
    for fakes in (fake, fake.to(memory_format=torch.channels_last), fake.transpose(2, 3), fake[:1].expand(fake.shape)):
        for mode in range(3):
            torch.library.opcheck(torch.ops.distgan.gradient_penalty_interpolate.default, (real, fakes, 5, 7, mode))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_once_for_all_keys(backend):
    torch.compiler.reset()
    real, fake = images((3, 2, 5, 5), torch.uint8, 0), images((3, 2, 5, 5), torch.float32, 1)
    interpolate = torch.compile(gradient_penalty_interpolate, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=False):
        interpolate(real, fake, 10, 20, "mixture")
        interpolate(real, fake, 11, 40, "mixture")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(12, 15):
            actual = interpolate(real, fake, step, 20 * step, "mixture")
            assert torch.equal(actual, gradient_penalty_interpolate(real, fake, step, 20 * step, "mixture"))
