"""Files that the launchers need and that are no Python: manifests and scripts."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """Where such a file or folder lies: 'k8s', 'launch/slurm.sbatch'.

    A checkout has them where people look for them; setup.py puts them beside this module when the package is installed.
    """
    installed = _PACKAGE / "shipped_files" / name
    return installed if installed.exists() else _PACKAGE.parents[1] / name
