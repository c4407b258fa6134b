"""
Which environment variables of the gateway its worker processes see.

The one rule: a name passes only if it is listed here; and the registry takes no credential from a name that passes
(`registry.cloud_schema`), so that none reaches a worker, whatever an operator calls it and whenever the registry changes.
"""

from __future__ import annotations

import re

# What the system, Python, OpenMP, ggml and the drivers of GPUs read. The two families are those of libraries whose
# switches are too many to list.
_PASSED = re.compile(
    r"PATH|HOME|USER|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|XDG_CACHE_HOME"
    r"|PYTHON(PATH|HOME|HASHSEED|MALLOC|FAULTHANDLER|NOUSERSITE|DONTWRITEBYTECODE|PYCACHEPREFIX|UTF8|UNBUFFERED|WARNINGS)"
    r"|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|CACHE_(PATH|MAXSIZE|DISABLE)|MODULE_LOADING|LAUNCH_BLOCKING"
    r"|DEVICE_MAX_CONNECTIONS|SCALE_LAUNCH_QUEUES|MPS_(PIPE|LOG)_DIRECTORY)"
    r"|NVIDIA_(VISIBLE_DEVICES|DRIVER_CAPABILITIES|TF32_OVERRIDE)|HIP_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES"
    r"|LLAMA_(CACHE|CPP_LIB_PATH)|OPENBLAS_(CORETYPE|L2_SIZE)"
    r"|(GGML|OMP|GOMP|KMP)_[A-Z0-9_]+"
)
_BINDING = frozenset({"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"})
"""They bind threads to processors by the threads' own numbers, which the sandbox cannot tell from other processes'."""
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)


def reaches_workers(name: str) -> bool:
    """Whether a worker sees the variable of this name, if it is set."""
    return _PASSED.fullmatch(name) is not None and name not in _BINDING and _SECRET.search(name) is None
