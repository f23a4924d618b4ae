"""Models: shapes, sizes, labels; layers against torch's own in float64."""

import pytest
import torch
from torch import nn

from distgan.models import MODELS
from distgan.models.base import ImageShape
from distgan.models.layers import BatchNorm2d, LabelProjection

SMALL = {
    "mlp": {"generator_sizes": [8, 9], "discriminator_sizes": [9, 8]},
    "dcgan": {"generator_channels": 3, "discriminator_channels": 2, "max_channels": 10},
    "sngan": {"generator_channels": 3, "discriminator_channels": 6},
}
SIZES = {"mlp": (5, 28), "dcgan": (8, 14, 16, 28, 32, 56, 64, 128), "sngan": (32, 64)}


@pytest.mark.parametrize("num_classes", [None, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("model", "size"), [(model, size) for model in SIZES for size in SIZES[model]])
def test_images_and_logits(model: str, size: int, channels: int, num_classes: int | None) -> None:
    images = ImageShape(channels, size)
    options = MODELS[model].Options(latent_size=7, **SMALL[model])
    assert MODELS[model].problems(options, size) == []
    generator, discriminator = MODELS[model].build(options, images, num_classes)
    labels = None if num_classes is None else torch.tensor([0, 4])
    fakes = generator(torch.randn(2, generator.latent_size), labels)
    assert fakes.shape == (2, channels, size, size)
    assert fakes.abs().max() <= 1
    assert discriminator(fakes, labels).shape == (2,)


@pytest.mark.parametrize(("size", "proposal"), [(4, 8), (7, 8), (12, 14), (30, 28), (40, 32), (100, 112)])
def test_dcgan_names_a_size_it_can_make(size: int, proposal: int) -> None:
    options = MODELS["dcgan"].Options()
    (sentence,) = MODELS["dcgan"].problems(options, size)
    assert f"{size} pixels" in sentence
    assert f"data.resolution to {proposal} " in sentence
    assert MODELS["dcgan"].problems(options, proposal) == []


@pytest.mark.parametrize("size", [16, 28, 47, 56, 128])
def test_sngan_names_the_sizes_it_can_make(size: int) -> None:
    options = MODELS["sngan"].Options()
    (sentence,) = MODELS["sngan"].problems(options, size)
    assert f"{size} pixels wide" in sentence
    assert "data.resolution to 32 or 64" in sentence
    assert MODELS["sngan"].problems(options, 32) == MODELS["sngan"].problems(options, 64) == []


@pytest.mark.parametrize("model", MODELS)
def test_labels_change_both_networks(model: str) -> None:
    torch.manual_seed(0)
    generator, discriminator = MODELS[model].build(MODELS[model].Options(**SMALL[model]), ImageShape(1, 32), 2)
    generator.eval()
    for name, parameter in generator.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter)  # at the start a batch norm's scale and shift are the same for all labels
    latents, images = torch.randn(1, generator.latent_size), torch.rand(1, 1, 32, 32)
    zero, one = torch.tensor([0]), torch.tensor([1])
    assert not torch.equal(generator(latents, zero), generator(latents, one))
    assert not torch.equal(discriminator(images, zero), discriminator(images, one))


def test_default_sizes_of_mlp_are_the_documented_ones() -> None:
    generator, discriminator = MODELS["mlp"].build(MODELS["mlp"].Options(), ImageShape(1, 28), None)

    def sizes(network: nn.Module) -> list[tuple[int, int]]:
        return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]

    assert sizes(generator) == [(100, 256), (256, 512), (512, 512), (512, 784)]
    assert sizes(discriminator) == [(784, 512), (512, 512), (512, 512), (512, 1)]


def test_default_widths_of_sngan_are_the_published_ones() -> None:
    """Table 3 of arXiv 1802.05957 and the authors' networks for 64 pixels: outputs of each convolution of the blocks."""
    published = {
        32: ([256] * 6, [128] * 8),
        64: ([512, 512, 256, 256, 128, 128, 64, 64], [64, 64, 64, 128, 128, 256, 256, 512, 512, 1024]),
    }
    for size, expected in published.items():
        networks = MODELS["sngan"].build(MODELS["sngan"].Options(), ImageShape(3, size), None)
        for network, widths in zip(networks, expected, strict=True):
            layers = [layer for name, layer in network.named_modules() if ".convolution" in name]
            assert [layer.out_channels for layer in layers] == widths
        assert networks[0].latent_size == 128


@pytest.mark.parametrize(("size", "side"), [(32, 8), (64, 2)])
def test_sngan_halves_as_published_and_ends_in_a_sum_over_pixels(size: int, side: int) -> None:
    _, discriminator = MODELS["sngan"].build(MODELS["sngan"].Options(**SMALL["sngan"]), ImageShape(1, size), None)
    exported, images = discriminator.exported(), torch.rand(2, 1, size, size)
    features = exported.blocks(images)
    assert features.shape[2:] == (side, side)
    expected = exported.head.linear(features.clamp_min(0).sum(dim=(2, 3)))[:, 0]
    torch.testing.assert_close(discriminator.eval()(images, None), expected)


def test_conditional_batch_norm_is_torchs_with_each_samples_own_scale_and_shift() -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm2d(3, num_classes=4).double(), nn.BatchNorm2d(3, affine=False).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    x, labels = torch.randn(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 3, 3, 1, 0])
    scale, shift = ours.weight[labels][:, :, None, None], ours.bias[labels][:, :, None, None]
    torch.testing.assert_close(ours(x, labels), theirs(x) * scale + shift)


def test_batch_norm_is_torchs_in_values_gradients_and_running_statistics() -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
            layer.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64) * 2 + 7
        mine, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.testing.assert_close(ours(mine), theirs(reference))
        ours(mine).square().sum().backward()
        theirs(reference).square().sum().backward()
        torch.testing.assert_close(mine.grad, reference.grad)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_of_a_constant_far_from_zero_has_no_nan() -> None:
    layer = BatchNorm2d(1)
    y = layer(torch.full((4, 1, 2, 2), 1e4))
    assert y.isfinite().all()
    assert layer.running_var.isfinite().all()


def test_label_projection_is_linear_plus_inner_product() -> None:
    layer = LabelProjection(4, 3).double()
    assert layer.embedding is not None
    features, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    expected = features @ layer.linear.weight[0] + layer.linear.bias + torch.einsum("nf,nf->n", layer.embedding.weight[labels], features)
    torch.testing.assert_close(layer(features, labels), expected)


def test_discriminator_batch_norm_couples_samples_and_none_does_not() -> None:
    """The property that decides whether a per-sample penalty is allowed is what the option says it is."""
    for norm in ("none", "batch", "spectral"):
        options = MODELS["dcgan"].Options(**SMALL["dcgan"], discriminator_norm=norm)
        _, network = MODELS["dcgan"].build(options, ImageShape(1, 16), None)
        discriminator = network.normalised(iterate=False)
        images = torch.rand(3, 1, 16, 16)
        changed = torch.cat([images[:1], torch.rand(2, 1, 16, 16)])
        coupled = not torch.allclose(discriminator(images, None)[0], discriminator(changed, None)[0], atol=1e-6)
        assert coupled == options.discriminator_mixes_samples
