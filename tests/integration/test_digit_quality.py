"""What the default recipe is for: digits that somebody else recognises, after a quarter of its length."""

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
from tests.digit_classifier import DigitClassifier

NUM_IMAGES = 1000


@pytest.fixture(scope="module")
def classifier() -> DigitClassifier:
    return DigitClassifier()


def test_the_judge_knows_digits_from_noise(classifier: DigitClassifier) -> None:
    assert classifier.test_accuracy > 0.97
    noise = np.random.default_rng(0).integers(0, 256, (200, digits.SIZE, digits.SIZE), dtype=np.uint8)
    assert classifier.judge(noise).confident_share < 0.2
    smears = np.repeat(np.repeat(noise[:, :4, :4], 8, axis=1), 8, axis=2)  # as smooth as a digit, but none
    assert classifier.judge(smears).confident_share < 0.6


def test_the_default_recipe_makes_all_ten_digits(classifier: DigitClassifier, repository: Path, tmp_path: Path) -> None:
    recipe = repository / "launch" / "recipes" / "digits-dcgan.yaml"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distgan.train"),
        *("--config", str(recipe), "--run.dir", str(tmp_path / "a"), "--train.total_kimg", "40", "--metrics.port", "0"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    generator, num_classes = generate.load_generator(tmp_path / "a", torch.device("cpu"))
    assert num_classes is None, "nobody told it which digit to make"
    latents = Randomness(0).normal("test", 0, NUM_IMAGES, generator.latent_size)
    judgement = classifier.judge(sample(generator, latents, None).numpy()[:, 0])
    print(
        f"judge: {classifier.test_accuracy:.1%} right on held-out digits, {classifier.test_confident_share:.1%} of them with p > 0.8; "
        f"generated: {judgement.confident_share:.1%} with p > 0.8, classes {np.round(judgement.class_shares, 3).tolist()}"
    )
    assert judgement.class_shares.min() > 0
    assert judgement.class_shares.max() <= 0.25
    assert judgement.confident_share >= 0.6
