"""Makes the virtual environment that the Makefile's targets use; needs nothing but Python >= 3.11.

Picks the JAX build for the NVIDIA driver it finds (CUDA 12 or 13), and stops if a GPU is present that JAX
cannot use: a silent CPU run would take days.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cuda_major() -> int | None:
    """The newest CUDA major version the installed NVIDIA driver supports; None without an NVIDIA GPU."""
    if shutil.which("nvidia-smi") is None:
        if Path("/proc/driver/nvidia/version").exists():
            sys.exit("An NVIDIA driver is loaded, but nvidia-smi is missing: install the driver's utilities.")
        return None
    result = subprocess.run(["nvidia-smi"], capture_output=True, text=True)
    if result.returncode != 0:
        if Path("/proc/driver/nvidia/version").exists():
            sys.exit(f"nvidia-smi failed, mend the driver first:\n{result.stdout}{result.stderr}")
        return None
    found = re.search(r"CUDA Version:\s*(\d+)", result.stdout)
    if found is None:
        sys.exit(f"nvidia-smi names no CUDA version, mend the driver first:\n{result.stdout}")
    return int(found.group(1))


def extras(cuda: int | None) -> list[str]:
    """The package's extras to install for this machine."""
    names = ["vision", "dev"]
    if cuda is not None:
        if cuda < 12:
            sys.exit(f"The NVIDIA driver supports CUDA {cuda}; JAX needs a driver for CUDA 12 or newer.")
        names.append("cuda13" if cuda >= 13 else "cuda12")
    return names


def main() -> None:
    """Creates or updates the environment in the folder given as the first argument."""
    if sys.version_info < (3, 11):  # noqa: UP036  # an older Python parses this file too, and is told so
        sys.exit(f"rl2jax needs Python >= 3.11, this is {sys.version.split()[0]}; try make PYTHON=python3.11 ...")
    folder = Path(sys.argv[1])
    python = folder / "bin" / "python"
    cuda = cuda_major()
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    has_pip = [str(python), "-m", "pip", "--version"]
    works = python.exists() and subprocess.run(has_pip, capture_output=True).returncode == 0
    # --clear: also after an environment that was left half made
    if not works and subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)]).returncode != 0:
        sys.exit(f"could not make {folder} with {sys.executable}; on Debian and Ubuntu install python3-venv first")
    wanted = f"{ROOT}[{','.join(extras(cuda))}]"
    print(f"installing rl2jax[{','.join(extras(cuda))}] into {folder}", flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--editable", wanted]
    subprocess.run(pip, check=True, env=environment)
    if cuda is not None:
        check = "import jax, sys; sys.exit(jax.default_backend() != 'gpu')"
        if subprocess.run([str(python), "-c", check]).returncode != 0:
            sys.exit(
                f"nvidia-smi shows a GPU (CUDA {cuda}), but JAX does not see it. "
                f"Try `{python} -c 'import jax; print(jax.devices())'` for the reason; a driver update or unsetting "
                "JAX_PLATFORMS and LD_LIBRARY_PATH usually helps. To run on the CPU all the same: "
                "CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu and `touch .venv/.installed`."
            )


if __name__ == "__main__":
    main()
