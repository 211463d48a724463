"""The numba backend: the whole vocabulary without a compiled extension. See docs/numba.md.

`code` compiles, caches and loads machine code; `build` describes calls; `plans` (plain Python) turns launches into calls; `jit` holds the kernels
themselves, in numba's subset of Python, and is imported only when one of them has to be compiled.
"""
