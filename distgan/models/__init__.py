"""The models by name. To add one: a file beside this one with the three names of `base.Model`, and a line here."""

from distgan.models import dcgan, mlp, sngan
from distgan.models.base import Model

MODELS: dict[str, Model] = {
    "dcgan": dcgan,
    "mlp": mlp,
    "sngan": sngan,
}
