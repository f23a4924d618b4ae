"""Builds the operators of csrc/ and packs the launchers' files; the package itself is declared in pyproject.toml."""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.dist_info import dist_info

ROOT = Path(__file__).resolve().parent


def require_build_packages() -> None:
    """The operators are compiled for the torch that is installed; pip's isolated builds see none."""
    missing = [name for name in ("torch", "ninja", "pybind11") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"distgan builds with the torch that it will run with, and {', '.join(missing)} cannot be imported here; run: "
            "pip install torch ninja pybind11 setuptools && pip install --no-build-isolation ."
        )


class Metadata(dist_info):
    """Asked for before pip downloads what distgan depends on: gigabytes, if the build is to fail after that."""

    def run(self) -> None:
        require_build_packages()
        super().run()


class LauncherFiles(build_py):
    """Manifests and scripts stand at the top of the project; the launchers of an installed package find them in it (launch/shipped.py)."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in ("k8s", "launch"):
                shutil.copytree(ROOT / name, Path(self.build_lib) / "distgan" / "launch" / "shipped_files" / name, dirs_exist_ok=True)


class Operators(build_ext):
    """Leaves it all to csrc/build.py."""

    def run(self) -> None:
        require_build_packages()
        sys.path.insert(0, str(ROOT / "csrc"))
        from build import BuildError, build

        package = ROOT if self.inplace else Path(self.build_lib).resolve()
        try:
            for sentence in build(package / "distgan" / "ops", ROOT / "build" / "ops"):
                print(f"WARNING: {sentence}.", file=sys.stderr)
        except BuildError as error:
            sys.exit(str(error))

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


# The extension is named for setuptools' sake: with one, the package is built and its wheel is of this platform.
setup(
    ext_modules=[Extension("distgan.ops.build_info", ["csrc/build_info.cpp"])],
    cmdclass={"build_py": LauncherFiles, "build_ext": Operators, "dist_info": Metadata},
)
