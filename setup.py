"""Builds the package; the compiled extension of csrc/ will be declared here and nowhere else."""

from setuptools import setup

setup()
