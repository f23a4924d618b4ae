"""The word `digits`: the handwritten digits of scikit-learn, as the trainer's embedded data set has them."""

from pathlib import Path

from distgan.data.digits import VERSION, load_images
from distgan.data.packing.items import Found, FoundFile, Item, PixelRange, Source


def find() -> Found:
    """No files: the images come with a library; `VERSION` stands for what is made of them."""
    return Found("digits", "digits", [FoundFile("digits", "", VERSION, 0)])


def open_source(found: Found, scratch: Path) -> Source:
    """1,797 images of 32x32 grey pixels and the digits they show."""
    images, labels = load_images()  # [1797, 32, 32], [1797]
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "digits"
    path.write_bytes(images.tobytes())
    places = [PixelRange(str(path), number * images[0].size, images[0].shape) for number in range(len(images))]
    items = [Item(f"{number:08d}", place, int(label)) for number, (place, label) in enumerate(zip(places, labels, strict=True))]
    return Source("digits", {"train": items}, [str(digit) for digit in range(10)])
