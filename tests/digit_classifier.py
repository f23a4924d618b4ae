"""An independent judge of generated digits: scikit-learn on the real ones; nothing of distgan but the images."""

from dataclasses import dataclass

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from distgan.data import digits


@dataclass(frozen=True)
class Judgement:
    """Of a set of images: the share of each class, and the share classified with probability > 0.8."""

    class_shares: np.ndarray  # [10]
    confident_share: float
    mean_confidence: float
    labels: np.ndarray  # [N]


class DigitClassifier:
    """A support vector machine with calibrated probabilities, trained on three quarters of the real digits."""

    def __init__(self) -> None:
        images, labels = digits.load_images()
        train_x, test_x, train_y, test_y = train_test_split(_features(images), labels, test_size=0.25, random_state=0, stratify=labels)
        self._classifier = CalibratedClassifierCV(SVC(C=10, gamma="scale"), ensemble=False, cv=5).fit(train_x, train_y)
        self.test_accuracy = float(self._classifier.score(test_x, test_y))
        self.test_confident_share = float((self._classifier.predict_proba(test_x).max(axis=1) > 0.8).mean())

    def judge(self, images: np.ndarray) -> Judgement:
        """[N, 32, 32] uint8."""
        probabilities = self._classifier.predict_proba(_features(images))  # [N, 10]
        labels, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        return Judgement(
            np.bincount(labels, minlength=10) / len(labels), float((confidence > 0.8).mean()), float(confidence.mean()), labels
        )


def _features(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0
