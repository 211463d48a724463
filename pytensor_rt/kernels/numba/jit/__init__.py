"""Kernels in numba's subset of Python. Imported only to compile one of them (see ../code.py); each module's public names are factories."""
