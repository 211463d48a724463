"""Write the C++ header of the kernel vocabulary: `python tools/gen_vocabulary.py OUT.h` (run by CMake)."""

import runpy
import sys
from pathlib import Path

spec = runpy.run_path(str(Path(__file__).parent.parent / "pytensor_rt" / "kernels" / "spec.py"), run_name="spec")
out = Path(sys.argv[1])
text = spec["cpp_header"]()
if not out.exists() or out.read_text() != text:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
