# The compiled kernel sendheader.py has no interface for Python; sends.py uses it through its .pxd.
