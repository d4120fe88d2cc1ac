"""Builds the compiled kernels; all metadata is in setup.cfg.

A kernel is a module in shmq/kernels in Cython's pure Python mode: every .py file there but
__init__.py and the plain twins (*_plain.py). A kernel that needs more compiler flags says so in a
`# distutils: extra_compile_args = ...` comment at its head.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
KERNELS = Path("shmq", "kernels")
CORES = len(os.sched_getaffinity(0))
COMPILE_ARGS = ["-O3", "-fno-strict-aliasing", "-Wno-unused-function"]


def kernel_sources() -> list[Path]:
    """Paths of the kernels, relative to the project, in a stable order."""
    return sorted(
        path.relative_to(ROOT)
        for path in (ROOT / KERNELS).glob("*.py")
        if path.name != "__init__.py" and not path.name.endswith("_plain.py")
    )


def require_compiler() -> None:
    """Stop with one clear line when there is nothing to compile with."""
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(command) is None:
        sys.exit(
            f"shmq: no C compiler: {command!r} is not on the PATH and the kernels in {KERNELS} "
            "are compiled. Install one (Debian: apt-get install gcc python3-dev), or name it in CC."
        )
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        sys.exit(
            f"shmq: Python.h is not in {include}, and the kernels need it. "
            "Install Python's headers (Debian: apt-get install python3-dev)."
        )


def extensions() -> list[Extension]:
    """Compiled modules of the package; empty while there is no kernel."""
    sources = kernel_sources()
    if not sources:
        return []
    require_compiler()
    # Imported here: neither is needed to read the metadata.
    import numpy as np  # noqa: PLC0415
    from Cython.Build import cythonize  # noqa: PLC0415

    headers = [str(path.relative_to(ROOT)) for path in sorted((ROOT / KERNELS).glob("*.h"))]
    modules = [
        Extension(
            name=".".join(source.with_suffix("").parts),
            sources=[str(source)],
            include_dirs=[str(KERNELS), np.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            depends=headers,
            extra_compile_args=COMPILE_ARGS,
        )
        for source in sources
    ]
    built: list[Extension] = cythonize(
        modules, compiler_directives={"language_level": "3"}, nthreads=CORES
    )
    return built


if __name__ == "__main__":  # Cython's own processes import this file again.
    setup(ext_modules=extensions(), options={"build_ext": {"parallel": CORES}})
