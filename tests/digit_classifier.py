"""An independent judge of generated digits: scikit-learn on the real ones; nothing of distgan but the images.

A classifier of ten classes calls almost anything a digit, and is sure of it: of pictures with the upper half of one digit and
the lower half of another it took nine in ten. So this one has an eleventh class, 'no digit', learnt from such halves and
blends; an image counts as recognised if a digit's probability, not that of 'no digit', is above 0.8.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from distgan.data import digits

NO_DIGIT = 10
SURE = 0.8


@dataclass(frozen=True)
class Judgement:
    """Of a set of images."""

    class_shares: np.ndarray  # [10]: share of the images whose likeliest digit this is
    recognised_share: float  # a digit has a probability above SURE


class DigitClassifier:
    """A support vector machine with calibrated probabilities, trained on three quarters of the real digits."""

    def __init__(self) -> None:
        images, labels = digits.load_images()
        train_images, self.test_images, train_labels, self.test_labels = train_test_split(
            images, labels, test_size=0.25, random_state=0, stratify=labels
        )
        negatives = np.concatenate([pictures[::4] for pictures in no_digits(train_images, train_labels).values()])  # as many as digits
        features = _features(np.concatenate([train_images, negatives]))
        targets = np.concatenate([train_labels, np.full(len(negatives), NO_DIGIT)])
        self._classifier = CalibratedClassifierCV(SVC(C=10, gamma="scale"), ensemble=False, cv=5).fit(features, targets)

    def test_accuracy(self) -> float:
        """Share of the held-out digits whose likeliest digit is the right one."""
        return float((self._probabilities(self.test_images)[:, :NO_DIGIT].argmax(axis=1) == self.test_labels).mean())

    def judge(self, images: np.ndarray) -> Judgement:
        """[N, 32, 32] uint8."""
        probabilities = self._probabilities(images)[:, :NO_DIGIT]
        shares = np.bincount(probabilities.argmax(axis=1), minlength=NO_DIGIT) / len(images)
        return Judgement(shares, float((probabilities.max(axis=1) > SURE).mean()))

    def _probabilities(self, images: np.ndarray) -> np.ndarray:
        return self._classifier.predict_proba(_features(images))  # [N, 11]


def no_digits(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures made of two different digits each, by how they are put together."""
    random = np.random.default_rng(0)
    half = digits.SIZE // 2
    made = {}
    for name in ("upper and lower halves", "left and right halves", "means", "overlays"):
        other = random.permutation(len(images))
        different = labels != labels[other]
        one, two = images[different], images[other][different]
        if name == "means":
            made[name] = ((one.astype(np.uint16) + two) // 2).astype(np.uint8)
        elif name == "overlays":
            made[name] = np.maximum(one, two)
        else:
            made[name] = one.copy()
            part = np.s_[:, :half] if name.startswith("upper") else np.s_[:, :, :half]
            made[name][part] = two[part]
    return made


def _features(images: np.ndarray) -> np.ndarray:
    """The mean of each 4x4 block: the resolution at which the digits were recorded, [N, 64] in [0, 1]."""
    return images.reshape(-1, 8, digits.SIZE // 8, 8, digits.SIZE // 8).mean(axis=(2, 4)).reshape(-1, 64) / 255.0
