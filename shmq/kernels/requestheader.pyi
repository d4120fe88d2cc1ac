# The compiled kernel requestheader.py has no interface for Python, only its .pxd for kernels.
