"""Programs that tests need and that come with no package of Python."""

import os
import shutil


def missing(*tools: str) -> str:
    """Those that this machine lacks; empty: none. In CI nothing may be missing, and what is fails by itself."""
    if "DISTGAN_REQUIRE_TOOLS" in os.environ:
        return ""
    return ", ".join(tool for tool in tools if shutil.which(tool) is None)
