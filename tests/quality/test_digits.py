"""What the default recipe is for: digits that somebody else recognises."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distgan import generate
from distgan.data import digits
from distgan.images import sample
from distgan.randomness import Randomness
from tests.digit_classifier import DigitClassifier, Judgement, no_digits

NUM_IMAGES = 1000


@pytest.fixture(scope="module")
def classifier() -> DigitClassifier:
    return DigitClassifier()


def _makes_all_ten_digits(judgement: Judgement, recognised_share: float) -> bool:
    shares = judgement.class_shares
    return bool(shares.min() > 0 and shares.max() <= 0.25 and judgement.recognised_share >= recognised_share)


def test_the_criterion_takes_digits_and_nothing_else(classifier: DigitClassifier) -> None:
    images, labels = classifier.test_images, classifier.test_labels
    assert classifier.test_accuracy() > 0.97
    assert _makes_all_ten_digits(classifier.judge(images), 0.9)
    assert not _makes_all_ten_digits(classifier.judge(images[labels != 8]), 0.6), "a digit is missing"
    noise = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, digits.SIZE, digits.SIZE), dtype=np.uint8)
    assert not _makes_all_ten_digits(classifier.judge(noise), 0.6)
    for name, pictures in no_digits(images, labels).items():
        assert classifier.judge(pictures).recognised_share < 0.25, name


@pytest.mark.timeout(2000)
def test_the_default_recipe_makes_all_ten_digits(classifier: DigitClassifier, repository: Path, tmp_path: Path) -> None:
    recipe = repository / "launch" / "recipes" / "digits-dcgan.yaml"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distgan.train"),
        *("--config", str(recipe), "--run.dir", str(tmp_path / "a"), "--metrics.port", "0"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stderr
    generator, num_classes = generate.load_generator(tmp_path / "a", torch.device("cpu"))
    assert num_classes is None, "nobody told it which digit to make"
    latents = Randomness(0).normal("test", 0, NUM_IMAGES, generator.latent_size)
    judgement = classifier.judge(sample(generator, latents, None).numpy()[:, 0])
    real = classifier.judge(classifier.test_images)
    print(
        f"judge: {classifier.test_accuracy():.1%} right on held-out digits, {real.recognised_share:.1%} of them recognised; "
        f"generated: {judgement.recognised_share:.1%} recognised, classes {np.round(judgement.class_shares, 3).tolist()}"
    )
    assert _makes_all_ten_digits(judgement, 0.6)
