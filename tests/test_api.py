"""What plugins are written against stands alone."""

from __future__ import annotations

import subprocess
import sys


def test_contracts_import_the_standard_library_alone() -> None:
    code = (
        "import sys\nimport ftframe.api\n"
        "ours = {name for name in sys.modules if name.partition('.')[0] == 'ftframe'}\n"
        "others = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'ftframe'}\n"
        "print(sorted(ours), sorted(n for n in others if not n.startswith('_') and 'editable' not in n))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "['ftframe', 'ftframe.api', 'ftframe.errors'] []", done.stdout + done.stderr
